"""Fit one model for one seed. It knows no model by name, no stage and no tracking."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from randomz.batches import Split, binarised, epoch_order, in_chunks, pixels
from randomz.finite import check_finite, check_steps
from randomz.graphs import Run, runner
from randomz.models.base import LatentModel, Loss
from randomz.noise import Noise
from randomz.optimiser import AdamW
from randomz.params import TrainConfig
from randomz.resume import Checkpoints, restore, training_state
from randomz.schedule import triangle
from randomz.seeding import generator, global_stream

START_IMAGES = 5000  # that a codebook starts from

LossFunction = Callable[[Any, Any, Tensor], Loss]
Row = dict[str, float]
Say = Callable[[Row], None]
Draw = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Data:
    """What a model is trained on and what it is watched on."""

    train: Split
    validation: Split


def build_seeded(build: Callable[[], LatentModel], seed: int) -> LatentModel:
    """A model whose initial weights are a function of the seed alone."""
    with global_stream("init", seed):
        return build()


def fit(
    model: LatentModel,
    loss: LossFunction,
    data: Data,
    config: TrainConfig,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Row]:
    """Train in place; after each epoch yield its row of history.

    A row holds `seed`, `epoch` (from 1), `learning_rate`, every loss term as `train_<term>` (mean over the epoch's
    steps) and `validation_<term>` (mean over the split), nats per image, and the model's own diagnostics.
    With `binarise` every step draws its pixels as 0 or 1; validation images are drawn once, alike for all seeds.
    With `checkpoints`, a fit that was stopped goes on after its last epoch, to the same bits as if it never had been;
    the rows before come again first.
    Raises NonFiniteLossError that names epoch and step; the checkpoint of the epoch before stays.
    """
    device = data.train.images.device
    optimiser = AdamW(model.parameters(), config.weight_decay, betas=(0.9, 0.99))
    run = runner(partial(train_step, model, loss, optimiser), device)
    # Binarisation has streams of its own: without it, all others are what they were.
    drawn = binarised if config.binarise else _grey
    watched = replace(data.validation, images=drawn(data.validation.images, generator("binarise validation")))
    saved = checkpoints.load() if checkpoints else None
    if saved:
        restore(model, optimiser, saved.tensors)
    else:
        first = drawn(data.train.images[:START_IMAGES], generator("binarise start", seed))
        model.start(pixels(first), generator("start", seed))
    rows: list[Row] = saved.rows if saved else []
    yield from list(rows)
    for epoch in range(len(rows) + 1, config.epochs + 1):
        model.train()
        train = _train_epoch(run, data.train, drawn, config, seed, epoch)
        held_out = mean_terms(model, loss, watched, seed)
        validation = {f"validation_{name}": value for name, value in held_out.items()}
        check_finite(validation, f"after epoch {epoch}")
        rows.append({"seed": seed, "epoch": epoch, **train, **validation, **model.diagnostics()})
        if checkpoints:
            checkpoints.save(training_state(model, optimiser), rows)
        yield rows[-1]


def train_step(
    model: LatentModel,
    loss: LossFunction,
    optimiser: AdamW,
    images: UInt8[Tensor, "B 28 28"],
    rate: float | Float[Tensor, ""],
    noise: Noise,
) -> dict[str, Float[Tensor, ""]]:
    """One step; the mean of each loss term over the batch. A CUDA graph can hold it: it asks for no tensor's value."""
    x = pixels(images)
    output = model(x, noise)
    terms = loss(model, output, x)
    optimiser.zero_grad()
    terms.total.mean().backward()
    optimiser.step(rate)
    model.after_step(output, noise)
    return {name: term.detach().mean() for name, term in terms.terms().items()}


def _train_epoch(run: Run, train: Split, drawn: Draw, config: TrainConfig, seed: int, epoch: int) -> dict[str, float]:
    """One pass over the images; the last learning rate, and the mean of each loss term over the steps."""
    order = epoch_order(len(train), config.batch_size, seed, epoch - 1).to(train.images.device)
    steps = range((epoch - 1) * len(order), epoch * len(order))
    rates = [triangle(step, config.epochs * len(order), config.learning_rate, config.warmup) for step in steps]
    inputs = (
        (
            drawn(train.images.index_select(0, batch), generator("binarise", seed, step)),
            rate,
            generator("noise", seed, step),
        )
        for step, rate, batch in zip(steps, rates, order, strict=True)
    )
    # Read once an epoch: to look at each step would make a GPU wait for it.
    terms = {f"train_{name}": values.cpu() for name, values in run(inputs).items()}
    check_steps(terms, epoch)
    return {"learning_rate": rates[-1]} | {name: float(values.double().mean()) for name, values in terms.items()}


def _grey(images: UInt8[Tensor, "*N 28 28"], noise: torch.Generator) -> UInt8[Tensor, "*N 28 28"]:  # noqa: ARG001
    return images


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
