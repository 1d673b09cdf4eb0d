"""Two sets of results, figure by figure: what is there on one side less what is there on the other.

Two results of one seed share their initial weights and the order of their batches, so the difference is taken seed by
seed over the seeds that both have, and its 95 % interval is Student's t of those differences. Without seeds in common
it is that of Welch (1947) for two independent means.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from scipy.special import stdtrit

from randomz.claims import Estimate, Tree
from randomz.figures import number
from randomz.markdown import table
from randomz.revisions import Results

HEADLINE = (
    "reconstruction/mse",
    "kl/elbo",
    "kl/kl_nats",
    "kl/aggregate_kl",
    "codebook/perplexity",
    "codebook/prior_bits_per_image",
    *(f"sampling/*/{metric}" for metric in ("fd_ratio", "kid", "precision", "recall", "digit_rate")),
)
HEADER = ("figure", "A", "B", "B less A", "95 % interval", "")
MARK = "*"
WIDTH = 100  # of remarks in a terminal
NOTE = (
    f"{MARK} The 95 % interval of the difference (Student's t over seeds) excludes 0. Of figures that do not differ, "
    "one in twenty is marked by chance."
)


@dataclass(frozen=True)
class Pairing:
    """Where the seeds that two results have in common stand in each of them; empty for an unpaired comparison."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    remark: str


@dataclass(frozen=True)
class Row:
    """One figure of both sides and B less A, each None where there is nothing to say."""

    path: str
    a: float | None
    b: float | None
    difference: Estimate | None

    @property
    def marked(self) -> bool:
        """Whether the interval excludes 0; never so without an interval."""
        if self.difference is None or self.difference.low is None or self.difference.high is None:
            return False
        return self.difference.low > 0 or self.difference.high < 0

    def cells(self) -> list[str]:
        """The row as texts, in the order of HEADER."""
        difference, interval = "", ""
        if self.difference is not None:
            difference = number(self.difference.mean)
            if self.difference.low is not None and self.difference.high is not None:
                interval = f"{number(self.difference.low)} to {number(self.difference.high)}"
        sides = ["" if value is None else number(value) for value in (self.a, self.b)]
        return [self.path, *sides, difference, interval, MARK if self.marked else ""]


@dataclass(frozen=True)
class Section:
    """What is said of one model: remarks, then a table, which may be empty."""

    model: str
    remarks: tuple[str, ...]
    rows: tuple[Row, ...]


def compare(a: Results, b: Results, *, everything: bool = False) -> list[Section]:
    """A section for each model of either side; `everything` takes all figures instead of HEADLINE."""
    return [_section(a, b, model, everything=everything) for model in dict.fromkeys([*a.models, *b.models])]


