"""What the reports of all models say at a git revision, in a DVC experiment or in the workspace."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randomz.claims import Tree
from randomz.lock import LOCK_FILE, LockError, Stage, read_lock

WORKSPACE = "workspace"
REPORTS = Path("reports")
METRICS = "metrics.json"  # in the folder of each model
RULERS = ("judge/judge.safetensors", "artifacts/yardstick.safetensors")  # what samples are measured with
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")  # DVC keeps other things below refs/exps, too
STAGES = ("train", "prior", "evaluate")  # of one model


class RevisionError(ValueError):
    """A revision is not there, or has no reports that can be read; the message names it and says what is accepted."""


@dataclass(frozen=True)
class Results:
    """The metrics trees of the models by their names, and the stages of dvc.lock; none where there is no such file."""

    label: str
    models: Mapping[str, Tree]
    stages: Mapping[str, Stage]

    def seeds(self, model: str) -> tuple[int, ...] | None:
        """The seeds of a model's figures, in their order; None where dvc.lock does not say."""
        stage = self.stages.get(f"evaluate@{model}")
        found = [values["seeds"] for values in stage.params.values() if "seeds" in values] if stage else []
        return tuple(found[0]) if found else None

    def params(self, model: str) -> dict[str, Any]:
        """The params of a model's stages as they were last run, by their dotted keys."""
        params: dict[str, Any] = {}
        for stage in (self.stages.get(f"{name}@{model}") for name in STAGES):
            for values in stage.params.values() if stage else ():
                for key, value in values.items():
                    params.update(_leaves(key, value))
        return params

    def rulers(self, model: str) -> dict[str, str]:
        """The hashes of the files that a model's samples were measured with."""
        stage = self.stages.get(f"evaluate@{model}")
        return {d.path.as_posix(): d.md5 for d in stage.deps if d.path.as_posix() in RULERS} if stage else {}


def read_results(name: str) -> Results:
    """The results at `name`: a git revision, the name of a DVC experiment, or `workspace`, the files as they stand.

    Where several commits have an experiment of that name, that of HEAD is taken.
    Raises RevisionError where there is no such revision, or no metrics of any model that can be read.
    """
    if name == WORKSPACE:
        models = {path.parent.name: path.read_bytes() for path in sorted(REPORTS.glob(f"*/{METRICS}"))}
        label, lock = WORKSPACE, LOCK_FILE.read_bytes() if LOCK_FILE.exists() else b""
    else:
        commit = _commit(name)
        models = {model: _show(commit, f"{REPORTS}/{model}/{METRICS}") for model in _models(commit)}
        label = name if commit.startswith(name) else f"{name} ({commit[:7]})"
        lock = _show(commit, str(LOCK_FILE))
    if not models:
        raise RevisionError(
            f"{name}: has no {REPORTS}/<model>/{METRICS}; a revision whose reports are committed is accepted, or "
            f"{WORKSPACE} after `make reproduce`"
        )
    return Results(label, {model: _tree(name, model, text) for model, text in models.items()}, _stages(lock))


def _commit(name: str) -> str:
    """The commit that a name stands for."""
    if found := _resolve(name):
        return found
    if (inside := _git("rev-parse", "--git-dir")).returncode:
        raise RevisionError(f"{name}: cannot be looked up: {' '.join(inside.stderr.decode().split())}")
    references = _git("for-each-ref", "--format=%(refname)", "refs/exps").stdout.decode().split()
    experiments = [match for reference in references if (match := EXPERIMENT.fullmatch(reference))]
    chosen = [match[0] for match in experiments if match[1] == name]
    head = _resolve("HEAD") or ""
    here = [reference for reference in chosen if reference == f"refs/exps/{head[:2]}/{head[2:]}/{name}"]
    if len(here or chosen) > 1:
        raise RevisionError(f"{name}: several experiments have this name; accepted: {', '.join(chosen)}")
    if not chosen:
        known = ", ".join(dict.fromkeys(match[1] for match in experiments)) or "none"
        raise RevisionError(
            f"{name}: unknown revision; accepted: a git revision (a commit, branch, tag or the like of HEAD~1), "
            f"a DVC experiment (there are: {known}) or {WORKSPACE}"
        )
    return _resolve((here or chosen)[0])


def _resolve(name: str) -> str:
    """The commit of a git revision, or nothing."""
    found = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").stdout.decode().split()
    return found[0] if len(found) == 1 and found[0].isalnum() else ""  # of a range, git gives two


def _models(commit: str) -> list[str]:
    listed = _git("ls-tree", "-r", "--name-only", commit, "--", f"{REPORTS}/").stdout.decode().splitlines()
    paths = [Path(line).relative_to(REPORTS) for line in listed]
    return [path.parts[0] for path in paths if path.parts[1:] == (METRICS,)]


def _show(commit: str, path: str) -> bytes:
    """A file at a commit; empty where it is not there. The path is relative to the folder at hand."""
    return _git("show", f"{commit}:./{path}").stdout


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *words], capture_output=True, check=False)  # noqa: S603, S607


def _tree(name: str, model: str, text: bytes) -> Tree:
    place = f"{name}: {REPORTS}/{model}/{METRICS}"
    try:
        tree: Tree = json.loads(text)
    except ValueError as error:
        raise RevisionError(f"{place}: is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise RevisionError(f"{place}: is no mapping; what the stage evaluate writes is accepted")
    return tree


def _stages(lock: bytes) -> Mapping[str, Stage]:
    """The stages of a dvc.lock; none where it cannot be read, for figures can be compared without it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LOCK_FILE.name
        path.write_bytes(lock)
        try:
            return read_lock(path).stages
        except (LockError, UnicodeDecodeError):
            return {}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (parsed YAML)
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _leaves(f"{key}.{inner}", part)
    else:
        yield key, value
