"""What the quality measures refuse: a wrong array is named before it becomes a wrong figure."""

from torch import Tensor


def check_finite(name: str, values: Tensor) -> None:
    """Refuse an array without elements or with a NaN or an infinity."""
    if values.numel() == 0:
        raise ValueError(f"{name} is empty, with shape {tuple(values.shape)}: at least one row is needed.")
    # A sum is a quick look: no NaN or infinity leaves it finite. Where it overflows, the numbers are looked at singly.
    if values.is_floating_point() and bool(values.sum().isfinite()):
        return
    wrong = int((~values.isfinite()).sum())
    if wrong:
        raise ValueError(f"{name} must be finite, but {wrong} of its {values.numel()} values are not.")


def check_features(name: str, features: Tensor, dimension: int | None = None) -> None:
    """Refuse what is no finite, non-empty matrix [N F] of floats, F being `dimension` where that is given."""
    if features.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"{name} must be a matrix [N F], but its shape is {tuple(features.shape)}.")
    if not features.is_floating_point():
        raise ValueError(f"{name} must hold floating-point numbers, but its type is {features.dtype}.")
    if dimension is not None and features.shape[1] != dimension:
        raise ValueError(f"{name} has {features.shape[1]} feature dimensions, but {dimension} are needed here.")
    check_finite(name, features)
