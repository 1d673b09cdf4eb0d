"""Layers over N places in a row, of which a place sees those before it; their gradients are written out.

Left to autograd, a third of a step of training would go into zeros, copies and logits that do not fit into the cache.

Axes: B grids of codes, N places, K codes. NI and NO are all places' inputs and outputs side by side, U units a place.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from randomz.noise import Noise, draw

SLAB = 4  # places whose outputs are one matrix product
LEVELS = 2**16  # that a number to drop by can have: four are drawn at once


class MaskedLinear(nn.Module):
    """A linear layer over N places in which a place gets what the places up to itself give.

    The rows of a slab of places have columns up to its last place only: about half of the matrix is never stored.
    What is left above the diagonal starts at 0 and gets no gradient.
    """

    mask: Tensor

    def __init__(self, places: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weights = nn.ParameterList()
        self.bias = nn.Parameter(torch.zeros(places * outputs))
        for first in range(0, places, SLAB):
            last = min(first + SLAB, places)
            seen = torch.tril(torch.ones(last, last))[first:]
            mask = torch.kron(seen, torch.ones(outputs, inputs))
            # Each row is scaled by the number of inputs that its mask leaves (He et al. 2015).
            self.weights.append(nn.Parameter(torch.randn(mask.shape) * (2 / mask.sum(1, keepdim=True)).sqrt() * mask))
        within = torch.tril(torch.ones(SLAB, SLAB))  # a slab; places before it are seen by all of its places
        self.register_buffer("mask", torch.kron(within, torch.ones(outputs, inputs)), persistent=False)

    def forward(self, x: Float[Tensor, "B NI"]) -> Float[Tensor, "B NO"]:
        """All places at once."""
        y: Tensor = _MaskedProduct.apply(x, self.bias, self.mask, *self.weights)
        return y

    def at(self, place: int, x: Float[Tensor, "B seen"]) -> Float[Tensor, "B outputs"]:
        """One place, from what the places up to it hold."""
        first = place % SLAB * self.outputs
        weight = self.weights[place // SLAB][first : first + self.outputs, : (place + 1) * self.inputs]
        return functional.linear(x, weight, self.bias[place * self.outputs : (place + 1) * self.outputs])


class _MaskedProduct(torch.autograd.Function):
    """The product of each slab; gradients of x are added up where they belong."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, mask: Tensor, *weights: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, mask, *weights)
        biases = bias.split([len(weight) for weight in weights])
        slabs = zip(weights, biases, strict=True)
        return torch.cat([functional.linear(x[:, : weight.shape[1]], weight, own) for weight, own in slabs], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, mask, *weights = ctx.saved_tensors
        parts = gradient.split([len(weight) for weight in weights], 1)
        to_x = torch.mm(parts[-1], weights[-1])  # the last slab has columns for every place
        to_weights = []
        for part, weight in zip(parts, weights, strict=True):
            if weight is not weights[-1]:
                to_x[:, : weight.shape[1]].addmm_(part, weight)
            to_weight = torch.mm(part.T, x[:, : weight.shape[1]])
            within = mask[: len(weight), : mask.shape[1] * len(weight) // len(mask)]  # the last slab may be smaller
            to_weight[:, weight.shape[1] - within.shape[1] :].mul_(within)
            to_weights.append(to_weight)
        return to_x, gradient.sum(0), None, *to_weights


def cross_entropy_by_place(
    state: Float[Tensor, "N B U"],
    weight: Float[Tensor, "N U K"],
    bias: Float[Tensor, "N 1 K"],
    targets: Int64[Tensor, "N B"],
) -> Float[Tensor, ""]:
    """The mean cross-entropy, nats, of the logits `state weight + bias` of all places; it can be differentiated once.

    Gradients are worked out along with it, so that no logits are kept (after Hsu et al. 2024, arXiv:2410.10989).
    """
    mean: Tensor = _CrossEntropy.apply(state, weight, bias, targets)
    return mean


class _CrossEntropy(torch.autograd.Function):
    """On a CPU a place at a time, whose logits stay in the cache; on a GPU all at once."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:  # noqa: ANN401
        size = 1 if state.device.type == "cpu" else len(state)
        share = 1 / targets.numel()
        total = state.new_zeros(())
        gradients = [torch.empty_like(each) for each in (state, weight, bias)]
        inputs = (each.split(size) for each in (state, weight, bias, targets[..., None]))
        outputs = (each.split(size) for each in gradients)
        for s, w, b, target, to_s, to_w, to_b in zip(*inputs, *outputs, strict=True):
            logs = torch.baddbmm(b, s, w).log_softmax(-1)
            picked = logs.gather(-1, target)
            total -= picked.sum()
            to_logits = logs.exp_().scatter_add_(-1, target, -torch.ones_like(picked)).mul_(share)
            to_s.copy_(to_logits @ w.mT)
            torch.bmm(s.mT, to_logits, out=to_w)
            torch.sum(to_logits, 1, keepdim=True, out=to_b)
        ctx.save_for_backward(*gradients)
        return total * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return *(each * gradient for each in ctx.saved_tensors), None


def dropout(x: Float[Tensor, "*B"], share: float, noise: Noise) -> Float[Tensor, "*B"]:
    """Numbers set to 0, each with this probability to the nearest 2^-16; the others grow by as much on average.

    torch's own takes twice the time on a CPU, and draws from the one global generator alone.
    """
    words = draw(noise, x.device, torch.randint, -(2**63), 2**63 - 1, ((x.numel() + 3) // 4,))
    kept = words.view(torch.int16)[: x.numel()] >= round(share * LEVELS) - LEVELS // 2
    return x * (kept.view(x.shape) * (1 / (1 - share)))
