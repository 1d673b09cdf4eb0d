"""The section of report.md on the experiments: runs with other params than the shipped ones, each for a question."""

from collections.abc import Callable, Mapping
from itertools import combinations

from randomz.claims import Estimate, Tree
from randomz.figures import RANDOM, Study, best_fitted, interval, percent
from randomz.markdown import cell, table_of

# One stochastic layer of 40 dimensions, on MNIST that is binarised anew at each step.
PUBLISHED_NATS = "\N{MINUS SIGN}84.45"

Row = dict[str, str]


def experiment_tables(study: Study) -> list[str]:
    """The blocks of the section; none where no experiment was run."""
    experiments: Tree = study.metrics["experiments"]
    blocks = [block for name, experiment in experiments.items() for block in _experiment(study, name, experiment)]
    return ["## Experiments", *blocks] if blocks else []


def _experiment(study: Study, name: str, experiment: Tree) -> list[str]:
    seeds = ", ".join(map(str, experiment["seeds"]))
    rows, note = TABLES.get(name, _any)(study, experiment)
    return [
        f"### {name}",
        experiment["question"],
        f"```sh\n{experiment['command']}\n```",
        f"Seeds: {seeds}. Figures are those of the last run of this line, whose result is committed.",
        table_of(rows),
        *([note] if note else []),
    ]


def _any(study: Study, experiment: Tree) -> tuple[list[Row], str]:
    """What every kind of model has: reconstruction, and its best fitted prior."""
    trees = {f"`{name}`": tree for name, tree in experiment["models"].items()}
    trees |= {f"`{name}`, shipped": tree for name, tree in study.models.items() if name in experiment["models"]}
    return [{"": label} | _reconstruction(tree) | _best(tree) for label, tree in trees.items()], ""


def _codebook(_study: Study, experiment: Tree) -> tuple[list[Row], str]:
    rows = []
    for name, tree in experiment["models"].items():
        health = {key: cell(tree["codebook"][key]) for key in ("usage", "perplexity")}
        rows.append({"": f"`{name}`"} | health | _reconstruction(tree) | _best(tree))
    return rows, "Usage: share of the codebook's entries that test images use. Best fitted prior: the lowest FD ratio."


def _binarised(_study: Study, experiment: Tree) -> tuple[list[Row], str]:
    rows: list[Row] = []
    for name, tree in experiment["models"].items():
        bound, error = tree["kl"]["bound"], tree["kl"]["bound_standard_error"]
        rows.append({"": f"`{name}` bound, nats"} | {f"k = {k}": cell(bound[k]) for k in bound})
        rows.append({"": f"`{name}` its standard error over images"} | {f"k = {k}": cell(error[k]) for k in bound})
        largest = max(bound, key=int)
    rows.append({"": "published, one stochastic layer of 40 dimensions", f"k = {largest}": PUBLISHED_NATS})
    images = next(iter(experiment["models"].values()))["kl"]["bound_images"]
    note = (
        f"Importance-weighted lower bounds on log p(x) of {cell(images)} binarised test images, nats; nearer to 0 is "
        "better. The published figure is of a VAE of its own architecture and length of training."
    )
    return rows, note


def _without_kl(study: Study, experiment: Tree) -> tuple[list[Row], str]:
    trees = {f"`{name}`, this experiment": tree for name, tree in experiment["models"].items()}
    trees |= {f"`{name}`, shipped": tree for name, tree in study.models.items() if tree["kind"] in {"vae", "ae"}}
    rows = []
    for label, tree in trees.items():
        posterior = {key: cell(tree["kl"][key]) for key in ("posterior_deviation", "kl_nats") if "kl" in tree}
        rows.append({"": label} | posterior | _mse(tree) | _scores(tree, "standard_normal"))
    note = (
        "posterior_deviation: sigma over the deviation of mu over images; 0 is an autoencoder. FD ratio and digits are "
        "of z ~ N(0, I)."
    )
    return rows, note


def _second_judge(study: Study, experiment: Tree) -> tuple[list[Row], str]:
    rows: list[Row] = []
    ratios = []  # of each sampler, by one judge and by the other
    for name, tree in experiment["models"].items():
        shipped = study.models.get(name, {"sampling": {}})["sampling"]
        for sampler in (RANDOM[tree["kind"]], best_fitted(tree)):
            first = _scores(study.models[name], sampler) if sampler in shipped else {}
            second = {f"{heading}, second judge": said for heading, said in _scores(tree, sampler).items()}
            rows.append({"": f"`{name}` {sampler}"} | first | second)
        both = [sampler for sampler in tree["sampling"] if sampler in shipped]
        ratios += [[of[sampler]["fd_ratio"]["mean"] for of in (shipped, tree["sampling"])] for sampler in both]
    pairs = [(one[0] < other[0]) == (one[1] < other[1]) for one, other in combinations(ratios, 2)]
    note = "Each judge has a floor of its own."
    if pairs:
        alike = f"{sum(pairs)} of the {len(pairs)} pairs of these models' {len(ratios)} samplers"
        note += f" Both put {alike} into the same order by FD ratio."
    return rows, note


def _mse(tree: Tree) -> Row:
    return {"mse": cell(tree["reconstruction"]["mse"])}


def _reconstruction(tree: Tree) -> Row:
    return _mse(tree) | {"fd_reconstruction": cell(tree["reconstruction"]["fd_reconstruction"])}


def _best(tree: Tree) -> Row:
    best = best_fitted(tree)
    return {"best fitted prior": best} | _scores(tree, best)


def _scores(tree: Tree, sampler: str) -> Row:
    ratio, digits = (Estimate.from_json(tree["sampling"][sampler][key]) for key in ("fd_ratio", "digit_rate"))
    return {"FD ratio": interval(ratio), "digits": percent(digits)}


TABLES: Mapping[str, Callable[[Study, Tree], tuple[list[Row], str]]] = {
    "codebook": _codebook,
    "binarised": _binarised,
    "vae-without-kl": _without_kl,
    "second-judge": _second_judge,
}
