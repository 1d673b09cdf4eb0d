"""A trained model and its priors over all reference images -> one metrics tree and a few pictures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from randomz.batches import pixels
from randomz.intervals import summarise
from randomz.latent import latent_section
from randomz.linear import pca_mse, principal
from randomz.models.base import LatentModel
from randomz.priors import Prior, Priors
from randomz.quality.checks import check_finite
from randomz.quality.images import psnr, squared_error, ssim
from randomz.ruler import Ruler, Tree
from randomz.sections import SECTIONS
from randomz.seeding import generator
from randomz.trained import Images, decode_all, encode_all
from randomz.units import per_pixel

PICTURED = {"originals": 20, "pairs": 6, "steps": 11, "samples": 100}


def evaluate_seed(
    model: LatentModel, kind: str, priors: Priors, ruler: Ruler, seed: int
) -> tuple[Tree, dict[str, Tensor]]:
    """Every figure of one trained model as a tree of plain numbers; its pictures, as uint8 tensors, and curves.

    Each prior is a sampler, and `posterior` decodes a code of every reference image, as many as other samplers draw or
    as there are. Raises ValueError that names the section or the sampler for which there can be no figure.
    """
    images = pixels(ruler.reference.images)
    codes = encode_all(model, ruler.reference.images, None)
    drawn = encode_all(model, ruler.reference.images, generator("evaluate posterior", seed))
    reconstructions = decode_all(model, codes)
    with _naming("reconstruction"):
        reconstruction = _reconstruction(images, reconstructions, ruler)
    with _naming("latent"):
        latent, paths = latent_section(model, codes, ruler, seed)
    section, curves = SECTIONS[kind](model, priors, codes, ruler, seed)
    sampling, samples = {}, {}
    for name in (*priors, "posterior"):
        with _naming(f"sampler {name}"):
            chosen = drawn[: ruler.config.samples] if name == "posterior" else _draw(priors[name], name, ruler, seed)
            decoded = decode_all(model, chosen)
            sampling[name] = _sampling(decoded, ruler)
        samples[f"samples.{name}"] = as_bytes(decoded[: PICTURED["samples"]])
        samples[f"codes.{name}"] = chosen[: PICTURED["samples"]]
    tree = {"reconstruction": reconstruction, "latent": latent, **section, "sampling": sampling}
    _check_figures(tree, "")
    pictures = {
        "originals": ruler.reference.images[: PICTURED["originals"]],
        "reconstructions": as_bytes(reconstructions[: PICTURED["originals"]]),
        "interpolation": as_bytes(_interpolations(model, codes)),
        **samples,
        "path_change": paths.change.mean(0),
        **curves,
    }
    return tree, pictures


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """An error says what was being measured."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _check_figures(tree: Tree, path: str) -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _check_figures(dict(value), f"{path}{key}.")
        elif not math.isfinite(value):
            raise ValueError(f"{path}{key} is {value}; a finite figure is accepted")


def as_bytes(images: Float[Tensor, "*N 1 28 28"]) -> UInt8[Tensor, "*N 28 28"]:
    """Pixels in [0, 1] as grey levels."""
    return (images.squeeze(-3) * 255).round().clamp(0, 255).to(torch.uint8)


def _reconstruction(images: Images, reconstructions: Images, ruler: Ruler) -> Tree:
    distance = ruler.yardstick.distance(ruler.judge.features(reconstructions))
    error = float(squared_error(images, reconstructions).double().mean())
    return {
        "squared_error": error,
        "mse": per_pixel(error),
        "psnr": float(psnr(images, reconstructions).double().mean()),
        "ssim": float(ssim(images, reconstructions).double().mean()),
        "fd_reconstruction": distance,
    }


def _draw(prior: Prior, name: str, ruler: Ruler, seed: int) -> Tensor:
    for key, tensor in prior.state_dict().items():
        check_finite(f"the fitted {key}", tensor)
    codes = prior.sample(ruler.config.samples, generator(f"sample {name}", seed))
    check_finite("random z", codes)
    return codes


def _sampling(images: Images, ruler: Ruler) -> Tree:
    quality = ruler.yardstick.quality(ruler.judge, images)
    return {"fd": quality["fd"], "fd_ratio": quality["fd"] / ruler.floor_fd} | quality


@torch.no_grad()
def _interpolations(model: LatentModel, codes: Tensor) -> Float[Tensor, "P S 1 28 28"]:
    """Each row walks from the code of one reference image to that of another."""
    starts, ends = codes[: PICTURED["pairs"]], codes[PICTURED["pairs"] : 2 * PICTURED["pairs"]]
    weights = torch.linspace(0, 1, PICTURED["steps"]).tolist()
    return torch.stack([model.decode(model.between(starts, ends, weight)) for weight in weights], 1)


def describe(model: LatentModel, kind: str, trees: Sequence[Tree], ruler: Ruler) -> Tree:
    """The metrics tree of a model: its kind and size, every figure over the seeds, and PCA with as many numbers."""
    tree = summarise(trees)
    size = model.embed(encode_all(model, ruler.reference.images[:1], None)).shape[1]
    tree["reconstruction"]["pca_mse"] = pca_mse(principal(ruler.train.images), ruler.reference.images, [size])[0]
    return {"kind": kind, "parameters": sum(p.numel() for p in model.parameters())} | tree
