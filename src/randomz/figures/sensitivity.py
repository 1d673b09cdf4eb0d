"""Whether the metrics see what they are for: each over failures of rising strength."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from randomz.figures.axes import new_axes
from randomz.figures.shown import Study
from randomz.figures.style import INK, NARROW
from randomz.sensitivity import WORSE_WHEN_LARGER, caught, flattered, half_band

FAMILIES: Mapping[str, tuple[str, str]] = {  # what is done to real images, and the unit of its strength
    "noise": ("noise", "share of pixels"),
    "blur": ("blur", "sigma, pixels"),
    "shuffle": ("shuffled pixels", "share of pixels"),
    "dropped_classes": ("dropped classes", "classes of ten"),
    "copied": ("copied images", "share of the set"),
}
LOWEST, HIGHEST = -30.0, 3e4  # half bands that are drawn; what is farther stands at the edge
PALE, BAND_COLOUR = "#aaaaaa", "#dddddd"
CAUGHT: Mapping[str, Any] = {"marker": "o", "color": INK, "markerfacecolor": INK}
UNSEEN: Mapping[str, Any] = {"marker": "o", "color": PALE, "markerfacecolor": "white"}
FLATTERED: Mapping[str, Any] = {"marker": "v", "color": PALE, "markerfacecolor": PALE}


def family_words(family: str) -> tuple[str, str]:
    """A family of failures in words, and the unit of its strength."""
    return FAMILIES.get(family, (family.replace("_", " "), "strength"))


def sensitivity(study: Study) -> Figure:
    """A row a metric, a column a family of failures: how far the metric is from where real images are."""
    tree = study.metrics["study"]
    metrics, families = list(tree["real"]), tree["families"]
    worse, better = caught(tree), flattered(tree)
    figure, axes = new_axes(len(metrics), len(families), 92, NARROW, padding=0.03, sharey=True, sharex="col")
    for row, metric in zip(axes, metrics, strict=True):
        real, sign = tree["real"][metric], 1 if metric in WORSE_WHEN_LARGER else -1
        for axis, (family, steps) in zip(row, families.items(), strict=True):
            values = [sign * (step[metric] - real["mean"]) / half_band(real) for step in steps]
            strengths = [step["strength"] for step in steps]
            _curve(axis, strengths, values, (worse[metric][family], better[metric][family]))
        name = metric.replace("_", "\n")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", weight="bold", fontsize=16)
    for axis, family in zip(axes[0], families, strict=True):
        axis.set_title(_in_two_lines(family_words(family)[0]), fontsize=15)
    for axis, (family, steps) in zip(axes[-1], families.items(), strict=True):
        axis.set_xticks([0, len(steps) - 1], [f"{steps[place]['strength']:g}" for place in (0, -1)], fontsize=13)
        axis.set_xlabel(family_words(family)[1], fontsize=12)
    _explain(figure)
    return figure


def _curve(
    axis: Axes, strengths: Sequence[float], values: Sequence[float], smallest: tuple[float | None, float | None]
) -> None:
    """`smallest` are the strengths from which the metric catches the failure, and from which it flatters it."""
    places = range(len(values))
    drawn = [min(max(value, LOWEST), HIGHEST) for value in values]
    axis.axhspan(-1, 1, color=BAND_COLOUR, zorder=0)
    axis.plot(places, drawn, color=PALE if smallest[0] is None else INK, linewidth=1.2, zorder=2)
    for place, strength, value in zip(places, strengths, drawn, strict=True):
        seen, liked = (start is not None and strength >= start for start in smallest)
        style = CAUGHT if seen else FLATTERED if liked else UNSEEN
        axis.plot([place], [value], markersize=5.5, zorder=3, **style)
    axis.set_yscale("symlog", linthresh=1, linscale=0.7)
    axis.set_ylim(2 * LOWEST, 3 * HIGHEST)
    axis.set_yticks([0, 1000], ["real", "10³"], fontsize=12)
    axis.minorticks_off()
    axis.tick_params(axis="x", length=0)
    axis.margins(x=0.1)
    axis.grid(visible=False, axis="x")


def _in_two_lines(text: str) -> str:
    first, _, rest = text.rpartition(" ")
    return f"{first}\n{rest}" if first else text


def _explain(figure: Figure) -> None:
    handles = [
        Line2D([], [], markersize=6, label="caught", **CAUGHT),
        Line2D([], [], markersize=6, label="not seen", **UNSEEN),
        Line2D([], [], markersize=6, label="rated better than real", **FLATTERED),
        Patch(color=BAND_COLOUR, label="sets of real images"),
    ]
    title = "Does a metric see a failure that grows?\nUpwards: worse than real images, in half widths of their band."
    figure.suptitle(title, x=0.01, ha="left", size=14)
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=13, columnspacing=1)
