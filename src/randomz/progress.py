"""Progress of long work: a bar with time left on a terminal, nothing in a log."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class Bar:
    """A bar that counts steps and shows the last figures."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar

    def advance(self, figures: Mapping[str, float]) -> None:
        """One step more."""
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        self._bar.update()


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Bar]:
    """A bar of `total` steps on standard error; silent where that is not a terminal."""
    with tqdm(total=total, desc=title, unit=unit, disable=not sys.stderr.isatty()) as bar:
        yield Bar(bar)
