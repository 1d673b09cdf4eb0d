"""Would `dvc repro` run anything on this commit, and why? Told in a clone that has neither data nor artifacts.

`dvc status` compares all files that are there. What is absent says nothing about a commit, so it is left out; in its
place dvc.lock has to agree with itself: what a stage has read is what the stage before it has written.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from randomz.experiments import RESULTS, ExperimentError, command, load_experiments
from randomz.files import read_json
from randomz.fingerprint import md5
from randomz.lock import LOCK_FILE, Lock, Stage, differences, read_lock

Reasons = dict[str, list[str]]
METRICS = Path("reports/metrics.json")


class DriftError(ValueError):
    """DVC cannot read the pipeline; the message says why."""


@dataclasses.dataclass(frozen=True)
class Workspace:
    """What DVC says of the files that are there.

    `status` is that of `dvc status --json` for every stage of dvc.yaml; `cached` are the outputs outside git.
    """

    status: Mapping[str, list[Any]]
    cached: frozenset[Path]

    def unseen(self) -> list[Path]:
        """Outputs that are not here, so that nothing can be said of them."""
        return sorted(path for path in self.cached if not path.exists())


@dataclasses.dataclass(frozen=True)
class Drift:
    """Why each stage would run, which stages come after those, and which outputs could not be compared."""

    reasons: Reasons
    after: Mapping[str, list[str]]
    unseen: list[Path]

    def lines(self) -> list[str]:
        """One line a reason, then one for each stage that follows."""
        return [
            *(f"{stage}: {reason}" for stage, reasons in self.reasons.items() for reason in reasons),
            *(f"{stage}: comes after {', '.join(earlier)}" for stage, earlier in self.after.items()),
        ]


def find_drift() -> Drift:
    """Compare dvc.lock with the repository in the working folder.

    Raises LockError, DriftError or another ValueError where a file cannot be read at all.
    """
    lock, workspace = read_lock(), read_workspace()
    reasons: Reasons = {}
    unseen = workspace.unseen()
    for name, status in workspace.status.items():
        if found := stage_reasons(lock, name, status, unseen):
            reasons[name] = found
    for part in (removed(lock, workspace), inconsistent(lock, unseen), unreported(), unanswered()):
        for name, lines in part.items():
            reasons.setdefault(name, []).extend(lines)
    return Drift(reasons, followers(lock, reasons), unseen)


def read_workspace() -> Workspace:
    """Ask DVC. Raises DriftError where it cannot tell, such as with a dvc.yaml that is none."""
    # Its import takes a second, which a broken dvc.lock need not wait for.
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from dvc.repo import Repo  # noqa: PLC0415

    try:
        with Repo() as repo:
            root = Path(repo.root_dir)
            cached = {Path(out.fs_path).relative_to(root) for out in repo.index.outs if out.use_cache}
            status = {stage.addressing: [] for stage in repo.index.stages} | repo.status()
    except DvcException as error:
        raise DriftError(f"dvc: {' '.join(str(error).split())}") from error
    return Workspace(status, frozenset(cached))


def stage_reasons(lock: Lock, name: str, status: Iterable[Any], unseen: Iterable[Path]) -> list[str]:
    """One line for all that DVC finds changed in a stage, less what is only not here."""
    if name not in lock.stages:
        return [f"{LOCK_FILE} has no such stage; it was never run"]
    lines = []
    for entry in status:
        changes = entry if isinstance(entry, dict) else {entry: {}}
        for what, paths in changes.items():
            lines += [what] if not paths else []
            for path, state in paths.items():
                if isinstance(state, dict):
                    lines += _params(lock.stage(name), path, state)
                elif not _same(lock.stage(name), Path(path), state) and not _any_overlap(Path(path), unseen):
                    lines.append(f"{path} is {'absent' if state == 'deleted' else state}")
    return lines


def _same(stage: Stage, path: Path, state: str) -> bool:
    """Of an output that DVC misses in its cache alone, whether the file is that of dvc.lock nevertheless."""
    return state == "not in cache" and path.exists() and md5(path) == stage.out(path).md5


def _params(stage: Stage, file: str, states: Mapping[str, str]) -> Iterator[str]:
    """Each value that is another one than in dvc.lock; a key that one of the two lacks is named as DVC names it."""
    for line in differences([dataclasses.replace(stage, outs=())]):
        yield line.removesuffix("; run `dvc repro`")
    yield from (f"{file}: {key} is {state}" for key, state in states.items() if state != "modified")


def removed(lock: Lock, workspace: Workspace) -> Reasons:
    """Stages that dvc.yaml does not have any more."""
    gone = [name for name in lock.stages if name not in workspace.status]
    return {
        name: [f"{LOCK_FILE} has this stage, dvc.yaml does not; remove it there, with its reports"] for name in gone
    }


def inconsistent(lock: Lock, unseen: Iterable[Path]) -> Reasons:
    """Stages that have read other files than the stages before them have written, as far as files are not here."""
    written = {out.path: (stage.name, out.md5) for stage in lock.stages.values() for out in stage.outs}
    reasons: Reasons = {}
    for stage in lock.stages.values():
        for dep in stage.deps:
            writer, now = written.get(dep.path, (stage.name, dep.md5))
            if now != dep.md5 and dep.path in set(unseen):
                line = f"{LOCK_FILE}: {dep.path} had md5 {dep.md5} here, {writer} has written {now}"
                reasons.setdefault(stage.name, []).append(line)
    return reasons


def unreported() -> Reasons:
    """Models whose figures in the report are not those of their own files.

    The report depends on the models by the folder of all artifacts, which a clone lacks.
    """
    if not METRICS.exists():
        return {}
    models = read_json(METRICS).get("models", {})
    files = {name: METRICS.parent / name / METRICS.name for name in models}
    wrong = [path for name, path in files.items() if not path.exists() or read_json(path) != models[name]]
    return {"report": [f"{METRICS} does not have the figures of {path}" for path in wrong]} if wrong else {}


def unanswered() -> Reasons:
    """Questions of experiments.yaml without the answer to just that line in reports/experiments."""
    try:
        lines = {name: command(name, experiment) for name, experiment in load_experiments().items()}
    except ExperimentError as error:
        return {"experiments": str(error).splitlines()}
    files = {path.stem: path for path in sorted(RESULTS.glob("*.json"))}
    reasons = {f"experiment {name}": [f"{RESULTS / name}.json is absent"] for name in lines if name not in files}
    for name, path in files.items():
        if name not in lines:
            reasons[f"experiment {name}"] = [f"{path} answers no question of experiments.yaml"]
        elif (asked := read_json(path).get("command")) != lines[name]:
            reasons[f"experiment {name}"] = [f"{path} is the answer to another line: {asked}"]
    return reasons


def followers(lock: Lock, stale: Iterable[str]) -> dict[str, list[str]]:
    """Stages that would run only because of stale ones before them, each with those."""
    after: dict[str, list[str]] = {}
    names, later = set(stale), downstream(lock)
    for name in stale:
        for follower in (other for other in lock.stages if other in later.get(name, ())):
            if follower not in names:
                after.setdefault(follower, []).append(name)
    return after


def downstream(lock: Lock) -> dict[str, set[str]]:
    """Of each stage, the stages that read what it writes, directly or not."""
    found: dict[str, set[str]] = {}
    for stage in lock.stages.values():
        outs = [out.path for out in stage.outs]
        readers = (other for other in lock.stages.values() if any(_any_overlap(dep.path, outs) for dep in other.deps))
        found[stage.name] = {other.name for other in readers}
    for _ in found:  # as often as the longest way from stage to stage could ask for
        found = {name: later.union(*(found[other] for other in later)) for name, later in found.items()}
    return found


def _any_overlap(path: Path, others: Iterable[Path]) -> bool:
    """Whether a path is one of the others, lies in it, or holds it."""
    return any(path == other or path in other.parents or other in path.parents for other in others)
