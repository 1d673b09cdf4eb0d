"""Reconstruction terms: minus log p(x | z) in nats per image, summed over the 784 pixels, never their mean.

With a mean over pixels the KL term would weigh 784 times as much, which is how published VAEs get it wrong.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Images = Float[Tensor, "*B 1 28 28"]
Broadcast = Float[Tensor, "*#B 1 28 28"]
PerImage = Float[Tensor, "*B"]


def bernoulli_nll(logits: Images, x: Broadcast) -> PerImage:
    """Pixel cross-entropies. With grey x this is the expectation over the binarisation x ~ Bernoulli(grey)."""
    nll = functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return nll.flatten(-3).sum(-1)


def gaussian_nll(mean: Images, x: Broadcast, log_sigma: Float[Tensor, ""]) -> PerImage:
    """-log N(x; mean, sigma^2 I): the squared error over 2 sigma^2, and the normaliser."""
    squared_error = (x - mean).square().flatten(-3).sum(-1)
    size = math.prod(mean.shape[-3:])
    return squared_error / (2 * torch.exp(2 * log_sigma)) + size * (log_sigma + 0.5 * math.log(2 * math.pi))


class Likelihood(nn.Module):
    """p(x | z) by one word: `bernoulli`, or `gaussian` with a fixed or a learned (`calibrated`) sigma.

    Rybkin, Daniilidis, Levine 2021 (sigma-VAE): one sigma for all pixels, learned with the weights.
    """

    log_sigma: Tensor

    def __init__(self, kind: Literal["bernoulli", "gaussian"], sigma: float | Literal["calibrated"] | None) -> None:
        super().__init__()
        self.kind = kind
        if sigma == "calibrated":
            self.log_sigma = nn.Parameter(torch.tensor(-1.0))
        elif sigma is not None:
            self.register_buffer("log_sigma", torch.tensor(math.log(sigma)), persistent=False)

    def mean(self, logits: Images) -> Images:
        """The mean image: what is shown, and what random-z quality is measured on."""
        return torch.sigmoid(logits)

    def nll(self, logits: Images, x: Broadcast) -> PerImage:
        """Minus log p(x | z), nats per image. The axes before `1 28 28` of x broadcast to those of the logits."""
        if self.kind == "bernoulli":
            return bernoulli_nll(logits, x)
        return gaussian_nll(self.mean(logits), x, self.log_sigma)
