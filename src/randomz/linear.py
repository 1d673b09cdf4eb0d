"""What linear methods and Gaussian sources do with so much room: reference lines for rate and distortion.

PCA is the best linear autoencoder. No code for a Gaussian source does better than its rate-distortion function (Cover &
Thomas 2006, "Elements of Information Theory", theorem 10.3.3), and no source with the same covariance needs more; a
model below the line has found what is not Gaussian in the images.

F pixels an image, B rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from randomz.batches import Split, in_chunks
from randomz.units import per_pixel

DIMENSIONS = (2, 4, 8, 16, 32, 64)
LOWEST_BITS, HIGHEST_BITS, RATES = 1.0, 200.0, 25


@dataclass(frozen=True)
class Principal:
    """Mean, eigenvalues (falling) and unit eigenvectors (columns, in that order) of the covariance of images."""

    mean: Float[Tensor, " F"]
    variances: Float64[Tensor, " F"]
    axes: Float[Tensor, "F F"]


def principal(images: UInt8[Tensor, "N 28 28"]) -> Principal:
    """The principal components of pixels in [0, 1]; the covariance is divided by N."""
    mean = torch.stack([x.flatten(1).double().sum(0) for x in in_chunks(images)]).sum(0) / len(images)
    covariance = mean.new_zeros(len(mean), len(mean))
    for x in in_chunks(images):
        centred = x.flatten(1) - mean.float()
        covariance += centred.T @ centred
    variances, axes = torch.linalg.eigh(covariance / len(images))
    return Principal(mean.float(), variances.flip(0).clamp(min=0), axes.flip(1).float())


def pca_mse(fitted: Principal, images: UInt8[Tensor, "N 28 28"], dimensions: Sequence[int]) -> list[float]:
    """Error per pixel of images whose first so many components are kept; all of them where that is more than F."""
    left = []
    for x in in_chunks(images):
        energy = ((x.flatten(1) - fitted.mean) @ fitted.axes).square()
        # What is left is summed from the last component, so that little is no difference of large numbers.
        left.append(energy.double().sum(0).flip(0).cumsum(0).flip(0))
    total = torch.cat([torch.stack(left).sum(0), torch.zeros(1, device=images.device)]) / len(images)
    return [per_pixel(float(total[min(count, len(total) - 1)])) for count in dimensions]


def gaussian_rate(variances: Float64[Tensor, " F"], bits: Sequence[float]) -> list[float]:
    """Least squared error per image of a Gaussian source with these variances, falling, at so many bits an image.

    Reverse water-filling: every component above the water level is described with an error of that level, and costs
    half the log of how far it stands above; the others are left out.
    """
    source = variances[variances > 0]
    logs = source.log2()
    counts = torch.arange(1, len(source) + 1, device=source.device)
    # Rate at which each component is about to be described, the level being its own variance.
    starts = 0.5 * (logs.cumsum(0) - counts * logs)
    errors = []
    for rate in bits:
        used = int((starts <= rate).sum())
        level = float(torch.exp2((logs[:used].sum() - 2 * rate) / used))
        errors.append(used * level + float(source[used:].sum()))
    return errors


def pca_reference(fitted: Principal, reference: Split) -> dict[str, float]:
    """`pca` of reports/yardstick.json: error per pixel of the reference images by the number of dimensions kept."""
    errors = pca_mse(fitted, reference.images, DIMENSIONS)
    return {str(count): error for count, error in zip(DIMENSIONS, errors, strict=True)}


def gaussian_rate_reference(fitted: Principal) -> dict[str, list[float]]:
    """`gaussian_rate` of reports/yardstick.json: rates spaced evenly in their log, and errors per pixel."""
    step = math.log(HIGHEST_BITS / LOWEST_BITS) / (RATES - 1)
    bits = [LOWEST_BITS * math.exp(step * turn) for turn in range(RATES)]
    return {"bits": bits, "mse": [per_pixel(error) for error in gaussian_rate(fitted.variances, bits)]}
