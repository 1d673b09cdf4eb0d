"""The diagonal Gaussian posterior q(z | x) = N(mu, sigma^2 I): sample, KL, log density."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def standard_normal_log_density(z: Float[Tensor, "*B d"]) -> Float[Tensor, "*B"]:
    """Log N(z; 0, I), nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mu, sigma^2 I) with independent dimensions; `logvar` is log sigma^2."""

    mu: Float[Tensor, "*B d"]
    logvar: Float[Tensor, "*B d"]

    @property
    def sigma(self) -> Float[Tensor, "*B d"]:
        """Standard deviations."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, eps: Float[Tensor, "*K d"]) -> Float[Tensor, "*K d"]:
        """Z = mu + sigma * eps, the reparameterisation of Kingma & Welling 2014; eps ~ N(0, I)."""
        return self.mu + self.sigma * eps

    def kl(self) -> Float[Tensor, "*B d"]:
        """KL(N(mu, sigma^2 I) || N(0, I)) of each dimension, nats (Kingma & Welling 2014, appendix B)."""
        return 0.5 * (self.mu.square() + self.logvar.exp() - 1 - self.logvar)

    def log_density(self, z: Float[Tensor, "*K d"]) -> Float[Tensor, "*K"]:
        """Log q(z | x), nats."""
        squares = (z - self.mu).square() / self.logvar.exp()
        return -0.5 * (squares + self.logvar + math.log(2 * math.pi)).sum(-1)
