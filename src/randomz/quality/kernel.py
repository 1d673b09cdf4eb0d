"""Kernel distance: unbiased squared maximum mean discrepancy.

Bińkowski et al. 2018, "Demystifying MMD GANs".
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from randomz.quality.checks import check_features

BLOCK = 1024  # rows and columns of a kernel block: 8 MiB in float64, so that it is cubed while it is in the cache


def kernel_distance(x: Float[Tensor, "M F"], y: Float[Tensor, "N F"]) -> float:
    """Unbiased squared MMD with the kernel (x·y / F + 1)³ over the whole sets, without random subsets.

    Float64 throughout, because the distance of good samples is a ten-thousandth of the sums that it is the
    difference of. May fall slightly below zero. Needs two vectors or more in each set; memory stays near 30
    MB.
    """
    check_features("x", x)
    check_features("y", y, x.shape[1])
    for name, features in (("x", x), ("y", y)):
        if len(features) < 2:  # noqa: PLR2004
            raise ValueError(f"{name} has {len(features)} feature vector, but an unbiased estimate needs two or more.")
    a, b = x.double(), y.double()
    return float(_mean_within(a) + _mean_within(b) - 2 * _mean_between(a, b))


def _cubes(x: Float64[Tensor, "M F"], y: Float64[Tensor, "N F"]) -> Float64[Tensor, ""]:
    """Sum of the kernel over all pairs of two blocks."""
    base = torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1])
    return torch.dot(base.square().flatten(), base.flatten())


def _mean_within(x: Float64[Tensor, "N F"]) -> Float64[Tensor, ""]:
    """Mean kernel over ordered pairs of different vectors of one set."""
    blocks = torch.split(x, BLOCK)
    total = x.new_zeros(())
    for row, block in enumerate(blocks):
        total += _cubes(block, block)
        for other in blocks[row + 1 :]:
            total += 2 * _cubes(block, other)
    diagonal = (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()
    return (total - diagonal) / (len(x) * (len(x) - 1))


def _mean_between(x: Float64[Tensor, "M F"], y: Float64[Tensor, "N F"]) -> Float64[Tensor, ""]:
    total = x.new_zeros(())
    for block in torch.split(x, BLOCK):
        for other in torch.split(y, BLOCK):
            total += _cubes(block, other)
    return total / (len(x) * len(y))
