"""What only one kind of latent has: KL and likelihood bounds of a VAE, the use of a VQ-VAE's codebook."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from randomz.aggregate import aggregate_kl, posterior_deviation
from randomz.batches import in_chunks
from randomz.codebook import codebook_use
from randomz.gaussian import DiagonalGaussian
from randomz.likelihood_bounds import HasPosterior, likelihood_bounds
from randomz.models.base import LatentModel
from randomz.priors import Priors
from randomz.ruler import Ruler, Tree
from randomz.seeding import generator
from randomz.units import bits

ACTIVE_VARIANCE = 0.01  # of mu over images: the threshold of Burda et al. 2016

Section = tuple[Tree, dict[str, Tensor]]  # figures by the name of their section, and curves for the report


def no_section(model: LatentModel, priors: Priors, codes: Tensor, ruler: Ruler, seed: int) -> Section:  # noqa: ARG001
    """An AE has nothing of the sort."""
    return {}, {}


@torch.no_grad()
def kl_section(model: LatentModel, priors: Priors, codes: Tensor, ruler: Ruler, seed: int) -> Section:  # noqa: ARG001
    """Everything about q(z | x), nats. A model of binarised images is asked about binarised ones, here alone."""
    vae, images = cast("HasPosterior", model), ruler.likelihood_images
    posterior = _posterior(vae, images)
    each = posterior.kl()
    kl = float(each.sum(-1).double().mean())
    eps = torch.randn(posterior.mu.shape, generator=generator("aggregate posterior", seed)).to(images.device)
    aggregate = aggregate_kl(posterior.sample(eps), priors)
    tree = {
        "kl_nats": kl,
        "active_units": float((posterior.mu.var(0) > ACTIVE_VARIANCE).sum()),
        "posterior_deviation": posterior_deviation(posterior),
        "aggregate_kl": aggregate,
        "mutual_information": kl - aggregate,
        "elbo": -_mean_reconstruction(model, images, generator("elbo", seed)) - kl,
        **_bounds(vae, images, ruler, seed),
    }
    return {"kl": tree}, {"kl_per_dimension": each.mean(0)}


def _posterior(model: HasPosterior, images: UInt8[Tensor, "N 28 28"]) -> DiagonalGaussian:
    parts = [model.posterior(x) for x in in_chunks(images)]
    return DiagonalGaussian(torch.cat([part.mu for part in parts]), torch.cat([part.logvar for part in parts]))


def _mean_reconstruction(model: Any, images: UInt8[Tensor, "N 28 28"], noise: torch.Generator) -> float:  # noqa: ANN401
    nll = [model.likelihood.nll(model(x, noise).logits, x) for x in in_chunks(images)]
    return float(torch.cat(nll).double().mean())


def _bounds(model: HasPosterior, images: UInt8[Tensor, "N 28 28"], ruler: Ruler, seed: int) -> Tree:
    """On a CPU of the first images only."""
    on_gpu = images.device.type == "cuda"
    bounded = images if on_gpu else images[: ruler.config.bound_images]
    bounds = likelihood_bounds(model, in_chunks(bounded, 250 if on_gpu else 10), generator("bound", seed))
    return {
        "bound": {str(k): bound.mean for k, bound in bounds.items()},
        "bound_standard_error": {str(k): bound.standard_error for k, bound in bounds.items()},
        "bound_images": float(len(bounded)),
    }


@torch.no_grad()
def codebook_section(
    model: LatentModel,
    priors: Priors,
    codes: Int64[Tensor, "N h w"],
    ruler: Ruler,  # noqa: ARG001
    seed: int,  # noqa: ARG001
) -> Section:
    """Use of the codebook over all reference images. One that has collapsed to one entry has perplexity 1."""
    entries = len(cast("Any", model).quantiser.codebook)
    use = codebook_use(codes, entries)
    places = codes[0].numel()
    nats = -float(priors["autoregressive"].log_prob(codes).double().mean())
    tree = {
        "perplexity": use.perplexity,
        "usage": use.usage,
        "entropy_bits": use.entropy_bits,
        "prior_bits_per_code": bits(nats) / places,
        "nominal_bits_per_image": places * float(np.log2(entries)),
        "prior_bits_per_image": bits(nats),
    }
    return {"codebook": tree}, {"code_counts": use.counts}


SECTIONS: dict[str, Callable[[LatentModel, Priors, Tensor, Ruler, int], Section]] = {
    "ae": no_section,
    "vae": kl_section,
    "vqvae": codebook_section,
}
