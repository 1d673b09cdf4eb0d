import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from randomz.drift import DriftError, downstream, find_drift
from randomz.lock import read_lock

DVC_YAML = """
stages:
  prepare:
    cmd: mkdir -p data && cp raw.txt data/train
    deps: [raw.txt]
    outs: [data/train]
  train:
    foreach: ${models}
    do:
      cmd: mkdir -p artifacts/${key} && cp data/train artifacts/${key}/weights
      params: ["models.${key}", seed]
      deps: [train.py, data/train]
      outs: ["artifacts/${key}/weights"]
      metrics:
        - reports/${key}/metrics.json: {cache: false}
  report:
    cmd: echo written
    deps: [artifacts]
    metrics:
      - reports/metrics.json: {cache: false}
"""
ASKED = "dvc exp run --temp --name big -S models.ae.size=9 evaluate@ae"
FIGURES = {"ae": {"fd": 81.0}, "vae": {"fd": 5.0}}


def shell(folder, *words):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A repository whose stages were all run, and committed."
    root = tmp_path_factory.mktemp("finished")
    files = {
        "dvc.yaml": DVC_YAML,
        "params.yaml": "seed: 0\nmodels:\n  ae: {size: 2}\n  vae: {size: 3}\n",
        "raw.txt": "digits",
        "train.py": "fit()",
        ".gitignore": "/data/\n/artifacts/\n",
        "experiments.yaml": "big:\n  question: Is more better?\n  set: {models.ae.size: 9}\n  models: [ae]\n",
        "reports/experiments/big.json": json.dumps({"command": ASKED}),
        "reports/metrics.json": json.dumps({"models": FIGURES}),
        **{f"reports/{name}/metrics.json": json.dumps(tree) for name, tree in FIGURES.items()},
        "data/train": "digits",
        **{f"artifacts/{name}/weights": "digits" for name in FIGURES},
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    shell(root, "git", "init", "--quiet", "--initial-branch", "main")
    shell(root, sys.executable, "-m", "dvc", "init", "--quiet")
    shell(root, sys.executable, "-m", "dvc", "commit", "--force")
    shell(root, "git", "add", ".")
    shell(root, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "run")
    return root


@pytest.fixture
def clone(finished, tmp_path, monkeypatch):
    "As CI checks it out: without data and artifacts, and without DVC's cache."
    root = tmp_path / "clone"
    shell(tmp_path, "git", "clone", "--quiet", str(finished), str(root))
    monkeypatch.chdir(root)
    return root


def test_a_clone_of_a_finished_run_has_no_drift(clone):
    assert not (clone / "data").exists()
    drift = find_drift()
    assert drift.lines() == []
    assert drift.unseen == [Path("artifacts/ae/weights"), Path("artifacts/vae/weights"), Path("data/train")]


@pytest.mark.parametrize(
    ("file", "old", "new", "lines"),
    [
        (
            "train.py",
            "fit",
            "refit",
            [
                "train@ae: train.py is modified",
                "train@vae: train.py is modified",
                "report: comes after train@ae, train@vae",
            ],
        ),
        (
            "params.yaml",
            "size: 2",
            "size: 4",
            [
                "train@ae: params.yaml: models.ae.size is 4, dvc.lock says 2",
                "report: comes after train@ae",
            ],
        ),
        (
            "params.yaml",
            "seed: 0",
            "other: 0",
            [
                f"train@{name}: params.yaml: {what}"
                for name in ("ae", "vae")
                for what in ("seed is None, dvc.lock says 0", "seed is deleted")
            ]
            + ["report: comes after train@ae, train@vae"],
        ),
        (
            "raw.txt",
            "digits",
            "letters",
            [
                "prepare: raw.txt is modified",
                "train@ae: comes after prepare",
                "train@vae: comes after prepare",
                "report: comes after prepare",
            ],
        ),
        (
            "dvc.yaml",
            "cmd: echo written",
            "cmd: echo again",
            ["report: changed command"],
        ),
    ],
)
def test_what_was_edited_is_named_with_what_it_makes_stale(clone, file, old, new, lines):
    edit(clone / file, old, new)
    assert find_drift().lines() == lines


def test_an_edited_report_is_drift(clone):
    edit(clone / "reports/ae/metrics.json", "81.0", "8.0")
    assert find_drift().lines() == [
        "train@ae: reports/ae/metrics.json is modified",
        "report: reports/metrics.json does not have the figures of reports/ae/metrics.json",
    ]


def test_a_report_that_is_not_there_is_drift_though_data_may_be_absent(clone):
    (clone / "reports/metrics.json").unlink()
    assert find_drift().lines() == ["report: reports/metrics.json is absent"]


def test_a_model_without_a_run_is_drift(clone):
    edit(clone / "params.yaml", "  vae:", "  vae-wide: {size: 9}\n  vae:")
    lines = find_drift().lines()
    assert "train@vae-wide: dvc.lock has no such stage; it was never run" in lines


def test_a_stage_that_is_gone_has_to_leave_the_lock(clone):
    edit(clone / "params.yaml", "  vae: {size: 3}\n", "")
    line, follower = find_drift().lines()
    assert line.startswith("train@vae: dvc.lock has this stage, dvc.yaml does not")
    assert follower == "report: comes after train@vae"


def test_stages_have_to_follow_from_each_other(clone):
    lock = YAML(typ="safe").load(clone / "dvc.lock")
    lock["stages"]["prepare"]["outs"][0]["md5"] = "0" * 32
    with (clone / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump(lock, file)
    first, second = find_drift().reasons.items()
    assert (first[0], second[0]) == ("train@ae", "train@vae")
    assert re.fullmatch(r"dvc\.lock: data/train had md5 \w{32} here, prepare has written 0{32}", first[1][0])


def test_what_is_there_is_compared_though_dvc_has_no_copy(clone, finished):
    shutil.copytree(finished / "data", clone / "data")
    assert find_drift().lines() == []
    (clone / "data/train").write_text("letters")
    assert "prepare: data/train is not in cache" in find_drift().lines()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda root: edit(root / "experiments.yaml", "size: 9", "size: 10"),
            f"experiment big: reports/experiments/big.json is the answer to another line: {ASKED}",
        ),
        (
            lambda root: (root / "reports/experiments/big.json").unlink(),
            "experiment big: reports/experiments/big.json is absent",
        ),
        (
            lambda root: (root / "experiments.yaml").write_text("{}"),
            "experiment big: reports/experiments/big.json answers no question of experiments.yaml",
        ),
    ],
)
def test_an_experiment_has_to_answer_its_question(clone, change, line):
    change(clone)
    assert find_drift().lines() == [line]


def test_a_dvc_yaml_that_is_none_is_one_clear_line(clone):
    (clone / "dvc.yaml").write_text("stages: [")
    with pytest.raises(DriftError, match=r"^dvc: .*dvc\.yaml") as caught:
        find_drift()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("clone")
def test_downstream_goes_through_folders():
    later = downstream(read_lock())
    assert later["prepare"] == {"train@ae", "train@vae", "report"}
    assert later["train@ae"] == {"report"}
    assert later["report"] == set()
