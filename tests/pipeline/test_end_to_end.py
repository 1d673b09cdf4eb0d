"""The real `dvc repro` on a tiny workspace: what it leaves, what it repeats, and what an edit makes stale."""

import csv
import json
import re
import shutil

import networkx as nx
import pytest
from dvc.repo import Repo
from workspace import edit_params, make_workspace, run, without_mlflow

from randomz.checkpoint import load_tensors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep.value will soon:DeprecationWarning"),  # of pygtrie, from DVC
]
MODELS = ("ae", "vae-beta4", "vqvae")
ADDED = "  vae-beta4: {kind: vae, likelihood: bernoulli, dimensions: 4, beta: 4.0}\n"
QUALITY = {
    "fd", "fd_infinite", "kid", "precision", "recall", "density", "coverage",
    "digit_rate", "class_entropy", "authenticity",
}  # fmt: skip
LATENT = {
    "knn_accuracy", "linear_accuracy", "fd_interpolation", "digit_rate_interpolation", "path_ratio", "largest_step",
}  # fmt: skip
SAMPLERS = {
    "ae": {"standard_normal", "gaussian", "gmm", "flow", "posterior"},
    "vae": {"standard_normal", "gaussian", "gmm", "flow", "posterior"},
    "vqvae": {"uniform", "position", "autoregressive", "posterior"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workspace whose third model came once the first two were evaluated, and what `dvc repro` then said."""
    made = tmp_path_factory.mktemp("end-to-end") / "workspace"
    make_workspace(made)
    params = made / "params.yaml"
    edit_params(made, {"models.vae": None})
    first = ("dvc", "repro", "study", "evaluate@ae", "evaluate@vqvae")
    run(made, *first, environment=without_mlflow(tmp_path_factory.mktemp("first")))
    params.write_text(params.read_text().replace("models:\n", "models:\n" + ADDED))
    said = run(made, "dvc", "repro").stdout
    run(made, "git", "add", ".")
    run(made, "git", "commit", "--quiet", "-m", "results")
    return made, said


@pytest.fixture(scope="module")
def workspace(finished):
    return finished[0]


def metrics(workspace):
    return json.loads((workspace / "reports/metrics.json").read_text())


@pytest.mark.parametrize("model", MODELS)
def test_metrics_hold_every_figure_of_every_sampler(workspace, model):
    tree = metrics(workspace)["models"][model]
    assert set(tree["sampling"]) == SAMPLERS[tree["kind"]]
    for sampler in tree["sampling"].values():
        assert set(sampler) == QUALITY | {"fd_ratio"}
        assert all(len(figure["per_seed"]) == 2 for figure in sampler.values())
    assert set(tree["reconstruction"]) >= {"squared_error", "mse", "psnr", "ssim", "fd_reconstruction", "pca_mse"}
    assert set(tree["latent"]) == LATENT


def test_metrics_hold_what_belongs_to_a_kind(workspace):
    tree = metrics(workspace)
    kl = {"kl_nats", "active_units", "posterior_deviation", "aggregate_kl", "mutual_information", "elbo", "bound"}
    assert set(tree["models"]["vae-beta4"]["kl"]) >= kl
    assert set(tree["models"]["vae-beta4"]["kl"]["bound"]) == {"1", "10", "100", "1000"}
    assert set(tree["models"]["vqvae"]["codebook"]) >= {"perplexity", "usage", "entropy_bits", "prior_bits_per_code"}
    assert set(tree["floor"]) == QUALITY
    assert set(tree["controls"]) == {"noise", "shuffled", "blurred", "one_class", "copied"}
    assert len(tree["claims"]) == 9


@pytest.mark.parametrize("model", MODELS)
def test_history_has_a_row_for_each_seed_and_epoch(workspace, model):
    with (workspace / f"reports/{model}/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["epoch"]) for row in rows] == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    assert all(float(row["validation_total"]) > 0 for row in rows)


def test_a_second_run_does_nothing(workspace):
    before = metrics(workspace)
    assert "Running stage" not in run(workspace, "dvc", "repro").stdout
    assert metrics(workspace) == before
    assert json.loads(run(workspace, "dvc", "status", "--json").stdout) == {}


def test_training_again_gives_the_same_bytes(workspace, tmp_path):
    weights = workspace / "artifacts/vqvae/weights/seed-1.safetensors"
    before = weights.read_bytes()
    run(workspace, "python", "-m", "pipeline.train", "vqvae", environment=without_mlflow(tmp_path))
    assert weights.read_bytes() == before
    assert "quantiser.codebook" in load_tensors(weights)


def test_mlflow_mirrors_the_files(workspace):
    run(workspace, "python", "-m", "pipeline.publish")
    assert run(workspace, "python", "-m", "pipeline.publish", "--check").returncode == 0


def test_the_commands_that_a_reader_uses(workspace):
    assert "fd_ratio" in run(workspace, "dvc", "metrics", "show", "--md").stdout
    assert "history" in run(workspace, "dvc", "plots", "show", "--json").stdout
    run(workspace, "dvc", "metrics", "diff", "HEAD~1")


FROM_TRAIN = ("train", "prior", "evaluate")


def stages_of(*models, first="train"):
    names = FROM_TRAIN[FROM_TRAIN.index(first) :]
    return {f"{name}@{model}" for name in names for model in models} | {"report", "publish"}


def test_another_model_is_one_line(finished):
    workspace, said = finished
    assert set(re.findall(r"Running stage '(.*)'", said)) == stages_of("vae-beta4")
    assert "vae-beta4" in metrics(workspace)["models"]
    assert "vae-beta4" in (workspace / "reports/report.md").read_text()


EVERYTHING_MEASURED = {"yardstick", "study"} | stages_of(*MODELS, first="evaluate")
STALENESS = [
    ({"models.vae-beta4.beta": 2.0}, None, stages_of("vae-beta4")),
    ({"models.vqvae.decay": 0.9}, None, stages_of("vqvae")),
    ({"prior.vqvae.epochs": 2}, None, stages_of("vqvae", first="prior")),
    ({"prior.ae.gmm.components": [3]}, None, stages_of("ae", first="prior")),
    ({"train.epochs": 3}, None, stages_of(*MODELS)),
    ({"seeds": [0, 1, 2]}, None, stages_of(*MODELS)),
    ({"evaluate.samples": 600}, None, stages_of(*MODELS, first="evaluate")),
    ({"yardstick.neighbours": 4}, None, EVERYTHING_MEASURED),
    ({"study.samples": 600}, None, {"study", "report", "publish"}),
    ({"train.binarise": True}, None, stages_of(*MODELS)),
    ({"judge.epochs": 3}, None, {"judge"} | EVERYTHING_MEASURED),
    ({"publish.experiment": "other"}, None, {"publish"}),
    ({}, "src/randomz/models/vqvae.py", stages_of("vqvae")),
    ({}, "src/randomz/models/vae.py", stages_of("vae-beta4")),
    ({}, "src/randomz/priors/mixture.py", stages_of(*MODELS, first="prior")),
    ({}, "src/randomz/quality/kernel.py", EVERYTHING_MEASURED),
    ({}, "src/randomz/claims.py", {"report", "publish"}),
    ({}, "src/randomz/page/assets/page.css", {"report", "publish"}),
    ({}, "pipeline/judge.py", {"judge"} | EVERYTHING_MEASURED),
]


@pytest.fixture(scope="module")
def following(workspace):
    "The stages that come after each stage, by their names."
    with Repo(str(workspace)) as repo:
        graph = repo.index.graph  # an edge leads from a stage to one that it depends on
        return {stage.name: {later.name for later in nx.ancestors(graph, stage)} for stage in graph}


@pytest.mark.parametrize(("params", "file", "expected"), STALENESS)
def test_an_edit_makes_exactly_these_stages_stale(workspace, following, monkeypatch, params, file, expected):
    monkeypatch.chdir(workspace)  # `status` names a stage as it is seen from the current folder
    edited = workspace / (file or "params.yaml")
    kept = edited.read_bytes()
    try:
        if file:
            edited.write_bytes(kept + b"\n# an edit\n")
        else:
            edit_params(workspace, params)
        with Repo() as repo:
            changed = repo.status()
    finally:
        edited.write_bytes(kept)
    assert set(changed).union(*(following[name] for name in changed)) == expected


def test_a_wrong_key_stops_the_first_stage_with_one_line(workspace, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    edit_params(copy, {"models.vae-beta4.beta": -1.0, "models.vae-beta4.betta": 1.0})
    done = run(copy, "dvc", "repro", check=False)
    assert done.returncode != 0
    assert "params.yaml: models.vae-beta4.beta: found -1.0; input should be greater than or equal to 0" in done.stderr
    assert "params.yaml: models.vae-beta4.betta: unknown key (found 1.0); accepted: " in done.stderr
    assert "Traceback" not in done.stderr


EXPERIMENTS = """
free:
  question: What becomes of a VAE without its KL term?
  set:
    seeds: [0]
    train.epochs: 1
    models.vae-free: {kind: vae, likelihood: bernoulli, dimensions: 3, beta: 0}
  models: [vae-free]
"""


def test_an_experiment_keeps_its_result_and_leaves_the_workspace_alone(workspace, tmp_path):
    """The real `python -m pipeline.experiment`."""
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    (copy / "experiments.yaml").write_text(EXPERIMENTS)
    run(copy, "git", "add", ".")
    run(copy, "git", "commit", "--quiet", "-m", "a question")
    before = contents(copy)

    said = run(copy, "python", "-m", "pipeline.experiment", "free", environment=without_mlflow(tmp_path)).stdout

    result = json.loads((copy / "reports/experiments/free.json").read_text())
    assert result["command"] in said.splitlines()
    assert result["seeds"] == [0]
    assert list(result["models"]) == ["vae-free"]
    tree = result["models"]["vae-free"]
    assert tree["kind"] == "vae"
    assert len(tree["sampling"]["standard_normal"]["fd_ratio"]["per_seed"]) == 1
    # Only the result is new; what the stages wrote stays in the experiment.
    assert run(copy, "git", "status", "--porcelain").stdout == "?? reports/experiments/free.json\n"
    after = contents(copy)
    assert after.keys() - before.keys() == {"reports/experiments/free.json"}
    assert {path: after[path] for path in before} == before
    kept = run(copy, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    assert kept.split()[-1].endswith("/free")
    assert json.loads(run(copy, "git", "show", f"{kept.split()[-1]}:reports/vae-free/metrics.json").stdout) == tree


def contents(workspace):
    "The bytes of params.yaml, dvc.lock, and all that stages write."
    files = [file for folder in ("artifacts", "judge", "reports") for file in (workspace / folder).rglob("*")]
    files += [workspace / "params.yaml", workspace / "dvc.lock"]
    return {file.relative_to(workspace).as_posix(): file.read_bytes() for file in files if file.is_file()}
