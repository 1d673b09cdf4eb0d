"""One yardstick for all: how good a set of images is, beside what real digits and deliberate failures get.

The floor is what as many real training images get against the same reference images; the controls are sets that a
metric has to refuse. Both are measured once and saved with the reference features, so that every model's figures
come from the same numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from randomz.batches import Split, in_chunks, pixels
from randomz.checkpoint import load_tensors, save_tensors
from randomz.judge import CLASSES, FEATURES, Judge, split_features
from randomz.params import YardstickConfig
from randomz.quality.digits import ClassManifolds, class_entropy, digit_rate, fit_class_manifolds
from randomz.quality.frechet import FeatureStatistics, feature_statistics, frechet_distance, frechet_distance_infinite
from randomz.quality.kernel import KernelMoments, distance_of_moments, kernel_moments
from randomz.quality.manifold import manifold_metrics, neighbour_radii
from randomz.quality.memory import authenticity, nearest_gaps
from randomz.seeding import generator

BLUR_SIGMA = 2.0  # pixels
PICTURED = 100
MANIFOLD_PREFIX = "manifolds."
CHANNELS = 160  # of all convolutions of the judge

Quality = dict[str, float]


@dataclass(frozen=True)
class Yardstick:
    """Features of the real images that every sample set is held against."""

    reference: Float[Tensor, "N F"]
    reference_radii: Float[Tensor, " N"]
    training: Float[Tensor, "T F"]
    training_gaps: Float[Tensor, " T"]
    manifolds: ClassManifolds
    statistics: FeatureStatistics
    moments: KernelMoments
    neighbours: int

    def quality(self, judge: Judge, images: Float[Tensor, "M 1 28 28"]) -> Quality:
        """Every sample-quality figure of a set of images. Raises ValueError for pixels that are not in [0, 1]."""
        seen = responses(judge, images)
        return self.quality_of_features(judge, seen[:, :FEATURES], seen)

    def quality_of_features(
        self, judge: Judge, features: Float[Tensor, "M F"], unseen: Float[Tensor, "H R"]
    ) -> Quality:
        """The same for a set whose features are at hand.

        Digit rate and authenticity are those of `unseen`, what the judge makes of the same images. For a set made of
        training images they are held-out images of the same kind: training images are all copies of themselves, and
        the judge has learnt them.
        """
        manifold = manifold_metrics(self.reference, features, self.neighbours, self.reference_radii)
        return {
            "fd": self.distance(features),
            "fd_infinite": frechet_distance_infinite(
                features, self.statistics, generator=generator("extrapolation of fd")
            ),
            "kid": distance_of_moments(kernel_moments(features), self.moments),
            "precision": manifold.precision,
            "recall": manifold.recall,
            "density": manifold.density,
            "coverage": manifold.coverage,
            "digit_rate": digit_rate(self.manifolds, unseen),
            "class_entropy": class_entropy(judge.classes(features), CLASSES),
            "authenticity": authenticity(unseen[:, :FEATURES], self.training, self.training_gaps),
        }

    def distance(self, features: Float[Tensor, "M F"]) -> float:
        """Frechet distance to the reference images."""
        return frechet_distance(feature_statistics(features), self.statistics)

    def distance_and_digit_rate(self, judge: Judge, images: Float[Tensor, "M 1 28 28"]) -> tuple[float, float]:
        """Two of the figures alone, for images that are no samples."""
        seen = responses(judge, images)
        return self.distance(seen[:, :FEATURES]), digit_rate(self.manifolds, seen)

    def save(self, path: Path) -> None:
        """Write everything but statistics and moments, which follow from the reference features."""
        manifolds = {MANIFOLD_PREFIX + name: tensor for name, tensor in self.manifolds.to_tensors().items()}
        tensors = {
            "reference": self.reference,
            "reference_radii": self.reference_radii,
            "training": self.training,
            "training_gaps": self.training_gaps,
            "neighbours": torch.tensor(self.neighbours),
        }
        save_tensors(path, tensors | manifolds)


def load_yardstick(path: Path, device: torch.device) -> Yardstick:
    """The yardstick that the stage of this name saved. Raises ValueError or OSError when it cannot be read."""
    tensors = {name: tensor.to(device) for name, tensor in load_tensors(path).items()}
    prefixed = {name: tensor for name, tensor in tensors.items() if name.startswith(MANIFOLD_PREFIX)}
    manifolds = ClassManifolds.from_tensors({name.removeprefix(MANIFOLD_PREFIX): t for name, t in prefixed.items()})
    return Yardstick(
        reference=tensors["reference"],
        reference_radii=tensors["reference_radii"],
        training=tensors["training"],
        training_gaps=tensors["training_gaps"],
        manifolds=manifolds,
        statistics=feature_statistics(tensors["reference"]),
        moments=kernel_moments(tensors["reference"]),
        neighbours=int(tensors["neighbours"]),
    )


def responses(judge: Judge, images: Float[Tensor, "M 1 28 28"]) -> Float[Tensor, "M R"]:
    """What the digit rule looks at: the judge's features, then mean and deviation of each channel over the image.

    The features overlook the haze and the speckles that a decoder leaves; the statistics of the channels do not.
    Raises ValueError for pixels that are not in [0, 1].
    """
    statistics: list[Tensor] = []  # of the first chunk after each convolution in turn, of the second chunk, ...

    def listen(_layer: nn.Module, _inputs: object, maps: Float[Tensor, "B C H W"]) -> None:
        places = maps.permute(0, 2, 3, 1).flatten(1, 2)  # as they lie in memory
        mean = places.mean(1)
        statistics.append(torch.cat([mean, (places - mean[:, None]).square_().mean(1).sqrt_()], 1))

    *convolutions, _ = (layer for layer in judge.stack if isinstance(layer, nn.ReLU))  # the last gives the features
    hooks = [layer.register_forward_hook(listen) for layer in convolutions]
    try:
        features = judge.features(images)
    finally:
        for hook in hooks:
            hook.remove()
    channels = [torch.cat(statistics[layer :: len(convolutions)]) for layer in range(len(convolutions))]
    return torch.cat([features, *channels], 1)


def split_responses(judge: Judge, split: Split) -> Float[Tensor, "N R"]:
    """Responses to every image of a split, in order."""
    return torch.cat([responses(judge, x) for x in in_chunks(split.images)])


def build_yardstick(
    judge: Judge, train: Split, validation: Split, reference: Split, config: YardstickConfig
) -> Yardstick:
    """Features of all splits, and what follows from them. The digit rule is calibrated on validation images.

    `reference` is the split that images are held against: test, or validation while params are being chosen.
    """
    features = split_features(judge, reference)
    known, held_out = split_responses(judge, train), split_responses(judge, validation)
    training = known[:, :FEATURES].contiguous()
    return Yardstick(
        reference=features,
        reference_radii=neighbour_radii(features, config.neighbours),
        training=training,
        training_gaps=nearest_gaps(training),
        manifolds=fit_class_manifolds(known, train.labels, held_out, config.accept, (FEATURES, 2 * CHANNELS)),
        statistics=feature_statistics(features),
        moments=kernel_moments(features),
        neighbours=config.neighbours,
    )


def measure_floor(
    yardstick: Yardstick, judge: Judge, train: Split, validation: Split, config: YardstickConfig
) -> Quality:
    """What real training images get, and validation images where they must be unseen: the best that samples can do."""
    drawn = _draw(train, config, "floor").to(train.images.device)
    return yardstick.quality_of_features(judge, yardstick.training[drawn], split_responses(judge, validation))


def measure_controls(yardstick: Yardstick, judge: Judge, train: Split, config: YardstickConfig) -> dict[str, Quality]:
    """What each control gets."""
    return {name: yardstick.quality(judge, pixels(images)) for name, images in controls(train, config).items()}


def controls(train: Split, config: YardstickConfig) -> dict[str, UInt8[Tensor, "M 28 28"]]:
    """Sets that fail on purpose: no digits, ruined digits, one class only, and no new digits."""
    device = train.images.device
    drawn = train.images[_draw(train, config, "controls").to(device)]
    noise = torch.randint(0, 256, drawn.shape, generator=generator("noise control", config.seed), dtype=torch.uint8)
    order = torch.rand(len(drawn), 784, generator=generator("shuffled control", config.seed)).argsort(1).to(device)
    ones = train.images[train.labels == 1]
    again = torch.arange(len(drawn), device=device) % len(ones)
    return {
        "noise": noise.to(device),
        "shuffled": drawn.flatten(1).gather(1, order).view_as(drawn),
        "blurred": (blur(pixels(drawn)) * 255).round().to(torch.uint8)[:, 0],
        "one_class": ones[again],
        "copied": train.images[_draw(train, config, "copied").to(device)],
    }


def control_pictures(train: Split, config: YardstickConfig) -> dict[str, UInt8[Tensor, "100 28 28"]]:
    """The first hundred images of each control, and real ones beside them."""
    real = train.images[_draw(train, config, "controls").to(train.images.device)]
    return {name: images[:PICTURED] for name, images in {"real": real, **controls(train, config)}.items()}


def blur(images: Float[Tensor, "N 1 28 28"], sigma: float = BLUR_SIGMA) -> Float[Tensor, "N 1 28 28"]:
    """A Gaussian blur with a standard deviation of `sigma` pixels, cut at three of them; black beyond the border."""
    radius = int(3 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = kernel / kernel.sum()
    across = functional.conv2d(images, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1), padding=(radius, 0)).clamp(0, 1)


def _draw(train: Split, config: YardstickConfig, purpose: str) -> Tensor:
    return torch.randperm(len(train), generator=generator(purpose, config.seed))[: config.samples]
