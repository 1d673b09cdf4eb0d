"""Figures of a pipeline that was run again, held against committed ones within what another machine may change.

Every random draw is a function of the seeds, so the same machine gives the same bits (`exact`). On another one sums are
rounded in another order. What follows from data and judge alone (PINNED) then differs by that rounding. A training
amplifies it until its weights are another draw of the same kind, so figures over seeds may differ as far as their two
95 % intervals allow, and TRAINED is the least that is allowed where an interval over few seeds is narrow by chance.
"""

import math
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from randomz.claims import Estimate
from randomz.drift import downstream
from randomz.figures import number
from randomz.files import read_json
from randomz.lock import LOCK_FILE, Lock, read_lock
from randomz.markdown import table

BYTES = ("prepare", "judge")  # stages whose files are the same bytes everywhere: data by their sums, a pinned judge
COUNTS = ("kind", "parameters", "samples", "draws", "strength", "bound_images", "holds")  # the same everywhere


@dataclass(frozen=True)
class Tolerance:
    """How far two figures may be apart: a share of the committed one, or so much where that is more."""

    relative: float
    absolute: float
    reason: str

    def of(self, committed: float) -> float:
        """In the figure's own unit."""
        return max(self.relative * abs(committed), self.absolute)


# An AVX2 processor against one with AVX-512 gave 1e-7 and one image's rank; a GPU sums in yet another order.
_ROUNDING = Tolerance(1e-4, 1e-8, "rounding of features")
_RANKS = Tolerance(0, 1e-3, "a few of 5,000 or 10,000 images at a threshold change sides")
PINNED: Mapping[str, Tolerance] = {
    "test_accuracy": Tolerance(0, 2e-4, "two of 10,000 test images at a tie between classes"),
    **dict.fromkeys(("fd", "fd_infinite", "kid", "class_entropy", "pca", "mse", "bits", "pca_mse"), _ROUNDING),
    **dict.fromkeys(("precision", "recall", "density", "coverage", "digit_rate", "authenticity"), _RANKS),
}
_DISTANCE = Tolerance(0.1, 0.02, "a distance between distributions, which leans on a few outliers")
_SHARE = Tolerance(0, 0.02, "a share of images")
_BITS = Tolerance(0.02, 0.02, "an information, in bits or nats")
TRAINED: Mapping[str, Tolerance] = {
    **dict.fromkeys(("fd", "fd_infinite", "fd_ratio", "kid", "fd_reconstruction", "fd_interpolation"), _DISTANCE),
    **dict.fromkeys(("precision", "recall", "coverage", "digit_rate", "authenticity", "usage"), _SHARE),
    **dict.fromkeys(("density", "digit_rate_interpolation", "knn_accuracy", "linear_accuracy"), _SHARE),
    **dict.fromkeys(("kl_nats", "aggregate_kl", "mutual_information", "elbo", "bound", "class_entropy"), _BITS),
    **dict.fromkeys(("entropy_bits", "prior_bits_per_code", "prior_bits_per_image", "nominal_bits_per_image"), _BITS),
    **dict.fromkeys(("squared_error", "mse"), Tolerance(0.03, 0, "an error, averaged over all test images")),
    "psnr": Tolerance(0, 0.15, "dB, 3 % of the error"),
    "ssim": Tolerance(0, 3e-3, "as mse, on a scale that ends at 1"),
    "perplexity": Tolerance(0.05, 0, "2 to the entropy, so more than that"),
    "active_units": Tolerance(0, 2, "dimensions beside the threshold come and go"),
    "posterior_deviation": Tolerance(0.1, 0, "a ratio of spreads"),
    "path_ratio": Tolerance(0.05, 0, "a ratio of distances"),
    "largest_step": Tolerance(0.05, 0, "a ratio of distances"),
    "bound_standard_error": Tolerance(0.2, 0, "itself an estimate"),
}
WORDS = ("equal", "within", "outside")


