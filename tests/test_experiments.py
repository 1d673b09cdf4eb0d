import json
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline.experiment import main
from randomz import experiments
from randomz.experiments import (
    Experiment,
    ExperimentError,
    arguments,
    changed_params,
    command,
    find_experiment,
    load_experiments,
    run_experiment,
)
from randomz.params import ParamsError, load_params

ROOT = Path(__file__).parents[1]
SHIPPED = load_experiments(ROOT / "experiments.yaml")
GOOD = """
beta:
  question: What does beta do?
  set: {models.vae.beta: 4}
  models: [vae]
"""


def entry(settings, models=("vae",)):
    return Experiment.model_validate({"question": "Why?", "set": settings, "models": tuple(models)})


def refused(folder, text):
    "The lines with which experiments.yaml is refused."
    path = folder / "experiments.yaml"
    path.write_text(text)
    with pytest.raises(ExperimentError) as error:
        load_experiments(path)
    return str(error.value).replace(str(folder) + "/", "").splitlines()


def words_of(line):
    return shlex.split(line.replace("\\\n", " "))


def override(path, words):
    "What DVC does to params with the settings on a line."
    settings = [after for word, after in pairwise(words) if word == "-S"]
    apply_overrides(path, to_path_overrides(settings)["params.yaml"])


@pytest.mark.parametrize("name", SHIPPED)
def test_dvc_makes_of_a_shipped_line_the_params_that_were_checked(name, tmp_path):
    copy = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", copy)
    override(copy, words_of(command(name, SHIPPED[name])))
    changed = load_params(copy)
    assert changed == changed_params(name, SHIPPED[name], ROOT / "params.yaml")
    assert changed != load_params(ROOT / "params.yaml")


def test_a_shipped_line_names_the_experiment_and_what_is_evaluated():
    line = command("binarised", SHIPPED["binarised"])
    assert line.startswith("dvc exp run --temp --name binarised -S ")
    assert line.endswith(" evaluate@vae")
    assert words_of(line) == ["dvc", *arguments("binarised", SHIPPED["binarised"])]


def test_entries_of_the_codebook_experiment_are_the_shipped_one_with_one_key_changed():
    models = changed_params("codebook", SHIPPED["codebook"], ROOT / "params.yaml").models
    base = models["vqvae"].model_dump()
    changed = {
        name: {key: value for key, value in models[name].model_dump().items() if value != base[key]}
        for name in SHIPPED["codebook"].models
    }
    assert changed == {
        "vqvae": {},
        "vqvae-gradient": {"codebook": "gradient"},
        "vqvae-no-restart": {"restart": 0.0},
        "vqvae-64": {"codes": 64},
        "vqvae-256": {"codes": 256},
        "vqvae-1024": {"codes": 1024},
    }


def test_lines_that_the_readme_quotes_are_those_that_are_run():
    quoted = {}
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == ["dvc", "exp", "run"] and "--name" in words:
                quoted[words[words.index("--name") + 1]] = words[1:]
    assert "binarised" in quoted
    assert quoted == {name: arguments(name, SHIPPED[name]) for name in quoted}


def test_committed_results_are_of_the_shipped_entries():
    for path in (ROOT / "reports/experiments").glob("*.json"):
        result, name = json.loads(path.read_text()), path.stem
        experiment = find_experiment(SHIPPED, name)
        assert result["command"] == command(name, experiment)
        assert (result["name"], result["question"]) == (name, experiment.question)
        assert result["settings"] == experiment.settings
        assert tuple(result["models"]) == experiment.models
        for tree in result["models"].values():
            assert len(tree["reconstruction"]["mse"]["per_seed"]) == len(result["seeds"])


