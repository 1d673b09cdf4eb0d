"""Pictures made of digits, as ink on white, every pixel of an image a square of SCALE pixels."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from randomz.figures.shown import RANDOM, Study
from randomz.figures.style import (
    COLUMNS,
    CONTROL_LABELS,
    DPI,
    FOOTNOTE,
    GAP,
    GREY,
    INK,
    LINE,
    MARGIN,
    RULE,
    SAMPLER_LABELS,
    SAMPLERS_A_ROW,
    SCALE,
    interval,
    number,
    percent,
)  # fmt: skip


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


class Page:
    """A figure on which things stand at pixels, counted from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def picture(self, page: UInt8[np.ndarray, "height width"], left: int, top: int) -> None:
        """Grey levels, pixel by pixel."""
        bottom = self.height - top - page.shape[0]
        # As colours, for a colour map of greys is off by one level here and there.
        self.figure.figimage(np.stack([page] * 3, axis=-1), left, bottom, origin="upper")

    def text(self, text: str, left: int, top: int, **style: Any) -> None:  # noqa: ANN401 (matplotlib's text properties)
        """A text whose top left corner is there."""
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", **style)

    def axes(self, place: tuple[int, int], size: tuple[int, int]) -> Axes:
        """Axes of (width, height) pixels with their corner at (left, top)."""
        (left, top), (width, height) = place, size
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

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
    page = Page(width, 62 + len(rows) * band + 50)
    page.text("Does decoding a random z give a digit?", MARGIN, MARGIN, size=19, weight="bold")
    for number_of_band, names in enumerate(rows):
        for row, title in enumerate(("Pure random z", "z from a fitted density")):
            top = 62 + number_of_band * band + row * band // 2
            page.text(title, MARGIN, top, size=15)
            for column, name in enumerate(names):
                sampler = study.best_fitted(name) if row else RANDOM[study.models[name]["kind"]]
                place = (MARGIN + column * (side + gap), top + 34)
                heading = (f"{name}: {SAMPLER_LABELS[sampler]}", study.colour(name))
                page.panel(place, heading, _samples(study, name, sampler), 8, _scores(study, name, sampler))
    page.text(FOOTNOTE, MARGIN, page.height - 54, size=11, color=GREY)
    return page.figure


def samplers(study: Study, name: str) -> Figure:
    """Every way to draw a z for one model, side by side."""
    side, gap, height = grid_side(6), 22, panel_height(6, 2)
    rows = bands(list(study.models[name]["sampling"]), SAMPLERS_A_ROW)
    page = Page(2 * MARGIN + len(rows[0]) * (side + gap) - gap, MARGIN + 38 + len(rows) * height)
    page.text(name, MARGIN, MARGIN, size=16, weight="bold", color=study.colour(name))
    for row, names in enumerate(rows):
        for column, sampler in enumerate(names):
            place = (MARGIN + column * (side + gap), MARGIN + 38 + row * height)
            heading = (SAMPLER_LABELS.get(sampler, sampler), INK)
            page.panel(place, heading, _samples(study, name, sampler), 6, _scores(study, name, sampler))
    return page.figure


def controls(study: Study) -> Figure:
    """What the control sets look like, and what the yardstick says of them."""
    side, gap = grid_side(4), 14
    qualities = {"real": study.metrics["floor"]} | dict(study.metrics["controls"])
    names = [name for name in qualities if name in study.controls]
    page = Page(2 * MARGIN + len(names) * (side + gap) - gap, MARGIN + panel_height(4, 2))
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
    left, side = label_width(rows), grid_side(1)
    count = len(rows["test images"])
    page = Page(left + grid_side(count) + MARGIN, 2 * MARGIN + len(rows) * side)
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
    left, side, gap = label_width(pictures), grid_side(1), 26
    block = len(pictures) * side + 22
    page = Page(left + 2 * grid_side(steps) + gap + MARGIN, MARGIN + -(-pairs // 2) * block)
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


def label_width(labels: Iterable[str]) -> int:
    """Pixels that a column of model names takes."""
    return 2 * MARGIN + 14 * max(map(len, labels))
