"""Which device a stage runs on, and its seeds side by side: in processes on a CPU, in threads on a GPU."""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from randomz.orphans import die_with_parent

VARIABLE = "RANDOMZ_DEVICE"
THREADS = 8  # seeds at once on a GPU: each may take three of the 32 streams that torch lends


class DeviceError(RuntimeError):
    """The device asked for is not to be had, or a process on it died."""


def choose_device(*, forks: bool = False) -> torch.device:
    """The device that RANDOMZ_DEVICE names: auto (cuda where there is one, else cpu), cpu or cuda.

    A stage that goes on to `each_seed` says `forks`, before any other work: on a CPU it then keeps to one thread
    itself, because GNU's OpenMP hangs in a child with several threads whose parent has had several.
    """
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in {"auto", "cpu", "cuda"}:
        raise DeviceError(f"{VARIABLE}: found {asked!r}; accepted: auto, cpu, cuda")
    if asked == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"{VARIABLE}: found 'cuda', but torch {torch.__version__} sees no CUDA device; accepted: cpu")
    device = torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")
    if forks and device.type == "cpu":
        torch.set_num_threads(1)
    return device


@dataclass(frozen=True)
class Progress:
    """Something that a seed has to say while it runs."""

    seed: int
    row: dict[str, float]


@dataclass(frozen=True)
class Done:
    """What a seed came to."""

    seed: int
    result: Any


@dataclass(frozen=True)
class _Failed:
    seed: int
    error: str


Task = Callable[[int, Callable[[dict[str, float]], None]], Any]


def each_seed(
    task: Task, seeds: Sequence[int], device: torch.device, *, at_once: bool = False
) -> Iterator[Progress | Done]:
    """Run `task(seed, say)` for every seed; yield what each says while it runs and, at its end, its result.

    On a CPU every seed is a process with its own share of the cores, so results depend on neither order nor load.
    On a GPU, whose context a fork would break, it is a thread: one after the other, or some `at_once` where the task
    leaves global generators alone. Raises DeviceError that names the seed when one fails; the others are stopped.
    """
    if device.type == "cpu":
        yield from _in_processes(task, seeds)
        return
    size = THREADS if at_once else 1
    for start in range(0, len(seeds), size):
        yield from _in_threads(task, seeds[start : start + size])


def _in_threads(task: Task, seeds: Sequence[int]) -> Iterator[Progress | Done]:
    said: queue.SimpleQueue[Progress | Done | _Failed] = queue.SimpleQueue()
    stopped = threading.Event()

    def send(message: Progress | Done | _Failed) -> None:
        if stopped.is_set():
            raise SystemExit  # of this thread alone
        said.put(message)

    def work(seed: int) -> None:
        with suppress(SystemExit):
            _work(task, seed, send)

    for seed in seeds:
        threading.Thread(target=work, args=(seed,), daemon=True).start()
    running = len(seeds)
    try:
        while running:
            message = _unless_failed(said.get())
            running -= isinstance(message, Done)
            yield message
    finally:
        stopped.set()


def _in_processes(task: Task, seeds: Sequence[int]) -> Iterator[Progress | Done]:
    threads = max(1, (os.cpu_count() or 1) // len(seeds))
    # A forked child starts at once; a fresh interpreter would spend eight seconds on importing torch again.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    listening: dict[Connection, int] = {}
    processes = []
    for seed in seeds:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(task, seed, sender, threads, os.getpid()), daemon=True)
        process.start()
        sender.close()
        listening[receiver] = seed
        processes.append(process)
    try:
        yield from _listen(listening)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _listen(listening: dict[Connection, int]) -> Iterator[Progress | Done]:
    while listening:
        for receiver in wait(list(listening)):
            assert isinstance(receiver, Connection)
            seed = listening[receiver]
            try:
                message = pickle.loads(receiver.recv_bytes())  # noqa: S301 (our own child wrote it)
            except (EOFError, OSError) as error:  # between two messages, or in the middle of one
                raise DeviceError(f"seed {seed}: its process died without a word (out of memory, or killed)") from error
            if isinstance(message, Done):
                del listening[receiver]
            yield _unless_failed(message)


def _unless_failed(message: "Progress | Done | _Failed") -> Progress | Done:
    if isinstance(message, _Failed):
        raise DeviceError(f"seed {message.seed}: {message.error}")
    return message


def _child(task: Task, seed: int, sender: Connection, threads: int, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears ctrl-C and ends its children
    die_with_parent(parent)
    torch.set_num_threads(threads)
    # Pickled by value: torch's own way of sending a tensor needs a sender that lives until it is read.
    with threadpool_limits(threads):
        _work(task, seed, lambda message: sender.send_bytes(pickle.dumps(message)))


def _work(task: Task, seed: int, send: Callable[[Any], None]) -> None:
    try:
        send(Done(seed, task(seed, lambda row: send(Progress(seed, row)))))
    except Exception as error:  # noqa: BLE001 (whatever it is, the parent has to hear of it)
        detail = "" if isinstance(error, ValueError) else "\n" + traceback.format_exc()
        send(_Failed(seed, f"{error}{detail}"))