SETTINGS = [
    {"train.binarise": True},
    {"train.epochs": 7, "seeds": [3, 4]},
    {"models.vae.beta": 1e-06, "train.learning_rate": 2.5e-4},
    {"prior.vae.gmm.components": [10]},
    {"publish.experiment": "a b: c, {d} [e] #1"},
    {"publish.experiment": "true"},
    {"models.vae-wide": {"kind": "vae", "likelihood": "gaussian", "sigma": 0.5, "dimensions": 3, "beta": 1.0}},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_values_reach_params_through_dvc_as_they_are(settings, tmp_path):
    copy = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", copy)
    override(copy, arguments("name", entry(settings)))
    found = YAML(typ="safe", pure=True).load(copy.read_text())
    for key, value in settings.items():
        node = found
        for part in key.split("."):
            node = node[part]
        assert node == value
        assert type(node) is type(value)


def test_a_text_that_the_grammar_cannot_hold_is_refused():
    with pytest.raises(ExperimentError, match="a text without quotes and backslashes is accepted"):
        command("name", entry({"publish.experiment": 'a "b"'}))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  question: What does beta do?\n", "", "beta.question: missing key; it has to be there"),
        ("question: What does beta do?", "question: 3", "beta.question: found 3; input should be a valid string"),
        ("  models: [vae]", "  models: []", "beta.models: found []; tuple should have at least 1 item"),
        ("  models: [vae]", "  models: vae", "beta.models: found 'vae'; input should be a valid array"),
        ("models.vae.beta: 4", "", "beta.set: found {}; dictionary should have at least 1 item"),
        ("models.vae.beta: 4", "a=b: 4", "beta.set.a=b: found 'a=b'; string should match pattern"),
        ("beta:", "Beta:", "Beta: found 'Beta'; string should match pattern"),
        (
            "  models: [vae]",
            "  model: [vae]",
            "beta.model: unknown key (found ['vae']); accepted: question, set, models",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_key(tmp_path, old, new, line):
    lines = refused(tmp_path, GOOD.replace(old, new, 1))
    assert any(found.startswith(f"experiments.yaml: {line}") for found in lines), lines
    assert len(lines) == (2 if "  model:" in new else 1)  # a misspelt key is missing, too


def test_a_file_that_is_no_mapping_or_no_yaml_or_not_there_is_refused(tmp_path):
    assert refused(tmp_path, "- a\n")[0].startswith("experiments.yaml: the file: found ['a']; ")
    assert "a YAML file is accepted" in refused(tmp_path, "a: [")[0]
    with pytest.raises(ExperimentError, match=r"absent.yaml: .*No such file"):
        load_experiments(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.epoch": 3}, "set: train.epoch: params.yaml has no such key; accepted: epochs, batch_size,"),
        ({"training.epochs": 3}, "set: training.epochs: params.yaml has no section training"),
        ({"seeds.first": 3}, "set: seeds.first: params.yaml has no section seeds"),
        ({"models.vae": {"kind": "vae"}}, "set: models.vae: params.yaml has it already; a mapping is accepted for"),
        ({"models.vae.beta": -1}, "set: models.vae.beta: found -1; input should be greater than or equal to 0"),
        ({"models.b": {"kind": "vea"}}, "set: models.b.kind: found 'vea'; accepted: ae, vae, vqvae"),
    ],
)
def test_a_setting_that_params_do_not_take_is_refused_before_anything_runs(settings, message):
    with pytest.raises(ExperimentError) as error:
        changed_params("odd", entry(settings), ROOT / "params.yaml")
    assert str(error.value).startswith(f"experiments.yaml: odd: {message}")


def test_every_wrong_setting_has_its_line():
    with pytest.raises(ExperimentError) as error:
        changed_params("odd", entry({"train.epoch": 3, "train.epochs": 4, "nothing": 1}), ROOT / "params.yaml")
    assert len(str(error.value).splitlines()) == 2


def test_a_model_that_there_is_not_is_refused():
    with pytest.raises(ExperimentError, match="odd: models: found 'vea'; accepted: ae, vae, vqvae"):
        changed_params("odd", entry({"train.epochs": 3}, ["vea"]), ROOT / "params.yaml")


def test_a_mistake_in_params_itself_is_not_blamed_on_the_experiment(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("seeds:", "seed:"))
    with pytest.raises(ParamsError):
        changed_params("odd", entry({"train.epochs": 3}), path)


def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    "A repository with params and experiments, in which DVC is stood in for by a commit of metrics."
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("experiments.yaml").write_text(GOOD)
    git("init", "--quiet", "--initial-branch", "main")
    git("config", "user.name", "tester")
    git("config", "user.email", "tester@localhost")
    git("add", ".")
    git("commit", "--quiet", "-m", "start")
    ran = []

    def dvc(words):
        head, name = git("rev-parse", "HEAD"), words[words.index("--name") + 1]
        reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
        assert subprocess.run(["git", "show-ref", "--quiet", reference], check=False).returncode == 1
        Path("reports/vae").mkdir(parents=True)
        Path("reports/vae/metrics.json").write_text(json.dumps({"kind": "vae", "run": len(ran)}))
        git("add", "--force", "reports")
        tree = git("write-tree")
        git("reset", "--quiet", "--hard")
        git("update-ref", reference, git("commit-tree", tree, "-m", "experiment"))
        ran.append(words)

    monkeypatch.setattr(experiments, "run_dvc", dvc)
    return ran


def test_a_result_holds_the_line_and_the_metrics_of_the_experiment(repository):
    path = run_experiment("beta", load_experiments()["beta"])
    assert path == Path("reports/experiments/beta.json")
    assert json.loads(path.read_text()) == {
        "name": "beta",
        "question": "What does beta do?",
        "command": "dvc exp run --temp --name beta -S models.vae.beta=4 evaluate@vae",
        "settings": {"models.vae.beta": 4},
        "seeds": [0, 1, 2],
        "models": {"vae": {"kind": "vae", "run": 0}},
    }
    assert repository == [words_of("exp run --temp --name beta -S models.vae.beta=4 evaluate@vae")]
    assert [file.name for file in path.parent.iterdir()] == ["beta.json"]


@pytest.mark.usefixtures("repository")
def test_a_second_run_replaces_the_first():
    experiment = load_experiments()["beta"]
    run_experiment("beta", experiment)
    path = run_experiment("beta", experiment)
    assert json.loads(path.read_text())["models"]["vae"]["run"] == 1


@pytest.mark.usefixtures("repository")
def test_seeds_are_those_of_the_experiment():
    path = run_experiment("beta", entry({"seeds": [5, 7]}))
    assert json.loads(path.read_text())["seeds"] == [5, 7]


@pytest.mark.parametrize("changed", ["params.yaml", "src/new.py", "experiments.yaml"])
def test_uncommitted_changes_of_what_a_result_follows_from_are_refused(repository, changed):
    Path(changed).parent.mkdir(exist_ok=True)
    with Path(changed).open("a") as file:
        file.write("# an edit\n")
    with pytest.raises(ExperimentError, match=r"uncommitted changes in (params.yaml|src/|experiments.yaml): .*--dirty"):
        run_experiment("beta", load_experiments()["beta"])
    assert repository == []
    run_experiment("beta", load_experiments()["beta"], dirty=True)
    assert len(repository) == 1


def test_changes_elsewhere_do_not_matter(repository):
    Path("notes.md").write_text("to do")
    run_experiment("beta", load_experiments()["beta"])
    assert len(repository) == 1


@pytest.mark.usefixtures("repository")
def test_metrics_that_the_experiment_lacks_are_one_line():
    with pytest.raises(ExperimentError, match=r"^git show: .*reports/ae/metrics.json[^\n]*$"):
        run_experiment("beta", entry({"train.epochs": 3}, ["vae", "ae"]))
    assert not Path("reports/experiments").exists()


def test_dvc_that_fails_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match=r"dvc exp run ended with [1-9]"):
        experiments.run_dvc(["no-such-command"])


def test_the_script_lists_prints_runs_and_refuses(repository, capsys):
    assert main(["--list"]) == 0
    assert capsys.readouterr().out == "beta: What does beta do?\n"
    line = "dvc exp run --temp --name beta -S models.vae.beta=4 evaluate@vae\n"
    assert main(["beta", "--command"]) == 0
    assert capsys.readouterr().out == line
    assert repository == []
    assert main(["beta"]) == 0
    assert capsys.readouterr().out == line + "reports/experiments/beta.json\n"
    assert main(["gamma"]) == 1
    assert capsys.readouterr().err == "experiment: experiments.yaml: gamma: no such entry; accepted: beta\n"
    Path("params.yaml").write_text("seeds: [0]\n")
    assert main(["beta"]) == 1
    assert capsys.readouterr().err.startswith("experiment@beta: params.yaml: prepare: missing key")
