"""Prepared tensors -> batches on the device. There is no DataLoader: the whole split lives on the device as uint8."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from randomz.checkpoint import load_tensors
from randomz.seeding import generator


@dataclass(frozen=True)
class Split:
    """The images of one split and their classes."""

    images: UInt8[Tensor, "N 28 28"]
    labels: Int64[Tensor, " N"]

    def __len__(self) -> int:
        """The number of images N."""
        return len(self.images)


def load_split(path: Path, device: torch.device | None = None) -> Split:
    """The split that `prepare` wrote to this file. Raises ValueError or OSError when it cannot be read."""
    tensors = load_tensors(path)
    return Split(tensors["images"].to(device), tensors["labels"].long().to(device))


def pixels(images: UInt8[Tensor, "*N 28 28"]) -> Float[Tensor, "*N 1 28 28"]:
    """Grey levels 0..255 as numbers in [0, 1], with a channel axis."""
    return images.unsqueeze(-3).float() / 255


def binarised(images: UInt8[Tensor, "*N 28 28"], noise: torch.Generator) -> UInt8[Tensor, "*N 28 28"]:
    """Grey images with every pixel drawn as black or white (0 or 255), its grey level the probability of white.

    With a draw for every step this is the dynamic binarisation (Salakhutdinov & Murray 2008) whose likelihoods are
    published for MNIST.
    """
    # A whole number below 255 is below the grey level g with probability g / 255 exactly.
    drawn = torch.randint(0, 255, images.shape, generator=noise, dtype=torch.uint8).to(images.device)
    return (drawn < images).to(torch.uint8) * 255


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> Int64[Tensor, "S B"]:
    """The order of one epoch, a row a step; the images that fill no whole batch sit this epoch out.

    It is a function of (seed, epoch) alone, so a resumed run needs no generator state.
    """
    steps = count // batch_size
    order = torch.randperm(count, generator=generator("order", seed, epoch))
    return order[: steps * batch_size].view(steps, batch_size)


def in_chunks(images: UInt8[Tensor, "N 28 28"], size: int = 1000) -> Iterator[Float[Tensor, "B 1 28 28"]]:
    """The images in order, as pixels, `size` at a time (the last chunk may be smaller)."""
    for chunk in images.split(size):
        yield pixels(chunk)
