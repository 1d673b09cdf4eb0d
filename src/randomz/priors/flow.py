"""A normalising flow over z: an invertible map of N(0, I) whose density is exact.

Masked autoregressive flow (Papamakarios, Pavlakou, Murray 2017, arXiv:1705.07057), by the library zuko.
"""

from typing import Self

import torch
import zuko
from jaxtyping import Float
from torch import Tensor, nn

from randomz.noise import Noise
from randomz.params import FlowConfig
from randomz.priors.base import Prior, Say
from randomz.priors.likelihood import maximise_likelihood
from randomz.resume import Checkpoints


class Flow(Prior):
    """The flow over standardised codes: dimensions of very different spread would slow its training."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dimensions: int, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        hidden = (config.width, config.width)
        # Every other transform takes the dimensions in reverse, so that each can depend on each.
        self.flow = zuko.flows.MAF(dimensions, transforms=config.transforms, hidden_features=hidden, activation=nn.SiLU)
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("scale", torch.ones(dimensions))

    def fit(
        self,
        codes: Float[Tensor, "B d"],
        validation: Float[Tensor, "V d"],
        seed: int,
        say: Say,
        checkpoints: Checkpoints | None = None,
    ) -> Self:
        """Maximum likelihood; the epoch that is best on validation is kept."""
        self.mean.copy_(codes.mean(0))
        self.scale.copy_(codes.std(0).clamp(min=1e-6))

        def loss(batch: Tensor, _: Noise) -> Tensor:
            return -self._log_prob(codes[batch]).mean()

        def validate() -> float:
            return -float(self.log_prob(validation).double().mean())

        maximise_likelihood(self.flow, loss, validate, codes, self.config, 0.0, seed, say, checkpoints)
        return self

    @torch.no_grad()
    def sample(self, count: int, noise: torch.Generator) -> Float[Tensor, "N d"]:
        """Random z: draws from N(0, I) through the inverse of the map."""
        eps = torch.randn(count, len(self.mean), generator=noise).to(self.mean.device)
        z: Tensor = self.flow().transform.inv(eps)
        return z * self.scale + self.mean

    @torch.no_grad()
    def log_prob(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Log density, nats."""
        return self._log_prob(codes)

    def _log_prob(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        density: Tensor = self.flow().log_prob((codes - self.mean) / self.scale)
        return density - self.scale.log().sum()
