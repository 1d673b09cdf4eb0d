"""What a result follows from, as one short text: files by their md5, values by their JSON, code by its files."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # bytes that are hashed at a time
OURS = {"randomz", "pipeline", "__main__"}


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The hash of whatever JSON can hold; equal values have equal ones, whatever the order of their keys."""
    return hashlib.sha256(canonical(identity)).hexdigest()[:32]


def canonical(value: Any) -> bytes:  # noqa: ANN401 (whatever JSON can hold)
    """Equal values give equal bytes, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def md5(path: Path) -> str:
    """The md5 that DVC gives a file, or a folder (ends in `.dir`). Raises FileNotFoundError."""
    if not path.is_dir():
        return _file_md5(path)
    # DVC's own form: a JSON list of the files below, ordered by path.
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _file_md5(file), "relpath": name} for name, file in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def loaded_code() -> dict[str, str]:
    """The md5 of every file of ours that this process has imported, by the name of its module."""
    modules = [(name, getattr(module, "__file__", None)) for name, module in list(sys.modules.items())]
    return {name: md5(Path(file)) for name, file in modules if file and name.partition(".")[0] in OURS}


def _file_md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
