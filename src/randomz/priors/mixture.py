"""A Gaussian mixture over z, fitted after training (Ghosh et al. 2020, arXiv:1903.12436, 'ex-post density')."""

import warnings
from typing import Self

import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from randomz.params import DensityPriorConfig
from randomz.priors.base import Prior, Say
from randomz.priors.gaussian import gaussian_log_density
from randomz.seeding import generator, integer


class Mixture(Prior):
    """C Gaussians with full covariances, by scikit-learn's EM."""

    weights: Tensor
    means: Tensor
    scales: Tensor

    def __init__(self, dimensions: int, config: DensityPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("weights", torch.full((config.components,), 1 / config.components))
        self.register_buffer("means", torch.zeros(config.components, dimensions))
        self.register_buffer("scales", torch.eye(dimensions).repeat(config.components, 1, 1))

    def fit(self, codes: Float[Tensor, "B d"], validation: Float[Tensor, "V d"], seed: int, say: Say) -> Self:  # noqa: ARG002
        """EM from k-means for at most `iterations`. Raises ValueError when there are fewer codes than components."""
        available = min(len(codes), self.config.codes)
        if available < self.config.components:
            raise ValueError(
                f"prior: found {available} codes for {self.config.components} components; "
                "at least as many codes as components are accepted"
            )
        order = torch.randperm(len(codes), generator=generator("mixture codes", seed))
        chosen = codes[order[: self.config.codes].to(codes.device)]
        mixture = GaussianMixture(
            self.config.components,
            max_iter=self.config.iterations,
            reg_covar=1e-6 * float(chosen.var()),
            random_state=integer("mixture", seed),
        )
        with warnings.catch_warnings():
            # The number of iterations is the config's choice: the last per mille of likelihood is not worth minutes.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(chosen.double().cpu().numpy())
        self.weights.copy_(torch.from_numpy(mixture.weights_))
        self.means.copy_(torch.from_numpy(mixture.means_))
        self.scales.copy_(torch.linalg.cholesky(torch.from_numpy(mixture.covariances_)))
        return self

    def sample(self, count: int, noise: torch.Generator) -> Float[Tensor, "N d"]:
        """Random z: a component by its weight, then a draw from it."""
        chosen = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=noise).to(self.means.device)
        eps = torch.randn(count, self.means.shape[1], generator=noise).to(self.means.device)
        return self.means[chosen] + torch.einsum("nij,nj->ni", self.scales[chosen], eps)

    def log_prob(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Log of the mixture's density, nats."""
        each = [gaussian_log_density(codes, mean, scale) for mean, scale in zip(self.means, self.scales, strict=True)]
        return torch.logsumexp(torch.stack(each, -1) + self.weights.log(), -1)
