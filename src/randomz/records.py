"""What MLflow has to hold: the files of a finished pipeline -> one record a (model, seed) and one for the report.

Files are the truth. A record is a function of dvc.lock, params.yaml and the outputs they name; it knows no MLflow.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randomz.fingerprint import fingerprint
from randomz.lock import Lock, Stage, differences
from randomz.params import Params
from randomz.sheets import sheet_names, sheet_steps

REPORT = "report"
DATASET = Path("data/train.safetensors")


class RecordError(ValueError):
    """The files cannot be mirrored; each line of the message names one file, what was found and what is accepted."""


@dataclass(frozen=True)
class Package:
    """What the model that a run offers is made of. `config` holds its name as `model`, and `params`."""

    config: Mapping[str, Any]
    weights: Path
    priors: Path
    pictures: Path


@dataclass(frozen=True)
class Record:
    """One run: `curves` maps a metric to its value at each step, `files` an artifact's path to the file it copies."""

    name: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    files: Mapping[str, Path]
    params: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    dataset: str | None = None  # md5 of the training images
    package: Package | None = None
    snapshots: Path | None = None  # pictures by epoch

    @property
    def drawn(self) -> list[str]:
        """Paths of the artifacts that are drawn when the run is published."""
        return [f"pictures/{name}" for name in sheet_names(self.package.pictures)] if self.package else []

    @property
    def steps(self) -> dict[str, list[int]]:
        """The epochs of each picture that has some."""
        return sheet_steps(self.snapshots) if self.snapshots else {}


def run_name(model: str, seed: int) -> str:
    """The one name of a (model, seed)."""
    return f"{model}-seed-{seed}"


def read_records(lock: Lock, params: Params) -> list[Record]:
    """The records of every (model, seed) in the order of params.yaml, then the report's.

    Raises RecordError where an output is absent or not what dvc.lock says, LockError where a stage was never run.
    """
    stages = {model: _stages(lock, model) for model in params.models}
    report = lock.stage(REPORT)
    if lines := differences([*(stage for three in stages.values() for stage in three.values()), report]):
        raise RecordError("\n".join(lines))
    runs = [_run(lock, params, model, seed, three) for model, three in stages.items() for seed in params.seeds]
    return [*runs, _report(report, params)]


def _stages(lock: Lock, model: str) -> dict[str, Stage]:
    return {name: lock.stage(f"{name}@{model}") for name in ("train", "prior", "evaluate")}


def _run(lock: Lock, params: Params, model: str, seed: int, stages: Mapping[str, Stage]) -> Record:
    kind = params.models[model].kind
    yardstick = lock.stage("yardstick")
    weights, priors, pictures, snapshots = (
        Path(f"artifacts/{model}/{folder}/seed-{seed}.safetensors")
        for folder in ("weights", "priors", "pictures", "snapshots")
    )
    # A training of before there were pictures by epoch has none.
    pictured = any(entry.path == snapshots.parent for entry in stages["train"].outs)
    identity = {
        "stages": {name: stage.identity() for name, stage in stages.items()},
        "yardstick": yardstick.identity()["outs"],
        "seed": seed,
    }
    return Record(
        name=run_name(model, seed),
        tags={
            "model": model,
            "kind": kind,
            "seed": str(seed),
            "fingerprint": fingerprint(identity),
            **{f"dvc.{name}": stage.md5() for name, stage in stages.items()},
            "dvc.yardstick": yardstick.md5(),
            **{f"md5.{entry.path.name}": entry.md5 for stage in stages.values() for entry in stage.outs},
        },
        params=_params(params, model, seed),
        metrics=_metrics(Path(f"reports/{model}/metrics.json"), params.seeds.index(seed), len(params.seeds)),
        curves=_curves(model, seed),
        files={"weights/" + weights.name: weights, "priors/" + priors.name: priors},
        dataset=lock.stage("prepare").out(DATASET).md5,
        package=Package(_config(params, model), weights, priors, pictures),
        snapshots=snapshots if pictured else None,
    )


