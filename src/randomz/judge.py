"""The yardstick: a small classifier in whose penultimate layer every sample is measured.

Its weights are pinned (judge/judge.safetensors stands in git), so that a score means the same on any machine.
Inception features on MNIST are advised against; features of a classifier of the same digits tell them apart.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from randomz.batches import Split, epoch_order, in_chunks, pixels
from randomz.checkpoint import load_tensors
from randomz.params import JudgeConfig
from randomz.schedule import one_cycle
from randomz.seeding import generator, global_stream, integer

FEATURES = 128
CLASSES = 10
WARMUP = 0.2
CHUNK = 500


class Judge(nn.Module):
    """Three convolutions and a layer of 128 features; 458,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(
            *_convolution(1, 32, kernel=5, stride=2),
            *_convolution(32, 64, kernel=3, stride=2),
            *_convolution(64, 64, kernel=3, stride=1),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, FEATURES, bias=False),
            nn.BatchNorm1d(FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Float[Tensor, "B 1 28 28"]) -> Float[Tensor, "B 10"]:
        """Class logits."""
        logits: Tensor = self.head(self.stack(x.contiguous(memory_format=torch.channels_last)))
        return logits

    @torch.no_grad()
    def features(self, images: Float[Tensor, "N 1 28 28"]) -> Float[Tensor, "N 128"]:
        """Penultimate features. Raises ValueError for pixels that are not numbers in [0, 1]."""
        inside = ((images >= 0) & (images <= 1)).flatten(1).all(1)
        if not bool(inside.all()):
            wrong = f"{int((~inside).sum())} of {len(images)} images"
            raise ValueError(f"judge: {wrong} hold NaN or pixels outside [0, 1]; numbers in [0, 1] are accepted")
        chunks = [self.stack(x.contiguous(memory_format=torch.channels_last)) for x in images.split(CHUNK)]
        return torch.cat(chunks)

    @torch.no_grad()
    def classes(self, features: Float[Tensor, "N 128"]) -> Int64[Tensor, " N"]:
        """The class that the head gives each feature vector."""
        logits: Tensor = self.head(features)
        return logits.argmax(1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def split_features(judge: Judge, split: Split) -> Float[Tensor, "N 128"]:
    """Features of every image of a split, in order."""
    return torch.cat([judge.features(x) for x in in_chunks(split.images, CHUNK)])


def accuracy(judge: Judge, split: Split) -> float:
    """Share of a split that gets its own class."""
    return float((judge.classes(split_features(judge, split)) == split.labels).double().mean())


def augment(x: Float[Tensor, "B 1 28 28"], config: JudgeConfig, noise: torch.Generator) -> Float[Tensor, "B 1 28 28"]:
    """Each image turned and moved by its own draw."""
    angle, right, down = (torch.rand(3, len(x), generator=noise) * 2 - 1).to(x.device)
    angle = angle * math.radians(config.rotation)
    right, down = right * 2 * config.shift, down * 2 * config.shift  # affine_grid's width is 2
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = functional.affine_grid(rows, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def fit_judge(train: Split, validation: Split, config: JudgeConfig, say: Callable[[dict[str, float]], None]) -> Judge:
    """Train a judge; `say` hears epoch, loss and validation accuracy. A function of the config's seed."""
    with global_stream("judge init", config.seed):
        judge = Judge()
    device = train.images.device
    judge.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(judge.parameters(), lr=0.0, weight_decay=config.weight_decay, fused=True)
    for epoch in range(config.epochs):
        order = epoch_order(len(train), config.batch_size, integer("judge order", config.seed), epoch).to(device)
        judge.train()
        total = torch.zeros((), device=device)
        for index, batch in enumerate(order):
            step = epoch * len(order) + index
            optimiser.param_groups[0]["lr"] = one_cycle(step, config.epochs * len(order), config.learning_rate, WARMUP)
            x = augment(pixels(train.images[batch]), config, generator("judge augment", config.seed, step))
            loss = functional.cross_entropy(judge(x), train.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.detach()
        judge.eval()
        say(
            {
                "epoch": epoch + 1,
                "loss": float(total) / len(order),
                "validation_accuracy": accuracy(judge, validation),
            }
        )
    return judge


def load_judge(path: Path, device: torch.device) -> Judge:
    """The pinned judge, ready to measure. Raises ValueError or OSError when the file is not one."""
    judge = Judge()
    try:
        judge.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: does not hold the weights of the judge: {error}") from error
    moved: Judge = judge.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
