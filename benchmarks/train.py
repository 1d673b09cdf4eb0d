"""Our trainer beside pythae's and others': the same networks, weights, batches, optimiser, epochs and data.

`uv sync --group peers`, then `python -m benchmarks.train [--mode throughput|quality|seeds]`, in a repository that has
its data/.
Every training is a process of its own; contestants take turns. What is the same and what not: `benchmarks.contestants`.

throughput: images a second, of one seed and of three. `cold` counts from the start of the process, with all imports,
`warm` the epochs after the first; both with the validation at the end of each epoch.
quality: seconds from the start of the process until the end of the first epoch with a validation loss that both reach.
seeds: ours with 1, 3, 5 and 8 seeds side by side.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import GROUP, VALIDATION, Epoch, make_task
from benchmarks.metrics import RESULTS, spread
from benchmarks.roofline import multiply_rate, step_operations
from randomz.batches import pixels
from randomz.devices import choose_device
from randomz.files import read_json, write_json
from randomz.params import load_params

MODELS = ("ae", "vae", "vqvae")
THREE = (0, 1, 2)
SIDE_BY_SIDE = (1, 3, 5, 8)
PEERS = {"pythae": "pythae", "vector_quantize_pytorch": "vector-quantize-pytorch"}
LIBRARIES = ("torch", "numpy", *PEERS.values())
OWN_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # everyone sets the number of threads itself


@dataclass(frozen=True)
class Entry:
    """One row of a contest."""

    contestant: str
    model: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """What a process did, in seconds since 1970."""

    started: float
    finished: float
    processor_seconds: float
    images: int
    epochs: tuple[Epoch, ...]

    @property
    def cold(self) -> float:
        """Images a second, all from the start of the process to the end of training."""
        return self.images * len(self.epochs) / (self.finished - self.started)

    @property
    def warm(self) -> float:
        """Images a second of the epochs after the first.

        A moment counts by the share of the seeds running then that are in one of those: side by side, seeds fall out of
        step, and what a late one does in its first epoch takes time from the others.
        """
        seconds = 0.0
        for start, end in pairwise(sorted({edge for epoch in self.epochs for edge in (epoch.began, epoch.at)})):
            running = [epoch.epoch > 1 for epoch in self.epochs if epoch.began <= start and epoch.at >= end]
            seconds += (end - start) * sum(running) / max(1, len(running))
        return self.images * sum(epoch.epoch > 1 for epoch in self.epochs) / seconds

    def validation(self) -> list[float]:
        """The last validation loss of each seed."""
        last = {epoch.seed: epoch for epoch in sorted(self.epochs, key=lambda each: each.epoch)}
        return [epoch.validation for epoch in last.values()]

    def seconds_to(self, level: float) -> float | None:
        """From the start of the process to the first epoch's end with no more than this validation loss."""
        reached = [epoch.at for epoch in self.epochs if epoch.validation <= level]
        return min(reached) - self.started if reached else None


def train(entry: Entry, epochs: int, images: int) -> Run:
    """One training in a process of its own. Raises RuntimeError with the end of what it said where it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in OWN_THREADS}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.contestants", entry.contestant, entry.model, str(result)]
        command += ["--epochs", str(epochs), "--images", str(images), "--seeds", *map(str, entry.seeds)]
        started = time.time()
        ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)  # noqa: S603
        if ended.returncode:
            said = "\n".join(ended.stderr.splitlines()[-5:])
            raise RuntimeError(f"{entry.contestant} {entry.model}: ended with status {ended.returncode}: {said}")
        tree = read_json(result)
    found = tuple(Epoch(**epoch) for epoch in tree["epochs"])
    return Run(started, tree["finished"], tree["processor_seconds"], tree["images"], found)


def take_turns(entries: Sequence[Entry], repeats: int, work: Callable[[Entry], Run]) -> dict[Entry, list[Run]]:
    """All entries one after the other, so many times, every other time backwards."""
    runs: dict[Entry, list[Run]] = {entry: [] for entry in entries}
    for turn in range(repeats):
        for entry in entries if turn % 2 == 0 else reversed(entries):
            run = work(entry)
            runs[entry].append(run)
            print(f"{turn + 1}/{repeats} {entry.model} {entry.contestant}, seeds {entry.seeds}: ", end="")
            said = f"{run.warm:.0f} images/s warm, {run.cold:.0f} cold"
            print(f"{said}, {run.processor_seconds:.0f} processor seconds", flush=True)
    return runs


def throughput_entries(models: Sequence[str]) -> list[Entry]:
    """One seed of each contestant, then three of ours and of pythae's."""
    entries = []
    for model in models:
        others = ["examples"] if model == "vae" else ["lucidrains"] if model == "vqvae" else []
        entries += [Entry(name, model, THREE[:1]) for name in ("ours", "pythae", *others)]
        entries += [Entry(name, model, THREE) for name in ("ours", "pythae")]
    return entries