def _report(stage: Stage, params: Params) -> Record:
    path = Path("reports/metrics.json")
    models = _read_json(path).get("models", {})
    ratios = {
        f"{model}/{sampler}/fd_ratio": float(scores["fd_ratio"]["mean"])
        for model, tree in models.items()
        for sampler, scores in tree.get("sampling", {}).items()
    }
    return Record(
        name=REPORT,
        tags={"kind": REPORT, "fingerprint": fingerprint(stage.identity()), f"dvc.{REPORT}": stage.md5()},
        params={"models": ", ".join(params.models), "seeds": ", ".join(map(str, params.seeds))},
        metrics=ratios,
        files=dict(_report_files(stage)),
    )


def _report_files(stage: Stage) -> Iterator[tuple[str, Path]]:
    for entry in stage.outs:
        files = sorted(entry.path.rglob("*")) if entry.path.is_dir() else [entry.path]
        for file in files:
            if file.is_file():
                yield file.as_posix().removeprefix("reports/"), file


def _config(params: Params, model: str) -> dict[str, Any]:
    """All params, but of one model alone."""
    own = params.model_copy(update={"models": {model: params.models[model]}})
    return {"model": model, "params": own.model_dump(mode="json", exclude_none=True)}


def _params(params: Params, model: str, seed: int) -> dict[str, str]:
    prior = getattr(params.prior, params.models[model].kind)
    sections = {
        "model": params.models[model].model_dump(mode="json", exclude_none=True),
        "network": params.network.model_dump(mode="json"),
        "train": params.train.model_dump(mode="json"),
        "prior": prior.model_dump(mode="json"),
    }
    flat = {f"{section}.{key}": str(value) for section, values in sections.items() for key, value in values.items()}
    return {"model": model, "seed": str(seed), **flat}


def _metrics(path: Path, position: int, seeds: int) -> dict[str, float]:
    """Every scalar of a model's metrics.json by its path of keys; of a figure over seeds, the one at `position`."""
    found: dict[str, float] = {}
    for name, value in _leaves(_read_json(path)):
        if isinstance(value, list):
            if len(value) != seeds:
                raise RecordError(
                    f"{path}: {name}: per_seed has {len(value)} values; one for each of {seeds} seeds fits"
                )
            value = value[position]  # noqa: PLW2901
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if not isinstance(value, dict):
            yield prefix + key, value
        elif "per_seed" in value:
            yield prefix + key, value["per_seed"]
        else:
            yield from _leaves(value, f"{prefix}{key}/")


def _curves(model: str, seed: int) -> dict[str, dict[int, float]]:
    """The columns of history.csv under their own names, those of prior.csv under `prior/<prior>/`."""
    curves: dict[str, dict[int, float]] = {}
    for name, step, value in [
        *_points(Path(f"reports/{model}/history.csv"), seed),
        *_points(Path(f"reports/{model}/prior.csv"), seed),
    ]:
        curves.setdefault(name, {})[step] = value
    return curves


def _points(path: Path, seed: int) -> Iterable[tuple[str, int, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        own = [row for row in rows if int(row["seed"]) == seed]
        points = [point for row in own for point in _row_points(row)]
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{path}: {error!r}; columns seed and epoch and numbers in the others are accepted"
        ) from error
    if not points:
        raise RecordError(f"{path}: no row of seed {seed}; rows of every seed of params.yaml are accepted")
    return points


def _row_points(row: Mapping[str, str]) -> Iterator[tuple[str, int, float]]:
    prefix = f"prior/{row['prior']}/" if "prior" in row else ""
    for column, text in row.items():
        # An empty cell stands where a term does not apply.
        if column not in {"seed", "epoch", "prior"} and text:
            yield prefix + column, int(row["epoch"]), _finite(column, float(text))


def _finite(column: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{column} is {value}")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); a JSON object is accepted") from error
    if not isinstance(content, dict):
        raise RecordError(f"{path}: holds a {type(content).__name__}; a JSON object is accepted")
    return content
