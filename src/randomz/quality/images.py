"""How near a reconstruction is to its image, one figure an image: squared error, PSNR and SSIM.

SSIM: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity". Images are
[N 1 28 28] in [0, 1]. Reconstructions may leave that range, as those of a linear model do.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from randomz.quality.checks import check_finite

SIDE = 28
WINDOW = 11  # pixels
SIGMA = 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2  # (K L)² for the data range L = 1
CHUNK = 1000  # images at a time, so that the five filtered maps take 31 MB


def squared_error(
    images: Float[Tensor, "N 1 28 28"], reconstructions: Float[Tensor, "N 1 28 28"]
) -> Float[Tensor, " N"]:
    """|x - x̂|² of each image, summed over its pixels."""
    _check_images(images, reconstructions)
    return (images - reconstructions).square().sum((1, 2, 3))


def psnr(images: Float[Tensor, "N 1 28 28"], reconstructions: Float[Tensor, "N 1 28 28"]) -> Float[Tensor, " N"]:
    """Peak signal-to-noise ratio of each image in dB at data range 1; infinite for equal images."""
    _check_images(images, reconstructions)
    return -10 * (images - reconstructions).square().mean((1, 2, 3)).log10()


def ssim(images: Float[Tensor, "N 1 28 28"], reconstructions: Float[Tensor, "N 1 28 28"]) -> Float[Tensor, " N"]:
    """Structural similarity of each image: Gaussian 11 x 11 window, sigma 1.5, reflected edges.

    At most 1, reached by equal images only. In float64 inside: the variances are differences of near-equal
    numbers.
    """
    _check_images(images, reconstructions)
    blur = _blur_matrix().to(images.device)
    parts = [
        _structural_similarity(a.double().squeeze(1), b.double().squeeze(1), blur)
        for a, b in zip(torch.split(images, CHUNK), torch.split(reconstructions, CHUNK), strict=True)
    ]
    return torch.cat(parts).to(images.dtype)


def _structural_similarity(
    a: Float64[Tensor, "N 28 28"], b: Float64[Tensor, "N 28 28"], blur: Float64[Tensor, "28 28"]
) -> Float64[Tensor, " N"]:
    maps = torch.stack([a, b, a * a, b * b, a * b])
    # Blurs along one axis, then along the other. The maps stay transposed, which their mean does not see.
    mean_a, mean_b, square_a, square_b, product = ((maps @ blur.T).mT @ blur.T).unbind()
    energy_a, energy_b, shared = mean_a.square(), mean_b.square(), mean_a * mean_b
    variance = (square_a - energy_a).clamp(min=0) + (square_b - energy_b).clamp(min=0)
    luminance = (2 * shared + C1) / (energy_a + energy_b + C1)
    structure = (2 * (product - shared) + C2) / (variance + C2)
    return (luminance * structure).mean((1, 2))


def _blur_matrix() -> Float64[Tensor, "28 28"]:
    """Gaussian filter along a line of pixels as a matrix, with the line reflected at its ends."""
    offsets = torch.arange(WINDOW) - WINDOW // 2
    weights = torch.exp(-(offsets.double() ** 2) / (2 * SIGMA**2))
    positions = (torch.arange(SIDE)[:, None] + offsets).abs()
    positions = torch.where(positions < SIDE, positions, 2 * (SIDE - 1) - positions)
    rows = (weights / weights.sum()).expand(SIDE, WINDOW)
    matrix = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    matrix.scatter_add_(1, positions, rows)
    return matrix


def _check_images(images: Tensor, reconstructions: Tensor) -> None:
    for name, values in (("images", images), ("reconstructions", reconstructions)):
        if values.shape[1:] != (1, SIDE, SIDE):
            raise ValueError(f"{name} must have the shape [N 1 {SIDE} {SIDE}], but it is {tuple(values.shape)}.")
        check_finite(name, values)
    if len(images) != len(reconstructions):
        raise ValueError(f"images are {len(images)}, but reconstructions {len(reconstructions)}: one each is needed.")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ValueError(f"images must lie in [0, 1], but they go from {low:g} to {high:g}.")