def pair(a: Sequence[int] | None, b: Sequence[int] | None) -> Pairing:
    """How figures of these seeds (None where they are not known) are compared.

    A single seed in common is too few for an interval, so it is taken only where one side has no other.
    """
    if a is None or b is None:
        sides = " and ".join(side for side, seeds in (("A", a), ("B", b)) if seeds is None)
        return Pairing((), (), f"Unpaired: dvc.lock of {sides} does not say which seeds the figures are of.")
    common = [seed for seed in a if seed in b]
    if not common or (len(common) == 1 and min(len(a), len(b)) > 1):
        return Pairing((), (), f"Unpaired: A has {_seeds(a)}, B {_seeds(b)}.")
    left = [f"{side} has {_seeds(seeds)}" for side, seeds in (("A", a), ("B", b)) if len(seeds) > len(common)]
    remark = f"Paired over {_seeds(common)}" + (f" ({', '.join(left)})" if left else "")
    alone = "" if len(common) > 1 else ", which gives no interval"
    return Pairing(
        tuple(list(a).index(seed) for seed in common),
        tuple(list(b).index(seed) for seed in common),
        remark + alone + ".",
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def difference(a: Sequence[float], b: Sequence[float], pairing: Pairing) -> Row:
    """A row, its path yet to be told, of the values of each seed on both sides."""
    if not pairing.a:
        return Row("", float(np.mean(a)), float(np.mean(b)), welch(a, b))
    chosen_a, chosen_b = [a[place] for place in pairing.a], [b[place] for place in pairing.b]
    less = Estimate.over_seeds([y - x for x, y in zip(chosen_a, chosen_b, strict=True)])
    return Row("", float(np.mean(chosen_a)), float(np.mean(chosen_b)), less)


def welch(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The difference of two independent means (B less A) with its 95 % interval, which takes two values on each side.

    The degrees of freedom are those of Welch and Satterthwaite.
    """
    mean = float(np.mean(b) - np.mean(a))
    if min(len(a), len(b)) == 1:
        return Estimate(mean, None, None, ())
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    if not sum(parts):
        return Estimate(mean, mean, mean, ())
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(sum(parts))
    return Estimate(mean, mean - half, mean + half, ())


def _section(a: Results, b: Results, model: str, *, everything: bool) -> Section:
    for side, results, other in (("A", a, b), ("B", b, a)):
        if model not in other.models:
            return Section(model, (f"Only {side} has it: {results.label}.",), ())
    remarks = _remarks(a, b, model)
    if a.models[model] == b.models[model]:
        return Section(model, (*remarks, "The same figures on both sides."), ())
    left, right = (dict(_figures(results.models[model])) for results in (a, b))
    pairing = pair(*(_checked(results.seeds(model), figures) for results, figures in ((a, left), (b, right))))
    paths = [path for path in dict.fromkeys([*left, *right]) if everything or _in_headline(path)]
    rows = [_row(path, left.get(path), right.get(path), pairing) for path in paths]
    return Section(model, (*remarks, pairing.remark), tuple(rows))


def _remarks(a: Results, b: Results, model: str) -> list[str]:
    """Which params differ, and whether the figures of samples can be compared at all."""
    before, after = a.params(model), b.params(model)
    keys = [key for key in dict.fromkeys([*before, *after]) if key != "seeds" and before.get(key) != after.get(key)]
    changes = [f"{key} {before.get(key, 'absent')} → {after.get(key, 'absent')}" for key in keys]
    remarks = [f"Params: {', '.join(changes)}."] if changes and before and after else []
    rulers = [path for path, md5 in a.rulers(model).items() if b.rulers(model).get(path, md5) != md5]
    if rulers:
        remarks.append(f"Not measured with the same yardstick ({', '.join(rulers)}): mind what samples score.")
    return remarks


def _figures(tree: Tree, path: str = "") -> Iterator[tuple[str, tuple[float, ...]]]:
    """Every figure by its path: the values of all seeds, or one for what has no seeds."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and "per_seed" in value:
            yield path + key, tuple(value["per_seed"])
        elif isinstance(value, Mapping):
            yield from _figures(value, f"{path}{key}/")
        elif isinstance(value, int | float):
            yield path + key, (value,)


def _checked(seeds: tuple[int, ...] | None, figures: Mapping[str, Sequence[float]]) -> tuple[int, ...] | None:
    """The seeds, unless there is another number of them than of values."""
    counts = {len(values) for values in figures.values()} - {1}
    return seeds if seeds is not None and counts <= {len(seeds)} else None


def _row(path: str, a: Sequence[float] | None, b: Sequence[float] | None, pairing: Pairing) -> Row:
    if a is None or b is None:
        means = [None if values is None else float(np.mean(values)) for values in (a, b)]
        return Row(path, means[0], means[1], None)
    whole = len(a) > max(pairing.a, default=0) and len(b) > max(pairing.b, default=0)
    found = difference(a, b, pairing if whole else Pairing((), (), ""))
    return Row(path, found.a, found.b, found.difference)


def _in_headline(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in HEADLINE)


def as_text(a: Results, b: Results, sections: Sequence[Section]) -> str:
    """The comparison for a terminal."""
    blocks = [f"A: {a.label}\nB: {b.label}"]
    for section in sections:
        lines = [section.model, *(line for remark in section.remarks for line in textwrap.wrap(remark, WIDTH))]
        table_lines = _aligned([list(HEADER), *(row.cells() for row in section.rows)]) if section.rows else []
        blocks.append("\n".join(lines + table_lines))
    return "\n\n".join([*blocks, *([NOTE] if any(section.rows for section in sections) else [])]) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side; all but the first are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def as_markdown(a: Results, b: Results, sections: Sequence[Section]) -> str:
    """The same for GitHub."""
    blocks = ["# B less A", f"A: `{a.label}`  \nB: `{b.label}`"]
    for section in sections:
        blocks += [f"## {section.model}", *section.remarks]
        if section.rows:
            blocks.append(table(HEADER, [_escaped(row.cells()) for row in section.rows]))
    return "\n\n".join([*blocks, *(["\\" + NOTE] if any(section.rows for section in sections) else [])]) + "\n"


def _escaped(cells: Sequence[str]) -> list[str]:
    """Cells whose last one, the mark, opens no emphasis, and stays empty where `table` would set a dash."""
    return [*cells[:-1], f"\\{cells[-1]}" if cells[-1] else " "]
