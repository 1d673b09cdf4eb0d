"""Kernel distance: unbiased squared maximum mean discrepancy.

Bińkowski et al. 2018, "Demystifying MMD GANs".
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from randomz.quality.checks import check_features

SLAB = 16  # first indices of moments that are worked out together
CHUNK = 64  # vectors at a time: products of pairs of features take a megabyte, which stays in the cache


@dataclass(frozen=True)
class KernelMoments:
    """What the kernel (x·y / F + 1)³ needs of a set: its third moments, as it is <T(x), T(y)> with T(x) = u ⊗ u ⊗ u.

    u is [x / √F, 1]. `moments` are the sums over the set, each set of three indices once; `weights`, how often it
    counts in a scalar product. `diagonal` is the sum of the kernel of each vector with itself.
    """

    moments: Float64[Tensor, " T"]
    weights: Float64[Tensor, " T"]
    diagonal: float
    count: int
    dimension: int

    def product(self, other: "KernelMoments") -> float:
        """Sum of the kernel over all pairs of a vector of this set and one of the other."""
        return float(torch.dot(self.moments * self.weights, other.moments))


def kernel_moments(features: Float[Tensor, "N F"]) -> KernelMoments:
    """Third moments in float64; about F³ / 3 numbers, and N F³ / 3 products of two."""
    check_features("features", features)
    count, dimension = features.shape
    extended = functional.pad(features.double() / dimension**0.5, (0, 1), value=1.0)
    sums = [extended.new_zeros(width * (own), width) for own, width in slabs(dimension + 1)]
    for part in extended.split(CHUNK):
        pass
    return None
