"""The least time that arithmetic takes: counted operations over the rate at which this machine multiplies matrices."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from randomz.models.base import LatentModel, Loss
from randomz.seeding import generator

SIDE = 2048  # of the matrices whose product is timed
LEAST_SECONDS = 2.0  # that are spent on looking for the fastest turn

LossFunction = Callable[[LatentModel, object, Tensor], Loss]


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in `work`; a multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def step_operations(model: LatentModel, loss: LossFunction, x: Float[Tensor, "B 1 28 28"]) -> int:
    """Of a training step but for its optimiser, for this batch."""
    return operations(lambda: loss(model, model(x, generator("roofline")), x).total.mean().backward())


def forward_operations(model: LatentModel, x: Float[Tensor, "B 1 28 28"]) -> int:
    """Of one look at this batch."""
    with torch.no_grad():
        return operations(lambda: model(x, generator("roofline")))


def multiply_rate(dtype: torch.dtype, device: torch.device, side: int = SIDE) -> float:
    """Operations a second of the fastest product of two square matrices, with torch's threads."""
    a = torch.randn(side, side, generator=generator("roofline")).to(device, dtype)
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < LEAST_SECONDS:
        turn = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - turn)
    return 2 * side**3 / best
