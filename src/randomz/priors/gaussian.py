"""Gaussian priors over z: the N(0, I) that a VAE is trained for, and one fitted to the training codes."""

import math
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from randomz.gaussian import standard_normal_log_density
from randomz.priors.base import Prior, Say
from randomz.resume import Checkpoints


class StandardNormal(Prior):
    """N(0, I) in d dimensions. There is nothing to fit."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def sample(self, count: int, noise: torch.Generator) -> Float[Tensor, "N d"]:
        """Random z."""
        return torch.randn(count, self.dimensions, generator=noise)

    def log_prob(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Log N(z; 0, I), nats."""
        return standard_normal_log_density(codes)


class FittedGaussian(Prior):
    """N(m, S) with the mean and the full covariance of the training codes."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("scale", torch.eye(dimensions))

    def fit(
        self,
        codes: Float[Tensor, "B d"],
        validation: Float[Tensor, "V d"],  # noqa: ARG002
        seed: int,  # noqa: ARG002
        say: Say,  # noqa: ARG002
        checkpoints: Checkpoints | None = None,  # noqa: ARG002
    ) -> Self:
        """Maximum likelihood, in closed form. `scale` is the Cholesky factor of the covariance."""
        covariance = torch.cov(codes.double().T).reshape(len(self.mean), -1)
        jitter = 1e-6 * covariance.diagonal().mean() * torch.eye(len(self.mean), device=codes.device)
        self.mean.copy_(codes.double().mean(0))
        self.scale.copy_(torch.linalg.cholesky(covariance + jitter))
        return self

    def sample(self, count: int, noise: torch.Generator) -> Float[Tensor, "N d"]:
        """Random z."""
        eps = torch.randn(count, len(self.mean), generator=noise).to(self.mean.device)
        return self.mean + eps @ self.scale.T

    def log_prob(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Log N(z; m, S), nats."""
        return gaussian_log_density(codes, self.mean, self.scale)


def gaussian_log_density(
    z: Float[Tensor, "B d"], mean: Float[Tensor, " d"], scale: Float[Tensor, "d d"]
) -> Float[Tensor, " B"]:
    """Log N(z; m, L L^T) for a Cholesky factor L, nats."""
    white = torch.linalg.solve_triangular(scale, (z - mean).T, upper=False)
    normaliser = scale.diagonal().log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
    log_density: Tensor = -0.5 * white.square().sum(0) - normaliser
    return log_density
