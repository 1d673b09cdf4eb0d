"""MD5 sums of data and weights, each the one that dvc.lock has for the same path."""

import hashlib
import json
from pathlib import Path

from randomz.params import Params


def data_hashes(root: Path, params: Params) -> dict[str, str]:
    """The sums of what the figures are of. Raises OSError for a file that is missing."""
    paths = ["data/train.safetensors", "data/validation.safetensors", "data/test.safetensors"]
    paths += [f"artifacts/{name}/{part}" for name in params.models for part in ("weights", "priors", "pictures")]
    return {path: md5(root / path) for path in paths}


def md5(path: Path) -> str:
    """The sum of a file; that of a folder is of the list of its files and their sums, as DVC writes it."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest()
    listed = sorted((each.relative_to(path).as_posix(), md5(each)) for each in path.rglob("*") if each.is_file())
    entries = [{"md5": digest, "relpath": relative} for relative, digest in listed]
    return _md5(json.dumps(entries).encode()).hexdigest() + ".dir"


def _md5(content: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(content, usedforsecurity=False)
