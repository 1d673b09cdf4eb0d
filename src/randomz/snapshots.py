"""What a model makes of the same images and the same random z while it learns: small pictures after a few epochs.

They are taken between two epochs and draw from a stream of their own, so training is what it is without them.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from randomz.batches import pixels
from randomz.checkpoint import load_tensors, save_tensors
from randomz.models.base import LatentModel
from randomz.seeding import generator

RECONSTRUCTED = 20  # images
SAMPLED = 40  # draws of random z

Pictures = UInt8[Tensor, "N 28 28"]


def is_pictured(epoch: int, last: int) -> bool:
    """Whether there are pictures of this epoch: the powers of two, for most is learnt early, and the last."""
    return epoch == last or epoch & (epoch - 1) == 0


@dataclass(frozen=True)
class Snapshots:
    """The pictures of one fit, each epoch's a file `<epoch>.safetensors` in a folder that outlives a killed process.

    A fit that goes on repeats its rows first. The pictures of all but the last of these are files already: they were
    whole before the next epoch began. So a model is asked for pictures only as it was after that very epoch.
    """

    folder: Path
    epochs: int  # of the whole fit

    def take(self, model: LatentModel, images: Pictures, epoch: int) -> None:
        """Keep the pictures of a model after an epoch, if there are to be any and there are none yet."""
        path = self.folder / f"{epoch:06}.safetensors"
        if is_pictured(epoch, self.epochs) and not path.exists():
            save_tensors(path, snapshot(model, images))

    def collect(self, images: Pictures) -> dict[str, Tensor]:
        """All pictures: `originals` [N 28 28], `epochs` [E], `reconstructions` [E N 28 28], `samples` [E M 28 28].

        Raises FileNotFoundError where a file is missing.
        """
        epochs = [epoch for epoch in range(1, self.epochs + 1) if is_pictured(epoch, self.epochs)]
        taken = [load_tensors(self.folder / f"{epoch:06}.safetensors") for epoch in epochs]
        stacked = {name: torch.stack([tensors[name] for tensors in taken]) for name in taken[0]}
        return {"originals": images[:RECONSTRUCTED].cpu(), "epochs": torch.tensor(epochs), **stacked}


@torch.no_grad()
def snapshot(model: LatentModel, images: Pictures) -> dict[str, Tensor]:
    """The reconstructions of the first images, and the decoded random z that every model of a kind and seed gets."""
    codes = model.encode(pixels(images[:RECONSTRUCTED]))
    drawn = model.random_like(codes[:1].expand(SAMPLED, *codes.shape[1:]), generator("snapshots"))
    return {"reconstructions": _as_bytes(model.decode(codes)), "samples": _as_bytes(model.decode(drawn))}


def _as_bytes(decoded: Float[Tensor, "N 1 28 28"]) -> Pictures:
    return (decoded[:, 0] * 255).round().clamp(0, 255).to(torch.uint8).cpu()
