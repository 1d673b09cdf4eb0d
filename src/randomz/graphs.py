"""Training steps one by one or, on a GPU, many at a time as one CUDA graph.

The kernels of so small a network take less time to run than to launch; a graph launches those of all its steps at once.
It can neither draw at random nor hear from the CPU: what its steps are given lies in buffers that are filled before.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from randomz.noise import Noise, Tape, fill, new_buffer

STEPS = 32  # of a graph, at most

Input = tuple[Tensor, float, torch.Generator]  # a batch, learning rate, stream of noise
Step = Callable[[Tensor, Any, Noise], dict[str, Tensor]]  # an input -> the mean of each loss term
Run = Callable[[Iterator[Input]], dict[str, Tensor]]  # inputs of S steps -> each loss term [S], left on the device
Launch = Callable[[], Tensor]

_capturing = threading.Lock()  # a capture starts by waiting for the whole device, which would break another one


def runner(step: Step, device: torch.device) -> Run:
    """How steps are run on this device."""
    return Replayed(step) if device.type == "cuda" else partial(one_by_one, step)


def one_by_one(step: Step, inputs: Iterator[Input]) -> dict[str, Tensor]:
    """Each step by itself."""
    history = [step(*given) for given in inputs]
    return {name: torch.stack([terms[name] for terms in history]) for name in history[0]}


def own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """On a GPU what runs within goes its own way, beside what other threads run there."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()


def captured(steps: Launch) -> Launch:
    """What launches these steps as one graph; if they cannot be captured the steps as they are, with a warning."""
    try:
        graph = torch.cuda.CUDAGraph()
        # A stream for each graph: those captured on the same one would share a workspace of cuBLAS.
        with _capturing, torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
            result = steps()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"training launches its steps one by one, for want of a CUDA graph: {reason}", stacklevel=1)
        return steps

    def launch() -> Tensor:
        graph.replay()
        return result

    return launch


class Replayed:
    """Runs steps as graphs, one of `STEPS` steps and one of what an epoch has left.

    The very first steps are launched one by one: a capture must find cuBLAS and the optimiser's moments at hand.
    """

    tape: Tape | None = None

    def __init__(self, step: Step, capture: Callable[[Launch], Launch] = captured) -> None:
        self.step, self.capture = step, capture
        self.graphs: dict[int, Launch] = {}

    def __call__(self, inputs: Iterator[Input]) -> dict[str, Tensor]:
        """Each loss term of the steps in order."""
        terms = []
        while chunk := list(islice(inputs, STEPS)):
            launch = self._ready(chunk)
            terms.append(launch().clone())  # the next replay writes to the same place
        return dict(zip(self.names, torch.cat(terms).unbind(1), strict=True))

    def _ready(self, chunk: list[Input]) -> Launch:
        """Put all that the steps are given where they look for it."""
        given, rates, streams = zip(*chunk, strict=True)
        batches, steps = torch.stack(given), partial(self._steps, len(chunk))
        # AdamW reads a learning rate on a GPU as float32, and one on a CPU as the float64 that it is otherwise given.
        schedule = torch.tensor(rates, dtype=torch.float32 if batches.is_cuda else torch.float64)
        if self.tape is None:
            self.batches, self.rates = (new_buffer(rows, STEPS, batches.device) for rows in (batches, schedule))
            self.tape = Tape(batches.device, STEPS)
            self.tape.refill(streams)
            return steps
        fill(self.batches, batches)
        fill(self.rates, schedule)
        self.tape.refill(streams)
        if len(chunk) not in self.graphs:
            self.graphs[len(chunk)] = self.capture(steps)
        return self.graphs[len(chunk)]

    def _steps(self, count: int) -> Float[Tensor, "S T"]:
        assert self.tape is not None
        means = []
        for row in range(count):
            self.tape.rewind(row)
            terms = self.step(self.batches[row], self.rates[row], self.tape)
            self.names = list(terms)
            means.append(torch.stack(list(terms.values())))
        return torch.stack(means)
