"""Fréchet distance between two Gaussians fitted to features (Heusel et al. 2017), all in float64.

The distance of finite samples is biased upwards; its limit for infinitely many of them is estimated as in
Chong and Forsyth 2020, "Effectively unbiased FID and Inception Score and where to find them".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from randomz.quality.checks import check_features, check_finite

EXTRAPOLATION_PARTS = (1, 2, 2)  # that all samples are cut into, each time in another order
CHUNK = 1000  # vectors at a time: a megabyte in float64, which stays in the cache


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and unbiased covariance of `count` feature vectors."""

    mean: Float64[Tensor, " F"]
    covariance: Float64[Tensor, "F F"]
    count: int


def feature_statistics(features: Float[Tensor, "N F"]) -> FeatureStatistics:
    """Mean and covariance (divided by N - 1) in float64; needs N > F, or the covariance has no full rank."""
    check_features("features", features)
    count, dimension = features.shape
    if count <= dimension:
        raise ValueError(
            f"features has fewer samples than feature dimensions need: {count} samples, where {dimension} "
            f"dimensions need at least {dimension + 1}."
        )
    mean = features.mean(0, dtype=torch.float64)
    scatter = mean.new_zeros(dimension, dimension)
    for part in features.split(CHUNK):
        centred = part.double() - mean
        scatter.addmm_(centred.T, centred)
    return FeatureStatistics(mean, scatter / (count - 1), count)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|mu_a - mu_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), never negative.

    With S = L Lᵀ the trace of the root is the sum of the singular values of L_aᵀ L_b: no complex eigenvalues
    and no square root of a non-symmetric matrix. Worked out on the CPU, where such small matrices are
    fastest.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"a has {len(a.mean)} feature dimensions, but b has {len(b.mean)}: they must be equal.")
    for name, statistics in (("a", a), ("b", b)):
        check_finite(f"{name}.mean", statistics.mean)
        check_finite(f"{name}.covariance", statistics.covariance)
    mean_a, mean_b, covariance_a, covariance_b = (
        matrix.cpu() for matrix in (a.mean, b.mean, a.covariance, b.covariance)
    )
    root = torch.linalg.svdvals(_square_root(covariance_a).T @ _square_root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(0.0, float(distance))


def _square_root(covariance: Float64[Tensor, "F F"]) -> Float64[Tensor, "F R"]:
    """Give a matrix L with L Lᵀ = S, for singular S too."""
    # Features that never vary (dead rectifiers) are left out, so that rounding cannot turn their zero into
    # the square root of a rounding error.
    live = covariance.diagonal() > 0
    part = covariance[live][:, live]
    factor, failed = torch.linalg.cholesky_ex(part)
    if bool(failed):
        variances, directions = torch.linalg.eigh(part)
        factor = directions * variances.clamp(min=0).sqrt()
    root = covariance.new_zeros(len(covariance), len(part))
    root[live] = factor
    return root


def frechet_distance_infinite(
    samples: Float[Tensor, "N F"],
    reference: FeatureStatistics,
    *,
    generator: torch.Generator,
    sizes: Sequence[int] | None = None,
) -> float:
    """Fréchet distance that infinitely many samples would have: the intercept of a line through FD over 1/N.

    `sizes` are the subset sizes, each above F and at most N, two different ones or more; without them all
    samples once, and halves of them twice. The distance of a size is the mean over as many disjoint subsets as
    there are samples for, which leaves a third of the scatter of single subsets. `generator` is a CPU generator
    that draws the subsets. Only the bias of the samples goes, that of the reference stays. The estimate may
    fall below zero.
    """
    check_features("samples", samples, len(reference.mean))
    count, dimension = samples.shape
    least = max(EXTRAPOLATION_PARTS) * (dimension + 1)
    if sizes is None and count < least:
        raise ValueError(
            f"samples has too few samples for an extrapolation over its parts: {count} samples, where {dimension} "
            f"feature dimensions need at least {least}."
        )
    chosen = [count // parts for parts in EXTRAPOLATION_PARTS] if sizes is None else list(sizes)
    if len(set(chosen)) < 2 or min(chosen) <= dimension or max(chosen) > count:  # noqa: PLR2004
        raise ValueError(
            f"sizes must be two or more different numbers above {dimension} (feature dimensions) and up to "
            f"{count} (samples), but found {chosen}."
        )
    distances = []
    for size in chosen:
        order = torch.randperm(count, generator=generator)[: count // size * size].to(samples.device)
        each = [frechet_distance(feature_statistics(samples[subset]), reference) for subset in order.split(size)]
        distances.append(fmean(each))
    return _intercept([1 / size for size in chosen], distances)


def _intercept(x: Sequence[float], y: Sequence[float]) -> float:
    """Value at zero of the least-squares line through the points."""
    horizontal, vertical = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    offset = horizontal - horizontal.mean()
    slope = (offset * vertical).sum() / offset.square().sum()
    return float(vertical.mean() - slope * horizontal.mean())
