"""The plain autoencoder: z = g(x), x_hat = f(z), trained for reconstruction alone (Hinton & Salakhutdinov 2006).

Nothing in its loss says where the codes should lie, so it defines no p(z) to draw a random z from.

Axes: B images, d latent dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from randomz.likelihood import Likelihood
from randomz.models.base import LatentModel, Loss
from randomz.networks import Decoder, Encoder
from randomz.noise import Noise
from randomz.params import AEConfig, NetworkConfig


@dataclass(frozen=True)
class AEOutput:
    """The code of each image and the logits of its reconstruction."""

    z: Float[Tensor, "B d"]
    logits: Float[Tensor, "B 1 28 28"]


class AE(LatentModel):
    """z = g(x); x_hat = f(z)."""

    def __init__(self, config: AEConfig, network: NetworkConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.dimensions, network)
        self.decoder = Decoder(config.dimensions, network)
        self.likelihood = Likelihood(config.likelihood, config.sigma)

    def forward(self, x: Float[Tensor, "B 1 28 28"], noise: Noise) -> AEOutput:  # noqa: ARG002
        """An AE draws nothing, so `noise` is left alone."""
        z = self.encoder(x)
        return AEOutput(z, self.decoder(z))

    def encode(self, x: Float[Tensor, "B 1 28 28"], noise: torch.Generator | None = None) -> Float[Tensor, "B d"]:  # noqa: ARG002
        """Z = g(x)."""
        z: Tensor = self.encoder(x)
        return z

    def decode(self, codes: Float[Tensor, "B d"]) -> Float[Tensor, "B 1 28 28"]:
        """Mean images of z."""
        return self.likelihood.mean(self.decoder(codes))


def loss(model: AE, output: AEOutput, x: Float[Tensor, "B 1 28 28"]) -> Loss:
    """Reconstruction only; with likelihood gaussian and sigma 1 half the squared error |x - x_hat|^2 and a constant."""
    reconstruction = model.likelihood.nll(output.logits, x)
    return Loss(total=reconstruction, reconstruction=reconstruction)


build = AE
