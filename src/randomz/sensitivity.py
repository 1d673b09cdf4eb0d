"""Which metric catches which failure: read off the study of the metrics, never by hand.

A metric catches a failure where it leaves the band in which sets of real images lie, and stays out as the failure
grows. Only its bad side counts: a metric that rates a failure above real images warns nobody.
"""

from collections.abc import Mapping, Sequence
from typing import Any

BAND = 5.0  # deviations of sets of real images on either side of their mean: chance alone does not leave it
SMALLEST = 1e-3  # half a band at least: a deviation of a few sets may come out as nothing
WORSE_WHEN_LARGER = frozenset({"fd", "fd_infinite", "kid"})  # any other metric is worse when it is smaller

Tree = Mapping[str, Any]
Strengths = dict[str, dict[str, float | None]]  # metric -> family -> strength


def caught(study: Tree) -> Strengths:
    """Metric by family: the smallest strength from which the metric stays outside the band, on its bad side.

    `study` is the tree of reports/study.json. None where the metric does not see the strongest failure.
    """
    return {metric: _leaves(study, metric, worse=True) for metric in study["real"]}


def flattered(study: Tree) -> Strengths:
    """Metric by family: the smallest strength from which the metric rates the failure better than real images."""
    return {metric: _leaves(study, metric, worse=False) for metric in study["real"]}


def monotone(study: Tree) -> dict[str, dict[str, bool]]:
    """Metric by family: whether the metric goes one way from real images to the strongest failure.

    A way back within half a band is chance. A metric that does not move goes one way.
    """
    return {
        metric: {
            family: _one_way([real["mean"], *(step[metric] for step in steps)], half_band(real))
            for family, steps in study["families"].items()
        }
        for metric, real in study["real"].items()
    }


def half_band(real: Tree) -> float:
    """How far a set of real images may be from their mean, for a metric's `{"mean", "deviation"}`."""
    return max(BAND * float(real["deviation"]), SMALLEST)


def _leaves(study: Tree, metric: str, *, worse: bool) -> dict[str, float | None]:
    real = study["real"][metric]
    sign = 1 if worse == (metric in WORSE_WHEN_LARGER) else -1
    return {
        family: _stays_out(
            [step["strength"] for step in steps],
            [sign * (step[metric] - real["mean"]) > half_band(real) for step in steps],
        )
        for family, steps in study["families"].items()
    }


def _stays_out(strengths: Sequence[float], outside: Sequence[bool]) -> float | None:
    """Smallest strength from which every set is outside."""
    first = None
    for strength, out in zip(reversed(strengths), reversed(outside), strict=True):
        if not out:
            break
        first = strength
    return first


def _one_way(values: Sequence[float], tolerance: float) -> bool:
    """Whether the largest rise or the largest fall between any two, in their order, is within the tolerance."""
    rise = max(later - min(values[: place + 1]) for place, later in enumerate(values))
    fall = max(max(values[: place + 1]) - later for place, later in enumerate(values))
    return min(rise, fall) <= tolerance
