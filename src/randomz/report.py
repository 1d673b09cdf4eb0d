"""Metrics + figures -> reports/metrics.json, reports/report.md and reports/figures/*.png.

All three are functions of the files of the earlier stages and of params.yaml alone: the same input gives the same
bytes, so that a change in a committed report is a change in a result.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from randomz.checkpoint import load_tensors
from randomz.claims import ONE_SEED, Estimate, Tree, compute_claims, model_of_kind
from randomz.figures import EN_DASH, FITTED, RANDOM, History, Study, draw_figures, interval, number, percent
from randomz.files import read_csv, read_json, write_bytes
from randomz.params import Params

QUALITY = (
    "fd", "fd_ratio", "kid", "precision", "recall", "density", "coverage", "digit_rate", "class_entropy",
    "authenticity",
)  # fmt: skip
# Of the keys in metrics.json and of the columns in the tables; a key that is not here follows these, by its name.
ORDER = (
    "judge", "floor", "controls", "noise", "shuffled", "blurred", "one_class", "copied", "kind", "parameters",
    "reconstruction", "squared_error", "mse", "pca_mse", "psnr", "ssim", "fd_reconstruction",
    "latent", "knn_accuracy", "linear_accuracy", "fd_interpolation",
    "kl", "kl_nats", "active_units", "elbo", "bound", "bound_standard_error", "bound_images",
    "codebook", "usage", "perplexity", "entropy_bits", "prior_bits_per_code", "prior_bits_per_image",
    "nominal_bits_per_image",
    "sampling", "standard_normal", "uniform", "gaussian", "position", "gmm", "autoregressive", "posterior",
    *QUALITY, "mean", "low", "high", "per_seed",
)  # fmt: skip
RANK = {key: place for place, key in enumerate(ORDER)}
TIMES = "\N{MULTIPLICATION SIGN}"
ORACLE = "posterior"  # codes of test images: what a perfect prior would reach, and so no prior

MEANING: Mapping[str, str] = {
    "squared_error": "squared error of a test image, summed over its pixels",
    "mse": "the same per pixel",
    "pca_mse": "that of a PCA with as many dimensions",
    "psnr": "10 log₁₀(1 / mse), dB",
    "ssim": "structural similarity, 1 for equal images",
    "fd_reconstruction": "Fréchet distance of the reconstructions to the test images",
    "knn_accuracy": "share of test images whose class nearest neighbours in the latent space tell",
    "linear_accuracy": "the same by logistic regression",
    "fd_interpolation": "Fréchet distance of images decoded half way between two codes",
    "kl_nats": "KL(q(z|x) ‖ N(0, I)) of an image, nats".replace("|", "\\|"),
    "active_units": "latent dimensions that depend on the image",
    "elbo": "lower bound on log p(x), nats, on all test images",
    "bound_images": "test images that the bounds below are of",
    "usage": "share of the codebook's entries that test images use",
    "perplexity": "2 to the entropy: how many entries it would take, were all used alike",
    "entropy_bits": "entropy of the codes on test images, bits a code",
    "prior_bits_per_code": "what a code costs under the autoregressive prior, bits",
    "prior_bits_per_image": "the same for all codes of an image",
    "nominal_bits_per_image": "that under uniform codes",
    "fd": "Fréchet distance to the test images in the judge's features; lower is better",
    "fd_ratio": "fd over that of as many real training images, the floor: 1 is as good as real",
    "kid": "kernel distance, unbiased; 0 for the same distribution",
    "precision": "share of samples among the test images",
    "recall": "share of test images among the samples",
    "density": "precision that counts how many test images are near; about 1 for real digits",
    "coverage": "share of test images with a sample near",
    "digit_rate": "share that passes for a digit, by its distance to the classes",
    "class_entropy": "entropy of the classes, bits: 0 for a single one, 3.32 for ten alike",
    "authenticity": "share that is no near copy of a training image",
}


def read_study(params: Params, reports: Path, artifacts: Path) -> Study:
    """Everything that the stages before wrote, with the claims computed.

    Raises ValueError that names the file which is missing, is broken, or lacks a figure.
    """
    yardstick = read_json(reports / "yardstick.json")
    models = {name: read_json(reports / name / "metrics.json") for name in params.models}
    tree = in_order(yardstick) | {"models": {name: in_order(model) for name, model in models.items()}}
    claims = [claim.to_json() for claim in compute_claims(tree, params.models)]
    return Study(
        metrics=tree | {"claims": claims},
        histories={name: _read_history(reports / name / "history.csv") for name in params.models},
        pictures={
            name: [load_tensors(artifacts / name / "pictures" / f"seed-{seed}.safetensors") for seed in params.seeds]
            for name in params.models
        },
        controls=load_tensors(artifacts / "controls.safetensors"),
    )


def write_report(study: Study, params: Params, target: Path) -> str:
    """Write metrics.json, report.md and figures/ under `target`, and say in one line what was found.

    Each file is replaced as a whole; a picture of an earlier report that is no part of this one is removed.
    """
    figures = draw_figures(study)
    folder = target / "figures"
    for name, content in figures.items():
        write_bytes(folder / f"{name}.png", content)
    for stale in set(folder.glob("*.png")) - {folder / f"{name}.png" for name in figures}:
        stale.unlink()
    write_bytes(target / "metrics.json", metrics_json(study.metrics).encode())
    write_bytes(target / "report.md", report_md(study, params, list(figures)).encode())
    verdicts = [claim["holds"] for claim in study.metrics["claims"]]
    asked = [verdict for verdict in verdicts if verdict is not None]
    return f"claims that hold {sum(asked)} of {len(asked)}, models {len(study.models)}, figures {len(figures)}"


def metrics_json(metrics: Tree) -> str:
    """The text of metrics.json: keys in a fixed order, numbers as they are, a list of numbers on one line."""
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: "".join(found[0].split()).replace(",", ", "), text) + "\n"


def report_md(study: Study, params: Params, figures: Sequence[str]) -> str:
    """The text of report.md; `figures` are the names of the pictures in figures/."""
    shown = set(figures)
    parts = [
        "# Does decoding a random z give a digit?",
        f"**{answer(study, params)}**",
        *_pictures(study, shown, "random_z"),
        "## Comparison",
        _headline(study),
        _seeds_note(params),
        "## Claims",
        "Each is decided by a rule on the figures; a comparison holds only where 95 % intervals separate.",
        _claims(study),
        "## Sampling",
        _sampling(study),
        _glossary(QUALITY),
        *_pictures(study, shown, "sampling", *(f"samplers_{name}" for name in study.models), "controls"),
        "## Reconstruction",
        *_section(study, "reconstruction"),
        *_pictures(study, shown, "reconstructions"),
        "## Latent space",
        *_section(study, "latent"),
        *_pictures(study, shown, "interpolations"),
        *_kl(study, shown),
        *_codebook(study, shown),
        "## Training",
        *_pictures(study, shown, "training"),
        "## What was run",
        _settings(study, params),
    ]
    return "\n\n".join(parts) + "\n"


def answer(study: Study, params: Params) -> str:
    """The question of the title answered in one sentence, with the verdicts of the claims and their figures."""
    holds = {claim["id"]: claim["holds"] for claim in study.metrics["claims"]}
    names = {kind: model_of_kind(params.models, kind) for kind in RANDOM}
    present = {kind: name for kind, name in names.items() if name is not None}
    random = [
        f"{_verdict(kind, holds)} with `{name}` ({_ratio_and_rate(study, name, RANDOM[kind], first=place == 0)})"
        for place, (kind, name) in enumerate(present.items())
    ]
    fitted = [f"{number(study.quality(name, FITTED[kind], 'fd_ratio').mean)} {TIMES}" for kind, name in present.items()]
    return (
        f"Decoding a random z gives {_listed(random)}; a z from a density that is fitted to the codes brings the "
        f"Fréchet distance to {_listed(fitted)}."
    )


def _verdict(kind: str, holds: Mapping[str, bool | None]) -> str:
    claim, yes, no = {
        "ae": ("ae-random-z-is-junk", "junk", "no plain junk"),
        "vae": ("vae-random-z-is-a-digit", "a digit more often than not", "no digit to rely on"),
        "vqvae": ("vq-uniform-codes-are-junk", "junk", "no plain junk"),
    }[kind]
    verdict = holds[claim]
    return "images" if verdict is None else yes if verdict else no


def _ratio_and_rate(study: Study, name: str, sampler: str, *, first: bool) -> str:
    ratio, digits = (study.quality(name, sampler, metric).mean for metric in ("fd_ratio", "digit_rate"))
    words = (" the Fréchet distance of real digits", " of the images pass for a digit") if first else ("", "")
    return f"{number(ratio)} {TIMES}{words[0]}, {100 * digits:.1f} %{words[1]}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _headline(study: Study) -> str:
    header = ("", "test MSE", "PSNR, dB", "random z: FD ratio", "digits", "best fitted prior", "FD ratio", "digits")
    floor = study.metrics["floor"]
    rows = [[f"`{name}`", *_headline_model(study, name)] for name in study.models]
    others = {"real digits (floor)": floor} | {
        f"control: {_words(key)}": q for key, q in study.metrics["controls"].items()
    }
    for name, quality in others.items():
        scores = [number(quality["fd"] / floor["fd"]), f"{100 * quality['digit_rate']:.1f} %"]
        rows.append([name, "", "", *scores, "", "", ""])
    notes = (
        "Test MSE: squared error per pixel. FD ratio: Fréchet distance to the test digits, over that of as many real "
        "training digits. Digits: share of the images that passes for a digit. Best fitted prior: the lowest FD ratio "
        "of those that are fitted to training codes."
    )
    return f"{_table(header, rows)}\n\n{notes}"


def _headline_model(study: Study, name: str) -> list[str]:
    tree = study.models[name]
    mse, psnr = (Estimate.from_json(tree["reconstruction"][key]) for key in ("mse", "psnr"))
    random = RANDOM[tree["kind"]]
    fitted = [sampler for sampler in tree["sampling"] if sampler not in {random, ORACLE}]
    best = min(fitted, key=lambda sampler: study.quality(name, sampler, "fd_ratio").mean)
    cells = [interval(mse), interval(psnr)]
    for sampler in (random, best):
        cells += [sampler] if sampler == best else []
        cells += [
            interval(study.quality(name, sampler, "fd_ratio")),
            percent(study.quality(name, sampler, "digit_rate")),
        ]
    return cells


def _seeds_note(params: Params) -> str:
    seeds = len(params.seeds)
    if seeds == 1:
        return "One seed: there are no intervals, and verdicts compare means."
    return f"Figures are means over {seeds} seeds, with the 95 % interval of the mean."


def _claims(study: Study) -> str:
    rows = []
    for claim in study.metrics["claims"]:
        verdict = {True: "**holds**", False: "**does not hold**", None: "not asked"}[claim["holds"]]
        values = [f"{_place(path)} {_cell(value)}" for path, value in claim["evidence"].items()]
        evidence = "; ".join(values) or "params.yaml has no model that it is about"
        basis = f" ({ONE_SEED})" if "basis" in claim else ""
        rows.append([f"`{claim['id']}`", claim["statement"], verdict, evidence + basis])
    return _table(("", "claim", "verdict", "evidence"), rows, right=False)


def _place(path: str) -> str:
    """A path of the metrics tree in words: the model, the sampler where there is one, the metric."""
    parts = path.removeprefix("params/").split("/")
    return " ".join(part for part in parts if part not in {"models", "sampling", "latent", "kl", "codebook"})


def _sampling(study: Study) -> str:
    floor, rows = study.metrics["floor"], []
    for name, tree in study.models.items():
        for sampler, quality in tree["sampling"].items():
            rows.append({"": f"`{name}` {sampler}"} | {key: _plus_minus(value) for key, value in quality.items()})
    others = {"real digits (floor)": floor} | {
        f"control: {_words(key)}": q for key, q in study.metrics["controls"].items()
    }
    for name, quality in others.items():
        with_ratio = {**quality, "fd_ratio": quality["fd"] / floor["fd"]}
        rows.append({"": name} | {key: number(value) for key, value in in_order(with_ratio).items()})
    return _table_of(rows)


def _section(study: Study, section: str) -> list[str]:
    """The table of a branch of the models' metrics and what its columns mean; nothing where no model has it."""
    trees = {name: tree[section] for name, tree in study.models.items() if section in tree}
    if not trees:
        return []
    rows = []
    for name, tree in trees.items():
        leaves = {key: value for key, value in tree.items() if not isinstance(value, Mapping) or "mean" in value}
        rows.append({"": f"`{name}`"} | {key: _cell(value) for key, value in leaves.items()})
    return [_table_of(rows), _glossary(list(_columns(rows))[1:])]


