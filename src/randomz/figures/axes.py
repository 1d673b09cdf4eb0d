"""What plots share: their size, and what is drawn on their axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from randomz.claims import Estimate
from randomz.figures.style import DPI, GREY, WIDTH


def new_axes(
    rows: int,
    columns: int,
    height: int,
    width: int = WIDTH,
    padding: float = 0.1,
    **options: Any,  # noqa: ANN401 (matplotlib's options of subplots)
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of so many axes, `width` pixels wide, each row `height` pixels high; `padding` in inches, upright."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=padding)
    figure = Figure(figsize=(width / DPI, rows * height / DPI), dpi=DPI, facecolor="white", layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in axes]


def spans(estimates: Sequence[Estimate]) -> Float[np.ndarray, "2 estimates"]:
    """What errorbar takes: distances from the means down and up."""
    return np.array([[e.mean - e.lowest for e in estimates], [e.highest - e.mean for e in estimates]])


def reference(axis: Axes, y: float, label: str) -> None:
    """A labelled line to compare curves with."""
    axis.axhline(y, color=GREY, linewidth=1.2, linestyle="--")
    axis.annotate(label, (0.98, y), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                  ha="right", va="bottom", color=GREY, fontsize=11)  # fmt: skip
