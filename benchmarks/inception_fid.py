"""Inception FID of the samples of a finished run, by torch-fidelity, for comparison with published tables.

`python -m benchmarks.inception_fid MODEL [--sampler NAME] [--seed N] [--samples 10000] [--weights FILE]`. Samples are
those that the stage `evaluate` measures, against the test images. Our own figures use the judge's features instead:
Inception's are advised against on MNIST, and its weights are no part of this repository. Nothing is downloaded.
"""

import argparse
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, hub
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from randomz.batches import Split, load_split
from randomz.checkpoint import load_tensors
from randomz.devices import DeviceError, choose_device
from randomz.params import Params, load_params
from randomz.priors import build_priors, load_priors
from randomz.seeding import generator
from randomz.trained import decode_all, encode_all, load_model

EXTRACTOR = "inception-v3-compat"
LEAST = 2049  # samples: the covariance of its 2,048 features has no full rank below
LAYERS = ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight", "fc.weight")
FIGURE = "frechet_inception_distance"
BATCH = 50
ORACLE = "posterior"


class WeightsError(ValueError):
    """Inception's weights are not there, or are not Inception's."""


def find_weights(given: Path | None) -> Path:
    """The file of Inception's weights: the given one, or the one in torch's hub cache."""
    cached = Path(hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    path = given or cached
    if not path.is_file():
        raise WeightsError(
            f"Inception's weights are needed: {cached.name}, which {URL_INCEPTION_V3} gives; looked for {path}, and "
            f"--weights FILE names another place (the judge's features, which our own reports use, need none)"
        )
    return path


def check_weights(path: Path) -> None:
    """Refuse a file that is not Inception's weights. It is read without running what a pickle may hold."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        found = f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    else:
        missing = [name for name in LAYERS if not isinstance(state, Mapping) or name not in state]
        if not missing:
            return
        found = f"has no {missing[0]}"
    raise WeightsError(f"{path}: {found}; accepted: {Path(URL_INCEPTION_V3).name} of torch-fidelity")


class Colour(Dataset[Tensor]):
    """Grey images as torch-fidelity takes them: three equal channels."""

    def __init__(self, images: UInt8[Tensor, "N 28 28"]) -> None:
        self.images = images

    def __len__(self) -> int:
        """The number of images N."""
        return len(self.images)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 28 28"]:
        """One image."""
        return self.images[index].expand(3, -1, -1)


def inception_fid(
    samples: UInt8[Tensor, "N 28 28"],
    reference: UInt8[Tensor, "M 28 28"],
    weights: Path,
    device: torch.device,
    extractor: str = EXTRACTOR,
) -> float:
    """torch-fidelity's Frechet distance between two sets, in the features of an extractor that it knows."""
    figures: Mapping[str, Any] = calculate_metrics(
        input1=Colour(samples),
        input2=Colour(reference),
        fid=True,
        feature_extractor=extractor,
        feature_extractor_weights_path=str(weights),  # without a path it would download them
        cuda=device.type == "cuda",
        batch_size=BATCH,
        save_cpu_ram=True,  # no worker processes
        cache=False,
        verbose=False,
    )
    return float(figures[FIGURE])


def draw(
    params: Params, name: str, sampler: str | None, seed: int, count: int, test: Split, device: torch.device
) -> tuple[str, UInt8[Tensor, "N 28 28"]]:
    """Name of the sampler, the plain random z of the kind unless one is asked for, and its decoded samples."""
    model = load_model(params, name, Path(f"artifacts/{name}/weights/seed-{seed}.safetensors"), device)
    priors = build_priors(params, name, model, seed)
    chosen = sampler or next(iter(priors))
    if chosen not in {*priors, ORACLE}:
        raise ValueError(f"--sampler: found {chosen!r}; {name} has {', '.join([*priors, ORACLE])}")
    if chosen == ORACLE:
        codes = encode_all(model, test.images, generator("evaluate posterior", seed))[:count]
        return chosen, _grey(decode_all(model, codes))
    path = Path(f"artifacts/{name}/priors/seed-{seed}.safetensors")
    try:
        load_priors({chosen: priors[chosen]}, load_tensors(path), device)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not hold the prior {chosen} of models.{name}: {error}") from error
    return chosen, _grey(decode_all(model, priors[chosen].sample(count, generator(f"sample {chosen}", seed))))


def _grey(images: Float[Tensor, "N 1 28 28"]) -> UInt8[Tensor, "N 28 28"]:
    return (images[:, 0] * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def measure(asked: argparse.Namespace, weights: Path, device: torch.device) -> str:
    """The line that says what came out."""
    params = load_params()
    seed = params.seeds[0] if asked.seed is None else asked.seed
    test = load_split(Path("data/test.safetensors"), device)
    sampler, samples = draw(params, asked.model, asked.sampler, seed, asked.samples, test, device)
    distance = inception_fid(samples, test.images.cpu(), weights, device)
    return (
        f"{asked.model} {sampler}, seed {seed}: Inception FID {distance:.2f} of {len(samples)} samples against "
        f"{len(test)} test images ({weights.name})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figure; 2 where the weights are missing or wrong, 1 where the run is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inception_fid", description=__doc__)
    parser.add_argument("model", help="an entry of models in params.yaml")
    parser.add_argument("--sampler", help="a prior of this model, or posterior (default: its plain random z)")
    parser.add_argument("--seed", type=int, help="one of seeds in params.yaml (default: the first)")
    parser.add_argument("--samples", type=int, default=10_000, help="how many to decode (default: 10000)")
    parser.add_argument("--weights", type=Path, help="Inception's weights (default: in torch's hub cache)")
    asked = parser.parse_args(arguments)
    if asked.samples < LEAST:
        parser.error(f"--samples: found {asked.samples}; {LEAST} or more are accepted")
    try:
        weights = find_weights(asked.weights)
        check_weights(weights)
        print(measure(asked, weights, choose_device()))
    except (ValueError, OSError, DeviceError) as error:
        print(f"inception_fid: {error}", file=sys.stderr)
        return 2 if isinstance(error, WeightsError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