def _kl(study: Study, shown: set[str]) -> list[str]:
    section = _section(study, "kl")
    if not section:
        return []
    rows = []
    for name in study.of_kind("vae"):
        tree = study.models[name]["kl"]
        for key, label in (("bound", "bound"), ("bound_standard_error", "its standard error over images")):
            cells = {f"k = {k}": _cell(value) for k, value in tree.get(key, {}).items()}
            rows += [{"": f"`{name}` {label}"} | cells] if cells else []
    meaning = "Importance-weighted lower bounds on log p(x) with k draws, nats; k = 1 is the ELBO."
    bounds = [_table_of(rows), meaning] if rows else []
    return ["## KL and likelihood", *section, *bounds, *_pictures(study, shown, "kl", "bounds")]


def _codebook(study: Study, shown: set[str]) -> list[str]:
    section = _section(study, "codebook")
    return ["## Codebook", *section, *_pictures(study, shown, "codebook")] if section else []


def _pictures(study: Study, shown: set[str], *names: str) -> list[str]:
    models = _listed(list(study.models))
    alts = {
        "random_z": f"Images of {models}: from a pure random z above, from a z of a fitted density below",
        "reconstructions": f"Test images and their reconstructions by {models}",
        "interpolations": f"Images decoded on the way from one test image's code to another's, by {models}",
        "training": f"Validation loss and its terms over epochs, for {models}",
        "codebook": "Sorted frequencies of the codes, dead codes and running perplexity over epochs",
        "kl": "KL of each latent dimension, sorted",
        "sampling": "FD ratio on a log scale and digit rate, for every sampler and control",
        "controls": "Images of the control sets with their FD ratio and digit rate",
        "bounds": "Importance-weighted bounds on log p(x) over the number of draws",
    }
    alts |= {f"samplers_{name}": f"Images of every sampler of {name}" for name in study.models}
    return [f"![{alts[name]}](figures/{name}.png)" for name in names if name in shown]