@dataclass(frozen=True)
class Figure:
    """One figure of a stage, committed and here; `allowed` is 0 where it has to be equal."""

    stage: str
    name: str
    metric: str
    committed: Any
    here: Any
    allowed: float

    @property
    def difference(self) -> float:
        """Between the means where there are seeds; infinite between things that are no numbers, or not there."""
        if self.committed == self.here:
            return 0.0
        one, other = _value(self.committed), _value(self.here)
        return abs(one - other) if one is not None and other is not None else math.inf

    @property
    def verdict(self) -> str:
        """`equal` (each seed's value too), `within` what is allowed, or `outside`."""
        if self.committed == self.here:
            return "equal"
        return "within" if 0 < self.allowed >= self.difference else "outside"

    @property
    def share(self) -> float:
        """How much of what is allowed is used."""
        return 0.0 if self.verdict == "equal" else self.difference / self.allowed if self.allowed else math.inf


@dataclass(frozen=True)
class Comparison:
    """All figures that can be compared, and why those of the other stages cannot."""

    figures: list[Figure]
    others: Mapping[str, str]

    @property
    def holds(self) -> bool:
        """Whether there was something to compare, and nothing is outside its tolerance."""
        return bool(self.figures) and all(figure.verdict != "outside" for figure in self.figures)

    def markdown(self, against: str) -> str:
        """A row a stage and metric, with the figure that uses most of its tolerance; then what was not compared."""
        groups: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            groups.setdefault((figure.stage, figure.metric), []).append(figure)
        header = ("stage", "metric", "figures", "equal", "furthest", "committed", "here", "allowed", "verdict")
        parts = [f"Against {against}: {self._summary()}", table(header, [_row(group) for group in groups.values()])]
        if self.others:
            parts.append("Not compared:\n\n" + "\n".join(f"- {name}: {why}" for name, why in self.others.items()))
        return "\n\n".join(parts)

    def _summary(self) -> str:
        counts = {word: sum(figure.verdict == word for figure in self.figures) for word in WORDS}
        return ", ".join(f"{count} {word}" for word, count in counts.items()) + "."


def compare(committed: Path, here: Path = Path(), *, exact: bool = False) -> Comparison:
    """Hold the reports of the folder `here` against those of another one, stage by stage.

    Stages are compared that were run with the same params, as were all before them. With `exact` every file has to be
    the same bytes. Raises ValueError or OSError that names what cannot be read.
    """
    there_lock, here_lock = read_lock(committed / LOCK_FILE), read_lock(here / LOCK_FILE)
    figures: list[Figure] = []
    others: dict[str, str] = {}
    later = downstream(there_lock)
    for name in dict.fromkeys([*there_lock.stages, *here_lock.stages]):
        if why := _incomparable(there_lock, here_lock, later, name):
            others[name] = why
            continue
        figures += _files(there_lock, here_lock, name, exact=exact)
        for out in there_lock.stages[name].outs:
            if out.path.suffix == ".json":
                trees = (_tree(root / out.path) for root in (committed, here))
                figures += _figures(name, *trees, exact=exact)
    return Comparison(figures, others)


