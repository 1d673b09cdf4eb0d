import os
import subprocess
import sys
import threading
import time

import pytest

from randomz.orphans import die_with_dvc
from randomz.processes import is_alive, token

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked to end orphans")

# It says who it is, then asks to die with its starter once the file `go` is there, then says that it has asked.
STAGE = """
import os, pathlib, sys, time
from randomz.orphans import die_with_dvc
print(os.getpid(), flush=True)
while not pathlib.Path("go").exists():
    time.sleep(0.01)
die_with_dvc()
pathlib.Path("asked").touch()
time.sleep(60)
"""
# Like DVC, which sets the variable for what it starts; with `between`, a shell waits for the stage.
STARTER = """
import os, subprocess, sys
between, stage = sys.argv[1:]
python = [sys.executable, "-c", stage]
shell = ["/bin/sh", "-c", '"$0" "$@"; exit $?', *python]
subprocess.run(shell if between == "between" else python, env=os.environ | {"DVC_STAGE": "train@ae"})
"""


@pytest.fixture(autouse=True)
def workspace(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=["directly", "between"])
def started(request):
    """The process that stands for DVC, and a token of the stage that it started."""
    command = [sys.executable, "-c", STARTER, request.param, STAGE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as dvc:
        stage = token(int(dvc.stdout.readline()))
        yield dvc, stage
        dvc.kill()
        if is_alive(stage):
            os.kill(int(stage.split()[1]), 9)


def test_a_stage_dies_with_dvc(started, tmp_path):
    dvc, stage = started
    (tmp_path / "go").touch()
    wait_for((tmp_path / "asked").exists)
    time.sleep(0.5)
    assert is_alive(stage)
    dvc.kill()
    wait_for(lambda: not is_alive(stage))


def test_a_stage_whose_dvc_is_dead_already_dies_when_it_asks(started, tmp_path):
    dvc, stage = started
    dvc.kill()
    dvc.wait()
    assert is_alive(stage)
    (tmp_path / "go").touch()
    wait_for(lambda: not is_alive(stage))
    assert not (tmp_path / "asked").exists()


def test_without_dvc_nothing_is_watched(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    threads = threading.active_count()
    die_with_dvc()
    assert threading.active_count() == threads