def _settings(study: Study, params: Params) -> str:
    seeds = ", ".join(map(str, params.seeds))
    kinds = {config.kind for config in params.models.values()}
    priors = {kind: getattr(params.prior, kind).model_dump() for kind in RANDOM if kind in kinds}
    models = {
        name: {"kind": config.kind} | config.model_dump(exclude_none=True) for name, config in params.models.items()
    }
    sizes = {name: f"{tree['parameters']:,} parameters" for name, tree in study.models.items()}
    rows = [
        *([f"model `{name}`", f"{_spelled(config)}; {sizes[name]}"] for name, config in models.items()),
        ["network", _spelled(params.network.model_dump())],
        ["training", _spelled(params.train.model_dump())],
        *([f"prior of kind {kind}", _spelled(config)] for kind, config in priors.items()),
    ]
    drawn = (
        f"Seeds: {seeds}; the pictures show seed {params.seeds[0]}. Every sampler drew {params.evaluate.samples:,} "
        f"images, the floor and the controls have {params.yardstick.samples:,}; all are held against the 10,000 test "
        f"images. The judge names the class of {100 * study.metrics['judge']['test_accuracy']:.2f} % of "
        "them rightly."
    )
    again = "`make reproduce` runs all of it again; metrics.json beside this page has every figure, seed by seed."
    return "\n\n".join([drawn, _table(("", "params.yaml"), rows, right=False), again])


