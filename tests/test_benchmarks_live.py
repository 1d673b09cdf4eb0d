"""The benchmark of live logging on a tiny training: what it writes, and that it starts what `make ui` starts."""

import json
import shlex
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from synthetic import blobs, tiny_tree

import randomz.live
from benchmarks import live
from randomz.checkpoint import save_tensors
from randomz.params import load_params

ROOT = Path(__file__).parent.parent


@pytest.fixture
def repository(tmp_path, monkeypatch):
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(tiny_tree(), file)
    for name, count in (("train", 100), ("validation", 40)):
        split = blobs(count, count)
        save_tensors(tmp_path / f"data/{name}.safetensors", {"images": split.images, "labels": split.labels})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDOMZ_DEVICE", "cpu")
    return tmp_path


def test_the_two_trainings_take_turns_and_the_cost_is_their_ratio(repository, monkeypatch):
    ran = []

    def stage(command, *, cwd, env, check):
        assert check
        assert (cwd / "data").resolve() == repository / "data"
        assert env["MLFLOW_TRACKING_URI"] == f"sqlite:///{cwd}/mlflow.db"  # no store of anybody's
        assert load_params(cwd / "params.yaml").train.epochs == 3
        ran.append("without" if command[2].startswith(live.WITHOUT) else "live")
        time.sleep(0.02 if ran[-1] == "live" else 0.01)
        if ran[-1] == "live":
            (cwd / "logger_seconds").write_text(str(len(ran)))

    monkeypatch.setattr(live.subprocess, "run", stage)
    assert live.main(["--model", "vae", "--epochs", "3", "--turns", "2", "--no-store", "--results", "results"]) == 0
    assert ran == ["live", "without", "without", "live"]
    tree = json.loads((repository / "results/cpu-live.json").read_text())
    assert (tree["model"], tree["epochs"], tree["n"]) == ("vae", 3, 2)
    found = tree["training"]["seconds"]
    for without, logged, cost in zip(
        *(found[name]["values"] for name in ("without", "live", "live_costs")), strict=True
    ):
        assert without > 0
        assert logged > 0
        assert cost == pytest.approx(logged / without - 1)
    assert tree["logger"]["processor_seconds"]["values"] == [1, 4]  # of the first turn and of the last
    unlogged = tree["training"]["processor_seconds"]["without"]["median"]
    assert tree["logger"]["share"]["values"] == pytest.approx([1 / unlogged, 4 / unlogged])
    assert len(tree["pictures_seconds"]["values"]) == 2
    assert not (repository / "artifacts").exists()


def test_a_training_without_live_logging_starts_no_other_process(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("another process"))
    kept = randomz.live.LiveRuns
    try:
        exec(live.WITHOUT, {})
        assert randomz.live.LiveRuns is not kept
        with randomz.live.LiveRuns("tests", "vae", "vae", (0,)) as runs:
            runs.log(0, {"epoch": 1})
    finally:
        randomz.live.LiveRuns = kept


def test_the_process_that_logs_is_counted_by_itself(tmp_path, monkeypatch):
    def work(seconds):
        code = f"import time\nwhile time.process_time() < {seconds}: pass"
        live.subprocess.run([live.sys.executable, "-c", code], check=True)

    class Runs:
        def close(self, _status):
            work(0.3)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(randomz.live, "LiveRuns", Runs)
    work(1.5)  # is no part of it
    exec(live.COUNTED, {})
    randomz.live.LiveRuns().close("FINISHED")
    assert 0.3 <= float((tmp_path / "logger_seconds").read_text()) < 1.5


def test_the_pages_are_those_of_make_ui():
    recipe = (ROOT / "Makefile").read_text().partition("\nui:")[2].splitlines()[1]
    words = shlex.split(recipe)
    assert tuple(words[words.index("mlflow") : -1]) == live.UI
    assert words[0] == "=".join(*live.UI_ENVIRONMENT.items())


def test_processor_seconds_count_processes_that_were_waited_for():
    used = live.timed(lambda: live.subprocess.run([live.sys.executable, "-c", "sum(range(10**7))"], check=True))
    assert 0.05 < used["processor_seconds"] < used["seconds"] * (live.os.cpu_count() or 1)
