"""Tensors and metrics -> pictures, as PNG bytes; the same input gives the same bytes."""

from collections.abc import Callable, Mapping

import matplotlib.style
from matplotlib.figure import Figure

from randomz.figures.latents import distortion, rate_distortion, rates, smoothness
from randomz.figures.pages import (
    bands,
    controls,
    grid,
    grid_side,
    interpolations,
    random_z,
    reconstructions,
    samplers,
)
from randomz.figures.plots import bounds, codebook, kl, sampling, training
from randomz.figures.sensitivity import family_words, sensitivity
from randomz.figures.shown import ORACLE, RANDOM, History, Pictures, Study, best_fitted
from randomz.figures.style import EN_DASH, GAP, RULE, SCALE, STYLE, Mark, interval, number, percent, to_png

FIGURES: Mapping[str, Callable[[Study], Figure | None]] = {
    "random_z": random_z,
    "reconstructions": reconstructions,
    "interpolations": interpolations,
    "training": training,
    "codebook": codebook,
    "kl": kl,
    "sampling": sampling,
    "controls": controls,
    "bounds": bounds,
    "study": sensitivity,
    "rate_distortion": rate_distortion,
    "smoothness": smoothness,
}

__all__ = [
    "EN_DASH",
    "FIGURES",
    "GAP",
    "ORACLE",
    "RANDOM",
    "RULE",
    "SCALE",
    "History",
    "Mark",
    "Pictures",
    "Study",
    "bands",
    "best_fitted",
    "bounds",
    "codebook",
    "controls",
    "distortion",
    "draw_figures",
    "family_words",
    "grid",
    "grid_side",
    "interpolations",
    "interval",
    "kl",
    "number",
    "percent",
    "random_z",
    "rate_distortion",
    "rates",
    "reconstructions",
    "samplers",
    "sampling",
    "sensitivity",
    "smoothness",
    "to_png",
    "training",
]


def draw_figures(study: Study) -> dict[str, bytes]:
    """The PNGs of all figures that have something to show, by their names; `samplers_<model>` for each model."""
    with matplotlib.style.context(["default", STYLE]):
        figures = {name: draw(study) for name, draw in FIGURES.items()}
        figures |= {f"samplers_{name}": samplers(study, name) for name in study.models}
        return {name: to_png(figure) for name, figure in figures.items() if figure is not None}
