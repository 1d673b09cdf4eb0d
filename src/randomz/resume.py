"""A fit that was stopped goes on where it stood, to the same bits: its state at the end of each epoch, in files.

What is drawn at random is a function of seed, purpose and epoch or step, so no generator's state is kept.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from randomz.checkpoint import deserialise, serialise
from randomz.files import write_bytes
from randomz.fingerprint import fingerprint, loaded_code, md5
from randomz.optimiser import AdamW

GENERATIONS = 2  # so that one is left when the newest is damaged
Row = dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """The state at the end of an epoch, and the rows of history up to it: one an epoch."""

    tensors: dict[str, Tensor]
    rows: list[Row]


@dataclass(frozen=True)
class Checkpoints:
    """The newest checkpoints of one fit, each a file `<epoch>-<hash of its bytes>.safetensors` in a folder of its own.

    One process at a time may write them: the lock of the stage sees to that.
    """

    folder: Path

    def within(self, part: str) -> "Checkpoints":
        """Those of a part of the work, such as one seed."""
        return Checkpoints(self.folder / part)

    def save(self, tensors: Mapping[str, Tensor], rows: Sequence[Row]) -> None:
        """Keep the state after epoch `len(rows)`, and no more than the one before it."""
        content = serialise(tensors, {"rows": json.dumps(list(rows))})
        write_bytes(self.folder / f"{len(rows):06}-{_hash(content)}.safetensors", content)
        for path in self._newest_first()[GENERATIONS:]:
            path.unlink()

    def load(self) -> Saved | None:
        """The newest that is whole; a damaged one is removed, with a line on standard error."""
        for path in self._newest_first():
            content = path.read_bytes()
            if path.stem.partition("-")[2] == _hash(content):
                tensors, metadata = deserialise(content)
                return Saved(tensors, json.loads(metadata["rows"]))
            print(f"{path}: is damaged; the checkpoint before it is used", file=sys.stderr)  # noqa: T201
            path.unlink()
        return None

    def clear(self) -> None:
        """Remove them all, those of parts too."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"), reverse=True)


def open_checkpoints(folder: Path, identity: Mapping[str, Any]) -> Checkpoints:
    """The checkpoints in `folder` of work with this identity; whatever else stands there is of no use and removed."""
    own = folder / fingerprint(identity)
    for other in folder.glob("*"):
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    if own.exists():
        print(f"{folder.name}: goes on from what an unfinished run left in {own}", file=sys.stderr)  # noqa: T201
    return Checkpoints(own)


def identity_of(params: Mapping[str, Any], files: Iterable[Path], device: torch.device) -> dict[str, Any]:
    """All that the bits of a result follow from: params, input files, the code at hand, torch and the machine's kind.

    To be asked once everything is imported. Raises FileNotFoundError where there is no such file.
    """
    return {
        "params": params,
        "files": {path.as_posix(): md5(path) for path in files},
        "code": loaded_code(),
        "torch": torch.__version__,
        "device": [device.type, os.cpu_count()],  # sums are split over the cores
    }


def training_state(network: nn.Module, optimiser: AdamW) -> dict[str, Tensor]:
    """All that later steps depend on: parameters, buffers (such as a codebook) and the optimiser's moments."""
    return with_prefix("network", network.state_dict()) | with_prefix("optimiser", optimiser.state_dict())


def restore(network: nn.Module, optimiser: AdamW, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `training_state` gave. Raises RuntimeError when it does not fit."""
    network.load_state_dict(under_prefix("network", tensors))
    optimiser.load_state_dict(under_prefix("optimiser", tensors))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as `<prefix>.<name>`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `with_prefix` gave that prefix, by their own names."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()[:32]  # the fastest that processors have instructions for
