"""What every model is measured with, and on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from randomz.batches import Split, binarised
from randomz.judge import Judge
from randomz.params import EvaluateConfig
from randomz.seeding import generator
from randomz.yardstick import Yardstick

Tree = dict[str, Any]


@dataclass(frozen=True)
class Ruler:
    """`reference` are the images that are encoded, and that samples are held against: test, or validation ones."""

    yardstick: Yardstick
    judge: Judge
    floor_fd: float
    train: Split
    reference: Split
    config: EvaluateConfig
    binarise: bool

    @cached_property
    def likelihood_images(self) -> UInt8[Tensor, "N 28 28"]:
        """The reference images whose likelihood is bounded: for a model of binarised images, binarised once.

        The draw is one for every model and seed, so that bounds compare, also with what is published for dynamically
        binarised MNIST: there, too, each test image is drawn.
        """
        return (
            binarised(self.reference.images, generator("binarise reference"))
            if self.binarise
            else self.reference.images
        )
