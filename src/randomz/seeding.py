"""One random stream a purpose: every draw is a function of (purpose, keys), never of what was drawn before."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lent = threading.Lock()  # the one global generator that all threads share


def _digest(purpose: str, keys: tuple[int, ...], size: int) -> int:
    text = "/".join([purpose, *map(str, keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "big")


def integer(purpose: str, *keys: int) -> int:
    """A seed below 2**32 for numpy and scikit-learn."""
    return _digest(purpose, keys, 4)


def generator(purpose: str, *keys: int) -> torch.Generator:
    """A CPU generator that stands at the start of the stream of this purpose and these keys.

    Streams are drawn on the CPU so that order, initial weights and noise do not depend on the kind of device.
    """
    return torch.Generator().manual_seed(_digest(purpose, keys, 8) >> 1)


@contextmanager
def global_stream(purpose: str, *keys: int) -> Iterator[None]:
    """Torch's global generator, from which layers take their initial weights, lent a stream of its own meanwhile."""
    with _lent, torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(purpose, *keys))
        yield
