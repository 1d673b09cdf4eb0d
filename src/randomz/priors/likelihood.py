"""Fit a network by maximum likelihood and keep its best epoch: what the priors that learn by gradient share."""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from randomz.batches import epoch_order
from randomz.params import CodePriorConfig, FlowConfig
from randomz.priors.base import Say
from randomz.schedule import one_cycle
from randomz.seeding import integer

WARMUP = 0.1


def maximise_likelihood(
    network: nn.Module,
    loss: Callable[[Int64[Tensor, " B"]], Float[Tensor, ""]],
    validate: Callable[[], float],
    codes: Tensor,
    config: FlowConfig | CodePriorConfig,
    weight_decay: float,
    seed: int,
    say: Say,
) -> None:
    """AdamW on `loss` of batches of indices into `codes`; the weights of the epoch that validates best are kept.

    `validate` gives nats, lower is better. A set of codes smaller than a batch is one batch.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=0.0, weight_decay=weight_decay, betas=(0.9, 0.95), fused=True
    )
    best, kept = float("inf"), copy.deepcopy(network.state_dict())
    size = min(config.batch_size, len(codes))
    for epoch in range(config.epochs):
        order = epoch_order(len(codes), size, integer("prior order", seed), epoch).to(codes.device)
        network.train()
        for index, batch in enumerate(order):
            step = epoch * len(order) + index
            rate = one_cycle(step, config.epochs * len(order), config.learning_rate, WARMUP)
            optimiser.param_groups[0]["lr"] = rate
            with torch.random.fork_rng(devices=[]):  # dropout can draw from the global stream only
                torch.manual_seed(integer("prior dropout", seed, step))
                value = loss(batch)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        network.eval()
        nats = validate()
        say({"epoch": epoch + 1, "validation_nats": nats})
        if nats < best:
            best, kept = nats, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    network.eval()
