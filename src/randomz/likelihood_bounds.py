"""Lower bounds on log p(x) of a VAE: the ELBO, and importance-weighted bounds (Burda et al. 2016, arXiv:1509.00519).

L_k = E[log 1/k sum_i p(x | z_i) p(z_i) / q(z_i | x)] with z_i ~ q(z | x); L_1 = ELBO <= L_k <= L_k+1 <= log p(x).
Axes: B images, S draws an image, d latent dimensions.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from randomz.gaussian import DiagonalGaussian, standard_normal_log_density
from randomz.likelihood import Likelihood

DRAWS = 1000
BOUNDS = (1, 10, 100, 1000)
ROWS = 1000  # images that are decoded at once on a CPU, whose cache holds no more


@runtime_checkable
class HasPosterior(Protocol):
    """What is asked of a model: q(z | x), a decoder to logits and p(x | logits)."""

    decoder: nn.Module
    likelihood: Likelihood

    def posterior(self, x: Float[Tensor, "B 1 28 28"]) -> DiagonalGaussian:
        """q(z | x)."""


@dataclass(frozen=True)
class Bound:
    """A mean over images, nats, and its standard error."""

    mean: float
    standard_error: float


def log_weights(
    model: HasPosterior, x: Float[Tensor, "B 1 28 28"], eps: Float[Tensor, "S B d"]
) -> Float[Tensor, "S B"]:
    """Log p(x | z) + log p(z) - log q(z | x) for the z of each eps, nats."""
    posterior = model.posterior(x)
    z = posterior.sample(eps)
    logits = model.decoder(z.flatten(0, 1)).unflatten(0, eps.shape[:2])
    return standard_normal_log_density(z) - model.likelihood.nll(logits, x) - posterior.log_density(z)


def importance_bound(weights: Float[Tensor, "S B"], k: int) -> Float[Tensor, " B"]:
    """L_k of each image: the mean over the S/k groups of k draws. Raises ValueError when k does not divide S."""
    if len(weights) % k:
        raise ValueError(f"k is {k}; a divisor of the {len(weights)} draws is accepted")
    groups = weights.unflatten(0, (-1, k))
    return (torch.logsumexp(groups, 1) - math.log(k)).mean(0)


@torch.no_grad()
def likelihood_bounds(
    model: HasPosterior,
    chunks: Iterable[Float[Tensor, "_ 1 28 28"]],
    noise: torch.Generator,
    bounds: Sequence[int] = BOUNDS,
) -> dict[int, Bound]:
    """Every bound over the images of all chunks, which may differ in size, from the same 1,000 draws an image."""
    each: dict[int, list[Tensor]] = {k: [] for k in bounds}
    for x in chunks:
        dimensions = model.posterior(x[:1]).mu.shape[-1]
        eps = torch.randn(DRAWS, len(x), dimensions, generator=noise).to(x.device)
        size = max(1, ROWS // len(x)) if x.device.type == "cpu" else DRAWS
        weights = torch.cat([log_weights(model, x, part) for part in eps.split(size)]).double()
        for k in bounds:
            each[k].append(importance_bound(weights, k))
    values = {k: torch.cat(parts) for k, parts in each.items()}
    return {k: Bound(float(v.mean()), float(v.std() / math.sqrt(len(v)))) for k, v in values.items()}
