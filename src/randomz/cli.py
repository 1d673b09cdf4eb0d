"""The command `randomz`: random digits from a trained model, and what it makes of a picture of yours.

Torch takes seconds to import, so it is imported where it is needed: neither help nor a mistake waits for it.
"""

import argparse
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from randomz.files import write_bytes
from randomz.handwriting import read_digit
from randomz.params import PARAMS_FILE, Params, load_params
from randomz.sheets import interleave, sheet

DESCRIPTION = "Random digits from a trained model, and what it makes of a picture of yours."
MOST = 10000  # samples at once
DEVICE = "cpu"  # where the same seed gives the same picture


@dataclass(frozen=True)
class Trained:
    """Where the trained weights of one model lie, and those of the priors over its codes, for one of its seeds."""

    params: Params
    root: Path
    name: str
    seed: int

    def file(self, kind: str) -> Path:
        """A safetensors file of `weights` or `priors`. Raises ValueError where there is none yet."""
        path = self.root / "artifacts" / self.name / kind / f"seed-{self.seed}.safetensors"
        if path.exists():
            return path
        others = sorted(other.stem.removeprefix("seed-") for other in path.parent.glob("seed-*.safetensors"))
        hint = f"trained are seeds {', '.join(others)}" if others else "`make reproduce` trains the models"
        raise ValueError(f"{path}: no trained {kind} of {self.name}; {hint}")


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; where that fails, a line on standard error and exit status 1."""
    options = _parser().parse_args(words)
    try:
        _refuse_bad_output(options.output)
        params = _params(options.root)
        params.model(options.model)  # before weights are asked for
        seed = params.seeds[0] if options.trained is None else options.trained
        grid = options.work(Trained(params, options.root, options.model, seed), options)
        write_bytes(options.output, _png(grid))
    except (ValueError, OSError) as error:
        print(f"randomz: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", default="vae", help="name of an entry of `models` in params.yaml (default: vae)")
    common.add_argument(
        "--trained", type=int, metavar="SEED", help="the seed it was trained with (default: the first of params.yaml)"
    )
    common.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png", help="the picture to write")
    common.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="of the repository (default: the folder at hand)"
    )
    parser = argparse.ArgumentParser(
        prog="randomz", description=DESCRIPTION, epilog="The models have to be trained first: `make reproduce`."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    drawing = commands.add_parser(
        "sample", parents=[common], help="decode random z", description="Decode random z into a grid of images."
    )
    drawing.add_argument("--sampler", help="where z comes from (default: the prior that needs no fit, as N(0, I))")
    drawing.add_argument("--n", type=_count, default=64, help=f"images, 1 to {MOST} (default: 64)")
    drawing.add_argument("--seed", type=int, default=0, help="of the draw: equal seeds give equal images (default: 0)")
    drawing.set_defaults(work=_sample)
    pairs = commands.add_parser(
        "reconstruct",
        parents=[common],
        help="encode and decode pictures",
        description="Encode and decode pictures of digits. Each becomes grey, light ink on black, scaled and centred "
        "as MNIST's are; the result shows it on the left and what the model makes of it on the right.",
    )
    pairs.add_argument(
        "pictures", nargs="+", type=Path, metavar="PICTURE", help="a PNG, JPEG or the like, with one digit"
    )
    pairs.add_argument(
        "--invert",
        action=argparse.BooleanOptionalAction,
        help="whether ink is darker than paper (default: as the rim of the picture says)",
    )
    pairs.set_defaults(work=_reconstruct)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"found {text!r}; a number from 1 to {MOST} is accepted")
    return int(text)


def _params(root: Path) -> Params:
    if not (root / PARAMS_FILE).is_file():
        raise ValueError(f"{root / PARAMS_FILE}: absent; run in the repository, or name its folder with --root")
    return load_params(root / PARAMS_FILE)


def _refuse_bad_output(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a file that ends in .png is accepted")
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: cannot be written; a file in a folder that exists is accepted")


def _sample(trained: Trained, options: argparse.Namespace) -> UInt8[np.ndarray, "H W"]:
    """Images of random codes, row by row in a grid that is about square."""
    weights, fitted = trained.file("weights"), trained.file("priors")

    from randomz.checkpoint import load_tensors  # noqa: PLC0415
    from randomz.priors import build_priors, load_priors  # noqa: PLC0415
    from randomz.seeding import generator  # noqa: PLC0415

    model = _model(trained, weights)
    priors = build_priors(trained.params, trained.name, model, trained.seed)
    sampler = next(iter(priors)) if options.sampler is None else options.sampler
    if sampler not in priors:
        raise ValueError(f"sampler {sampler}: {trained.name} has no such one; accepted: {', '.join(priors)}")
    try:
        load_priors(priors, load_tensors(fitted), _device())
    except RuntimeError as error:
        raise ValueError(f"{fitted}: does not hold the priors of models.{trained.name}: {error}") from error
    codes = priors[sampler].sample(options.n, generator(f"sample {sampler}", options.seed))
    return sheet(_decoded(model, codes), math.isqrt(options.n - 1) + 1)


def _reconstruct(trained: Trained, options: argparse.Namespace) -> UInt8[np.ndarray, "H W"]:
    """A row for each picture: the digit as the model gets it, then its reconstruction."""
    if any(path.exists() and path.samefile(options.output) for path in options.pictures if options.output.exists()):
        raise ValueError(f"{options.output}: is one of the pictures; another file is accepted")
    digits = np.stack([read_digit(path, invert=options.invert) for path in options.pictures])
    weights = trained.file("weights")

    import torch  # noqa: PLC0415

    from randomz.trained import encode_all  # noqa: PLC0415

    model = _model(trained, weights)
    reconstructions = _decoded(model, encode_all(model, torch.from_numpy(digits), None))
    return sheet(interleave(digits, reconstructions, 1), 2)


def _device() -> Any:  # noqa: ANN401 (a torch.device; to name it would import torch)
    import torch  # noqa: PLC0415

    return torch.device(DEVICE)


def _model(trained: Trained, weights: Path) -> Any:  # noqa: ANN401 (a LatentModel)
    from randomz.trained import load_model  # noqa: PLC0415

    return load_model(trained.params, trained.name, weights, _device())


def _decoded(model: Any, codes: Any) -> UInt8[np.ndarray, "N 28 28"]:  # noqa: ANN401 (a LatentModel and its codes)
    from randomz.trained import decode_all  # noqa: PLC0415

    images = decode_all(model, codes).squeeze(1).numpy()
    return (255 * images).round().clip(0, 255).astype(np.uint8)


def _png(grid: UInt8[np.ndarray, "H W"]) -> bytes:
    from PIL import Image  # noqa: PLC0415

    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, "png")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
