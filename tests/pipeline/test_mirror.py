"""Whatever DVC, git or a kill did: after a publish MLflow is what the files say, and before it a check names why not.

Training and publishing are the real stages; what comes between them is played by `stub.py`, which takes no time.
"""

import csv
import importlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from ruamel.yaml import YAML
from workspace import ENVIRONMENT, edit_params, make_workspace, run

from randomz.live import LiveRuns

pytestmark = [
    pytest.mark.slow,
    # How MLflow uses SQLAlchemy, and that it leaves closing to the end of the process, is not ours.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]
NAMES = ["vae-seed-0", "vae-seed-1", "report"]
EXPERIMENT = "randomz"
STUB = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)

def value(path):
    return int(hashlib.md5(Path(path).read_bytes()).hexdigest()[:6], 16)

stage, seeds = sys.argv[1], (0, 1)
if stage == "judge":
    write("judge/judge.safetensors", "judge")
elif stage == "yardstick":
    for path in ("artifacts/yardstick.safetensors", "artifacts/controls.safetensors", "reports/yardstick.json"):
        write(path, "{}")
elif stage == "study":
    write("reports/study.json", "{}")
elif stage == "prior":
    for seed in seeds:
        write(f"artifacts/vae/priors/seed-{seed}.safetensors", "a prior")
    write("reports/vae/prior.csv", "seed,prior,epoch,validation_nats\\n0,gaussian,0,1.5\\n1,gaussian,0,2.5\\n")
elif stage == "evaluate":
    images = np.zeros((20, 28, 28), np.uint8)
    pictures = {"originals": images, "reconstructions": images, "interpolation": images[None], "samples.gmm": images}
    for seed in seeds:
        target = Path(f"artifacts/vae/pictures/seed-{seed}.safetensors")
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(pictures, target)
    values = [value(f"artifacts/vae/weights/seed-{seed}.safetensors") for seed in seeds]
    samples = Path("params.yaml").read_text().partition("evaluate:")[2].split()[1]
    tree = {"kind": "vae", "samples": int(samples), "reconstruction": {"mse": {"mean": 0.0, "per_seed": values}}}
    write("reports/vae/metrics.json", json.dumps(tree))
elif stage == "report":
    tree = {"models": {"vae": json.loads(Path("reports/vae/metrics.json").read_text())}}
    write("reports/metrics.json", json.dumps(tree))
    for path in ("reports/report.md", "reports/index.html", "reports/figures/one.svg"):
        write(path, json.dumps(tree))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A repository after `dvc repro`, its results committed. Tests work on copies."""
    made = tmp_path_factory.mktemp("mirror").resolve() / "workspace"
    make_workspace(made)
    yaml = YAML()
    for file, change in (("params.yaml", keep_one_model), ("dvc.yaml", put_stubs)):
        content = yaml.load(made / file)
        change(content)
        yaml.dump(content, made / file)
    (made / "stub.py").write_text(STUB)
    run(made, "dvc", "repro")
    commit(made, "results")
    return made


def keep_one_model(params):
    for name in set(params["models"]) - {"vae"}:
        del params["models"][name]


def put_stubs(dvc):
    for name, stage in dvc["stages"].items():
        if name not in {"prepare", "train", "publish"}:
            stage.get("do", stage)["cmd"] = f"python stub.py {name}"


def commit(workspace, message):
    run(workspace, "git", "add", ".")
    run(workspace, "git", "commit", "--quiet", "-m", message)


@pytest.fixture
def moved(finished, tmp_path, monkeypatch):
    """The repository somewhere else, which is where the tests then are."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    elsewhere = tmp_path.resolve() / "elsewhere"
    shutil.copytree(finished, elsewhere, symlinks=True)
    monkeypatch.chdir(elsewhere)
    return elsewhere


@pytest.fixture
def workspace(moved, capsys):
    """The repository with a store of its own that is right."""
    assert stage() == 0
    capsys.readouterr()
    return moved


def stage(*arguments):
    return importlib.import_module("pipeline.publish").main(arguments)


def differences(capsys):
    """What a check says of a mirror that is wrong; it changes nothing, so that it says the same again."""
    capsys.readouterr()
    said = []
    for _ in range(2):
        assert stage("--check") == 1
        said.append("".join(capsys.readouterr()).splitlines())
    assert said[0] == said[1]
    return said[0]


def our_runs():
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return client, client.search_runs([experiment.experiment_id])


def runs_by_status():
    found = {}
    for each in our_runs()[1]:
        found.setdefault(each.data.tags["randomz.status"], []).append(each)
    return found


