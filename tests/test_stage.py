import os
import subprocess
import sys
from pathlib import Path

import pytest

from randomz.devices import DeviceError
from randomz.stage import run_stage


@pytest.fixture(autouse=True)
def workspace(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_the_work_is_done_and_the_status_is_0(capsys):
    done = []
    assert run_stage("train@ae", lambda: done.append(1)) == 0
    assert done == [1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [ValueError("seed 1: nan"), FileNotFoundError("no data/train.safetensors"), DeviceError("no cuda")]
)
def test_a_foreseen_error_is_one_line_and_the_status_1(capsys, error):
    def work():
        raise error

    assert run_stage("train@ae", work) == 1
    assert capsys.readouterr().err == f"train@ae: {error}\n"


def test_an_unforeseen_error_is_not_hidden():
    def work():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_stage("train@ae", work)
    assert run_stage("train@ae", lambda: None) == 0


def test_a_second_runner_refuses_and_names_the_first(capsys):
    statuses = []
    outer = run_stage("train@ae", lambda: statuses.append(run_stage("train@ae", lambda: statuses.append("ran"))))
    assert (outer, statuses) == (0, [1])
    assert capsys.readouterr().err == f"train@ae: already running as process {os.getpid()}; wait for it or end it\n"


def test_another_stage_may_run_beside_it():
    statuses = []
    run_stage("train@ae", lambda: statuses.append(run_stage("train@vae", lambda: None)))
    assert statuses == [0]


def test_another_process_refuses_while_the_lock_is_held():
    code = "import sys; from randomz.stage import run_stage; sys.exit(run_stage('judge', lambda: print('ran')))"
    runs = []

    def start():
        runs.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False))

    assert run_stage("judge", start) == 0
    start()
    refused, allowed = runs
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"judge: already running as process {os.getpid()}; wait for it or end it\n"
    assert (allowed.returncode, allowed.stdout) == (0, "ran\n")


def test_the_lock_is_free_after_success_and_after_failure():
    def fail():
        raise ValueError("broken")

    assert [run_stage("judge", work) for work in (lambda: None, fail, lambda: None)] == [0, 1, 0]
    assert Path("scratch/judge.lock").read_text() == str(os.getpid())
