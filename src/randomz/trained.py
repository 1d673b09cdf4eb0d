"""A trained model over whole splits: load it, encode images, decode codes."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from randomz.batches import in_chunks
from randomz.checkpoint import load_tensors
from randomz.models import load_kind
from randomz.models.base import LatentModel
from randomz.params import Params

Images = Float[Tensor, "N 1 28 28"]


def load_model(params: Params, name: str, weights: Path, device: torch.device) -> LatentModel:
    """A trained model, ready to encode and decode.

    Raises ValueError or OSError when the weights cannot be read, do not fit or are not finite.
    """
    config = params.model(name)
    model = load_kind(config.kind).build(config, params.network)
    state = load_tensors(weights)
    wrong = [key for key, tensor in state.items() if not bool(tensor.isfinite().all())]
    if wrong:
        raise ValueError(f"{weights}: {wrong[0]} of models.{name} holds NaN or infinity; finite weights are accepted")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not hold the weights of models.{name}: {error}") from error
    return model.to(device).eval()


@torch.no_grad()
def encode_all(model: LatentModel, images: UInt8[Tensor, "N 28 28"], noise: torch.Generator | None) -> Tensor:
    """Codes of a whole split, in order."""
    return torch.cat([model.encode(x, noise) for x in in_chunks(images)])


@torch.no_grad()
def decode_all(model: LatentModel, codes: Tensor) -> Images:
    """Mean images of codes, in order."""
    device = next(
        model.parameters()
    ).device  # random codes come from the CPU, where their stream is the same everywhere
    return torch.cat([model.decode(part.to(device)) for part in codes.split(1000)])