def assert_mirrored(epochs=2, status="current", history=Path("reports/vae/history.csv")):
    """One finished run of this status each (model, seed), with each point of its curves once, and none to be closed."""
    assert status != "current" or stage("--check") == 0
    client, runs = our_runs()
    assert {each.data.tags["randomz.status"] for each in runs} & {"live", "pending"} == set()
    assert {each.info.status for each in runs} & {"RUNNING"} == set()
    own = {each.info.run_name: each for each in runs if each.data.tags["randomz.status"] == status}
    assert sorted(each.info.run_name for each in runs if each.data.tags["randomz.status"] == status) == sorted(NAMES)
    assert {each.info.status for each in own.values()} == {"FINISHED"}
    with history.open() as file:
        rows = list(csv.DictReader(file))
    for seed in (0, 1):
        expected = [(int(row["epoch"]), float(row["validation_total"])) for row in rows if int(row["seed"]) == seed]
        assert len(expected) == epochs
        points = client.get_metric_history(own[f"vae-seed-{seed}"].info.run_id, "validation_total")
        assert [(point.step, point.value) for point in points] == expected
    return own


def test_a_fresh_run_is_mirrored_and_a_moved_repository_has_to_be_published_again(finished, moved, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    own = assert_mirrored()
    assert own["vae-seed-1"].data.tags["randomz.git_dirty"] == "true"  # the results were yet to be committed
    assert own["vae-seed-1"].data.metrics["system/system_memory_usage_percentage"] > 0
    pictures = our_runs()[0].list_artifacts(own["vae-seed-1"].info.run_id, "images")
    drawn = {tuple(entry.path.removeprefix("images/").split("+")[:3]) for entry in pictures}
    assert drawn == {(name, "step", epoch) for name in ("reconstructions", "samples") for epoch in "12"}
    assert {each.info.status for each in runs_by_status()["superseded"]} == {"FINISHED"}
    monkeypatch.chdir(moved)
    (line,) = differences(capsys)
    assert "its artifacts are at" in line
    assert stage() == 0
    assert str(moved) in assert_mirrored()["report"].info.artifact_uri


def test_stages_that_come_from_the_run_cache_are_mirrored_though_the_store_is_new(moved, capsys):
    for path in ("mlflow.db", "dvc.lock"):
        (moved / path).unlink()
    for path in ("mlartifacts", "artifacts", "reports/vae"):
        shutil.rmtree(moved / path)
    assert [line.partition(": ")[0:3:2] for line in differences(capsys)] == [
        ("publish", "dvc.lock: cannot be read (No such file or directory); run `dvc repro`, which writes it")
    ]
    run(moved, "git", "checkout", "dvc.lock")
    run(moved, "dvc", "checkout")
    run(moved, "git", "checkout", "reports")
    assert {line.partition(": no current run")[0] for line in differences(capsys)} == set(NAMES)
    (moved / "dvc.lock").unlink()
    shutil.rmtree(moved / "artifacts")
    run(moved, "dvc", "commit", "--force", "prepare")
    out = run(moved, "dvc", "repro").stdout
    assert "Stage 'train@vae' is cached - skipping run" in out
    assert "Running stage 'train@vae'" not in out
    assert_mirrored()
    assert set(runs_by_status()) == {"current"}


def test_training_by_force_leaves_live_runs_that_publish_closes(workspace, capsys):
    before = {each.info.run_id for each in runs_by_status()["current"]}
    run(workspace, "dvc", "repro", "--force", "--single-item", "train@vae")
    lines = differences(capsys)
    assert [line.partition(":")[0] for line in sorted(lines)] == NAMES[:2]
    assert all(line.endswith("live (FINISHED), yet to be marked superseded") for line in lines)
    assert stage() == 0
    # The same bits: the runs that were right stay.
    assert {each.info.run_id for each in assert_mirrored().values()} == before


def test_experiments_have_runs_of_their_own_in_the_store_of_the_repository(workspace):
    before = {name: each.info.run_id for name, each in assert_mirrored().items()}
    run(workspace, "dvc", "exp", "run", "--temp", "--name", "heavy", "-S", "models.vae.beta=4")
    run(workspace, "dvc", "exp", "run", "--queue", "--name", "queued", "-S", "evaluate.samples=600")
    run(workspace, "dvc", "exp", "run", "--run-all", "--jobs", "1")
    assert {name: each.info.run_id for name, each in assert_mirrored().items()} == before
    heavy = workspace.parent / "history.csv"
    references = run(workspace, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    (reference,) = [each for each in references if each.endswith("/heavy")]
    heavy.write_text(run(workspace, "git", "show", f"{reference}:reports/vae/history.csv").stdout)
    own = assert_mirrored(status="experiment heavy", history=heavy)
    assert {own[name].data.params["model.beta"] for name in NAMES[:2]} == {"4.0"}
    own = assert_mirrored(status="experiment queued")
    assert {own[name].data.metrics["samples"] for name in NAMES[:2]} == {600.0}


def test_killed_training_goes_on_and_older_results_are_what_is_current_after_a_checkout(workspace, capsys):
    edit_params(workspace, {"models.vae.beta": 4.0, "train.epochs": 40})
    with subprocess.Popen(["dvc", "repro"], cwd=workspace, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as dvc:
        while len(list((workspace / "scratch/train@vae").rglob("*-*.safetensors"))) < 2:
            assert dvc.poll() is None
            time.sleep(0.02)
        dvc.kill()
    lines = differences(capsys)
    assert any("params.yaml: models.vae.beta is 4.0, dvc.lock says 1.0" in line for line in lines)
    assert "goes on" in run(workspace, "dvc", "repro").stderr
    assert_mirrored(epochs=40)
    assert {"KILLED", "FINISHED"} <= {each.info.status for each in runs_by_status()["superseded"]}
    commit(workspace, "four times the weight")
    for revision, epochs, beta in (("HEAD~1", 2, "1.0"), ("main", 40, "4.0")):
        run(workspace, "git", "checkout", "--quiet", revision)
        run(workspace, "dvc", "checkout")
        lines = differences(capsys)
        assert [line.partition(":")[0] for line in lines] == NAMES
        assert all("stale: its fingerprint is" in line for line in lines)
        assert stage() == 0
        assert assert_mirrored(epochs)["vae-seed-0"].data.params["model.beta"] == beta


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A tracking server that is down: MLFLOW_TRACKING_URI names it, and what is returned starts it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "store")]
    started = []

    def start():
        with (tmp_path / "server.log").open("w") as log:
            environment = ENVIRONMENT | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            started.append(process)
        deadline = time.monotonic() + 120
        while True:
            try:
                return urllib.request.urlopen(f"{uri}/health").status
            except OSError:
                assert started[0].poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)  # its worker too
        process.wait()


