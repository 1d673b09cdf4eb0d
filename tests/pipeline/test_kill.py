"""A stage that is killed at any moment and started again leaves the bytes that an uninterrupted one leaves."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from synthetic import blobs
from workspace import edit_params, make_workspace, run, without_mlflow

import randomz.models.vqvae  # noqa: F401
from pipeline import prior, train
from randomz import files, trainer
from randomz.checkpoint import save_tensors
from randomz.stage import run_stage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or torch.cuda.is_available(),
        reason="the stage runs in a fork of the tests; autograd, once it has seen a GPU, works in no fork",
    ),
]
NAME = "train@vqvae"
SHIPPED = Path(__file__).parents[2] / "params.yaml"
SMALL = {
    "seeds": [0, 1],
    "network.width": 32,
    "train.epochs": 4,
    "train.batch_size": 50,
    "train.learning_rate": 0.003,
    "models.vqvae.grid": 2,
    "models.vqvae.codes": 8,
    "prior.vqvae.clusters": 2,
    "prior.vqvae.units": 16,
    "prior.vqvae.embedding": 4,
    "prior.vqvae.epochs": 3,
    "prior.vqvae.batch_size": 50,
}


def small_workspace(folder):
    """Params and data of a few hundred blobs: all that the stage reads."""
    folder.mkdir()
    shutil.copy(SHIPPED, folder)
    edit_params(folder, SMALL)
    for name, count in (("train", 200), ("validation", 60)):
        split = blobs(count, count)
        save_tensors(folder / f"data/{name}.safetensors", {"images": split.images, "labels": split.labels})
    return folder


def attempt(workspace, sabotage=lambda: None, name=NAME):
    """The stage in a process and a group of its own, as by `python -m pipeline.train vqvae`; its status."""
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            os.chdir(workspace)
            os.environ["RANDOMZ_DEVICE"] = "cpu"
            os.dup2(os.open("stderr", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            train.LiveRuns = lambda *_: nullcontext(Mock())  # live runs in MLflow would cost seconds a start
            sabotage()
            work = {"train@vqvae": train.train, "prior@vqvae": prior.prior}[name]
            os._exit(run_stage(name, lambda: work("vqvae")))
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    wait_for_the_lock(workspace, name)
    return status


def wait_for_the_lock(workspace, name=NAME):
    """What a killed stage started holds its lock too, so once it is free no orphan is left."""
    with (workspace / f"scratch/{name}.lock").open() as file:
        deadline = time.monotonic() + 20
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return


def outputs(workspace):
    found = [file for folder in ("artifacts", "reports") for file in (workspace / folder).rglob("*")]
    return {file.relative_to(workspace).as_posix(): file.read_bytes() for file in found if file.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What an uninterrupted run leaves."""
    workspace = small_workspace(tmp_path_factory.mktemp("whole") / "workspace")
    assert attempt(workspace) == 0
    assert not any((workspace / f"scratch/{NAME}").glob("*"))
    found = outputs(workspace)
    assert len(found) == 5
    return found


@pytest.fixture
def workspace(tmp_path):
    return small_workspace(tmp_path / "workspace")


VICTIMS = {
    "itself": lambda stage_pid: os.kill(os.getpid(), signal.SIGKILL),  # noqa: ARG005
    "stage": lambda stage_pid: os.kill(stage_pid, signal.SIGKILL),
    "group": lambda stage_pid: os.killpg(stage_pid, signal.SIGKILL),
}


def kill_at_write(count, victim="itself", *, by_stage=False):
    """Kill while a file is synced for the nth time: odd before it has its name (and cut in half), even thereafter."""

    def sabotage():
        stage_pid, calls, sync = os.getpid(), [], os.fsync

        def deadly(descriptor):
            if (os.getpid() == stage_pid) == by_stage:
                calls.append(descriptor)
                if len(calls) == count:
                    if count % 2:
                        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                    VICTIMS[victim](stage_pid)
                    time.sleep(60)
            sync(descriptor)

        files.os.fsync = deadly

    return sabotage


def kill_at_step(count, victim):
    """Kill in the middle of an epoch of four steps."""

    def sabotage():
        stage_pid, calls, schedule = os.getpid(), [], trainer.triangle

        def deadly(*arguments):
            calls.append(arguments)
            if len(calls) == count:
                VICTIMS[victim](stage_pid)
                time.sleep(60)
            return schedule(*arguments)

        trainer.triangle = deadly

    return sabotage


