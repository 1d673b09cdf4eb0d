"""What a tracked run holds against what its record asks for: one line a difference."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from randomz.records import Record

SYSTEM = "system/"  # before the names of metrics that say what the machine did, which no file holds


@dataclass(frozen=True)
class Held:
    """What a run holds. `curves` and `artifacts` need only have the names that a record asks for."""

    finished: bool
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    curves: Mapping[str, Sequence[tuple[int, float]]]  # (step, value)
    datasets: Sequence[str]  # digests
    artifacts: Mapping[str, int]  # path -> bytes
    models: int  # that can be loaded
    steps: Mapping[str, Sequence[int]]  # epochs of each picture that has some


def find_faults(held: Held, record: Record) -> list[str]:
    """Nothing for a right run; of a stale or unfinished one only that, since the rest follows from it."""
    found, wanted = held.tags.get("fingerprint"), record.tags["fingerprint"]
    if found != wanted:
        return [f"stale: its fingerprint is {found}, dvc.lock gives {wanted}"]
    if not held.finished:
        return ["unfinished: its status is not FINISHED"]
    scalars = {
        name: value for name, value in held.metrics.items() if name not in record.curves and not name.startswith(SYSTEM)
    }
    tags = {name: value for name, value in held.tags.items() if name in record.tags}
    return [
        *_mapping("tag", tags, record.tags),
        *_mapping("param", held.params, record.params),
        *_mapping("metric", scalars, record.metrics),
        *_curves(held, record),
        *_artifacts(held, record),
        *_inputs_and_outputs(held, record),
    ]


def _mapping(noun: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*found, *wanted}):
        if name not in found:
            yield f"{noun} {name} is missing; the files say {wanted[name]}"
        elif name not in wanted:
            yield f"{noun} {name} is {found[name]}; the files have none"
        elif not _same(found[name], wanted[name]):
            yield f"{noun} {name} is {found[name]}; the files say {wanted[name]}"


def _curves(held: Held, record: Record) -> Iterator[str]:
    for name, wanted in record.curves.items():
        points = held.curves.get(name, ())
        found = dict(points)
        right = sum(step in found and _same(found[step], value) for step, value in wanted.items())
        if right < len(wanted) or len(points) > len(wanted):
            yield f"curve {name} has {right} of {len(wanted)} points right, and {len(points) - right} others"


def _artifacts(held: Held, record: Record) -> Iterator[str]:
    sizes = {path: file.stat().st_size for path, file in record.files.items()}
    for path in [*sizes, *record.drawn]:
        if path not in held.artifacts:
            yield f"artifact {path} is missing"
        elif path in sizes and held.artifacts[path] != sizes[path]:
            yield f"artifact {path} has {held.artifacts[path]} bytes; the file has {sizes[path]}"
    for name, steps in record.steps.items():
        found = sorted(held.steps.get(name, ()))
        if found != steps:
            yield f"picture {name} has epochs {found}; the file has {steps}"


def _inputs_and_outputs(held: Held, record: Record) -> Iterator[str]:
    datasets = [record.dataset] if record.dataset else []
    if list(held.datasets) != datasets:
        yield f"dataset digests are {list(held.datasets)}; dvc.lock says {datasets}"
    models = int(record.package is not None)
    if held.models != models:
        yield f"models that can be loaded: {held.models}; {models} is right"


def _same(a: Any, b: Any) -> bool:  # noqa: ANN401 (texts or numbers)
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or bool(a == b)
