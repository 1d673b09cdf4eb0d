"""What the trainer and the evaluation know of a model: tensors -> output, and a loss with named terms per image."""

import abc
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from randomz.noise import Noise


@dataclass(frozen=True)
class Loss:
    """Per image, nats: `total` is what is minimised, the other fields are the terms that it is made of."""

    total: Float[Tensor, " B"]
    reconstruction: Float[Tensor, " B"]

    def terms(self) -> dict[str, Float[Tensor, " B"]]:
        """Every field by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class LatentModel(nn.Module, abc.ABC):
    """An encoder, a latent and a decoder.

    `forward` maps a batch to the output object that the loss function of the same file takes. Codes are what a prior
    is fitted to: z [B d] or the indices of codebook entries [B h w].
    """

    @abc.abstractmethod
    def forward(self, x: Float[Tensor, "B 1 28 28"], noise: Noise) -> Any:  # noqa: ANN401
        """The output for the loss; whatever is random in it comes from `noise`."""

    @abc.abstractmethod
    def encode(self, x: Float[Tensor, "B 1 28 28"], noise: torch.Generator | None = None) -> Tensor:
        """Codes of images; with `noise` a draw from q(z | x) where the code is random, without it its mean."""

    @abc.abstractmethod
    def decode(self, codes: Tensor) -> Float[Tensor, "B 1 28 28"]:
        """Mean images of codes, in [0, 1]."""

    def embed(self, codes: Tensor) -> Float[Tensor, "B d"]:
        """Codes as the vectors that the decoder gets."""
        return codes.flatten(1)

    def between(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Codes on the way from a (weight 0) to b (weight 1)."""
        return torch.lerp(a, b, weight)

    def random_like(self, codes: Tensor, noise: torch.Generator) -> Tensor:
        """Random codes, as many and of the same shape: z ~ N(0, I)."""
        return torch.randn(codes.shape, generator=noise).to(codes.device)

    def start(self, x: Float[Tensor, "B 1 28 28"], noise: torch.Generator) -> None:
        """Called once with training images before the first step; for what starts from data, such as a codebook."""

    def after_step(self, output: Any, noise: Noise) -> None:  # noqa: ANN401
        """Called after each optimiser step with its output; for what learns without a gradient."""

    def diagnostics(self) -> dict[str, float]:
        """Figures of the epoch that just ended, for what a loss term does not show."""
        return {}
