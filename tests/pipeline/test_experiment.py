"""The real `python -m pipeline.experiment` on a tiny workspace: what it keeps, and what it leaves alone."""

import json

import pytest
from workspace import make_workspace, run

pytestmark = pytest.mark.slow
EXPERIMENTS = """
free:
  question: What becomes of a VAE without its KL term?
  set:
    seeds: [0]
    train.epochs: 1
    models.vae-free: {kind: vae, likelihood: bernoulli, dimensions: 3, beta: 0}
  models: [vae-free]
"""


def test_an_experiment_keeps_its_result_and_leaves_the_workspace_alone(tmp_path):
    workspace = tmp_path / "workspace"
    make_workspace(workspace)
    (workspace / "experiments.yaml").write_text(EXPERIMENTS)
    run(workspace, "git", "add", ".")
    run(workspace, "git", "commit", "--quiet", "-m", "a question")
    params = (workspace / "params.yaml").read_bytes()

    said = run(workspace, "python", "-m", "pipeline.experiment", "free").stdout

    result = json.loads((workspace / "reports/experiments/free.json").read_text())
    assert result["command"] in said.splitlines()
    assert result["seeds"] == [0]
    assert list(result["models"]) == ["vae-free"]
    tree = result["models"]["vae-free"]
    assert tree["kind"] == "vae"
    assert len(tree["sampling"]["standard_normal"]["fd_ratio"]["per_seed"]) == 1
    # Only the result is new; what the stages wrote stays in the experiment.
    assert run(workspace, "git", "status", "--porcelain").stdout == "?? reports/experiments/free.json\n"
    assert [path.name for path in (workspace / "reports").rglob("*.json")] == ["free.json"]
    assert not (workspace / "artifacts").exists()
    assert (workspace / "params.yaml").read_bytes() == params
    kept = run(workspace, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout
    assert kept.split()[-1].endswith("/free")
    assert json.loads(run(workspace, "git", "show", f"{kept.split()[-1]}:reports/vae-free/metrics.json").stdout) == tree