def test_a_server_that_was_down_while_training_ran_gets_everything_once_it_is_back(moved, server, capsys):
    trained = ["dvc", "repro", "--force", "--single-item", "train@vae"]
    environment = ENVIRONMENT | {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
    done = subprocess.run(trained, cwd=moved, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.count("live logging to MLflow stopped, training goes on: ") == 1
    assert any("MLflow at http://127.0.0.1:" in line for line in differences(capsys))
    assert server() == 200
    assert {line.partition(": no current run")[0] for line in differences(capsys)} == set(NAMES)
    # Two publishes at once.
    statuses = []
    both = [threading.Thread(target=lambda: statuses.append(stage())) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert statuses == [0, 0]
    first = assert_mirrored()
    assert len(our_runs()[1]) == len(NAMES)
    # Two trainings at once, one of a model that params.yaml has not.
    with LiveRuns(EXPERIMENT, "vae", "vae", (0, 1)) as live, LiveRuns(EXPERIMENT, "other", "vae", (0,)) as other:
        for epoch in (1, 2):
            for writer, seed in ((live, 0), (live, 1), (other, 0)):
                writer.log(seed, {"seed": seed, "epoch": epoch, "train_total": 1.0})
    lines = differences(capsys)
    assert sorted(line.partition(":")[0] for line in lines) == ["other-seed-0", "vae-seed-0", "vae-seed-1"]
    client = mlflow.MlflowClient()
    client.log_metric(first["vae-seed-0"].info.run_id, "train_total", 1.0, step=7)
    client.delete_run(first["report"].info.run_id)
    text = "\n".join(differences(capsys))
    assert "vae-seed-0: run " in text
    assert "curve train_total has 2 of 2 points right, and 1 others" in text
    assert "report: no current run" in text
    assert stage() == 0
    again = assert_mirrored()
    changed = {name for name in NAMES if again[name].info.run_id != first[name].info.run_id}
    assert changed == {"vae-seed-0", "report"}
    (output,) = again["vae-seed-1"].outputs.model_outputs
    files = {entry.path for entry in client.list_logged_model_artifacts(output.model_id)}
    assert {"MLmodel", "code", "data"} <= files
