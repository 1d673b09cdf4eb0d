"""Atomic files of tensors: the old file or the whole new one, never a part, and the same bytes each time."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


def _serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    written = save(contiguous, dict(metadata) if metadata else None)
    end = 8 + int.from_bytes(written[:8], "little")
    # safetensors writes the metadata's keys in an order that changes from call to call.
    header = json.dumps(json.loads(written[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(written)[end:]])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, of any shape and on any device, as one safetensors file at `path`.

    Equal tensors and metadata give equal bytes. Whatever stops the write, `path` holds its old content or the
    new, and no temporary file stays. Missing folders are made.

    Raises:
        RuntimeError: two of the tensors share memory.
        OSError: the file cannot be written.

    """
    content = _serialise(tensors, metadata)
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


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file, on the CPU.

    Raises:
        ValueError: the file is truncated or no safetensors file.
        FileNotFoundError: there is no such file.

    """
    # Bytes rather than a memory map: the tensors then outlive a replacement of the file on any system.
    content = path.read_bytes()
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(
            f"{path}: {len(content)} bytes that are no whole safetensors file ({error}); write it anew"
        ) from error
