"""Kernel distance: unbiased squared maximum mean discrepancy.

Bińkowski et al. 2018, "Demystifying MMD GANs". Their kernel is a polynomial, so that its sum over all pairs of two sets
is a scalar product of two moments: every set is gone through once, however many others it is held against.
"""

from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from randomz.quality.checks import check_features

SLAB = 4  # first indices of moments that are worked out together
CHUNK = 256  # vectors at a time: products of their features take a megabyte in float64, which stays in the cache


@dataclass(frozen=True)
class KernelMoments:
    """What the kernel (x·y / F + 1)³ sees of `count` vectors x: the sums of u ⊗ u ⊗ u for u = [x / √F, 1].

    Each slab has some indices first, and those and all later ones second and third. `diagonal` is the sum of the
    kernel of each vector with itself.
    """

    slabs: list[Float64[Tensor, "_ _ _"]]
    diagonal: float
    count: int


def kernel_distance(x: Float[Tensor, "M F"], y: Float[Tensor, "N F"]) -> float:
    """Unbiased squared MMD with the kernel (x·y / F + 1)³ over the whole sets, without random subsets.

    Float64 throughout, because the distance of good samples is a ten-thousandth of the sums that it is the
    difference of. May fall slightly below zero. Needs two vectors or more in each set.
    """
    check_features("y", y, x.shape[1])
    return distance_of_moments(kernel_moments(x, "x"), kernel_moments(y, "y"))


def distance_of_moments(x: KernelMoments, y: KernelMoments) -> float:
    """The same of sets whose moments are at hand."""
    within = [(_sum_of_kernels(each, each) - each.diagonal) / (each.count * (each.count - 1)) for each in (x, y)]
    return sum(within) - 2 * _sum_of_kernels(x, y) / (x.count * y.count)


def kernel_moments(features: Float[Tensor, "N F"], name: str = "features") -> KernelMoments:
    """About F³ / 3 numbers, from as many products of two for each vector."""
    check_features(name, features)
    count, dimension = features.shape
    if count < 2:  # noqa: PLR2004
        raise ValueError(f"{name} has {count} feature vector, but an unbiased estimate needs two or more.")
    extended = functional.pad(features.double() / dimension**0.5, (0, 1), value=1.0)
    slabs = [_slab(extended[:, first:]) for first in range(0, dimension + 1, SLAB)]
    return KernelMoments(slabs, float(extended.square().sum(1).pow(3).sum()), count)


def _slab(later: Float64[Tensor, "N L"]) -> Float64[Tensor, "_ L L"]:
    first = min(SLAB, later.shape[1])
    total = later.new_zeros(first * later.shape[1], later.shape[1])
    for part in later.split(CHUNK):
        total.addmm_((part[:, :first, None] * part[:, None]).flatten(1).T, part)
    slab: Tensor = total.unflatten(0, (first, -1))
    return slab


def _sum_of_kernels(x: KernelMoments, y: KernelMoments) -> float:
    """Over all pairs of a vector of each set."""
    total = 0.0
    for a, b in zip(x.slabs, y.slabs, strict=True):
        first, product = len(a), a * b
        # Three places for a single index of the slab; two of three are in the slab in two ways of the three.
        product[:, first:, first:] *= 3
        product[:, :first, first:] *= 1.5
        product[:, first:, :first] *= 1.5
        total += float(product.sum())
    return total
