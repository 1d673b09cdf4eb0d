"""The kinds of model. A kind is the name of a file here; every such file has `build` and `loss`."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from randomz.models.base import LatentModel, Loss
from randomz.params import NetworkConfig


@runtime_checkable
class Kind(Protocol):
    """What a file of this folder offers."""

    build: Callable[[Any, NetworkConfig], LatentModel]
    loss: Callable[[LatentModel, Any, Float[Tensor, "B 1 28 28"]], Loss]


def load_kind(kind: str) -> Kind:
    """The module of one kind. Only that one is imported, so a stage depends on the code of its own model alone."""
    return cast("Kind", import_module(f"randomz.models.{kind}"))
