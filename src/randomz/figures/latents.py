"""What a latent keeps of an image and how it is laid out: rate against distortion, and the way between two codes."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from randomz.claims import Estimate, Tree
from randomz.figures.axes import new_axes, spans
from randomz.figures.pages import Page, grid, grid_side, label_width
from randomz.figures.shown import Study
from randomz.figures.style import GAP, GREY, MARGIN, NARROW, SCALE, Mark

NO_RATE = "continuous code, no finite rate"
MSE_TICKS = (0.002, 0.003, 0.005, 0.007, 0.01, 0.02, 0.03, 0.05, 0.07)


def rates(tree: Tree) -> dict[str, Estimate]:
    """Bits an image of a model's code, by what they are counted with; nothing for a code that has no finite rate."""
    if "kl" in tree:
        return {"KL": _scaled(Estimate.from_json(tree["kl"]["kl_nats"]), 1 / math.log(2))}
    if "codebook" in tree:
        keys = {"learnt prior": "prior_bits_per_image", "uniform codes": "nominal_bits_per_image"}
        return {label: Estimate.from_json(tree["codebook"][key]) for label, key in keys.items()}
    return {}


def distortion(tree: Tree) -> Estimate:
    """Squared error a pixel of reconstructed test images."""
    return Estimate.from_json(tree["reconstruction"]["mse"])


def rate_distortion(study: Study) -> Figure:
    """Squared error over the bits, and over the numbers, that a code has."""
    figure, axes = new_axes(2, 1, 500, NARROW)
    (above,), (below,) = axes
    _over_bits(above, study)
    _over_numbers(below, study)
    for axis, columns in ((above, 2), (below, 4)):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(FixedLocator(MSE_TICKS))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_ylabel("squared error a pixel")
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=columns, fontsize=12, borderaxespad=0)
    return figure


def _over_bits(axis: Axes, study: Study) -> None:
    rightmost = 0.0
    for name, tree in study.models.items():
        mark, mse, of_model = study.mark(name), distortion(tree), rates(tree)
        if not of_model:
            axis.axhline(mse.mean, color=mark.colour, linewidth=1.6, label=f"{name}: {NO_RATE}")
        for place, (label, rate) in enumerate(of_model.items()):
            _point(axis, rate, mse, mark, f"{name}: {label}", filled=place == 0)
            rightmost = max(rightmost, rate.highest)
    gaussian = study.metrics["gaussian_rate"]
    axis.plot(
        gaussian["bits"],
        gaussian["mse"],
        color=GREY,
        linestyle="--",
        zorder=0,
        label="Gaussian source",
    )
    axis.set(xlim=(0, 1.2 * rightmost or max(gaussian["bits"])), xlabel="bits an image")
    axis.set_title("Rate and distortion")


def _over_numbers(axis: Axes, study: Study) -> None:
    pca = study.metrics["pca"]
    sizes = sorted(map(int, pca))
    axis.plot(sizes, [pca[str(d)] for d in sizes], color=GREY, linestyle="--", marker=".", markersize=8, label="PCA")
    for name, tree in study.models.items():
        _point(
            axis,
            Estimate(float(study.sizes[name]), None, None, ()),
            distortion(tree),
            study.mark(name),
            name,
            filled=True,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(d) for d in sizes])
    axis.minorticks_off()
    axis.set(xlabel="numbers in the latent")
    axis.set_title("Size of the latent and distortion")


def _point(axis: Axes, x: Estimate, y: Estimate, mark: Mark, label: str, *, filled: bool) -> None:
    axis.errorbar([x.mean], [y.mean], xerr=spans([x]), yerr=spans([y]), color=mark.colour, capsize=4, linestyle="none")
    face = mark.colour if filled else "white"
    style: dict[str, Any] = {"color": mark.colour, "marker": mark.marker, "markerfacecolor": face, "markersize": 9}
    axis.plot([x.mean], [y.mean], linestyle="none", label=label, **style)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    low, high = (None if end is None else factor * end for end in (estimate.low, estimate.high))
    return Estimate(factor * estimate.mean, low, high, tuple(factor * value for value in estimate.per_seed))


def smoothness(study: Study) -> Figure:
    """How evenly images change from code to code: above, the share of each step; below, the images of one way."""
    ways = {name: of_seeds[0]["interpolation"][0] for name, of_seeds in study.pictures.items()}
    images = len(next(iter(ways.values())))
    left, side, plot = max(label_width(ways), 100), grid_side(1), 360
    page = Page(left + grid_side(images) + MARGIN, plot + 70 + len(ways) * side + MARGIN)
    for row, (name, way) in enumerate(ways.items()):
        top = plot + 70 + row * side
        page.text(name, MARGIN, top + 18, color=study.colour(name), weight="bold")
        page.picture(grid(way, images), left, top)
    axis = page.axes((left, 40), (grid_side(images), plot - 40))
    for name, of_seeds in study.pictures.items():
        mark = study.mark(name)
        shares = [change / change.sum() for change in (seed["path_change"].double().numpy() for seed in of_seeds)]
        steps = np.arange(1, len(shares[0]) + 1)
        axis.plot(steps, np.mean(shares, 0), color=mark.colour, marker=mark.marker, markersize=7, label=name)
    _align(axis, images)
    return page.figure


def _align(axis: Axes, images: int) -> None:
    """Step t stands above the border of the images that it leads from and to."""
    rule = GAP / 2 / (28 * SCALE + GAP)
    axis.set(xlim=(-rule, images + rule), ylim=(0, 1.4 * axis.get_ylim()[1]), xlabel="step")
    axis.set_xticks(range(1, images))
    axis.axhline(1 / (images - 1), color=GREY, linewidth=1.2, linestyle="--", zorder=0, label="even change")
    axis.set_title("Share of the image change that each step brings")
    axis.legend(loc="upper center", fontsize=12, ncols=3)
