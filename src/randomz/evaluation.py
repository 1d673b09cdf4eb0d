"""A trained model and its priors over the whole test set -> one metrics tree and a few pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from randomz.batches import Split, in_chunks, pixels
from randomz.codebook import codebook_use
from randomz.judge import Judge
from randomz.likelihood_bounds import HasPosterior, likelihood_bounds
from randomz.models.base import LatentModel
from randomz.params import EvaluateConfig, VQVAEConfig
from randomz.priors import Priors
from randomz.quality.images import psnr, squared_error, ssim
from randomz.seeding import generator, integer
from randomz.trained import Images, decode_all, encode_all
from randomz.units import bits, per_pixel
from randomz.yardstick import Yardstick

ACTIVE_VARIANCE = 0.01  # of mu over images: the threshold of Burda et al. 2016
PICTURED = {"originals": 20, "pairs": 6, "steps": 11, "samples": 100}

Tree = dict[str, Any]


@dataclass(frozen=True)
class Ruler:
    """What every model is measured with, and on."""

    yardstick: Yardstick
    judge: Judge
    floor_fd: float
    train: Split
    test: Split
    config: EvaluateConfig


def evaluate_seed(
    model: LatentModel, kind: str, priors: Priors, ruler: Ruler, seed: int
) -> tuple[Tree, dict[str, Tensor]]:
    """Every figure of one trained model as a tree of plain numbers, and its pictures as uint8 tensors."""
    images = pixels(ruler.test.images)
    codes = encode_all(model, ruler.test.images, None)
    drawn = encode_all(model, ruler.test.images, generator("evaluate posterior", seed))
    reconstructions = decode_all(model, codes)
    samples = {
        name: decode_all(model, prior.sample(ruler.config.samples, generator(f"sample {name}", seed)))
        for name, prior in priors.items()
    }
    samples["posterior"] = decode_all(model, drawn[: ruler.config.samples])
    tree = {
        "reconstruction": _reconstruction(images, reconstructions, ruler),
        "latent": _latent(model, codes, ruler, seed),
        **SECTIONS[kind](model, priors, codes, ruler, seed),
        "sampling": {name: _sampling(each, ruler) for name, each in samples.items()},
    }
    pictures = {
        "originals": ruler.test.images[: PICTURED["originals"]],
        "reconstructions": as_bytes(reconstructions[: PICTURED["originals"]]),
        "interpolation": as_bytes(_interpolations(model, codes)),
        **{f"samples.{name}": as_bytes(each[: PICTURED["samples"]]) for name, each in samples.items()},
        **CURVES[kind](model, codes, ruler),
    }
    return tree, pictures


def as_bytes(images: Float[Tensor, "*N 1 28 28"]) -> UInt8[Tensor, "*N 28 28"]:
    """Pixels in [0, 1] as grey levels."""
    return (images.squeeze(-3) * 255).round().clamp(0, 255).to(torch.uint8)


def _reconstruction(images: Images, reconstructions: Images, ruler: Ruler) -> Tree:
    error = float(squared_error(images, reconstructions).double().mean())
    return {
        "squared_error": error,
        "mse": per_pixel(error),
        "psnr": float(psnr(images, reconstructions).double().mean()),
        "ssim": float(ssim(images, reconstructions).double().mean()),
        "fd_reconstruction": ruler.yardstick.distance(ruler.judge.features(reconstructions)),
    }


@torch.no_grad()
def _latent(model: LatentModel, codes: Tensor, ruler: Ruler, seed: int) -> Tree:
    chosen = torch.randperm(len(ruler.train), generator=generator("probe", seed))[: ruler.config.probe_images]
    chosen = chosen.to(ruler.train.images.device)
    known = model.embed(encode_all(model, ruler.train.images[chosen], None)).cpu().numpy()
    asked = model.embed(codes).cpu().numpy()
    partners = torch.randperm(len(codes), generator=generator("interpolation", seed)).to(codes.device)
    midpoints = decode_all(model, model.between(codes, codes[partners], 0.5))
    return {
        "knn_accuracy": _probe(KNeighborsClassifier(), known, ruler.train.labels[chosen], asked, ruler.test.labels),
        "linear_accuracy": _probe(
            LogisticRegression(max_iter=300), known, ruler.train.labels[chosen], asked, ruler.test.labels
        ),
        "fd_interpolation": ruler.yardstick.distance(ruler.judge.features(midpoints)),
    }


def _probe(probe: Any, known: np.ndarray, known_labels: Tensor, asked: np.ndarray, labels: Tensor) -> float:  # noqa: ANN401
    fitted = make_pipeline(StandardScaler(), probe).fit(known, known_labels.cpu().numpy())
    return float(fitted.score(asked, labels.cpu().numpy()))


def _sampling(images: Images, ruler: Ruler) -> Tree:
    quality = ruler.yardstick.quality(ruler.judge, images)
    return {"fd": quality["fd"], "fd_ratio": quality["fd"] / ruler.floor_fd} | quality


@torch.no_grad()
def _interpolations(model: LatentModel, codes: Tensor) -> Float[Tensor, "P S 1 28 28"]:
    """Each row walks from the code of one test image to that of another."""
    starts, ends = codes[: PICTURED["pairs"]], codes[PICTURED["pairs"] : 2 * PICTURED["pairs"]]
    weights = torch.linspace(0, 1, PICTURED["steps"]).tolist()
    return torch.stack([model.decode(model.between(starts, ends, weight)) for weight in weights], 1)


def _no_section(model: LatentModel, priors: Priors, codes: Tensor, ruler: Ruler, seed: int) -> Tree:  # noqa: ARG001
    return {}


@torch.no_grad()
def _kl_section(model: LatentModel, priors: Priors, codes: Tensor, ruler: Ruler, seed: int) -> Tree:  # noqa: ARG001
    posterior = cast("HasPosterior", model)
    on_gpu = codes.device.type == "cuda"
    bounded = ruler.test.images if on_gpu else ruler.test.images[: ruler.config.bound_images]
    bounds = likelihood_bounds(posterior, in_chunks(bounded, 250 if on_gpu else 10), generator("bound", seed))
    kl = torch.cat([posterior.posterior(x).kl().sum(-1) for x in in_chunks(ruler.test.images)])
    noise = generator("elbo", seed)
    elbo = -_mean_reconstruction(model, ruler.test, noise) - float(kl.double().mean())
    return {
        "kl": {
            "kl_nats": float(kl.double().mean()),
            "active_units": float((codes.var(0) > ACTIVE_VARIANCE).sum()),
            "elbo": elbo,
            "bound": {str(k): bound.mean for k, bound in bounds.items()},
            "bound_standard_error": {str(k): bound.standard_error for k, bound in bounds.items()},
            "bound_images": float(len(bounded)),
        }
    }


def _mean_reconstruction(model: Any, split: Split, noise: torch.Generator) -> float:  # noqa: ANN401
    nll = [model.likelihood.nll(model(x, noise).logits, x) for x in in_chunks(split.images)]
    return float(torch.cat(nll).double().mean())


@torch.no_grad()
def _codebook_section(model: LatentModel, priors: Priors, codes: Tensor, ruler: Ruler, seed: int) -> Tree:  # noqa: ARG001
    use = codebook_use(codes, _entries(model))
    places = codes[0].numel()
    nats = -float(priors["autoregressive"].log_prob(codes).double().mean())
    return {
        "codebook": {
            "perplexity": use.perplexity,
            "usage": use.usage,
            "entropy_bits": use.entropy_bits,
            "prior_bits_per_code": bits(nats) / places,
            "nominal_bits_per_image": places * float(np.log2(_entries(model))),
            "prior_bits_per_image": bits(nats),
        }
    }


def _entries(model: Any) -> int:  # noqa: ANN401
    return cast("VQVAEConfig", model.quantiser.config).codes


def _no_curves(model: LatentModel, codes: Tensor, ruler: Ruler) -> dict[str, Tensor]:  # noqa: ARG001
    return {}


@torch.no_grad()
def _kl_curve(model: LatentModel, codes: Tensor, ruler: Ruler) -> dict[str, Tensor]:  # noqa: ARG001
    posterior = cast("HasPosterior", model)
    kl: list[Float[Tensor, "B d"]] = [posterior.posterior(x).kl() for x in in_chunks(ruler.test.images)]
    return {"kl_per_dimension": torch.cat(kl).mean(0)}


def _code_counts(model: LatentModel, codes: Int64[Tensor, "N h w"], ruler: Ruler) -> dict[str, Tensor]:  # noqa: ARG001
    return {"code_counts": codebook_use(codes, _entries(model)).counts}


# What only one kind of latent has. A kind without an entry of its own has nothing of the sort.
SECTIONS: dict[str, Callable[[LatentModel, Priors, Tensor, Ruler, int], Tree]] = {
    "ae": _no_section,
    "vae": _kl_section,
    "vqvae": _codebook_section,
}
CURVES: dict[str, Callable[[LatentModel, Tensor, Ruler], dict[str, Tensor]]] = {
    "ae": _no_curves,
    "vae": _kl_curve,
    "vqvae": _code_counts,
}


def pca_mse(train: Split, test: Split, dimensions: int) -> float:
    """Test error per pixel of the best linear autoencoder with so many numbers, for comparison."""
    flat = train.images.flatten(1).cpu().numpy() / np.float32(255)
    pca = PCA(min(dimensions, flat.shape[1]), random_state=integer("pca"), svd_solver="covariance_eigh").fit(flat)
    asked = test.images.flatten(1).cpu().numpy() / np.float32(255)
    return float(np.square(asked - pca.inverse_transform(pca.transform(asked))).mean(dtype=np.float64))


def describe(model: LatentModel, kind: str, trees: Sequence[Tree], ruler: Ruler) -> Tree:
    """The metrics tree of a model: its kind and size, every figure over the seeds, and the linear reference."""
    tree = summarise(trees)
    size = model.embed(encode_all(model, ruler.test.images[:1], None)).shape[1]
    tree["reconstruction"]["pca_mse"] = pca_mse(ruler.train, ruler.test, size)
    return {"kind": kind, "parameters": sum(p.numel() for p in model.parameters())} | tree


def summarise(trees: Sequence[Tree]) -> Tree:
    """One tree a seed -> one tree whose leaves are {mean, low, high, per_seed}."""
    first = trees[0]
    return {
        key: summarise([tree[key] for tree in trees])
        if isinstance(value, Mapping)
        else interval([tree[key] for tree in trees])
        for key, value in first.items()
    }


def interval(values: Sequence[float]) -> Tree:
    """The mean with its 95 % interval by Student's t; without an interval where there is a single value."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None, "per_seed": list(values)}
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": list(values)}
