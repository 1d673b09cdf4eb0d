import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from randomz.fingerprint import md5
from randomz.lock import Entry, LockError, differences, read_lock

LOCK = """
schema: '2.0'
stages:
  train@vae:
    cmd: python -m pipeline.train vae
    deps:
    - path: src/randomz/trainer.py
      hash: md5
      md5: aaaa
      size: 10
    params:
      params.yaml:
        models.vae:
          kind: vae
          beta: 1.0
        train.epochs: 20
    outs:
    - path: artifacts/vae/weights
      hash: md5
      md5: bbbb.dir
      size: 20
      nfiles: 2
    - path: reports/vae/history.csv
      hash: md5
      md5: cccc
      size: 30
  publish:
    cmd: python -m pipeline.publish
    deps:
    - path: reports/vae/history.csv
      hash: md5
      md5: cccc
      size: 30
"""


@pytest.fixture
def lock_file(tmp_path):
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK)
    return path


def test_a_stage_is_read_as_dvc_wrote_it(lock_file):
    stage = read_lock(lock_file).stage("train@vae")
    assert stage.deps == (Entry(Path("src/randomz/trainer.py"), "aaaa"),)
    assert stage.params == {"params.yaml": {"models.vae": {"kind": "vae", "beta": 1.0}, "train.epochs": 20}}
    assert stage.out(Path("artifacts/vae/weights")).md5 == "bbbb.dir"


def test_a_stage_without_outputs_or_params_is_read(lock_file):
    stage = read_lock(lock_file).stage("publish")
    assert stage.outs == ()
    assert stage.params == {}


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("md5: aaaa", "md5: dddd", False),
        ("md5: bbbb.dir", "md5: dddd.dir", False),
        ("beta: 1.0", "beta: 2.0", False),
        ("train.epochs: 20", "train.epochs: 21", False),
        ("path: src/randomz/trainer.py", "path: src/randomz/other.py", False),
        ("cmd: python -m pipeline.train vae", "cmd: nice python -m pipeline.train vae", True),
        ("          kind: vae\n          beta: 1.0\n", "          beta: 1.0\n          kind: vae\n", True),
        ("size: 10", "size: 11", True),
    ],
)
def test_the_md5_of_a_stage_follows_what_its_result_follows_from(lock_file, old, new, same):
    before = read_lock(lock_file).stage("train@vae").md5()
    assert old in LOCK
    lock_file.write_text(LOCK.replace(old, new, 1))
    assert (read_lock(lock_file).stage("train@vae").md5() == before) is same


def test_what_is_not_there_is_named_with_what_is(lock_file):
    lock = read_lock(lock_file)
    with pytest.raises(LockError, match=r"no stage train@ae \(it has publish, train@vae\); run `dvc repro`"):
        lock.stage("train@ae")
    with pytest.raises(LockError, match=r"train@vae: no output x; it has artifacts/vae/weights, reports/vae/history"):
        lock.stage("train@vae").out(Path("x"))


def test_an_absent_lock_is_one_clear_error(tmp_path):
    with pytest.raises(LockError, match=r"dvc\.lock: cannot be read \(No such file.*run `dvc repro`"):
        read_lock(tmp_path / "dvc.lock")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no mapping `stages`"),
        ("schema: '2.0'", "no mapping `stages`"),
        ("<<<<<<< ours\nstages: {}\n=======\nstages: {}\n", "not valid YAML"),
        ("stages: {train: [1]}", "stage train: cannot be read"),
        ("stages: {train: {outs: [{path: x}]}}", "stage train: cannot be read .*md5"),
    ],
)
def test_a_lock_that_is_none_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "dvc.lock"
    path.write_text(content)
    with pytest.raises(LockError, match=message) as caught:
        read_lock(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def checkout(tmp_path):
    """A workspace in line with its lock."""
    (tmp_path / "artifacts/vae/weights").mkdir(parents=True)
    (tmp_path / "artifacts/vae/weights/seed-0").write_text("0")
    (tmp_path / "reports/vae").mkdir(parents=True)
    (tmp_path / "reports/vae/history.csv").write_text("seed,epoch\n")
    (tmp_path / "params.yaml").write_text("models: {vae: {beta: 1.0, kind: vae}}\ntrain: {epochs: 20, rate: 1e-3}\n")
    lock = YAML(typ="safe").load(LOCK)
    for out in lock["stages"]["train@vae"]["outs"]:
        out["md5"] = md5(tmp_path / out["path"])
    with (tmp_path / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump(lock, file)
    return tmp_path


def found(root):
    lock = read_lock(root / "dvc.lock")
    return differences(lock.stages.values(), root)


def test_a_workspace_in_line_has_no_differences(checkout):
    assert found(checkout) == []


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda root: (root / "artifacts/vae/weights/seed-0").write_text("1"),
            r"artifacts/vae/weights: has md5 \w+\.dir, dvc\.lock says \w+\.dir for train@vae; run `dvc repro`",
        ),
        (
            lambda root: (root / "artifacts/vae/weights/seed-0").rename(root / "artifacts/vae/weights/seed-1"),
            r"artifacts/vae/weights: has md5 .*",
        ),
        (
            lambda root: (root / "reports/vae/history.csv").unlink(),
            r"reports/vae/history\.csv: absent, an output of train@vae; `dvc pull` or `dvc repro` brings it",
        ),
        (
            lambda root: replace(root / "params.yaml", "epochs: 20", "epochs: 30"),
            r"params\.yaml: train\.epochs is 30, dvc\.lock says 20; run `dvc repro`",
        ),
        (
            lambda root: replace(root / "params.yaml", "beta: 1.0, ", ""),
            r"params\.yaml: models\.vae\.beta is None, dvc\.lock says 1\.0; run `dvc repro`",
        ),
        (
            lambda root: replace(root / "params.yaml", "train:", "other:"),
            r"params\.yaml: train\.epochs is None, dvc\.lock says 20; run `dvc repro`",
        ),
    ],
)
def test_a_difference_is_one_line_that_says_where(checkout, change, line):
    change(checkout)
    (only,) = found(checkout)
    assert re.fullmatch(line, only)


def test_a_param_that_no_stage_read_is_no_difference(checkout):
    replace(checkout / "params.yaml", "rate: 1e-3", "rate: 2e-3")
    assert found(checkout) == []
