"""Metrics + figures -> reports/metrics.json, reports/report.md and reports/figures/*.png.

All three are functions of the files of the earlier stages and of params.yaml alone: the same input gives the same
bytes, so that a change in a committed report is a change in a result.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from randomz.checkpoint import load_tensors
from randomz.claims import ONE_SEED, Estimate, Tree, compute_claims, model_of_kind
from randomz.experiment_tables import experiment_tables
from randomz.figures import (
    EN_DASH,
    RANDOM,
    History,
    Study,
    distortion,
    draw_figures,
    family_words,
    interval,
    number,
    percent,
    rates,
)
from randomz.files import read_csv, read_json, write_bytes
from randomz.markdown import cell, columns, glossary, plus_minus, table, table_of, words
from randomz.params import ModelConfig, Params, VQVAEConfig
from randomz.sensitivity import BAND, caught, flattered, monotone

QUALITY = (
    "fd", "fd_infinite", "fd_ratio", "kid", "precision", "recall", "density", "coverage", "digit_rate", "class_entropy",
    "authenticity",
)  # fmt: skip
# Of the keys in metrics.json and of the columns in the tables; a key that is not here follows these, by its name.
ORDER = (
    "judge", "floor", "controls", "pca", "gaussian_rate", "bits", "samples", "real", "families", "strength",
    "noise", "shuffled", "shuffle", "blurred", "blur", "one_class", "dropped_classes", "copied", "kind", "parameters",
    "reconstruction", "squared_error", "mse", "pca_mse", "psnr", "ssim", "fd_reconstruction",
    "latent", "knn_accuracy", "linear_accuracy", "fd_interpolation", "digit_rate_interpolation", "path_ratio",
    "largest_step",
    "kl", "kl_nats", "aggregate_kl", "mutual_information", "active_units", "posterior_deviation", "elbo",
    "bound", "bound_standard_error", "bound_images",
    "codebook", "usage", "perplexity", "entropy_bits", "prior_bits_per_code", "prior_bits_per_image",
    "nominal_bits_per_image",
    "sampling", "standard_normal", "uniform", "gaussian", "position", "gmm", "flow", "autoregressive", "posterior",
    *QUALITY, "mean", "deviation", "draws", "low", "high", "per_seed",
)  # fmt: skip
RANK = {key: place for place, key in enumerate(ORDER)}
TIMES = "\N{MULTIPLICATION SIGN}"


def read_study(params: Params, reports: Path, artifacts: Path) -> Study:
    """Everything that the stages before wrote, with the claims computed.

    Raises ValueError that names the file which is missing, is broken, or lacks a figure.
    """
    yardstick = _read_yardstick(reports / "yardstick.json")
    models = {name: read_json(reports / name / "metrics.json") for name in params.models}
    tree = in_order(yardstick) | {
        "study": in_order(read_json(reports / "study.json")),
        "models": _in_order_each(models),
        "experiments": _read_experiments(reports / "experiments"),
    }
    claims = [claim.to_json() for claim in compute_claims(tree, params.models)]
    return Study(
        metrics=tree | {"claims": claims},
        histories={name: _read_history(reports / name / "history.csv") for name in params.models},
        pictures={
            name: [load_tensors(artifacts / name / "pictures" / f"seed-{seed}.safetensors") for seed in params.seeds]
            for name in params.models
        },
        controls=load_tensors(artifacts / "controls.safetensors"),
        sizes={name: _size(config) for name, config in params.models.items()},
    )


def _read_yardstick(path: Path) -> dict[str, Any]:
    yardstick = read_json(path)
    for key in ("judge", "floor", "controls", "pca", "gaussian_rate"):
        if key not in yardstick:
            raise ValueError(f"{path}: there is no {key!r}; the yardstick stage writes it")
    return yardstick


def _read_experiments(folder: Path) -> dict[str, Any]:
    """Every experiment by its name, its models in the order of its file; none where there is no folder."""
    experiments = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    for name, experiment in experiments.items():
        if missing := {"question", "command", "settings", "seeds", "models"} - set(experiment):
            raise ValueError(
                f"{folder / name}.json: there is no {min(missing)!r}; `python -m pipeline.experiment` writes it"
            )
    return {name: tree | {"models": _in_order_each(tree["models"])} for name, tree in experiments.items()}


def _in_order_each(models: Tree) -> dict[str, Any]:
    return {name: in_order(model) for name, model in models.items()}


def _size(config: ModelConfig) -> int:
    """Of how many numbers the latent is that the decoder gets."""
    return config.dimensions * (config.grid**2 if isinstance(config, VQVAEConfig) else 1)


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
        glossary(QUALITY),
        *_pictures(study, shown, "sampling", *(f"samplers_{name}" for name in study.models), "controls"),
        "### Can the yardstick be trusted?",
        _trust(study),
        *_pictures(study, shown, "study"),
        _caught(study),
        "## Reconstruction",
        *_section(study, "reconstruction"),
        *_pictures(study, shown, "reconstructions"),
        "## Rate and distortion",
        _RATE_DISTORTION,
        *_pictures(study, shown, "rate_distortion"),
        _rate_distortion(study),
        "## Latent space",
        *_section(study, "latent"),
        *_pictures(study, shown, "interpolations", "smoothness"),
        *_kl(study, shown),
        *_codebook(study, shown),
        *experiment_tables(study),
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
    fitted = [
        f"{number(study.quality(name, study.best_fitted(name), 'fd_ratio').mean)} {TIMES}" for name in present.values()
    ]
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
        f"control: {words(key)}": q for key, q in study.metrics["controls"].items()
    }
    for name, quality in others.items():
        scores = [number(quality["fd"] / floor["fd"]), f"{100 * quality['digit_rate']:.1f} %"]
        rows.append([name, "", "", *scores, "", "", ""])
    notes = (
        "Test MSE: squared error per pixel. FD ratio: Fréchet distance to the test digits, over that of as many real "
        "training digits. Digits: share of the images that passes for a digit. Best fitted prior: the lowest FD ratio "
        "of those that are fitted to training codes."
    )
    return f"{table(header, rows)}\n\n{notes}"


def _headline_model(study: Study, name: str) -> list[str]:
    tree = study.models[name]
    mse, psnr = (Estimate.from_json(tree["reconstruction"][key]) for key in ("mse", "psnr"))
    random, best = RANDOM[tree["kind"]], study.best_fitted(name)
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
        values = [f"{_place(path)} {cell(value)}" for path, value in claim["evidence"].items()]
        evidence = "; ".join(values) or "there is no model or no experiment that it is about"
        basis = f" ({ONE_SEED})" if "basis" in claim else ""
        rows.append([f"`{claim['id']}`", claim["statement"], verdict, evidence + basis])
    return table(("", "claim", "verdict", "evidence"), rows, right=False)


_BRANCHES = {"models", "experiments", "sampling", "reconstruction", "latent", "kl", "codebook"}


def _place(path: str) -> str:
    """A path of the metrics tree in words: the model, the sampler where there is one, the metric."""
    parts = path.removeprefix("params/").split("/")
    return " ".join(part for part in parts if part not in _BRANCHES)


def _sampling(study: Study) -> str:
    floor, rows = study.metrics["floor"], []
    for name, tree in study.models.items():
        for sampler, quality in tree["sampling"].items():
            rows.append({"": f"`{name}` {sampler}"} | {key: plus_minus(value) for key, value in quality.items()})
    others = {"real digits (floor)": floor} | {
        f"control: {words(key)}": q for key, q in study.metrics["controls"].items()
    }
    for name, quality in others.items():
        with_ratio = {**quality, "fd_ratio": quality["fd"] / floor["fd"]}
        rows.append({"": name} | {key: number(value) for key, value in in_order(with_ratio).items()})
    return table_of(rows)


def _trust(study: Study) -> str:
    """How the metrics were put to the test, and what came out apart from the picture and the table."""
    tree = study.metrics["study"]
    sets = max(real["draws"] for real in tree["real"].values())
    how = (
        f"Sets of {tree['samples']:,} real images fail more and more, and every metric is taken at each strength. The "
        f"band is where real images are: {BAND:g} standard deviations of {sets} disjoint sets on either side of their "
        "mean. A metric catches a failure from the strength on at which it stays outside, on its bad side. None "
        "catches every failure, which is why there are several."
    )
    better = _pairs({metric: [family for family, start in of_metric.items() if start is not None]
                     for metric, of_metric in flattered(tree).items()})  # fmt: skip
    back = _pairs({metric: [family for family, one_way in of_metric.items() if not one_way]
                   for metric, of_metric in monotone(tree).items()})  # fmt: skip
    ways = f"Not every curve goes one way: {back}." if back else "Every curve goes one way as the failure grows."
    return f"{how}\n\n{ways}" + (
        f" Rated better than real images, and so not to be read alone: {better}." if better else ""
    )


def _pairs(families: Mapping[str, Sequence[str]]) -> str:
    """Metrics with families of failures in words; nothing where no metric has one."""
    named = {metric: _listed([family_words(family)[0] for family in found]) for metric, found in families.items()}
    return "; ".join(f"{metric} on {found}" for metric, found in named.items() if found)


def _caught(study: Study) -> str:
    """Metric by family: the smallest strength that is caught."""
    tree = study.metrics["study"]
    smallest, families = caught(tree), tree["families"]
    header = ["", *(f"{label} ({unit})" for label, unit in map(family_words, families))]
    ends = [[f"{steps[place]['strength']:g}" for place in (0, -1)] for steps in families.values()]
    rows = [["strengths tried", *map(EN_DASH.join, ends)]]
    for metric in tree["real"]:
        strengths = [smallest[metric][family] for family in families]
        rows.append([metric, *("" if strength is None else f"{strength:g}" for strength in strengths)])
    return f"{table(header, rows)}\n\nThe smallest strength that a metric catches; a dash where it catches none."


_RATE_DISTORTION = (
    "Lower and further left is better: a smaller error from fewer bits. The rate of a VAE is KL(q(z|x) ‖ N(0, I)) in "
    "bits, what its z costs to send; that of a VQ-VAE is what its codes cost under the learnt prior (filled), or at "
    "log₂ K a code where they are sent without one (hollow). The autoencoder's z is of real numbers, which take "
    "infinitely many bits: it has an error and no rate. The dashed curve is the least error of a Gaussian source with "
    "the covariance of the training images; of all sources with that covariance it is the hardest to code, and a model "
    "below the curve has learnt more than correlations."
)


def _rate_distortion(study: Study) -> str:
    """The points of the picture, and beside each what the Gaussian source has at that rate, where its curve goes."""
    gaussian = study.metrics["gaussian_rate"]
    rows: list[dict[str, str]] = []
    for name, tree in study.models.items():
        fixed = {"numbers": str(study.sizes[name]), "mse": interval(distortion(tree))}
        for label, rate in rates(tree).items():
            row = {"": f"`{name}`: {label}", "bits": interval(rate)} | fixed
            if gaussian["bits"][0] <= rate.mean <= gaussian["bits"][-1]:
                least = float(np.interp(rate.mean, gaussian["bits"], gaussian["mse"]))
                row["Gaussian source, mse"] = number(least)
            rows.append(row)
        if not rates(tree):
            rows.append({"": f"`{name}`", "bits": "no finite rate"} | fixed)
    rows += [{"": f"PCA, d = {d}", "numbers": d, "mse": number(mse)} for d, mse in study.metrics["pca"].items()]
    return table_of(rows)


def _section(study: Study, section: str) -> list[str]:
    """The table of a branch of the models' metrics and what its columns mean; nothing where no model has it."""
    trees = {name: tree[section] for name, tree in study.models.items() if section in tree}
    if not trees:
        return []
    rows = []
    for name, tree in trees.items():
        leaves = {key: value for key, value in tree.items() if not isinstance(value, Mapping) or "mean" in value}
        rows.append({"": f"`{name}`"} | {key: cell(value) for key, value in leaves.items()})
    return [table_of(rows), glossary(list(columns(rows))[1:])]


