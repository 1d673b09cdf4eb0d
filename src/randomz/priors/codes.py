"""Priors over codebook indices that know nothing of their neighbours: uniform, and the frequencies of each place."""

import math
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from randomz.priors.base import Prior, Say
from randomz.resume import Checkpoints


class UniformCodes(Prior):
    """Each of the K codes alike at every place: what 'a random z' means for a VQ-VAE."""

    def __init__(self, entries: int, grid: int) -> None:
        super().__init__()
        self.entries, self.grid = entries, grid

    def sample(self, count: int, noise: torch.Generator) -> Int64[Tensor, "N h w"]:
        """Random grids of codes."""
        return torch.randint(self.entries, (count, self.grid, self.grid), generator=noise)

    def log_prob(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, " B"]:
        """-h w log K nats for every grid."""
        return torch.full((len(codes),), -codes[0].numel() * math.log(self.entries))


class PositionCodes(Prior):
    """Independent draws with the frequencies that the training codes have at each place."""

    shares: Tensor

    def __init__(self, entries: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("shares", torch.full((grid * grid, entries), 1 / entries))

    def fit(
        self,
        codes: Int64[Tensor, "B h w"],
        validation: Int64[Tensor, "V h w"],  # noqa: ARG002
        seed: int,  # noqa: ARG002
        say: Say,  # noqa: ARG002
        checkpoints: Checkpoints | None = None,  # noqa: ARG002
    ) -> Self:
        """Counts, with one added to each so that no code is impossible."""
        counts = torch.stack([torch.bincount(place, minlength=self.shares.shape[1]) for place in codes.flatten(1).T])
        self.shares.copy_((counts + 1) / (counts + 1).sum(-1, keepdim=True))
        return self

    def sample(self, count: int, noise: torch.Generator) -> Int64[Tensor, "N h w"]:
        """Random grids of codes, place by place."""
        drawn = torch.multinomial(self.shares.cpu(), count, replacement=True, generator=noise)
        return drawn.T.reshape(count, self.grid, self.grid)

    def log_prob(self, codes: Int64[Tensor, "B h w"]) -> Float[Tensor, " B"]:
        """Log probability of each grid, nats."""
        flat = codes.flatten(1)
        return self.shares.log()[torch.arange(flat.shape[1], device=flat.device), flat].sum(-1)
