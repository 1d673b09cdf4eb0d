"""Fit one model for one seed. It knows no model by name, no stage and no tracking."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from randomz.batches import Split, binarised, epoch_order, in_chunks, pixels
from randomz.models.base import LatentModel, Loss
from randomz.params import TrainConfig
from randomz.schedule import one_cycle
from randomz.seeding import generator, integer

START_IMAGES = 5000  # that a codebook starts from

LossFunction = Callable[[Any, Any, Tensor], Loss]
Row = dict[str, float]
Say = Callable[[Row], None]


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Data:
    """What a model is trained on and what it is watched on."""

    train: Split
    validation: Split


def build_seeded(build: Callable[[], LatentModel], seed: int) -> LatentModel:
    """A model whose initial weights are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer("init", seed))
        return build()


def fit(model: LatentModel, loss: LossFunction, data: Data, config: TrainConfig, seed: int) -> Iterator[Row]:
    """Train in place; after each epoch yield its row of history.

    A row holds `seed`, `epoch` (from 1), `learning_rate`, every loss term as `train_<term>` (mean over the epoch's
    steps) and `validation_<term>` (mean over the split), nats per image, and the model's own diagnostics.
    With `binarise` every step draws its pixels as 0 or 1; validation images are drawn once, alike for all seeds.
    Raises NonFiniteLossError that names seed, epoch and step.
    """
    device = data.train.images.device
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.99),
        fused=True,
    )
    # Binarisation has streams of its own: without it, all others are what they were.
    drawn = binarised if config.binarise else _grey
    watched = replace(data.validation, images=drawn(data.validation.images, generator("binarise validation")))
    first = drawn(data.train.images[:START_IMAGES], generator("binarise start", seed))
    model.start(pixels(first), generator("start", seed))
    for epoch in range(config.epochs):
        order = epoch_order(len(data.train), config.batch_size, seed, epoch).to(device)
        steps = len(order)
        model.train()
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(order):
            step = epoch * steps + index
            optimiser.param_groups[0]["lr"] = one_cycle(
                step, config.epochs * steps, config.learning_rate, config.warmup
            )
            noise = generator("noise", seed, step)
            x = pixels(drawn(data.train.images[batch], generator("binarise", seed, step)))
            output = model(x, noise)
            terms = loss(model, output, x)
            optimiser.zero_grad()
            terms.total.mean().backward()
            optimiser.step()
            model.after_step(output, noise)
            for name, term in terms.terms().items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + term.detach().mean()
        train = {f"train_{name}": float(total) / steps for name, total in sums.items()}
        _check_finite(train, seed, epoch + 1, (epoch + 1) * steps)
        validation = {f"validation_{name}": value for name, value in mean_terms(model, loss, watched, seed).items()}
        rate = optimiser.param_groups[0]["lr"]
        yield {
            "seed": seed,
            "epoch": epoch + 1,
            "learning_rate": rate,
            **train,
            **validation,
            **model.diagnostics(),
        }


def _grey(images: UInt8[Tensor, "*N 28 28"], noise: torch.Generator) -> UInt8[Tensor, "*N 28 28"]:  # noqa: ARG001
    return images


def _check_finite(means: dict[str, float], seed: int, epoch: int, step: int) -> None:
    wrong = [f"{name} = {value}" for name, value in means.items() if not math.isfinite(value)]
    if wrong:
        raise NonFiniteLossError(
            f"seed {seed}, epoch {epoch}, by step {step}: {', '.join(wrong)}; a finite loss is accepted"
        )


@torch.no_grad()
def mean_terms(model: LatentModel, loss: LossFunction, split: Split, seed: int) -> dict[str, float]:
    """Every loss term averaged over a whole split; the same noise at every call, so that epochs compare."""
    model.eval()
    noise = generator("validation", seed)
    sums: dict[str, Tensor] = {}
    for x in in_chunks(split.images):
        for name, term in loss(model, model(x, noise), x).terms().items():
            sums[name] = sums.get(name, torch.zeros((), device=x.device)) + term.double().sum()
    return {name: float(total) / len(split) for name, total in sums.items()}
