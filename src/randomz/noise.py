"""What a model draws at random: when it asks for it, or ahead of many steps that a CUDA graph will replay."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Tape:
    """The draws of many steps, made before they run: a buffer for each draw of a step, with a row for each step.

    What a step draws is learned as the first one runs. Every step draws from its own stream, in its own order, so it
    gets what it would have drawn itself.
    """

    def __init__(self, device: torch.device, steps: int) -> None:
        self.device, self.steps = device, steps
        self.draws: list[tuple[Callable[..., Tensor], tuple[Any, ...], Tensor]] = []

    def refill(self, streams: Sequence[torch.Generator]) -> None:
        """Draw for as many steps as there are streams, at most `steps`."""
        self.streams = streams
        for make, sizes, buffer in self.draws:
            fill(buffer, self._rows(make, sizes))

    def rewind(self, row: int) -> None:
        """Go to the first draw of the step with this row."""
        self.row, self.next = row, 0

    def take(self, make: Callable[..., Tensor], sizes: tuple[Any, ...]) -> Tensor:
        """The next draw of the step, always at the same address."""
        if self.next == len(self.draws):
            rows = self._rows(make, sizes)
            self.draws.append((make, sizes, new_buffer(rows, self.steps, self.device)))
        buffer = self.draws[self.next][2]
        self.next += 1
        return buffer[self.row]

    def _rows(self, make: Callable[..., Tensor], sizes: tuple[Any, ...]) -> Tensor:
        return torch.stack([make(*sizes, generator=stream) for stream in self.streams])


Noise = torch.Generator | Tape


def draw(noise: Noise, device: torch.device, make: Callable[..., Tensor], *sizes: Any) -> Tensor:  # noqa: ANN401
    """`make(*sizes)`, such as torch.randn and a shape, from this noise; drawn on the CPU whatever the device."""
    if isinstance(noise, Tape):
        return noise.take(make, sizes)
    return make(*sizes, generator=noise).to(device)


def new_buffer(rows: Tensor, size: int, device: torch.device) -> Tensor:
    """A buffer on the device for `size` such rows, that starts with these."""
    buffer = torch.empty(size, *rows.shape[1:], dtype=rows.dtype, device=device)
    fill(buffer, rows)
    return buffer


def fill(buffer: Tensor, rows: Tensor) -> None:
    """Write the first rows of a buffer; a CPU does not wait for its GPU, as what it sends is in page-locked memory."""
    ready = rows.pin_memory() if buffer.is_cuda and not rows.is_cuda else rows
    buffer[: len(rows)].copy_(ready, non_blocking=True)