def _spelled(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: Any) -> str:  # noqa: ANN401 (a number, or a figure over seeds)
    return interval(Estimate.from_json(value)) if isinstance(value, Mapping) else number(value)


def _plus_minus(node: Tree) -> str:
    """Mean ± half the interval, both with as many decimals as three digits of the mean take."""
    estimate = Estimate.from_json(node)
    mean = number(estimate.mean)
    if estimate.low is None or estimate.high is None:
        return mean
    half = (estimate.high - estimate.low) / 2
    decimals = len(mean.partition(".")[2])
    return f"{mean} ± {number(half)}" if "e" in mean else f"{mean} ± {half:.{decimals}f}"


def _glossary(keys: Iterable[str]) -> str:
    return "<sub>" + " · ".join(f"{key}: {MEANING[key]}" for key in keys if key in MEANING) + "</sub>"


def _columns(rows: Sequence[Mapping[str, str]]) -> dict[str, None]:
    """The keys of all rows, each where it first stands."""
    return dict.fromkeys(key for row in rows for key in row)


def _table_of(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(_columns(rows))
    return _table(columns, [[row.get(column, "") for column in columns] for row in rows])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = True) -> str:
    """A table of GitHub's Markdown; all columns but the first are set to the right, where numbers belong."""
    rule = [":--"] + [("--:" if right else ":--")] * (len(header) - 1)
    body = [[cell or EN_DASH for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *body])


def in_order(tree: Tree) -> dict[str, Any]:
    """The same tree with its keys in one fixed order, numbers in theirs."""
    keys = sorted(tree, key=lambda key: (RANK.get(key, len(RANK)), int(key) if key.isdigit() else 0, key))
    return {key: in_order(tree[key]) if isinstance(tree[key], Mapping) else tree[key] for key in keys}


def _read_history(path: Path) -> History:
    rows = read_csv(path)
    if not rows:
        raise ValueError(f"{path}: has no row; one for each seed and epoch is accepted")
    return {column: np.array([float(row[column] or "nan") for row in rows]) for column in rows[0]}