def rates(runs: Sequence[Run], mine: Sequence[Run]) -> dict[str, Any]:
    """The figures of an entry; where `mine` are other runs, also how many times as fast those are, turn by turn."""
    found: dict[str, Any] = {
        "warm": spread([run.warm for run in runs]),
        "cold": spread([run.cold for run in runs]),
        "processor_seconds": spread([run.processor_seconds for run in runs]),
        "validation": runs[-1].validation(),
    }
    if runs is not mine:
        pairs = list(zip(mine, runs, strict=True))
        found["ours_faster"] = {
            "warm": spread([own.warm / run.warm for own, run in pairs]),
            "cold": spread([own.cold / run.cold for own, run in pairs]),
            "processor_seconds": spread([run.processor_seconds / own.processor_seconds for own, run in pairs]),
        }
    return found


def throughput(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The contest by model: what arithmetic allows, one seed, three seeds."""
    rate = multiply_rate(torch.float32, device)
    runs = take_turns(
        throughput_entries(asked.models), asked.repeats, lambda entry: train(entry, asked.epochs, asked.images)
    )
    tree: dict[str, Any] = {}
    for model in asked.models:
        task = make_task(load_params(), model, asked.epochs, asked.images, device)
        x = pixels(task.data.train.images[: task.train.batch_size])
        operations = step_operations(task.build(0), task.kind.loss, x) / len(x)
        tree[model] = {"operations_per_image": operations, "arithmetic_allows": rate / operations}
        for name, seeds in (("one", THREE[:1]), ("three", THREE)):
            mine = runs[Entry("ours", model, seeds)]
            tree[model][name] = {
                entry.contestant: rates(each, mine)
                for entry, each in runs.items()
                if (entry.model, entry.seeds) == (model, seeds)
            }
    return {"multiply_rate": rate, "models": tree}


def quality(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:  # noqa: ARG001
    """Seconds to the level that both reach in a turn, or to a stated one; None where one never does."""
    entries = [Entry(name, model, (0,)) for model in asked.models for name in ("ours", "pythae")]
    runs = take_turns(entries, asked.repeats, lambda entry: train(entry, asked.epochs, asked.images))
    tree = {}
    for model in asked.models:
        mine, theirs = (runs[Entry(name, model, (0,))] for name in ("ours", "pythae"))
        turns = []
        for own, other in zip(mine, theirs, strict=True):
            level = asked.level if asked.level is not None else max(*own.validation(), *other.validation())
            turns.append({"level": level, "ours": own.seconds_to(level), "pythae": other.seconds_to(level)})
        ratios = [turn["pythae"] / turn["ours"] for turn in turns if turn["pythae"] and turn["ours"]]
        curves = {
            name: [epoch.validation for epoch in run[-1].epochs] for name, run in (("ours", mine), ("pythae", theirs))
        }
        tree[model] = {"turns": turns, "ours_faster": spread(ratios) if ratios else None, "validation": curves}
    return {"models": tree}


def seeds_side_by_side(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:  # noqa: ARG001
    """Seconds of ours from the start of the process, by the number of seeds."""
    entries = [Entry("ours", model, tuple(range(count))) for model in asked.models for count in SIDE_BY_SIDE]
    runs = take_turns(entries, asked.repeats, lambda entry: train(entry, asked.epochs, asked.images))
    tree: dict[str, Any] = {model: {} for model in asked.models}
    for entry, each in runs.items():
        alone = runs[Entry("ours", entry.model, (0,))]
        seconds = [run.finished - run.started for run in each]
        tree[entry.model][str(len(entry.seeds))] = {
            "seconds": spread(seconds),
            "times_one": spread(
                [time / (one.finished - one.started) for time, one in zip(seconds, alone, strict=True)]
            ),
            "warm": spread([run.warm for run in each]),
        }
    return {"models": tree}


Mode = Callable[[argparse.Namespace, torch.device], dict[str, Any]]
MODES: dict[str, Mode] = {"throughput": throughput, "quality": quality, "seeds": seeds_side_by_side}
# epochs (None: those of params.yaml), images, repeats and models that keep each mode to a few minutes on two cores
DEFAULTS: dict[str, tuple[int | None, int, int, tuple[str, ...]]] = {
    "throughput": (2, 20_000, 2, MODELS),
    "quality": (None, 55_000, 1, MODELS),
    "seeds": (2, 20_000, 2, ("vae",)),
}


def conditions(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What a reader has to know of the times."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "command": shlex.join(["python", "-m", "benchmarks.train", *sys.argv[1:]]),
        "device": device.type,
        "device_name": name,
        "processors": os.cpu_count(),
        "threads": os.cpu_count(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "images": asked.images,
        "epochs": asked.epochs,
        "batch_size": load_params().train.batch_size,
        "n": asked.repeats,
        "pythae": "AdamW as torch has it by default, no worker processes for data, which lie in memory as float32",
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


def cell(values: Mapping[str, Any]) -> str:
    """Median and range."""
    low, middle, high = (rounded(values[key]) for key in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def rounded(value: float) -> str:
    """Three digits that count."""
    return f"{float(f'{value:.3g}'):,g}"


def throughput_table(tree: Mapping[str, Any]) -> list[str]:
    """Rows of Markdown."""
    heads = ["Model", "Seeds", "Trainer", "images/s, warm", "images/s, cold", "ours ÷ it, warm", "cold"]
    heads += ["by processor time", "validation loss by seed, nats"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model, found in tree["models"].items():
        for count in ("one", "three"):
            for name, row in found[count].items():
                faster = row.get("ours_faster")
                ratios = [cell(faster[key]) if faster else "" for key in ("warm", "cold", "processor_seconds")]
                losses = ", ".join(f"{value:.2f}" for value in row["validation"])
                cells = [model, count, name, cell(row["warm"]), cell(row["cold"]), *ratios, losses]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append(f"| {model} | | *what arithmetic allows* | {found['arithmetic_allows']:,.0f} | | | | | |")
    return lines


def quality_table(tree: Mapping[str, Any]) -> list[str]:
    """Rows of Markdown."""
    lines = ["| Model | level, nats | ours, s | pythae, s | pythae ÷ ours |", "|---|---|---|---|---|"]
    for model, found in tree["models"].items():
        for turn in found["turns"]:
            cells = [f"{turn[key]:.1f}" if turn[key] else "never" for key in ("ours", "pythae")]
            ratio = f"{turn['pythae'] / turn['ours']:.2f}" if turn["pythae"] and turn["ours"] else ""
            lines.append(f"| {model} | {turn['level']:.2f} | {cells[0]} | {cells[1]} | {ratio} |")
    return lines


def seeds_table(tree: Mapping[str, Any]) -> list[str]:
    """Rows of Markdown."""
    lines = ["| Model | Seeds | seconds, cold | times one seed | images/s of all, warm |", "|---|---|---|---|---|"]
    for model, found in tree["models"].items():
        for count, row in found.items():
            cells = (cell(row[key]) for key in ("seconds", "times_one", "warm"))
            lines.append(f"| {model} | {count} | " + " | ".join(cells) + " |")
    return lines


TABLES = {"throughput": throughput_table, "quality": quality_table, "seeds": seeds_table}


def section(tree: Mapping[str, Any], mode: str) -> list[str]:
    """The table of one mode, and in one line how it was measured."""
    if mode not in tree:
        return ["not measured"]
    how = tree[mode]["conditions"]
    versions = ", ".join(f"{name} {number}" for name, number in how["versions"].items())
    note = (
        f"`{how['command']}`: {how['processors']} cores, {how['device']} ({how['device_name']}), n = {how['n']}, "
        f"{how['images']:,} images, {how['epochs']} epochs, batch {how['batch_size']}, load before "
        f"{how['load_before']:.1f}; {versions}"
    )
    return [*TABLES[mode](tree[mode]), "", note]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, each default that of its mode."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--mode", choices=MODES, default="throughput")
    parser.add_argument("--models", nargs="+", help="entries of params.yaml, named as their kinds are")
    parser.add_argument("--epochs", type=int, help="of a training (default: 2; quality: those of params.yaml)")
    parser.add_argument("--images", type=int, help="of the training set (default: 20000; quality: 55000)")
    parser.add_argument("--repeats", type=int, help="turns of each contestant (default: 2; quality: 1)")
    parser.add_argument("--level", type=float, help="quality: validation loss, nats (default: what both reach)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the result (default: {RESULTS})")
    asked = parser.parse_args(arguments)
    epochs, images, repeats, models = DEFAULTS[asked.mode]
    asked.epochs = asked.epochs or epochs or load_params().train.epochs
    asked.images, asked.repeats = asked.images or images, asked.repeats or repeats
    asked.models = tuple(asked.models or models)
    if asked.epochs < 2 or asked.images < 1 or asked.repeats < 1:  # noqa: PLR2004
        parser.error("--epochs takes 2 or more (the first is not warm), --images and --repeats 1 or more")
    if asked.level is not None and len(asked.models) > 1:
        parser.error("--level takes one of --models: losses of two do not compare")
    missing = [name for module, name in PEERS.items() if find_spec(module) is None]
    if missing and asked.mode != "seeds":
        parser.error(f"not installed: {', '.join(missing)}; `uv sync --group {GROUP}` installs what is compared with")
    if not VALIDATION.exists():
        parser.error(f"{VALIDATION}: not there; `dvc repro prepare` makes it")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; what other modes have written stays."""
    asked = parse(arguments)
    device = choose_device()
    path = asked.results / f"{device.type}-train.json"
    tree = read_json(path) if path.exists() else {}
    before = conditions(asked, device)
    tree[asked.mode] = {"conditions": before} | MODES[asked.mode](asked, device)
    write_json(path, {mode: tree[mode] for mode in MODES if mode in tree})
    print("\n".join(section(tree, asked.mode)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
