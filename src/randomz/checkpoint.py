"""Files of tensors: the same bytes each time, and the old file or the whole new one, never a part."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from randomz.files import write_bytes


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors, of any shape and on any device, as the bytes of a safetensors file: equal content gives equal bytes.

    Raises RuntimeError when two of the tensors share memory.
    """
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    written = save(contiguous, dict(metadata) if metadata else None)
    # safetensors writes the metadata's keys in an order that changes from call to call.
    header = json.dumps(_header(written), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(written)[_end(written) :]])


def deserialise(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata. Raises ValueError when the bytes are no whole safetensors file."""
    try:
        return load(content), _header(content).get("__metadata__", {})
    except SafetensorError as error:
        raise ValueError(f"{len(content)} bytes that are no whole safetensors file ({error})") from error


def _end(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _header(content: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(content[8 : _end(content)])
    return header


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, of any shape and on any device, as one safetensors file at `path`.

    Equal tensors and metadata give equal bytes. Whatever stops the write, `path` holds its old content or the
    new, and no temporary file stays. Missing folders are made.

    Raises:
        RuntimeError: two of the tensors share memory.
        OSError: the file cannot be written.

    """
    write_bytes(path, serialise(tensors, metadata))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file, on the CPU.

    Raises:
        ValueError: the file is truncated or no safetensors file.
        FileNotFoundError: there is no such file.

    """
    # Bytes rather than a memory map: the tensors then outlive a replacement of the file on any system.
    content = path.read_bytes()
    try:
        return deserialise(content)[0]
    except ValueError as error:
        raise ValueError(f"{path}: {error}; write it anew") from error
