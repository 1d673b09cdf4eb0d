"""How much of its codebook a VQ-VAE uses, over all codes of a split: usage, perplexity and entropy.

Perplexity is that of van den Oord et al. 2017, "Neural discrete representation learning", but over a whole
split: the mean over batches is lower.
"""

from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class CodebookUse:
    """Share of the K entries used, perplexity 2**entropy_bits (from 1 to K), and how often each is used."""

    usage: float
    perplexity: float
    entropy_bits: float
    counts: Int64[Tensor, " K"]


def codebook_use(codes: Int64[Tensor, "..."], K: int) -> CodebookUse:  # noqa: N803 (the paper's symbol)
    """Use of a codebook of K entries by indices of any shape, each from 0 to K - 1."""
    if codes.numel() == 0:
        raise ValueError(f"codes is empty, with shape {tuple(codes.shape)}: at least one code is needed.")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= K:
        raise ValueError(f"codes must lie from 0 to K - 1 = {K - 1}, but found {low} to {high}.")
    counts = codes.flatten().bincount(minlength=K)
    entropy_bits = float(torch.special.entr(counts.double() / codes.numel()).sum()) / log(2)
    return CodebookUse(
        usage=int(counts.count_nonzero()) / K,
        perplexity=2**entropy_bits,
        entropy_bits=entropy_bits,
        counts=counts,
    )
