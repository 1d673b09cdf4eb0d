"""The digit rule beside a classifier's confidence: what each accepts of real digits, of controls and of decoded junk.

`python -m benchmarks.digit_rule` reads the artifacts of a finished run. Junk is what autoencoders make of N(0, I), the
very images of the stage evaluate. A rule by the judge's last features alone stands beside the one by all its layers.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from randomz.batches import load_split, pixels
from randomz.devices import choose_device
from randomz.files import write_json
from randomz.judge import FEATURES, Judge, load_judge
from randomz.params import Params, load_params
from randomz.quality.digits import ClassManifolds, accepted, fit_class_manifolds
from randomz.seeding import generator
from randomz.trained import decode_all, load_model
from randomz.yardstick import controls, load_yardstick, responses, split_responses

CONFIDENT = 0.95  # of the softmax for one digit
ARTIFACTS = Path("artifacts")
RESULTS = Path("benchmarks/results/digit-rule.json")
COLUMNS = {
    "images": "images",
    "confident": "softmax > .95",
    "features_accept": "last features accept",
    "accepted": "all layers accept",
    "features_accept_confident": "last features, of confident",
    "accepted_confident": "all layers, of confident",
}

Row = dict[str, float]
Images = Float[Tensor, "N 1 28 28"]


@dataclass(frozen=True)
class Rules:
    """Three ways to say what a digit is."""

    judge: Judge
    last_features: ClassManifolds
    all_layers: ClassManifolds

    def row(self, seen: Float[Tensor, "N R"]) -> Row:
        """Shares of images, by the judge's responses to them,."""
        features = seen[:, :FEATURES]
        with torch.no_grad():
            confident = self.judge.head(features).softmax(1).amax(1) > CONFIDENT
        by_features, by_all = accepted(self.last_features, features), accepted(self.all_layers, seen)
        return {
            "images": len(seen),
            "confident": _share(confident),
            "features_accept": _share(by_features),
            "accepted": _share(by_all),
            "features_accept_confident": _share(by_features[confident]),
            "accepted_confident": _share(by_all[confident]),
        }


def _share(passed: Bool[Tensor, " N"]) -> float:
    return float(passed.double().mean()) if len(passed) else 0.0


def junk(params: Params, device: torch.device) -> Iterator[tuple[str, Images]]:
    """What every trained autoencoder makes of N(0, I), by model and seed."""
    for name, entry in params.models.items():
        if entry.kind != "ae":
            continue
        for seed in params.seeds:
            model = load_model(params, name, ARTIFACTS / name / f"weights/seed-{seed}.safetensors", device)
            noise = generator("sample standard_normal", seed)
            yield (
                f"{name} N(0, I), seed {seed}",
                decode_all(model, torch.randn(params.evaluate.samples, entry.dimensions, generator=noise)),
            )


def measure(params: Params, yardstick: Path, device: torch.device) -> dict[str, Row]:
    """A row for each set of images, and one over all junk."""
    train, validation, test = (
        load_split(Path(f"data/{name}.safetensors"), device) for name in ("train", "validation", "test")
    )
    judge = load_judge(Path("judge/judge.safetensors"), device)
    ruler = load_yardstick(yardstick, device)
    held_out = split_responses(judge, validation)
    last = fit_class_manifolds(ruler.training, train.labels, held_out[:, :FEATURES], params.yardstick.accept)
    rules = Rules(judge, last, ruler.manifolds)
    ruined = controls(train, params.yardstick)
    rows = {"validation": rules.row(held_out), "test": rules.row(split_responses(judge, test))}
    for name in ("noise", "shuffled", "blurred"):
        rows[name] = rules.row(responses(judge, pixels(ruined[name])))
    seen = {name: responses(judge, images) for name, images in junk(params, device)}
    rows |= {name: rules.row(each) for name, each in seen.items()}
    return rows | {"all N(0, I)": rules.row(torch.cat(list(seen.values())))} if seen else rows


def table(rows: Mapping[str, Row]) -> str:
    """Rows in Markdown, shares in per cent."""
    lines = [["", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    for name, row in rows.items():
        lines.append([name, f"{row['images']:,}", *(f"{100 * row[key]:.2f}" for key in list(COLUMNS)[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digit_rule", description=__doc__)
    parser.add_argument("--yardstick", type=Path, default=ARTIFACTS / "yardstick.safetensors", help="of a finished run")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"file of the result (default: {RESULTS})")
    asked = parser.parse_args(arguments)
    try:
        rows = measure(load_params(), asked.yardstick, choose_device())
    except (ValueError, OSError) as error:
        print(f"digit_rule: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    write_json(asked.results, {"confidence": CONFIDENT, "sets": rows})
    print(f"\n{asked.results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
