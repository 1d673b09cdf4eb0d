"""Fit a network by maximum likelihood and keep its best epoch: what the priors that learn by gradient share."""

import copy
import math
from collections.abc import Callable
from functools import partial

from jaxtyping import Float, Int64
from torch import Tensor, nn

from randomz.batches import epoch_order
from randomz.finite import check_finite, check_steps
from randomz.graphs import Run, runner
from randomz.noise import Noise
from randomz.optimiser import AdamW
from randomz.params import CodePriorConfig, FlowConfig
from randomz.priors.base import Say
from randomz.resume import Checkpoints, restore, training_state, under_prefix, with_prefix
from randomz.schedule import one_cycle
from randomz.seeding import generator, integer

WARMUP = 0.1

Loss = Callable[[Int64[Tensor, " B"], Noise], Float[Tensor, ""]]  # with noise for dropout


def maximise_likelihood(
    network: nn.Module,
    loss: Loss,
    validate: Callable[[], float],
    codes: Tensor,
    config: FlowConfig | CodePriorConfig,
    weight_decay: float,
    seed: int,
    say: Say,
    checkpoints: Checkpoints | None = None,
) -> None:
    """AdamW on `loss`, which gets a batch of indices into `codes` and noise; the epoch that validates best is kept.

    `validate` gives nats, lower is better. A set of codes smaller than a batch is one batch. With `checkpoints`, a fit
    that was stopped goes on after its last epoch, to the same bits; `say` hears of the epochs before again.
    Raises NonFiniteLossError that names epoch and step; the checkpoint of the epoch before stays.
    """
    optimiser = AdamW(network.parameters(), weight_decay, betas=(0.9, 0.95))
    saved = checkpoints.load() if checkpoints else None
    if saved:
        restore(network, optimiser, saved.tensors)
    rows = saved.rows if saved else []
    best = under_prefix("best", saved.tensors) if saved else copy.deepcopy(network.state_dict())
    for row in rows:
        say(row)
    run = runner(partial(_step, loss, optimiser), codes.device)
    for epoch in range(len(rows) + 1, config.epochs + 1):
        network.train()
        _train_epoch(run, codes, config, seed, epoch)
        network.eval()
        nats = validate()
        check_finite({"validation_nats": nats}, f"after epoch {epoch}")
        if nats < min((row["validation_nats"] for row in rows), default=math.inf):
            best = copy.deepcopy(network.state_dict())
        rows.append({"epoch": epoch, "validation_nats": nats})
        if checkpoints:
            checkpoints.save(training_state(network, optimiser) | with_prefix("best", best), rows)
        say(rows[-1])
    network.load_state_dict(best)
    network.eval()


def _step(
    loss: Loss, optimiser: AdamW, batch: Int64[Tensor, " B"], rate: float | Float[Tensor, ""], noise: Noise
) -> dict[str, Float[Tensor, ""]]:
    value = loss(batch, noise)
    optimiser.zero_grad()
    value.backward()
    optimiser.step(rate)
    return {"loss": value.detach()}


def _train_epoch(run: Run, codes: Tensor, config: FlowConfig | CodePriorConfig, seed: int, epoch: int) -> None:
    size = min(config.batch_size, len(codes))
    order = epoch_order(len(codes), size, integer("prior order", seed), epoch - 1).to(codes.device)
    steps = range((epoch - 1) * len(order), epoch * len(order))
    rates = [one_cycle(step, config.epochs * len(order), config.learning_rate, WARMUP) for step in steps]
    streams = (generator("prior dropout", seed, step) for step in steps)
    losses = run(zip(order, rates, streams, strict=True))
    check_steps({name: values.cpu() for name, values in losses.items()}, epoch)
