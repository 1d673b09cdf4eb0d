"""How every picture and every figure in a text looks: colours, labels, numbers.

A model has one colour everywhere, by its place in params.yaml; the colours are those of Okabe and Ito, which the
colour-blind tell apart, with wine for their yellow.
"""

import io
import math
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from randomz.claims import Estimate

DPI = 110
SCALE = 2  # pixels of a picture for one of an image: digits stay sharp on a dense screen
GAP = 2  # pixels of the rules between images
RULE = 222  # grey of the rules
WIDTH = 1470  # pixels of a plot; about that of three grids of 8 x 8 digits
MARGIN = 16
LINE = 25  # pixels from a line of text to the next
COLUMNS = 3  # models side by side in one band of a picture
SAMPLERS_A_ROW = 4  # of one model; more go to further rows
NARROW = 960  # pixels of a plot that is read on a phone too

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#882255", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
GREY = "#777777"
INK = "#222222"
EN_DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
SAMPLER_LABELS = {
    "standard_normal": "z ~ N(0, I)",
    "gaussian": "fitted Gaussian",
    "gmm": "Gaussian mixture",
    "flow": "normalising flow",
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


class Mark(NamedTuple):
    """How a model is told from the others."""

    colour: str
    marker: str


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


def to_png(figure: Figure) -> bytes:
    """The PNG of a figure, without the date and the version that would make equal figures differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer.getvalue()
