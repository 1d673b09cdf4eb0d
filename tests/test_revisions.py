import json
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from randomz.revisions import RevisionError, read_results


def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def write_results(models, seeds=(0, 1), beta=1.0):
    "Metrics of models, and a dvc.lock that says how they were made."
    stages = {}
    for name, mse in models.items():
        path = Path(f"reports/{name}/metrics.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"kind": "vae", "mse": mse}))
        deps = [{"path": "judge/judge.safetensors", "md5": "j"}, {"path": "src/a.py", "md5": "s"}]
        entry = {"seeds": list(seeds), f"models.{name}": {"beta": beta}, "train.binarise": False}
        stages[f"evaluate@{name}"] = {"cmd": "x", "deps": deps, "params": {"params.yaml": entry}}
        stages[f"train@{name}"] = {"cmd": "x", "params": {"params.yaml": {"train": {"epochs": 3, "binarise": False}}}}
    YAML(typ="safe", pure=True).dump({"schema": "2.0", "stages": stages}, Path("dvc.lock"))


def commit(message):
    git("add", "--all")
    git("commit", "--quiet", "-m", message)
    return git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch", "main")
    git("config", "user.name", "tester")
    git("config", "user.email", "tester@localhost")
    Path("params.yaml").write_text("seeds: [0]\n")
    commit("without reports")
    write_results({"ae": 1, "vae": 2})
    return commit("with reports")


def add_experiment(name, baseline, mse):
    "A commit where DVC puts an experiment; the workspace stays."
    write_results({"ae": 1, "vae": mse}, beta=4.0)
    git("add", "--all")
    made = git("commit-tree", git("write-tree"), "-m", name)
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", made)
    git("reset", "--quiet", "--hard")


def mse(results):
    return {name: tree["mse"] for name, tree in results.models.items()}


def refusal(name):
    with pytest.raises(RevisionError) as error:
        read_results(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_revision_is_read_by_any_of_its_names(repository):
    git("tag", "-a", "v1", "-m", "v1")
    commit_of = read_results(repository)
    assert mse(commit_of) == {"ae": 1, "vae": 2}
    assert commit_of.label == repository
    for name in ("HEAD", "main", "v1", repository[:8]):
        assert mse(read_results(name)) == {"ae": 1, "vae": 2}
    assert read_results("HEAD").label == f"HEAD ({repository[:7]})"


@pytest.mark.usefixtures("repository")
def test_the_workspace_is_what_stands_there():
    write_results({"vae": 7, "new": 8}, seeds=(5,))
    results = read_results("workspace")
    assert mse(results) == {"ae": 1, "new": 8, "vae": 7}
    assert results.seeds("vae") == (5,)
    assert results.label == "workspace"
    assert mse(read_results("HEAD")) == {"ae": 1, "vae": 2}


@pytest.mark.usefixtures("repository")
def test_the_lock_says_seeds_params_and_what_was_measured_with():
    results = read_results("HEAD")
    assert results.seeds("vae") == (0, 1)
    expected = {"seeds": [0, 1], "models.vae.beta": 1.0, "train.binarise": False, "train.epochs": 3}
    assert results.params("vae") == expected
    assert results.rulers("vae") == {"judge/judge.safetensors": "j"}
    assert (results.seeds("other"), results.params("other"), results.rulers("other")) == (None, {}, {})


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("content", [None, "stages: [", "no: lock\n"])
def test_without_a_lock_that_can_be_read_there_are_figures_without_seeds(content):
    Path("dvc.lock").unlink()
    if content is not None:
        Path("dvc.lock").write_text(content)
    results = read_results("workspace")
    assert mse(results) == {"ae": 1, "vae": 2}
    assert results.seeds("vae") is None


def test_an_experiment_is_read_by_its_name_and_by_its_reference(repository):
    add_experiment("wide", repository, 9)
    git("update-ref", "refs/exps/exec/EXEC_HEAD", "HEAD")  # DVC's own, no experiment
    assert mse(read_results("wide")) == {"ae": 1, "vae": 9}
    assert mse(read_results(f"refs/exps/{repository[:2]}/{repository[2:]}/wide")) == {"ae": 1, "vae": 9}
    assert "a DVC experiment (there are: wide) or workspace" in refusal("wider")


def test_of_experiments_of_one_name_that_of_head_is_taken(repository):
    parent = git("rev-parse", "HEAD~1")
    add_experiment("wide", parent, 8)
    add_experiment("wide", repository, 9)
    assert mse(read_results("wide")) == {"ae": 1, "vae": 9}
    Path("new.txt").touch()
    commit("on")
    message = refusal("wide")
    assert message.startswith("wide: several experiments have this name; accepted: refs/exps/")
    assert message.count("refs/exps/") == 2


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("name", ["nothing", "HEAD:params.yaml", "HEAD~1..HEAD", "--all", ""])
def test_an_unknown_revision_is_named_with_what_is_accepted(name):
    message = refusal(name)
    assert message.startswith(f"{name}: unknown revision; accepted: a git revision")
    assert message.endswith("a DVC experiment (there are: none) or workspace")


@pytest.mark.usefixtures("repository")
def test_a_revision_without_reports_is_named():
    assert refusal("HEAD~1").startswith("HEAD~1: has no reports/<model>/metrics.json; a revision whose reports are")


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[]", "is no mapping")])
def test_metrics_that_cannot_be_read_are_named(text, said):
    Path("reports/vae/metrics.json").write_text(text)
    assert refusal("workspace").startswith(f"workspace: reports/vae/metrics.json: {said}")
    commit("broken")
    assert refusal("HEAD").startswith(f"HEAD: reports/vae/metrics.json: {said}")


def test_outside_of_a_repository_git_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert "HEAD: cannot be looked up: fatal: not a git repository" in refusal("HEAD")
    assert refusal("workspace").startswith("workspace: has no reports/<model>/metrics.json;")


def test_a_repository_may_be_a_folder_of_a_larger_one(repository, monkeypatch):
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    write_results({"ae": 3})
    commit("inner")
    assert mse(read_results("HEAD")) == {"ae": 3}
    assert read_results("HEAD").seeds("ae") == (0, 1)
    assert repository
