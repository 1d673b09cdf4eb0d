"""Files, written atomically: the old content or the whole new one, never a part."""

import csv
import io
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it; whatever error stops it, no temporary file stays.

    Missing folders are made. Raises OSError when the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two writers at once never share a half-written file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def empty_folder(path: Path) -> None:
    """Make the folder, or take out what stands in it: a process that is killed leaves temporary files behind."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """A tree as JSON. Raises ValueError where it holds NaN or an infinity, which JSON does not know."""
    write_bytes(path, (json.dumps(tree, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A tree from JSON. Raises ValueError or OSError that names the file."""
    try:
        tree: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from error
    return tree


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows of the same keys as a table, the first row's order of columns."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table, every value as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
