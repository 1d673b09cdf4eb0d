"""In what numbers layers are computed while they are trained, and whether that pays on this machine."""

import time
import warnings

import torch
from torch import nn

from randomz.params import Precision

SIDE = 512  # of the matrices whose product is timed, as wide as our layers
TURNS = 20


def in_training(module: nn.Module, precision: Precision, device: torch.device) -> torch.autocast:
    """Within it a module in training computes layers in this precision; an evaluation is always in float32.

    Weights, gradients of weights and the optimiser stay in float32 (Micikevicius et al. 2018, arXiv:1710.03740).
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=module.training and precision == "bfloat16")


def multiply_seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Seconds that the fastest of some products of two matrices takes, with torch's threads."""
    a = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    turns = []
    for _ in range(TURNS):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for a GPU
        turns.append(time.perf_counter() - start)
    return min(turns)


def warn_where_slow(precision: Precision, device: torch.device) -> None:
    """One warning where bfloat16 is asked for and float32 is faster; what is asked for is done all the same.

    Were it changed here, results would depend on how busy a machine is.
    """
    if precision == "float32":
        return
    share = multiply_seconds(torch.float32, device) / multiply_seconds(torch.bfloat16, device)
    if share < 1:
        warnings.warn(
            f"network.precision: found bfloat16, in which this {device.type} multiplies matrices at {share:.2f} times "
            "the speed of float32; float32 would train faster here",
            stacklevel=1,
        )