@contextmanager
def snapshot(against: str) -> Iterator[Path]:
    """A folder with dvc.lock and reports/: the one of that name, or one that has a commit's while it is open.

    Raises ValueError where it is neither.
    """
    if Path(against).is_dir():
        yield Path(against)
        return
    words = ("git", "archive", "--format=tar", "--end-of-options", against, str(LOCK_FILE), "reports")
    done = subprocess.run(words, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        reason = " ".join(done.stderr.decode().split())
        raise ValueError(f"{against}: no folder, and no commit with {LOCK_FILE} and reports/ ({reason})")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
            # The argument `filter` is not in every Python 3.11.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(folder)  # noqa: S202 (of our own repository)
        yield Path(folder)


def _incomparable(there: Lock, here: Lock, later: Mapping[str, set[str]], name: str) -> str:
    """Why a stage's figures cannot be those of the other run; nothing where they can."""
    for lock, place in ((there, "the committed"), (here, "this")):
        if name not in lock.stages:
            return f"no such stage in {place} {LOCK_FILE}"
    before = [other for other in there.stages if name in later[other]]
    for stage in [*before, name]:
        old, new = (dict(lock.stages[stage].params) if stage in lock.stages else None for lock in (there, here))
        if old != new:
            return f"run with other params{'' if stage == name else f', as {stage} before it was'}"
    return ""


def _files(there: Lock, here: Lock, name: str, *, exact: bool) -> Iterator[Figure]:
    """The hash of every output that has to be the same bytes."""
    if exact or name in BYTES:
        hashes = {out.path: out.md5 for out in here.stages[name].outs}
        for out in there.stages[name].outs:
            yield Figure(name, str(out.path), "files", out.md5, hashes.get(out.path), 0)


def _tree(path: Path) -> Any:  # noqa: ANN401 (parsed JSON)
    tree = read_json(path)
    # The report's figures are those of the stages before it; its own are the verdicts.
    return {claim["id"]: {"holds": claim["holds"]} for claim in tree["claims"]} if "claims" in tree else tree


def _figures(stage: str, committed: Any, here: Any, *, exact: bool) -> Iterator[Figure]:  # noqa: ANN401 (parsed JSON)
    there, now = dict(_leaves(committed)), dict(_leaves(here))
    for name in dict.fromkeys([*there, *now]):
        metric, tolerance = _tolerance(name, seeds=isinstance(there.get(name), Mapping))
        pair = there.get(name), now.get(name)
        yield Figure(stage, ".".join(name), metric, *pair, 0 if exact else _allowed(tolerance, *pair))


def _leaves(node: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401 (parsed JSON)
    """Every figure with the keys that lead to it; one over seeds is a figure, and a list's entries count from 0."""
    if isinstance(node, list):
        node = {str(place): value for place, value in enumerate(node)}
    if not isinstance(node, Mapping) or "per_seed" in node:
        yield name, node
        return
    for key, value in node.items():
        yield from _leaves(value, (*name, key))


def _tolerance(name: tuple[str, ...], *, seeds: bool) -> tuple[str, Tolerance | None]:
    """The metric that a figure is of, the last of its keys that is one, and its tolerance; none where it has none."""
    known = TRAINED if seeds else PINNED
    for key in reversed(name):
        if key in COUNTS:
            return key, None
        if key in known:
            return key, known[key]
    return name[-1], None


def _allowed(tolerance: Tolerance | None, committed: Any, here: Any) -> float:  # noqa: ANN401 (parsed JSON)
    value = _value(committed)
    if tolerance is None or value is None:
        return 0.0
    halves = [(node["high"] - node["low"]) / 2 for node in (committed, here) if _has_interval(node)]
    return max(tolerance.of(value), math.hypot(*halves))


def _has_interval(node: Any) -> bool:  # noqa: ANN401 (parsed JSON)
    return isinstance(node, Mapping) and node.get("high") is not None


def _value(node: Any) -> float | None:  # noqa: ANN401 (parsed JSON)
    """A number, or the mean over seeds; None for anything else."""
    if isinstance(node, Mapping):
        return Estimate.from_json(node).mean
    return None if isinstance(node, bool) or not isinstance(node, int | float) else float(node)


def _row(group: list[Figure]) -> list[str]:
    furthest = max(group, key=lambda figure: figure.share)
    equal = sum(figure.verdict == "equal" for figure in group)
    row = [furthest.stage, furthest.metric, str(len(group)), str(equal)]
    if furthest.verdict == "equal":
        return [*row, "", "", "", "", "equal"]
    cells = [_cell(value) for value in (furthest.committed, furthest.here)]
    return [*row, furthest.name, *cells, f"± {number(furthest.allowed)}", furthest.verdict]


def _cell(node: Any) -> str:  # noqa: ANN401 (parsed JSON)
    value = _value(node)
    return str(node) if value is None else f"{value:.6g}"
