"""Curves and points: how the models were trained, what their latents carry, and how they sample."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from randomz.claims import Estimate
from randomz.figures.axes import new_axes, reference, spans
from randomz.figures.shown import Study
from randomz.figures.style import CONTROL_LABELS, GREY, INK, SAMPLER_LABELS, TERM_LABELS, Mark, number


def training(study: Study) -> Figure:
    """Validation loss and its terms over epochs: a row a model, a line a seed."""
    terms = {
        name: [column for column in history if column.startswith("validation_")]
        for name, history in study.histories.items()
    }
    columns = max(map(len, terms.values()))
    figure, axes = new_axes(len(terms), columns, 235 + 40 // len(terms))
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
    figure, axes = new_axes(len(names), 3, 300)
    for row, name in zip(axes, names, strict=True):
        colour = study.colour(name)
        counts = [pictures["code_counts"].double() for pictures in study.pictures[name]]
        size = len(counts[0])
        for count in counts:
            shares = 100 * (count / count.sum()).sort(descending=True).values
            row[0].plot(range(1, size + 1), shares.numpy(), color=colour, linewidth=1.2)
        reference(row[0], 100 / size, "all codes alike")
        row[0].set(xlabel="code, by rank", ylabel="share of all codes, %", ylim=(0, None))
        _curves(row[1], study, name, "dead_codes")
        row[1].set(ylabel="codes", ylim=(0, None))
        row[1].yaxis.set_major_locator(MaxNLocator(integer=True))
        _curves(row[2], study, name, "running_perplexity")
        reference(row[2], float(size), f"K = {size}")
        row[2].set(ylabel="codes", ylim=(0, 1.25 * size))
        for axis, title in zip(row, ("use on test images", "dead codes", "running perplexity"), strict=True):
            axis.set_title(f"{name}: {title}", color=colour)
    return figure


def kl(study: Study) -> Figure | None:
    """KL of each latent dimension, sorted: a line a seed."""
    names = study.of_kind("vae")
    if not names:
        return None
    figure, axes = new_axes(1, 1, 420)
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
    figure, axes = new_axes(1, 1, 420)
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
        axis.errorbar(shifted, means, yerr=spans(estimates), color=colour, marker=marker, capsize=4, label=label)
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
    figure, axes = new_axes(1, 2, 90 + 33 * len(rows), width_ratios=(5, 3), sharey=True)
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
    axis.errorbar(
        [estimate.mean],
        [y],
        xerr=np.abs(spans([estimate])),
        color=mark.colour,
        marker=mark.marker,
        markersize=7,
        capsize=4,
        linestyle="none",
    )
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    place = (estimate.highest, y)
    axis.annotate(label, place, (10, 0), textcoords="offset points", va="center", fontsize=11, bbox=box)


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
