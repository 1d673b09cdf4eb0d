"""The study of the metrics: what each says of real images, and of real images that fail more and more.

A metric does its job when it leaves the values of real images as its failure grows. The sets of one family share
their images and their random draws, so that a curve over strengths shows the failure and not the draw.

Sets are made of training images, of which there are enough, and measured against the yardstick's reference. Digit rate
and authenticity need images that neither the judge nor the yardstick has seen: they are those of held-out images with
the same failure. M images a set.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from randomz.batches import Split, pixels
from randomz.judge import CLASSES, FEATURES, Judge
from randomz.params import StudyConfig
from randomz.seeding import generator
from randomz.yardstick import Quality, Yardstick, blur, responses, split_responses

# Strengths rise from what an eye hardly sees to where nothing is left of a digit.
NOISE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # share of the pixels that uniform noise replaces
BLUR = (0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)  # standard deviation of a Gaussian blur, pixels
SHUFFLE = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # share of the pixels that are permuted among themselves
DROPPED = (1, 3, 5, 7, 9)  # classes left out, of ten
COPIED = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # share of the set that are training images; 1 is a planted copying generator
REAL_SETS = 5  # disjoint sets of real images; fewer where the training images do not suffice

Images = UInt8[Tensor, "M 28 28"]
Step = tuple[float, Quality]  # strength, and what a set of that strength gets
Tree = dict[str, Any]


def noisy(images: Images, share: float, seed: int) -> Images:
    """Each pixel is replaced, with this probability, by a grey level that is drawn uniformly."""
    stream = generator("study noise", seed)
    replaced = torch.rand(images.shape, generator=stream) < share
    noise = torch.randint(0, 256, images.shape, generator=stream, dtype=torch.uint8)
    return torch.where(replaced.to(images.device), noise.to(images.device), images)


def blurred(images: Images, sigma: float, _seed: int) -> Images:
    """A Gaussian blur of `sigma` pixels, in grey levels again."""
    return (blur(pixels(images), sigma) * 255).round().to(torch.uint8)[:, 0]


def shuffled(images: Images, share: float, seed: int) -> Images:
    """In each image a share of the pixels, drawn for each, change places along one random cycle."""
    flat = images.flatten(1)
    order = torch.rand(flat.shape, generator=generator("study shuffle", seed)).argsort(1).to(images.device)
    moved = order[:, : round(share * flat.shape[1])]
    return flat.scatter(1, moved, flat.gather(1, moved.roll(1, dims=1))).view_as(images)


RUINS: dict[str, tuple[Callable[[Images, float, int], Images], tuple[float, ...]]] = {
    "noise": (noisy, NOISE),
    "blur": (blurred, BLUR),
    "shuffle": (shuffled, SHUFFLE),
}


@dataclass(frozen=True)
class Study:
    """What is measured (`train`, `held_out`), by what, and how: `measure` gives the tree of reports/study.json.

    `held_out` are real images that neither the judge nor the yardstick has learnt or holds sets against.
    """

    yardstick: Yardstick
    judge: Judge
    train: Split
    held_out: Split
    config: StudyConfig

    def measure(self) -> Tree:
        """Every metric for real images and for every family, weak failures first.

        Raises ValueError when there are too few training images for two disjoint sets.
        """
        families = {name: self._ruined(*ruin) for name, ruin in RUINS.items()}
        families |= {"dropped_classes": self._dropped(), "copied": self._copied()}
        return {
            "samples": self.config.samples,
            "real": _spread(list(self._real())),
            "families": {
                name: [{"strength": strength, **quality} for strength, quality in steps]
                for name, steps in families.items()
            },
        }

    @cached_property
    def unseen(self) -> Float[Tensor, "H R"]:
        """Responses to the held-out images."""
        return split_responses(self.judge, self.held_out)

    def _real(self) -> Iterator[Quality]:
        """Disjoint sets of training images, each with held-out images drawn with replacement."""
        size, seed = self.config.samples, self.config.seed
        sets = min(REAL_SETS, len(self.train) // size)
        if sets < 2:  # noqa: PLR2004
            raise ValueError(
                f"study.samples is {size}, but two disjoint sets are needed of {len(self.train)} training images; "
                f"up to {len(self.train) // 2} is accepted"
            )
        order = self._draw("real", len(self.train), sets * size)
        for number, drawn in enumerate(order.split(size)):
            again = torch.randint(len(self.unseen), (size,), generator=generator("study held out", seed, number))
            yield self._quality(self.yardstick.training[drawn], self.unseen[again.to(drawn.device)])

    def _ruined(self, ruin: Callable[[Images, float, int], Images], strengths: tuple[float, ...]) -> Iterator[Step]:
        size, seed = self.config.samples, self.config.seed
        images = self.train.images[self._draw("ruined", len(self.train), size)]
        others = self.held_out.images[self._draw("ruined unseen", len(self.held_out), min(size, len(self.held_out)))]
        for strength in strengths:
            ruined, unseen = (pixels(ruin(whole, strength, seed)) for whole in (images, others))
            yield strength, self._quality(self.judge.features(ruined), responses(self.judge, unseen))

    def _dropped(self) -> Iterator[Step]:
        """Without the last classes; what is left is taken again where it is too little."""
        order = self._draw("dropped", len(self.train), len(self.train))
        for dropped in DROPPED:
            kept = order[self.train.labels[order] < CLASSES - dropped]
            again = torch.arange(self.config.samples, device=kept.device) % len(kept)
            unseen = self.unseen[self.held_out.labels < CLASSES - dropped]
            yield dropped, self._quality(self.yardstick.training[kept[again]], unseen)

    def _copied(self) -> Iterator[Step]:
        """Held-out images, a share of which training images replace."""
        size = self.config.samples
        copies = responses(self.judge, pixels(self.train.images[self._draw("copied", len(self.train), size)]))
        others = self.unseen[self._draw("copied unseen", len(self.held_out), size)]
        for share in COPIED:
            count = round(share * size)
            mixed = torch.cat([copies[:count], others[count:]])
            yield share, self._quality(mixed[:, :FEATURES], mixed)

    def _quality(self, features: Float[Tensor, "M F"], unseen: Float[Tensor, "H R"]) -> Quality:
        return self.yardstick.quality_of_features(self.judge, features, unseen)

    def _draw(self, purpose: str, count: int, size: int) -> Int64[Tensor, " M"]:
        """Indices in random order, from the start again where there are fewer than `size`."""
        order = torch.randperm(count, generator=generator(f"study {purpose}", self.config.seed))
        return order[torch.arange(size) % count].to(self.train.images.device)


def _spread(qualities: list[Quality]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each metric over sets."""
    return {
        metric: {"mean": fmean(values), "deviation": stdev(values), "draws": len(values)}
        for metric, values in ((metric, [quality[metric] for quality in qualities]) for metric in qualities[0])
    }
