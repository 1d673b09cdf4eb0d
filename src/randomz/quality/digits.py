"""Is an image a digit? A rule by the distance to the class manifolds in feature space.

Each class is a Gaussian, and an image is a digit when its Mahalanobis distance to the nearest class is one
that real digits have (Lee et al. 2018, "A simple unified framework for detecting out-of-distribution
samples"). A classifier's confidence cannot decide this: it is high on noise as well. Its last features alone
cannot either, for they are made to overlook haze and speckles; as in that paper, the features may be those of
several layers, each layer a block: squared distances of blocks are added up.

Covariances are shrunk as in Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional
covariance matrices", so that features dead in a class keep a variance. C classes, N images, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from randomz.quality.checks import check_features

KEYS = ("means", "whitening", "threshold")
STEP = 64  # features that are looked at before those that are too far are left out
ROUNDING = 1e-12  # of a squared distance: the vector that the threshold is the distance of passes


@dataclass(frozen=True)
class ClassManifolds:
    """Class means, lower triangular whitening matrices W (WᵀW = S⁻¹), and the largest accepted distance."""

    means: Float32[Tensor, "C F"]
    whitening: Float32[Tensor, "C F F"]
    threshold: float

    def to_tensors(self) -> dict[str, Tensor]:
        """Give a flat dictionary of tensors, for a safetensors file; `from_tensors` is the exact inverse."""
        threshold = torch.tensor(self.threshold, dtype=torch.float64)
        return {"means": self.means, "whitening": self.whitening, "threshold": threshold}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "ClassManifolds":
        """Class manifolds out of what `to_tensors` gave; other keys or shapes are refused."""
        if set(tensors) != set(KEYS):
            raise ValueError(f"class manifolds need the tensors {sorted(KEYS)}, but found {sorted(tensors)}.")
        means, whitening, threshold = (tensors[key] for key in KEYS)
        if means.ndim != 2 or whitening.shape != (*means.shape, means.shape[1]) or threshold.numel() != 1:  # noqa: PLR2004
            shapes = {key: tuple(tensors[key].shape) for key in KEYS}
            raise ValueError(f"class manifolds need means [C F], whitening [C F F] and threshold [], found {shapes}.")
        return cls(means, whitening, float(threshold))


def fit_class_manifolds(
    features: Float[Tensor, "N F"],
    labels: Int64[Tensor, " N"],
    held_out_features: Float[Tensor, "M F"],
    accept: float = 0.95,
    blocks: Sequence[int] | None = None,
) -> ClassManifolds:
    """Fit a shrunk Gaussian to each class, and the threshold that `accept` of the held-out images pass.

    `labels` count from 0 without a gap, with two images or more a class. `held_out_features` must come from
    real images outside `features`, or the threshold comes out too strict. `blocks` are the widths of groups of
    features that are taken to be independent of each other and shrunk apart; without them all are one group.
    """
    check_features("features", features)
    check_features("held_out_features", held_out_features, features.shape[1])
    if not 0 < accept <= 1:
        raise ValueError(f"accept must be a share above 0 and at most 1, but is {accept}.")
    widths = [features.shape[1]] if blocks is None else list(blocks)
    if min(widths, default=0) < 1 or sum(widths) != features.shape[1]:
        raise ValueError(f"blocks must be widths that add up to {features.shape[1]} features, but are {widths}.")
    if labels.shape != (len(features),) or int(labels.min()) < 0:
        raise ValueError(f"labels must be one number from 0 up for each of {len(features)} feature vectors.")
    sizes = labels.bincount()
    if int(sizes.min()) < 2:  # noqa: PLR2004
        raise ValueError(f"every class needs two feature vectors or more, but their counts are {sizes.tolist()}.")
    fits = [_fit_class(features[labels == label], widths) for label in range(len(sizes))]
    means, whitening = (torch.stack(parts).float() for parts in zip(*fits, strict=True))
    distances = class_distances(ClassManifolds(means, whitening, 0.0), held_out_features).sort().values
    # The small number keeps rounding in accept * N from asking for one image more.
    last = max(1, ceil(accept * len(distances) - 1e-9)) - 1
    return ClassManifolds(means, whitening, float(distances[last]))


def _fit_class(
    features: Float[Tensor, "N F"], widths: list[int]
) -> tuple[Float64[Tensor, " F"], Float64[Tensor, "F F"]]:
    return features.double().mean(0), torch.block_diag(*(_whitening(block) for block in features.split(widths, 1)))


def _whitening(features: Float[Tensor, "N B"]) -> Float64[Tensor, "B B"]:
    factor, failed = torch.linalg.cholesky_ex(shrunk_covariance(features))
    if bool(failed):
        raise ValueError(f"features of a class are too few or too alike: {len(features)} give no covariance.")
    identity = torch.eye(len(factor), dtype=torch.float64, device=features.device)
    whitening: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return whitening


def shrunk_covariance(features: Float[Tensor, "N F"]) -> Float64[Tensor, "F F"]:
    """Ledoit-Wolf estimate: (1 - s) S + s tr(S)/F I with the s in [0, 1] of the least expected squared error.

    S is divided by N, as in the paper; its equations (lemma 3.2 to 3.5) give s from the data.
    """
    check_features("features", features)
    count, dimension = features.shape
    centred = features.double() - features.double().mean(0)
    sample = centred.T @ centred / count
    target = sample.trace() / dimension * torch.eye(dimension, dtype=torch.float64, device=features.device)
    spread = (sample - target).square().sum()
    error = (centred.square().sum(1).square().sum() / count - sample.square().sum()) / count
    shrinkage = 0.0 if float(spread) == 0 else min(1.0, max(0.0, float(error / spread)))
    return (1 - shrinkage) * sample + shrinkage * target


def class_distances(manifolds: ClassManifolds, features: Float[Tensor, "N F"]) -> Float64[Tensor, " N"]:
    """Mahalanobis distance of each vector to the nearest class."""
    check_features("features", features, manifolds.means.shape[1])
    values = features.double()
    nearest = values.new_full((len(values),), torch.inf)
    for mean, whitening in zip(manifolds.means.double(), manifolds.whitening.double(), strict=True):
        distances = torch.linalg.vector_norm((values - mean) @ whitening.T, dim=1)
        nearest = torch.minimum(nearest, distances)
    return nearest


def accepted(manifolds: ClassManifolds, features: Float[Tensor, "N F"]) -> Bool[Tensor, " N"]:
    """Which vectors lie within the threshold of a class.

    The whitening being triangular, the first numbers of a whitened vector follow from its first features: nearly every
    class is seen to be too far from few of them.
    """
    check_features("features", features, manifolds.means.shape[1])
    values, limit = features.double(), manifolds.threshold**2 * (1 + ROUNDING)
    inside = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    for mean, whitening in zip(manifolds.means.double(), manifolds.whitening.double(), strict=True):
        near = (~inside).nonzero()[:, 0]
        squares = values.new_zeros(len(near))
        for start in range(0, len(mean), STEP):
            stop = start + STEP
            squares += ((values[near, :stop] - mean[:stop]) @ whitening[start:stop, :stop].T).square().sum(1)
            kept = squares <= limit
            near, squares = near[kept], squares[kept]
        inside[near] = True
    return inside


def digit_rate(manifolds: ClassManifolds, features: Float[Tensor, "N F"]) -> float:
    """Share of vectors that lie within the threshold of a class."""
    return float(accepted(manifolds, features).double().mean())


def class_entropy(classes: Int64[Tensor, " N"], count: int) -> float:
    """Entropy in bits of the histogram of predicted classes: 0 for one class only, log2(count) at most."""
    if classes.numel() == 0:
        raise ValueError("classes is empty: at least one prediction is needed.")
    if int(classes.min()) < 0 or int(classes.max()) >= count:
        raise ValueError(
            f"classes must lie from 0 to {count - 1}, but found {int(classes.min())} to {int(classes.max())}."
        )
    shares = classes.bincount(minlength=count).double() / classes.numel()
    return float(torch.special.entr(shares).sum()) / log(2)
