"""dvc.lock: what each stage was last run with, and whether the files at hand are still those."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from randomz.fingerprint import canonical, md5

LOCK_FILE = Path("dvc.lock")


class LockError(ValueError):
    """dvc.lock cannot be used, or lacks what is asked for."""


@dataclass(frozen=True)
class Entry:
    """A file or folder that a stage read or wrote; the md5 of a folder ends in `.dir`."""

    path: Path
    md5: str


@dataclass(frozen=True)
class Stage:
    """One stage as it was last run. `params` maps a params file to its dotted keys and their values."""

    name: str
    deps: tuple[Entry, ...]
    params: Mapping[str, Mapping[str, Any]]
    outs: tuple[Entry, ...]

    def identity(self) -> dict[str, Any]:
        """What the stage's result follows from, and the result; not its command, which changes nothing."""
        return {
            "deps": {entry.path.as_posix(): entry.md5 for entry in self.deps},
            "params": {file: dict(values) for file, values in self.params.items()},
            "outs": {entry.path.as_posix(): entry.md5 for entry in self.outs},
        }

    def md5(self) -> str:
        """The hash of `identity`, whatever the order of its keys."""
        return hashlib.md5(canonical(self.identity()), usedforsecurity=False).hexdigest()

    def out(self, path: Path) -> Entry:
        """The output at `path`. Raises LockError that lists the outputs."""
        for entry in self.outs:
            if entry.path == path:
                return entry
        raise LockError(f"{LOCK_FILE}: {self.name}: no output {path}; it has {_names(e.path for e in self.outs)}")


@dataclass(frozen=True)
class Lock:
    """Every stage of a dvc.lock by its name, such as `train@vae`."""

    path: Path
    stages: Mapping[str, Stage]

    def stage(self, name: str) -> Stage:
        """The stage called `name`. Raises LockError that says what to run."""
        if name not in self.stages:
            raise LockError(f"{self.path}: no stage {name} (it has {_names(self.stages)}); run `dvc repro`")
        return self.stages[name]


def read_lock(path: Path = LOCK_FILE) -> Lock:
    """The stages of a dvc.lock. Raises LockError where the file is absent or not of DVC's format 2.0."""
    content = _read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict):
        raise LockError(f"{path}: has no mapping `stages`; the format that `dvc repro` writes is accepted")
    return Lock(path, {name: _stage(path, name, entry) for name, entry in content["stages"].items()})


def differences(stages: Iterable[Stage], root: Path = Path()) -> list[str]:
    """One line for each output, and each value of a params file, that is no longer what the lock says."""
    stages = list(stages)
    lines = [line for stage in stages for entry in stage.outs if (line := _changed_output(stage, entry, root))]
    files = sorted({file for stage in stages for file in stage.params})
    values = {file: _read_yaml(root / file) for file in files}
    return lines + list(dict.fromkeys(line for stage in stages for line in _changed_params(stage, values)))


def _changed_output(stage: Stage, entry: Entry, root: Path) -> str | None:
    try:
        found = md5(root / entry.path)
    except FileNotFoundError:
        return f"{entry.path}: absent, an output of {stage.name}; `dvc pull` or `dvc repro` brings it"
    if found == entry.md5:
        return None
    return f"{entry.path}: has md5 {found}, {LOCK_FILE} says {entry.md5} for {stage.name}; run `dvc repro`"


def _changed_params(stage: Stage, values: Mapping[str, Any]) -> list[str]:
    return [
        f"{file}: {name} is {found!r}, {LOCK_FILE} says {locked!r}; run `dvc repro`"
        for file, keys in stage.params.items()
        for key, value in keys.items()
        for name, found, locked in _changed_leaves(key, _lookup(values[file], key), value)
    ]


def _changed_leaves(name: str, found: Any, locked: Any) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401
    if isinstance(found, dict) and isinstance(locked, dict):
        for key in sorted({*found, *locked}):
            yield from _changed_leaves(f"{name}.{key}", found.get(key), locked.get(key))
    elif found != locked:
        yield name, found, locked


def _lookup(values: Any, key: str) -> Any:  # noqa: ANN401
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _read_yaml(path: Path) -> Any:  # noqa: ANN401
    try:
        # The parser that DVC uses, so that numbers read alike.
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LockError(f"{path}: cannot be read ({error.strerror}); run `dvc repro`, which writes it") from error
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise LockError(f"{path}: is not valid YAML ({reason}); a file that git or DVC wrote is accepted") from error


def _stage(path: Path, name: str, content: Any) -> Stage:  # noqa: ANN401
    try:
        deps, outs = (tuple(map(_entry, content.get(key) or ())) for key in ("deps", "outs"))
        params = {file: dict(values) for file, values in (content.get("params") or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LockError(f"{path}: stage {name}: cannot be read ({error!r}); DVC's format 2.0 is accepted") from error
    return Stage(name, deps, params, outs)


def _entry(content: Mapping[str, Any]) -> Entry:
    return Entry(Path(content["path"]), str(content["md5"]))


def _names(names: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