MOMENTS = {
    "first step": kill_at_step(1, "group"),
    "middle of epoch 2": kill_at_step(7, "stage"),
    "middle of epoch 3, one seed": kill_at_step(10, "itself"),
    "first checkpoint being written": kill_at_write(1, "group"),
    "first pictures being written": kill_at_write(3, "group"),
    "second checkpoint being written": kill_at_write(5, "stage"),
    "second checkpoint being written, one seed": kill_at_write(5, "itself"),
    "second pictures being written, one seed": kill_at_write(7, "itself"),
    "last checkpoint just written": kill_at_write(12, "stage"),
    "last pictures just written": kill_at_write(14, "stage"),
    "first weights being written": kill_at_write(1, by_stage=True),
    "first pictures of all epochs being written": kill_at_write(3, by_stage=True),
    "second weights being written": kill_at_write(5, by_stage=True),
    "history being written": kill_at_write(9, by_stage=True),
    "all just written": kill_at_write(10, by_stage=True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_once_and_started_again_it_leaves_the_same_bytes(workspace, expected, moment):
    assert attempt(workspace, MOMENTS[moment]) == (1 if "one seed" in moment else -signal.SIGKILL)
    assert attempt(workspace) == 0
    found = outputs(workspace)
    assert {name: found[name] for name in expected} == expected
    assert [name for name in found if name.startswith("artifacts")] == [
        name for name in expected if name.startswith("artifacts")
    ]
    assert not any((workspace / f"scratch/{NAME}").glob("*"))


def test_killed_at_every_checkpoint_it_arrives_all_the_same(workspace, expected):
    statuses = []
    while 0 not in statuses:
        statuses.append(attempt(workspace, kill_at_write(3, "stage")))
        assert len(statuses) < 12
    assert statuses.count(-signal.SIGKILL) >= 3
    assert outputs(workspace) == expected


@pytest.mark.parametrize("sabotage", [kill_at_write(1, "group"), kill_at_write(5, "stage")])
def test_a_killed_fit_of_priors_leaves_the_same_bytes_too(workspace, sabotage):
    name = "prior@vqvae"
    assert attempt(workspace) == 0
    whole = workspace.with_name("whole")
    shutil.copytree(workspace, whole)
    assert attempt(whole, name=name) == 0
    assert attempt(workspace, sabotage, name) == -signal.SIGKILL
    assert attempt(workspace, name=name) == 0
    assert outputs(workspace) == outputs(whole)
    assert "artifacts/vqvae/priors/seed-1.safetensors" in outputs(workspace)


def test_a_damaged_checkpoint_is_passed_over(workspace, expected):
    assert attempt(workspace, kill_at_write(6, "stage")) == -signal.SIGKILL
    newest = max((workspace / f"scratch/{NAME}").rglob("*-*.safetensors"), key=lambda file: file.name)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert attempt(workspace) == 0
    assert "is damaged; the checkpoint before it is used" in (workspace / "stderr").read_text()
    assert outputs(workspace) == expected


def test_checkpoints_of_other_params_are_not_used(workspace, expected):
    edit_params(workspace, {"train.learning_rate": 0.01})
    assert attempt(workspace, kill_at_write(6, "stage")) == -signal.SIGKILL
    edit_params(workspace, {"train.learning_rate": 0.003})
    assert attempt(workspace) == 0
    assert "goes on" not in (workspace / "stderr").read_text()
    assert outputs(workspace) == expected


def test_a_loss_that_is_not_finite_names_model_seed_epoch_and_step_and_leaves_the_last_checkpoint(tmp_path):
    workspace = small_workspace(tmp_path / "workspace")

    def sabotage():
        schedule = trainer.triangle
        trainer.triangle = lambda step, *others: 1e30 if step == 9 else schedule(step, *others)

    assert attempt(workspace, sabotage) == 1
    line = (workspace / "stderr").read_text()
    assert line.startswith(("train@vqvae: seed 0: epoch 3, step 11: train_", "train@vqvae: seed 1: epoch 3, step 11: "))
    kept = sorted(file.name[:6] for file in (workspace / f"scratch/{NAME}").rglob("*.safetensors"))
    assert set(kept) == {"000001", "000002"}


def test_when_dvc_is_killed_its_stage_dies_and_the_next_run_goes_on(tmp_path):
    workspace, whole = tmp_path / "workspace", tmp_path / "whole"
    make_workspace(workspace)
    edit_params(workspace, {"train.epochs": 40})
    shutil.copytree(workspace, whole)
    # A shell that stays between DVC and the stage.
    shell = tmp_path / "sh"
    shell.write_text('#!/bin/sh\n/bin/sh "$@"\nexit $?\n')
    shell.chmod(0o755)
    command, environment = ["dvc", "repro", "--single-item", NAME], without_mlflow(tmp_path)
    with subprocess.Popen(
        command, cwd=workspace, env=environment | {"SHELL": str(shell)}, stdout=subprocess.DEVNULL
    ) as dvc:
        scratch = workspace / f"scratch/{NAME}"
        while len(list(scratch.rglob("*.safetensors"))) < 2:
            assert dvc.poll() is None
            time.sleep(0.02)
        dvc.kill()
    wait_for_the_lock(workspace)
    assert any(scratch.rglob("*.safetensors"))
    assert f"{NAME}: goes on" in run(workspace, *command, environment=environment).stderr
    assert attempt(whole) == 0
    assert outputs(workspace) == outputs(whole)
    assert not any(scratch.glob("*"))
