"""Tensors and metrics -> pictures, as PNG bytes; the same input gives the same bytes.

Digits are drawn as ink on white, every pixel of an image a square of SCALE pixels. A model has one colour everywhere,
by its place in params.yaml; the colours are those of Okabe and Ito, which the colour-blind tell apart, with wine for
their yellow.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from torch import Tensor

from randomz.claims import Estimate, Tree

DPI = 110
SCALE = 2  # pixels of a picture for one of an image: digits stay sharp on a dense screen
GAP = 2  # pixels of the rules between images
RULE = 222  # grey of the rules
WIDTH = 1470  # pixels of a plot; about that of three grids of 8 x 8 digits
MARGIN = 16
LINE = 25  # pixels from a line of text to the next
COLUMNS = 3  # models side by side in one band of a picture

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#882255", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
GREY = "#777777"
INK = "#222222"
EN_DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

RANDOM = {"ae": "standard_normal", "vae": "standard_normal", "vqvae": "uniform"}
FITTED = {"ae": "gmm", "vae": "gmm", "vqvae": "autoregressive"}
SAMPLER_LABELS = {
    "standard_normal": "z ~ N(0, I)",
    "gaussian": "fitted Gaussian",
    "gmm": "Gaussian mixture",
    "uniform": "uniform codes",
    "position": "codes by position",
    "autoregressive": "autoregressive codes",
    "posterior": "codes of test images",
}
CONTROL_LABELS = {"real": "real digits", "one_class": "one class"}
FOOTNOTE = """FD ratio: Fréchet distance to test digits, over that of real training digits.
Digits: share of the images that passes for a digit."""
TERM_LABELS = {
    "total": "total",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "codebook": "codebook",
    "commitment": "commitment",
}

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}

History = Mapping[str, Float[np.ndarray, " rows"]]  # a column by its name
Pictures = Mapping[str, Tensor]


class Mark(NamedTuple):
    """How a model is told from the others."""

    colour: str
    marker: str


@dataclass(frozen=True)
class Study:
    """What there is to show. Models stand in the order of params.yaml, in every mapping.

    `metrics` is the tree of reports/metrics.json; `histories` has the columns of a model's history.csv; `pictures` has
    a model's pictures of each seed, in the order of the seeds; `controls` the images of the control sets.
    """

    metrics: Tree
    histories: Mapping[str, History]
    pictures: Mapping[str, Sequence[Pictures]]
    controls: Mapping[str, UInt8[Tensor, "N 28 28"]]

    @property
    def models(self) -> Tree:
        """The metrics of each model."""
        models: Tree = self.metrics["models"]
        return models

    def of_kind(self, kind: str) -> list[str]:
        """The names of the models of a kind."""
        return [name for name, tree in self.models.items() if tree["kind"] == kind]

    def mark(self, model: str) -> Mark:
        """The colour and the marker of a model."""
        place = list(self.models).index(model)
        return Mark(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])

    def colour(self, model: str) -> str:
        """The colour of a model."""
        return self.mark(model).colour

    def quality(self, model: str, sampler: str, metric: str) -> Estimate:
        """A sample-quality figure."""
        return Estimate.from_json(self.models[model]["sampling"][sampler][metric])


def number(value: float) -> str:
    """A number with three significant digits, and the minus sign of typography: 1460, 98.3, 0.00731."""
    rounded = float(f"{value:.2e}")
    if rounded == 0:
        return "0"
    exponent = math.floor(math.log10(abs(rounded)))
    text = f"{rounded:.2e}" if exponent < -4 else f"{rounded:.{max(0, 2 - exponent)}f}"  # noqa: PLR2004
    return text.replace("-", MINUS)


def interval(estimate: Estimate) -> str:
    """`12.3 (11.9-12.7)` with an en dash, or `to` beside a minus sign; the mean alone with one seed or equal values."""
    if estimate.low is None or estimate.high is None or math.isclose(estimate.low, estimate.high, rel_tol=1e-9):
        return number(estimate.mean)
    dash = " to " if estimate.low < 0 else EN_DASH
    return f"{number(estimate.mean)} ({number(estimate.low)}{dash}{number(estimate.high)})"


def percent(estimate: Estimate) -> str:
    """The same for a share, in percent with one decimal: `12.3 % (11.9-12.7 %)`."""
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.mean:.1f} %"
    # A share does not leave [0, 1], whatever the interval's formula says.
    low, high = max(0.0, 100 * estimate.low), min(100.0, 100 * estimate.high)
    return f"{100 * estimate.mean:.1f} % ({low:.1f}{EN_DASH}{high:.1f} %)"


def grid(images: UInt8[Tensor, "N H W"], columns: int) -> UInt8[np.ndarray, "height width"]:
    """Images as ink on white with rules around them: image i stands in row i // columns, column i % columns."""
    ink = (255 - images).numpy().repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    count, height, width = ink.shape
    rows = -(-count // columns)
    page = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), RULE, dtype=np.uint8)
    for i, image in enumerate(ink):
        top, left = (i // columns) * (height + GAP) + GAP, (i % columns) * (width + GAP) + GAP
        page[top : top + height, left : left + width] = image
    return page


def grid_side(images: int) -> int:
    """Pixels that `grid` takes for so many 28-pixel images in a row or a column."""
    return images * (28 * SCALE + GAP) + GAP


def to_png(figure: Figure) -> bytes:
    """The PNG of a figure, without the date and the version that would make equal figures differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer.getvalue()


class _Page:
    """A figure on which things stand at pixels, counted from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def picture(self, page: UInt8[np.ndarray, "height width"], left: int, top: int) -> None:
        bottom = self.height - top - page.shape[0]
        # As colours, for a colour map of greys is off by one level here and there.
        self.figure.figimage(np.stack([page] * 3, axis=-1), left, bottom, origin="upper")

    def text(self, text: str, left: int, top: int, **style: Any) -> None:  # noqa: ANN401 (matplotlib's text properties)
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", **style)

    def panel(
        self, place: tuple[int, int], heading: tuple[str, str], images: Tensor, columns: int, captions: Sequence[str]
    ) -> None:
        """A square grid of images at (left, top): a heading of (bold text, colour) above it, captions below it."""
        left, top = place
        title, colour = heading
        self.text(title, left, top, color=colour, weight="bold")
        self.picture(grid(images[: columns * columns], columns), left, top + LINE + 2)
        for line, caption in enumerate(captions):
            self.text(caption, left, top + LINE + 8 + grid_side(columns) + line * LINE)


def panel_height(columns: int, captions: int) -> int:
    """Pixels from the top of a panel to that of what follows it."""
    return LINE + 8 + grid_side(columns) + captions * LINE + 20


def bands(names: Sequence[str], most: int) -> list[Sequence[str]]:
    """Names in bands of at most so many, as even as can be."""
    size = -(-len(names) // -(-len(names) // most))
    return [names[start : start + size] for start in range(0, len(names), size)]


def random_z(study: Study) -> Figure:
    """The answer at one look: above, what a random z decodes to; below, what a z from a fitted density does."""
    side, gap = grid_side(8), 22
    rows = bands(list(study.models), COLUMNS)
    width = max(2 * MARGIN + len(rows[0]) * (side + gap) - gap, 800)
    band = 2 * (panel_height(8, 2) + 34)
    page = _Page(width, 62 + len(rows) * band + 50)
    page.text("Does decoding a random z give a digit?", MARGIN, MARGIN, size=19, weight="bold")
    for number_of_band, names in enumerate(rows):
        for row, (title, samplers) in enumerate((("Pure random z", RANDOM), ("z from a fitted density", FITTED))):
            top = 62 + number_of_band * band + row * band // 2
            page.text(title, MARGIN, top, size=15)
            for column, name in enumerate(names):
                sampler = samplers[study.models[name]["kind"]]
                place = (MARGIN + column * (side + gap), top + 34)
                heading = (f"{name}: {SAMPLER_LABELS[sampler]}", study.colour(name))
                page.panel(place, heading, _samples(study, name, sampler), 8, _scores(study, name, sampler))
    page.text(FOOTNOTE, MARGIN, page.height - 54, size=11, color=GREY)
    return page.figure


def samplers(study: Study, name: str) -> Figure:
    """Every way to draw a z for one model, side by side."""
    side, gap = grid_side(6), 22
    names = list(study.models[name]["sampling"])
    page = _Page(2 * MARGIN + len(names) * (side + gap) - gap, MARGIN + 38 + panel_height(6, 2))
    page.text(name, MARGIN, MARGIN, size=16, weight="bold", color=study.colour(name))
    for column, sampler in enumerate(names):
        place = (MARGIN + column * (side + gap), MARGIN + 38)
        heading = (SAMPLER_LABELS.get(sampler, sampler), INK)
        page.panel(place, heading, _samples(study, name, sampler), 6, _scores(study, name, sampler))
    return page.figure


def controls(study: Study) -> Figure:
    """What the control sets look like, and what the yardstick says of them."""
    side, gap = grid_side(4), 14
    qualities = {"real": study.metrics["floor"]} | dict(study.metrics["controls"])
    names = [name for name in qualities if name in study.controls]
    page = _Page(2 * MARGIN + len(names) * (side + gap) - gap, MARGIN + panel_height(4, 2))
    for column, name in enumerate(names):
        ratio = qualities[name]["fd"] / study.metrics["floor"]["fd"]
        captions = [f"FD ratio {number(ratio)}", f"digits {100 * qualities[name]['digit_rate']:.1f} %"]
        place = (MARGIN + column * (side + gap), MARGIN)
        page.panel(place, (CONTROL_LABELS.get(name, name), INK), study.controls[name], 4, captions)
    return page.figure


def reconstructions(study: Study) -> Figure:
    """Test images, and below each what the models make of it."""
    first = [pictures[0] for pictures in study.pictures.values()]
    rows = {"test images": _shared_originals(study)}
    rows |= {name: pictures["reconstructions"] for name, pictures in zip(study.models, first, strict=True)}
    left, side = _label_width(rows), grid_side(1)
    count = len(rows["test images"])
    page = _Page(left + grid_side(count) + MARGIN, 2 * MARGIN + len(rows) * side)
    for row, (name, images) in enumerate(rows.items()):
        top = MARGIN + row * side
        colour = study.colour(name) if name in study.models else INK
        page.text(name, MARGIN, top + 18, color=colour, weight="bold")
        page.picture(grid(images, count), left, top)
    return page.figure


def interpolations(study: Study) -> Figure:
    """From the code of one test image to that of another: a block a pair, in it a row a model."""
    pictures = {name: of_seeds[0]["interpolation"] for name, of_seeds in study.pictures.items()}
    pairs, steps = next(iter(pictures.values())).shape[:2]
    left, side, gap = _label_width(pictures), grid_side(1), 26
    block = len(pictures) * side + 22
    page = _Page(left + 2 * grid_side(steps) + gap + MARGIN, MARGIN + -(-pairs // 2) * block)
    for pair in range(pairs):
        for row, (name, images) in enumerate(pictures.items()):
            top = MARGIN + (pair // 2) * block + row * side
            page.picture(grid(images[pair], steps), left + (pair % 2) * (grid_side(steps) + gap), top)
            if pair % 2 == 0:
                page.text(name, MARGIN, top + 18, color=study.colour(name), weight="bold")
    return page.figure


def _samples(study: Study, name: str, sampler: str) -> Tensor:
    return study.pictures[name][0][f"samples.{sampler}"]


def _scores(study: Study, name: str, sampler: str) -> list[str]:
    ratio, digits = (study.quality(name, sampler, metric) for metric in ("fd_ratio", "digit_rate"))
    return [f"FD ratio {interval(ratio)}", f"digits {percent(digits)}"]


def _shared_originals(study: Study) -> Tensor:
    originals = {name: pictures[0]["originals"] for name, pictures in study.pictures.items()}
    (first, images), *others = originals.items()
    for name, theirs in others:
        if not images.equal(theirs):
            raise ValueError(
                f"pictures of {name}: originals differ from those of {first}; the same test images are accepted"
            )
    return images


def _label_width(labels: Iterable[str]) -> int:
    return 2 * MARGIN + 14 * max(map(len, labels))


def training(study: Study) -> Figure:
    """Validation loss and its terms over epochs: a row a model, a line a seed."""
    terms = {
        name: [column for column in history if column.startswith("validation_")]
        for name, history in study.histories.items()
    }
    columns = max(map(len, terms.values()))
    figure, axes = _plots(len(terms), columns, 235 + 40 // len(terms))
    for row, (name, shown) in zip(axes, terms.items(), strict=True):
        for axis, column in zip(row, shown, strict=False):
            term = column.removeprefix("validation_")
            _curves(axis, study, name, column)
            axis.set_title(TERM_LABELS.get(term, term))
        for axis in row[len(shown) :]:
            axis.set_axis_off()
        row[0].set_ylabel(name, color=study.colour(name), weight="bold")
    figure.suptitle("Validation loss and its terms, nats per image", x=0.01, ha="left", size=16, weight="bold")
    return figure


def codebook(study: Study) -> Figure | None:
    """How evenly a VQ-VAE's codes are used, and how that came about: a row a model, a line a seed."""
    names = study.of_kind("vqvae")
    if not names:
        return None
    figure, axes = _plots(len(names), 3, 300)
    for row, name in zip(axes, names, strict=True):
        colour = study.colour(name)
        counts = [pictures["code_counts"].double() for pictures in study.pictures[name]]
        size = len(counts[0])
        for count in counts:
            shares = 100 * (count / count.sum()).sort(descending=True).values
            row[0].plot(range(1, size + 1), shares.numpy(), color=colour, linewidth=1.2)
        _reference(row[0], 100 / size, "all codes alike")
        row[0].set(xlabel="code, by rank", ylabel="share of all codes, %", ylim=(0, None))
        _curves(row[1], study, name, "dead_codes")
        row[1].set(ylabel="codes", ylim=(0, None))
        row[1].yaxis.set_major_locator(MaxNLocator(integer=True))
        _curves(row[2], study, name, "running_perplexity")
        _reference(row[2], float(size), f"K = {size}")
        row[2].set(ylabel="codes", ylim=(0, 1.25 * size))
        for axis, title in zip(row, ("use on test images", "dead codes", "running perplexity"), strict=True):
            axis.set_title(f"{name}: {title}", color=colour)
    return figure


def kl(study: Study) -> Figure | None:
    """KL of each latent dimension, sorted: a line a seed."""
    names = study.of_kind("vae")
    if not names:
        return None
    figure, axes = _plots(1, 1, 420)
    axis = axes[0][0]
    for name in names:
        colour, marker = study.mark(name)
        for seed, pictures in enumerate(study.pictures[name]):
            nats = pictures["kl_per_dimension"].sort(descending=True).values.numpy()
            label = name if seed == 0 else None
            axis.plot(
                range(1, len(nats) + 1), nats, marker=marker, color=colour, markersize=5, linewidth=1, label=label
            )
    axis.set(xlabel="latent dimension, by rank", ylabel="KL, nats", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("KL(q(z | x) ‖ N(0, I)) of each dimension, mean over test images")
    axis.legend()
    return figure


def bounds(study: Study) -> Figure | None:
    """Importance-weighted lower bounds on log p(x) over the number of draws k."""
    names = study.of_kind("vae")
    if not names:
        return None
    figure, axes = _plots(1, 1, 420)
    axis = axes[0][0]
    for place, name in enumerate(names):
        bound = study.models[name]["kl"]["bound"]
        order = sorted(bound, key=int)
        estimates = [Estimate.from_json(bound[k]) for k in order]
        # Moved apart a little, so that intervals of different models do not hide each other.
        shifted = [int(k) * 1.06 ** (place - (len(names) - 1) / 2) for k in order]
        means = [estimate.mean for estimate in estimates]
        colour, marker = study.mark(name)
        label = f"{name}: {number(means[-1])} at k = {order[-1]}"
        axis.errorbar(shifted, means, yerr=_spans(estimates), color=colour, marker=marker, capsize=4, label=label)
    axis.set_xscale("log")
    axis.set_xticks([int(k) for k in order], order)
    axis.minorticks_off()
    axis.set(xlabel="draws k", ylabel="bound on log p(x), nats")
    axis.set_title("Importance-weighted bounds; k = 1 is the ELBO")
    axis.margins(x=0.08)
    axis.legend(loc="lower right")
    return figure


def sampling(study: Study) -> Figure:
    """Every sampler and control on one scale: Frechet distance as a multiple of the floor, and digit rate."""
    rows = _sampling_rows(study)
    figure, axes = _plots(1, 2, 90 + 33 * len(rows), width_ratios=(5, 3), sharey=True)
    left, right = axes[0]
    for y, (_, mark, ratio, digits) in enumerate(rows):
        _dot(left, y, ratio, number(ratio.mean), mark)
        scaled = Estimate(100 * digits.mean, 100 * digits.lowest, min(100.0, 100 * digits.highest), ())
        _dot(right, y, scaled, f"{scaled.mean:.0f} %", mark)
        if mark.colour == GREY:
            left.axvline(ratio.mean, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    lowest = min(ratio.mean for _, _, ratio, _ in rows)
    left.set_xscale("log")
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.set(xlim=(0.7 * min(1, lowest), 3.2 * max(ratio.highest for _, _, ratio, _ in rows)))
    left.axvline(1, color=INK, linewidth=1.2, zorder=0)
    left.set_title("FD ratio (line: real digits; dotted: controls)")
    right.axvline(100 * study.metrics["floor"]["digit_rate"], color=INK, linewidth=1.2, zorder=0)
    right.set(xlim=(-3, 124), xticks=range(0, 101, 25))
    right.set_title("share that passes for a digit, %")
    left.set_yticks(range(len(rows)), [label for label, *_ in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    for tick, (_, mark, *_) in zip(left.get_yticklabels(), rows, strict=True):
        tick.set_color(mark.colour)
    return figure


_Row = tuple[str, Mark, Estimate, Estimate]


def _sampling_rows(study: Study) -> list[_Row]:
    rows: list[_Row] = []
    for name, tree in study.models.items():
        for sampler in tree["sampling"]:
            label = f"{name}: {SAMPLER_LABELS.get(sampler, sampler)}"
            ratio, digits = (study.quality(name, sampler, metric) for metric in ("fd_ratio", "digit_rate"))
            rows.append((label, study.mark(name), ratio, digits))
    for name, quality in study.metrics["controls"].items():
        ratio, digits = (
            Estimate(value, None, None, ())
            for value in (quality["fd"] / study.metrics["floor"]["fd"], quality["digit_rate"])
        )
        rows.append((f"control: {CONTROL_LABELS.get(name, name)}", Mark(GREY, "d"), ratio, digits))
    return rows


def _dot(axis: Axes, y: int, estimate: Estimate, label: str, mark: Mark) -> None:
    spans = np.abs(_spans([estimate]))
    axis.errorbar(
        [estimate.mean],
        [y],
        xerr=spans,
        color=mark.colour,
        marker=mark.marker,
        markersize=7,
        capsize=4,
        linestyle="none",
    )
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    place = (estimate.highest, y)
    axis.annotate(label, place, (10, 0), textcoords="offset points", va="center", fontsize=11, bbox=box)


def _spans(estimates: Sequence[Estimate]) -> Float[np.ndarray, "2 estimates"]:
    """What errorbar takes: distances from the means down and up."""
    return np.array([[e.mean - e.lowest for e in estimates], [e.highest - e.mean for e in estimates]])


def _curves(axis: Axes, study: Study, name: str, column: str) -> None:
    history = study.histories[name]
    for seed in dict.fromkeys(history["seed"]):
        rows = history["seed"] == seed
        axis.plot(
            history["epoch"][rows],
            history[column][rows],
            color=study.colour(name),
            marker=".",
            markersize=4,
            linewidth=1,
        )
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _reference(axis: Axes, y: float, label: str) -> None:
    axis.axhline(y, color=GREY, linewidth=1.2, linestyle="--")
    axis.annotate(label, (0.98, y), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                  ha="right", va="bottom", color=GREY, fontsize=11)  # fmt: skip


def _plots(rows: int, columns: int, height: int, **options: Any) -> tuple[Figure, list[list[Axes]]]:  # noqa: ANN401
    """A figure of WIDTH pixels with so many axes, each row `height` pixels high."""
    padding = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(WIDTH / DPI, rows * height / DPI), dpi=DPI, facecolor="white", layout=padding)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in axes]


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
}


def draw_figures(study: Study) -> dict[str, bytes]:
    """The PNGs of all figures that have something to show, by their names; `samplers_<model>` for each model."""
    with matplotlib.style.context(["default", STYLE]):
        figures = {name: draw(study) for name, draw in FIGURES.items()}
        figures |= {f"samplers_{name}": samplers(study, name) for name in study.models}
        return {name: to_png(figure) for name, figure in figures.items() if figure is not None}