def _kl(study: Study, shown: set[str]) -> list[str]:
    section = _section(study, "kl")
    if not section:
        return []
    rows = []
    for name in study.of_kind("vae"):
        tree = study.models[name]["kl"]
        for key, label in (("bound", "bound"), ("bound_standard_error", "its standard error over images")):
            cells = {f"k = {k}": cell(value) for k, value in tree.get(key, {}).items()}
            rows += [{"": f"`{name}` {label}"} | cells] if cells else []
    meaning = "Importance-weighted lower bounds on log p(x) with k draws, nats; k = 1 is the ELBO."
    bounds = [table_of(rows), meaning] if rows else []
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
        "study": "Every metric over failures of rising strength, in deviations from real images",
        "rate_distortion": f"Squared error over bits an image and over the size of the latent, for {models} and PCA",
        "smoothness": f"Share of the image change in each of ten steps between two codes, for {models}",
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
    validation = params.yardstick.reference == "validation"
    reference = f"{params.prepare.validation:,} validation" if validation else "10,000 test"
    drawn = (
        f"Seeds: {seeds}; the pictures show seed {params.seeds[0]}. Every sampler drew {params.evaluate.samples:,} "
        f"images, the floor and the controls have {params.yardstick.samples:,}; all are held against the {reference} "
        f"images. The judge names the class of {100 * study.metrics['judge']['test_accuracy']:.2f} % of the test "
        "images rightly."
    )
    again = "`make reproduce` runs all of it again; metrics.json beside this page has every figure, seed by seed."
    return "\n\n".join([drawn, table(("", "params.yaml"), rows, right=False), again])


def _spelled(settings: Mapping[str, Any]) -> str:
    flat = {
        f"{key} {inner}" if inner else key: leaf
        for key, value in settings.items()
        for inner, leaf in (value.items() if isinstance(value, Mapping) else [("", value)])
    }
    return ", ".join(f"{key} {value}" for key, value in flat.items())


def in_order(tree: Tree) -> dict[str, Any]:
    """The same tree with its keys in one fixed order, numbers in theirs."""
    keys = sorted(tree, key=lambda key: (RANK.get(key, len(RANK)), int(key) if key.isdigit() else 0, key))
    return {key: _in_order(tree[key]) for key in keys}


def _in_order(value: Any) -> Any:  # noqa: ANN401 (whatever stands in JSON)
    if isinstance(value, Mapping):
        return in_order(value)
    return [_in_order(part) for part in value] if isinstance(value, list) else value


def _read_history(path: Path) -> History:
    rows = read_csv(path)
    if not rows:
        raise ValueError(f"{path}: has no row; one for each seed and epoch is accepted")
    return {column: np.array([float(row[column] or "nan") for row in rows]) for column in rows[0]}
