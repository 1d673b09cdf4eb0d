"""The variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114).

q(z | x) = N(mu(x), sigma(x)^2 I) with independent dimensions, p(z) = N(0, I), and
log p(x) = ELBO + KL(q(z | x) || p(z | x)), so ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z)) <= log p(x).

Axes: B images, d latent dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from randomz.gaussian import DiagonalGaussian
from randomz.likelihood import Likelihood
from randomz.models.base import LatentModel, Loss
from randomz.networks import Decoder, Encoder
from randomz.noise import Noise, draw
from randomz.params import NetworkConfig, VAEConfig


@dataclass(frozen=True)
class VAEOutput:
    """The posterior of each image, one z drawn from it and the logits of p(x | z)."""

    posterior: DiagonalGaussian
    z: Float[Tensor, "B d"]
    logits: Float[Tensor, "B 1 28 28"]


@dataclass(frozen=True)
class VAELoss(Loss):
    """`kl` is KL(q(z | x) || N(0, I)), nats, before it is weighted by beta."""

    kl: Float[Tensor, " B"]


class VAE(LatentModel):
    """q(z | x) from the encoder, z = mu + sigma * eps, p(x | z) from the decoder."""

    def __init__(self, config: VAEConfig, network: NetworkConfig) -> None:
        super().__init__()
        self.encoder = Encoder(2 * config.dimensions, network)
        self.decoder = Decoder(config.dimensions, network)
        self.likelihood = Likelihood(config.likelihood, config.sigma)
        self.beta = config.beta

    def posterior(self, x: Float[Tensor, "B 1 28 28"]) -> DiagonalGaussian:
        """q(z | x), mu and log sigma^2 side by side from one encoder."""
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        return DiagonalGaussian(mu, logvar)

    def forward(self, x: Float[Tensor, "B 1 28 28"], noise: Noise) -> VAEOutput:
        """One draw of z an image."""
        posterior = self.posterior(x)
        z = posterior.sample(_eps(posterior, noise))
        return VAEOutput(posterior, z, self.decoder(z))

    def encode(self, x: Float[Tensor, "B 1 28 28"], noise: torch.Generator | None = None) -> Float[Tensor, "B d"]:
        """mu, or with `noise` a draw z ~ q(z | x)."""
        posterior = self.posterior(x)
        return posterior.mu if noise is None else posterior.sample(_eps(posterior, noise))

    def decode(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, "B 1 28 28"]:
        """The mean image of p(x | z)."""
        return self.likelihood.mean(self.decoder(codes))


def _eps(posterior: DiagonalGaussian, noise: Noise) -> Float[Tensor, "B d"]:
    return draw(noise, posterior.mu.device, torch.randn, posterior.mu.shape)


def loss(model: VAE, output: VAEOutput, x: Float[Tensor, "B 1 28 28"]) -> VAELoss:
    """Reconstruction + beta * KL; minus the ELBO when beta = 1 (beta-VAE: Higgins et al. 2017)."""
    reconstruction = model.likelihood.nll(output.logits, x)
    kl = output.posterior.kl().sum(-1)
    return VAELoss(total=reconstruction + model.beta * kl, reconstruction=reconstruction, kl=kl)


build = VAE
