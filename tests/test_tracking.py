"""One test a promise of the mirror, on a small fabricated pipeline (tests/mirrored.py) and a real sqlite store."""

import csv
import importlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import mirrored
import mlflow
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from mlflow.entities import Metric
from safetensors.torch import load_file

from randomz import tracking
from randomz.live import LiveRuns
from randomz.lock import read_lock
from randomz.models import load_kind
from randomz.params import load_params
from randomz.priors import build_priors
from randomz.processes import token
from randomz.records import read_records
from randomz.seeding import generator
from randomz.trained import load_model

# How MLflow uses SQLAlchemy, and that it leaves closing to the end of the process, is not ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]
ROOT = Path(__file__).parent.parent
NAMES = ["vae-seed-0", "vae-seed-1", "report"]  # of a workspace
ALL_NAMES = [*NAMES, "vq-small-seed-0", "vq-small-seed-1"]  # of the shared one
EXPERIMENT = "randomz"
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A sqlite file with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def workspace(tmp_path, empty_store, monkeypatch):
    """One model, two seeds and an empty store."""
    root = mirrored.build(tmp_path / "a workspace", "vae")
    shutil.copy(empty_store, root)
    monkeypatch.chdir(root)
    return root


def published_workspace(root, store, *models):
    mirrored.build(root, *models)
    shutil.copy(store, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        publish()
    return root


@pytest.fixture(scope="module")
def shared(tmp_path_factory, empty_store):
    return published_workspace(tmp_path_factory.mktemp("shared").resolve(), empty_store, *mirrored.MODELS)


@pytest.fixture
def published(shared, monkeypatch):
    """A published workspace of two models, for tests that change nothing."""
    monkeypatch.chdir(shared)
    return shared


@pytest.fixture(scope="module")
def shared_spoilt(tmp_path_factory, empty_store):
    return published_workspace(tmp_path_factory.mktemp("spoilt").resolve(), empty_store, "vae")


@pytest.fixture
def spoilt(shared_spoilt, monkeypatch):
    """A published workspace of one model, for tests that spoil the store and repair it by publishing."""
    monkeypatch.chdir(shared_spoilt)
    return shared_spoilt


def publish(say=str):
    return tracking.publish(EXPERIMENT, read_records(read_lock(), load_params()), say)


def check():
    return tracking.check(EXPERIMENT, read_records(read_lock(), load_params()))


def stage(*arguments):
    return importlib.import_module("pipeline.publish").main(arguments)


def client(root=None):
    return mlflow.MlflowClient(f"sqlite:///{(root or Path.cwd()) / 'mlflow.db'}")


def all_runs(root=None):
    store = client(root)
    experiment = store.get_experiment_by_name(EXPERIMENT)
    return store.search_runs([experiment.experiment_id]) if experiment else []


def current(name, root=None):
    """The one current run of a name; fails where there are none or two."""
    (run,) = [
        run
        for run in all_runs(root)
        if run.data.tags["randomz.run"] == name and run.data.tags["randomz.status"] == "current"
    ]
    return run


def statuses(name):
    runs = [run for run in all_runs() if run.data.tags["randomz.run"] == name]
    return sorted((run.data.tags["randomz.status"], run.info.status) for run in runs)


def artifacts(run):
    return Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " "))


# A fresh publish --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_one_finished_current_run_for_each_model_and_seed_and_one_for_the_report():
    runs = all_runs()
    assert sorted(run.info.run_name for run in runs) == sorted(ALL_NAMES)
    assert {(run.data.tags["randomz.status"], run.info.status) for run in runs} == {("current", "FINISHED")}
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {None}
    assert check() == []


@pytest.mark.usefixtures("published")
def test_params_are_those_of_params_yaml():
    found = current("vq-small-seed-1").data.params
    params = load_params()
    assert found["model"] == "vq-small"
    assert found["seed"] == "1"
    for section, config in (
        ("model", params.models["vq-small"]),
        ("network", params.network),
        ("train", params.train),
        ("prior", params.prior.vqvae),
    ):
        values = {key: str(value) for key, value in config.model_dump().items() if value is not None}
        assert {key: found[f"{section}.{key}"] for key in values} == values
    assert len(found) < 100


@pytest.mark.parametrize("seed", mirrored.SEEDS)
@pytest.mark.parametrize("model", mirrored.MODELS)
def test_curves_are_those_of_history_csv(published, model, seed):
    run = current(f"{model}-seed-{seed}")
    with (published / f"reports/{model}/history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["seed"]) == seed]
    assert len(rows) == mirrored.EPOCHS
    for column in rows[0].keys() - {"seed", "epoch"}:
        points = client().get_metric_history(run.info.run_id, column)
        assert [(p.step, p.value) for p in points] == [(int(row["epoch"]), float(row[column])) for row in rows]


def test_every_scalar_of_metrics_json_is_there_with_the_value_of_its_seed(published):
    tree = json.loads((published / "reports/vae/metrics.json").read_text())
    for position, seed in enumerate(mirrored.SEEDS):
        found = current(f"vae-seed-{seed}").data.metrics
        assert found["parameters"] == 1234
        assert found["reconstruction/pca_mse"] == 0.02
        assert found["reconstruction/mse"] == tree["reconstruction"]["mse"]["per_seed"][position]
        assert found["kl/bound/1"] == (-99.0, -98.0)[position]
        assert found["sampling/gmm/fd_ratio"] == (10.0, 15.0)[position]
        assert found["prior/gaussian/validation_nats"] == 9.5 + seed
    assert "kind" not in found


@pytest.mark.usefixtures("published")
def test_tags_say_what_the_run_follows_from():
    tags = current("vae-seed-1").data.tags
    lock = read_lock()
    assert (tags["randomz.model"], tags["randomz.kind"], tags["randomz.seed"]) == ("vae", "vae", "1")
    assert tags["randomz.dvc.train"] == lock.stage("train@vae").md5()
    assert tags["randomz.dvc.yardstick"] == lock.stage("yardstick").md5()
    outputs = [entry for name in ("train", "prior", "evaluate") for entry in lock.stage(f"{name}@vae").outs]
    names = ["weights", "snapshots", "history.csv", "priors", "prior.csv", "pictures", "metrics.json"]
    assert [entry.path.name for entry in outputs] == names
    assert [tags[f"randomz.md5.{entry.path.name}"] for entry in outputs] == [entry.md5 for entry in outputs]
    assert tags["randomz.git_dirty"] == "unknown"
    fingerprints = {run.data.tags["randomz.fingerprint"] for run in all_runs()}
    assert len(fingerprints) == len(ALL_NAMES)


@pytest.mark.usefixtures("published")
def test_the_dataset_is_an_input_with_the_md5_that_dvc_gave_it():
    (entry,) = current("vae-seed-0").inputs.dataset_inputs
    assert entry.dataset.digest == mirrored.DATASET_MD5
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training"}


def test_weights_priors_and_pictures_are_artifacts(published):
    folder = artifacts(current("vq-small-seed-0"))
    for name in ("weights", "priors"):
        file = f"{name}/seed-0.safetensors"
        assert (folder / file).read_bytes() == (published / "artifacts/vq-small" / file).read_bytes()
    pictures = {path.name: imread(path).shape[:2] for path in (folder / "pictures").iterdir()}
    samples = dict.fromkeys((f"samples-{name}.png" for name in mirrored.SAMPLERS["vqvae"]), (604, 604))
    assert pictures == {"reconstructions.png": (244, 604), "interpolation.png": (364, 664), **samples}


def test_pictures_by_epoch_have_steps(published):
    run = current("vae-seed-1")
    assert run.data.tags["mlflow.loggedImages"] == "True"
    snapshots = load_file(published / "artifacts/vae/snapshots/seed-1.safetensors")
    found = {}
    for path in (artifacts(run) / "images").glob("*.png"):
        name, epoch = re.fullmatch(r"(\w+)\+step\+(\d+)\+timestamp\+.*", path.name).groups()
        found[name, int(epoch)] = np.rint(imread(path) * 255)
    assert set(found) == {(name, epoch) for name in ("reconstructions", "samples") for epoch in (1, 2, 3)}
    first = found["samples", 2][4:60:2, 4:60:2]
    np.testing.assert_array_equal(first, snapshots["samples"][1, 0])


def test_the_report_run_holds_the_report_and_its_headlines(published):
    run = current("report")
    folder = artifacts(run)
    for name in ("report.md", "metrics.json", "figures/samples.png"):
        assert (folder / name).read_bytes() == (published / "reports" / name).read_bytes()
    assert run.data.metrics["vae/gmm/fd_ratio"] == 12.5
    assert set(run.data.metrics) == {
        f"{name}/{sampler}/fd_ratio"
        for name, config in mirrored.MODELS.items()
        for sampler in mirrored.SAMPLERS[config["kind"]]
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["vae-seed-1", "vq-small-seed-0"])
@pytest.mark.usefixtures("published")
def test_the_model_that_mlflow_loads_is_the_trained_one(name):
    run = current(name)
    (output,) = run.outputs.model_outputs
    logged = client().get_logged_model(output.model_id)
    assert logged.experiment_id == run.info.experiment_id
    assert logged.status == "READY"
    images = np.random.default_rng(0).random((3, 28, 28), np.float32)
    loaded = mlflow.pyfunc.load_model(logged.artifact_location)
    params = load_params()
    model_name, seed = run.data.params["model"], run.data.params["seed"]
    config = params.models[model_name]
    model = load_kind(config.kind).build(config, params.network)
    model.load_state_dict(load_file(f"artifacts/{model_name}/weights/seed-{seed}.safetensors"))
    with torch.no_grad():
        expected = model.decode(model.encode(torch.as_tensor(images)[:, None]))[:, 0].numpy()
    np.testing.assert_array_equal(loaded.predict(images), expected)
    assert loaded.input_example.shape == (4, 28, 28)
    with pytest.raises(mlflow.MlflowException, match="shape"):
        loaded.predict(images[:, :20])


LOADED_ALONE = """
import sys
import mlflow
import numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
asked = {"sampler": sys.argv[2], "seed": 3}
first, same = (model.predict(np.zeros((5, 28, 28), np.float32), asked) for _ in range(2))
assert np.array_equal(first, same)
np.save(sys.argv[3], first)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["vae-seed-1", "vq-small-seed-0"])
@pytest.mark.usefixtures("published")
def test_the_model_that_mlflow_loads_samples_from_its_priors(name):
    (output,) = current(name).outputs.model_outputs
    loaded = mlflow.pyfunc.load_model(client().get_logged_model(output.model_id).artifact_location)
    params = load_params()
    model_name, seed = current(name).data.params["model"], current(name).data.params["seed"]
    model = load_model(params, model_name, Path(f"artifacts/{model_name}/weights/seed-{seed}.safetensors"), CPU)
    nothing = np.zeros((5, 28, 28), np.float32)
    for sampler, prior in build_priors(params, model_name, model, int(seed)).items():
        drawn = loaded.predict(nothing, {"sampler": sampler, "seed": 3})
        assert drawn.shape == (5, 28, 28)
        assert not np.array_equal(drawn, loaded.predict(nothing, {"sampler": sampler, "seed": 4}))
        if sampler in {"standard_normal", "uniform"}:
            codes = prior.sample(5, generator("packaged sample", 3))
            with torch.no_grad():
                np.testing.assert_array_equal(drawn, model.decode(codes)[:, 0].numpy())
    with pytest.raises(ValueError, match="sampler is 'guess'; accepted: "):
        loaded.predict(nothing, {"sampler": "guess"})


@pytest.mark.slow
def test_a_bare_script_loads_the_model_without_the_repository(published, tmp_path):
    (output,) = current("vae-seed-1").outputs.model_outputs
    location = client().get_logged_model(output.model_id).artifact_location
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", LOADED_ALONE, location, "gaussian", str(tmp_path / "samples.npy")]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    samples = np.load(tmp_path / "samples.npy")
    assert ((samples > 0) & (samples < 1)).all()
    assert (published / "mlflow.db").exists()


# Publishing again -------------------------------------------------------------------------------------------------


def test_a_second_publish_writes_nothing(published):
    before = {path: path.stat().st_mtime_ns for path in (published / "mlartifacts").rglob("*")}
    content = (published / "mlflow.db").read_bytes()
    lines: list[str] = []
    assert publish(lines.append) == 0
    assert lines == []
    assert (published / "mlflow.db").read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in (published / "mlartifacts").rglob("*")} == before


def test_changed_metrics_replace_the_runs_of_that_model_alone(tmp_path, empty_store, monkeypatch):
    monkeypatch.chdir(mirrored.build(tmp_path, *mirrored.MODELS))
    shutil.copy(empty_store, tmp_path)
    publish()
    before = {name: current(name).info.run_id for name in ALL_NAMES}
    mirrored.write_metrics(tmp_path, "vae", shift=0.5)
    mirrored.finish(tmp_path)
    assert [line.partition(":")[0] for line in check()] == ["vae-seed-0", "vae-seed-1", "report"]
    assert all("stale" in line for line in check())
    assert publish() == 3
    assert check() == []
    changed = {name for name in ALL_NAMES if current(name).info.run_id != before[name]}
    assert changed == {"vae-seed-0", "vae-seed-1", "report"}
    assert statuses("vae-seed-0") == [("current", "FINISHED"), ("superseded", "FINISHED")]
    assert current("vae-seed-0").data.metrics["sampling/gmm/fd"] == 20.5
    models = client().search_logged_models([current("report").info.experiment_id])
    assert sorted(model.tags["randomz.status"] for model in models) == ["current"] * 4 + ["superseded"] * 2


@pytest.mark.slow
def test_a_deleted_store_is_rebuilt_once_even_by_two_publishes_at_once(workspace):
    publish()
    (workspace / "mlflow.db").unlink()
    shutil.rmtree(workspace / "mlartifacts")
    assert [line.partition(":")[0] for line in check()] == NAMES
    assert not (workspace / "mlflow.db").exists()
    command, environment = [sys.executable, "-m", "pipeline.publish"], os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    # A line a run, one that sums up, and no chatter of MLflow's.
    idle, busy = sorted((output.splitlines() for output in outputs), key=len)
    assert idle == ["MLflow mirrors dvc.lock: 3 runs, 0 of them new"]
    assert [line.partition(":")[0] for line in busy] == [*NAMES, "MLflow mirrors dvc.lock"]
    # Not through MLflow, which in this process still has the deleted file open.
    with sqlite3.connect(workspace / "mlflow.db") as database:
        found = database.execute("SELECT name, value FROM runs JOIN tags USING (run_uuid) WHERE key = 'randomz.status'")
        assert sorted(found) == sorted((name, "current") for name in NAMES)
    database.close()


def test_a_moved_repository_gets_its_artifacts_where_it_is(workspace, monkeypatch, tmp_path):
    publish()
    moved = tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    workspace.rename(moved)
    monkeypatch.chdir(moved)
    (line,) = check()
    assert "its artifacts are at" in line
    assert publish() == len(NAMES)
    assert check() == []
    assert artifacts(current("vae-seed-0")).is_relative_to(moved)
    assert not workspace.exists()


def test_a_seed_that_params_yaml_no_longer_has_is_superseded(workspace):
    publish()
    mirrored.write_params(workspace, models={"vae": mirrored.MODELS["vae"]}, seeds=[1])
    for name in ("history", "prior"):
        path = workspace / f"reports/vae/{name}.csv"
        path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("0,")))
    path = workspace / "reports/vae/metrics.json"
    path.write_text(re.sub(r"\[[^,\]]*, ", "[", path.read_text()))
    mirrored.finish(workspace)
    assert [line for line in check() if line.startswith("vae-seed-0: run") and line.endswith("marked superseded")]
    publish()
    assert check() == []
    assert statuses("vae-seed-0") == [("superseded", "FINISHED")]
    assert statuses("vae-seed-1") == [("current", "FINISHED"), ("superseded", "FINISHED")]


@pytest.mark.usefixtures("workspace")
def test_a_deleted_experiment_is_restored():
    publish()
    client().delete_experiment(current("report").info.experiment_id)
    assert [line.partition(":")[0] for line in check()] == NAMES
    publish()
    assert check() == []


# A publish that was stopped ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["log_batch", "create_logged_model", "set_tag"])
@pytest.mark.usefixtures("workspace")
def test_an_interrupted_publish_is_repaired_by_the_next(monkeypatch, step):
    done = getattr(mlflow.MlflowClient, step)

    def interrupt(self, run_id, key="randomz.status", *args, **kwargs):
        if key == "randomz.status" or step != "set_tag":  # pictures set a tag too
            raise KeyboardInterrupt
        return done(self, run_id, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            publish()
    (run,) = all_runs()
    assert run.data.tags["randomz.status"] == "pending"
    assert f"vae-seed-0: run {run.info.run_id}: pending" in "\n".join(check())
    assert publish() == len(NAMES)
    assert check() == []
    status = "FINISHED" if step == "set_tag" else "KILLED"
    assert statuses("vae-seed-0") == [("current", "FINISHED"), ("superseded", status)]


@pytest.mark.slow
@pytest.mark.usefixtures("workspace")
def test_a_killed_publish_is_repaired_by_the_next():
    script = """
import os, sys, mlflow
from pipeline.publish import main
# Publishing does without torch, so that it starts fast; signal 10 says that it did not.
mlflow.MlflowClient.set_terminated = lambda *_: os.kill(os.getpid(), 10 if "torch" in sys.modules else 9)
main([])
"""
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -9
    assert statuses("vae-seed-0") == [("pending", "RUNNING")]
    publish()
    assert check() == []
    assert statuses("vae-seed-0") == [("current", "FINISHED"), ("superseded", "KILLED")]


# What a check finds ------------------------------------------------------------------------------------------------


def delete_run(run):
    client().delete_run(run.info.run_id)


def duplicate_run(run):
    tags = run.data.tags | {"randomz.process": token()}
    client().create_run(run.info.experiment_id, tags=tags, run_name=run.info.run_name)


def make_stale(run):
    client().set_tag(run.info.run_id, "randomz.fingerprint", "0" * 32)


def reopen(run):
    client().update_run(run.info.run_id, status="RUNNING")


def change_metric(run):
    client().log_metric(run.info.run_id, "sampling/gmm/fd_ratio", 1.0, step=1)


def add_metric(run):
    client().log_metric(run.info.run_id, "sampling/wishful/fd_ratio", 1.0)


def add_param(run):
    client().log_param(run.info.run_id, "train.wishful", "1")


def add_point(run):
    client().log_metric(run.info.run_id, "train_total", 1.0, step=1000)


def change_tag(run):
    client().set_tag(run.info.run_id, "randomz.dvc.prior", "another")


def delete_picture(run):
    (artifacts(run) / "pictures/samples-gmm.png").unlink()


def delete_epoch(run):
    (path,) = (artifacts(run) / "images").glob("samples+step+2+*.png")
    path.unlink()


def truncate_weights(run):
    (artifacts(run) / "weights/seed-1.safetensors").write_bytes(b"short")


def delete_model(run):
    (output,) = run.outputs.model_outputs
    shutil.rmtree(Path(client().get_logged_model(output.model_id).artifact_location.removeprefix("file://")))


def from_table(statement):
    """A change that MLflow has no call for."""

    def change(run):
        with sqlite3.connect("mlflow.db") as database:
            assert database.execute(statement, {"run": run.info.run_id}).rowcount > 0
        database.close()

    return change


CONTENT = [
    (change_metric, "metric sampling/gmm/fd_ratio is 1.0; the files say 15.0"),
    (add_metric, "metric sampling/wishful/fd_ratio is 1.0; the files have none"),
    (
        from_table("DELETE FROM latest_metrics WHERE run_uuid = :run AND key = 'parameters'"),
        "metric parameters is missing; the files say 1234.0",
    ),
    (add_param, "param train.wishful is 1; the files have none"),
    (
        from_table("UPDATE params SET value = '7' WHERE run_uuid = :run AND key = 'train.epochs'"),
        "param train.epochs is 7; the files say 20",
    ),
    (add_point, "curve train_total has 3 of 3 points right, and 1 others"),
    (
        from_table("DELETE FROM metrics WHERE run_uuid = :run AND key = 'validation_kl' AND step = 2"),
        "curve validation_kl has 2 of 3 points right, and 0 others",
    ),
    (change_tag, "tag dvc.prior is another; the files say "),
    (delete_picture, "artifact pictures/samples-gmm.png is missing"),
    (delete_epoch, "picture samples has epochs [1, 3]; the file has [1, 2, 3]"),
    (truncate_weights, "artifact weights/seed-1.safetensors has 5 bytes; the file has "),
    (delete_model, "models that can be loaded: 0; 1 is right"),
    (from_table("DELETE FROM inputs WHERE destination_id = :run"), "dataset digests are []; dvc.lock says "),
]


@pytest.mark.parametrize(
    ("spoils", "differences"),
    [
        ([delete_run], ["no current run"]),
        ([duplicate_run], ["2 current runs", "unfinished"]),
        ([make_stale], ["stale: its fingerprint is 0000"]),
        ([reopen], ["unfinished: its status is not FINISHED"]),
        ([spoil for spoil, _ in CONTENT], [difference for _, difference in CONTENT]),
    ],
    ids=["deleted", "duplicate", "stale", "unfinished", "content"],
)
@pytest.mark.usefixtures("spoilt")
def test_a_check_names_each_difference_and_publish_repairs_it(capsys, spoils, differences):
    run = current("vae-seed-1")
    for spoil in spoils:
        spoil(run)
    assert stage("--check") == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("vae-seed-1: ") for line in lines)
    assert len(lines) == len(differences)
    for difference in differences:
        assert sum(difference in line for line in lines) == 1, (difference, lines)
    assert stage() == 0
    current("vae-seed-1")
    capsys.readouterr()
    assert stage("--check") == 0
    assert capsys.readouterr().out == "MLflow mirrors dvc.lock: 3 runs, 0 of them new\n"


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("dvc.lock", "dvc.lock: cannot be read"),
        ("reports/vae/metrics.json", "reports/vae/metrics.json: absent, an output of evaluate@vae"),
        ("reports/report.md", "reports/report.md: absent"),
        ("artifacts/vae/weights/seed-1.safetensors", "artifacts/vae/weights: has md5"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_an_absent_file_is_one_error_and_no_store(tmp_path, monkeypatch, capsys, missing, named, arguments):
    monkeypatch.chdir(mirrored.build(tmp_path, "vae"))
    Path(missing).unlink()
    assert stage(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"publish: {named}")
    assert "run `dvc repro`" in err or "`dvc pull` or `dvc repro`" in err
    assert len(err.splitlines()) == 1
    assert not Path("mlflow.db").exists()


@pytest.mark.usefixtures("published")
def test_a_server_that_is_not_there_is_one_error_without_the_password(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert stage() == 1
    err = capsys.readouterr().err
    assert "MLflow at http://127.0.0.1:9" in err
    assert "secret" not in err
    assert len(err.splitlines()) == 1


# Where the mirror is ------------------------------------------------------------------------------------------------


def test_the_store_is_at_the_repository_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking.find_place({}).database == tmp_path / "mlflow.db"
    assert tracking.find_place({"DVC_ROOT": str(tmp_path)}).status == "current"
    inside = tracking.find_place({"DVC_ROOT": str(tmp_path.parent), "DVC_EXP_NAME": "curly-fox"})
    assert inside.database == tmp_path.parent / "mlflow.db"
    assert inside.artifacts == tmp_path.parent / "mlartifacts"
    assert inside.status == "experiment curly-fox"


def test_mlflow_tracking_uri_points_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = tracking.find_place({"MLFLOW_TRACKING_URI": "sqlite:////data/other.db"})
    assert (elsewhere.uri, elsewhere.artifacts) == ("sqlite:////data/other.db", Path("/data/mlartifacts"))
    relative = tracking.find_place({"MLFLOW_TRACKING_URI": "sqlite:///sub/other.db", "DVC_ROOT": str(tmp_path)})
    assert relative.database == tmp_path / "sub/other.db"
    server = tracking.find_place({"MLFLOW_TRACKING_URI": "http://server:5000"})
    assert (server.uri, server.artifacts, server.database) == ("http://server:5000", None, None)
    assert server.lock.parent == tmp_path


def test_an_experiment_workspace_leaves_the_runs_of_the_repository_alone(workspace, tmp_path, monkeypatch):
    publish()
    before = current("vae-seed-0").info.run_id
    monkeypatch.chdir(mirrored.build(tmp_path / "temporary", "vae"))
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    monkeypatch.setenv("DVC_EXP_NAME", "curly-fox")
    mirrored.write_metrics(Path(), "vae", shift=2.0)
    mirrored.finish(Path())
    assert publish() == len(NAMES)
    assert publish() == 0
    assert not Path("mlflow.db").exists()
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(workspace)
    assert check() == []
    assert current("vae-seed-0").info.run_id == before
    assert statuses("vae-seed-0") == [("current", "FINISHED"), ("experiment curly-fox", "FINISHED")]


# Live runs -----------------------------------------------------------------------------------------------------------


def rows(seed):
    return [{"seed": seed, "epoch": epoch, "train_total": 100 / epoch + seed} for epoch in (1, 2, 3)]


@pytest.mark.usefixtures("workspace")
def test_live_runs_hold_what_was_logged_and_give_way_to_the_published_ones():
    with LiveRuns(EXPERIMENT, "vae", "vae", (0, 1)) as live:
        for pair in zip(rows(0), rows(1), strict=True):
            for seed, row in enumerate(pair):
                live.log(seed, row)
    assert statuses("vae-seed-0") == statuses("vae-seed-1") == [("live", "FINISHED")]
    for run in all_runs():
        seed = int(run.data.tags["randomz.seed"])
        points = client().get_metric_history(run.info.run_id, "train_total")
        assert [(p.step, p.value) for p in points] == [(row["epoch"], row["train_total"]) for row in rows(seed)]
        publish()
    assert check() == []
    assert statuses("vae-seed-0") == [("current", "FINISHED"), ("superseded", "FINISHED")]


@pytest.mark.slow
def test_trainings_at_once_share_a_store_that_is_yet_to_be_made(workspace, monkeypatch, capfd):
    (workspace / "mlflow.db").unlink()
    monkeypatch.setattr("randomz.live.PATIENCE", 120.0)  # the tables are made meanwhile, by one of the two
    with LiveRuns(EXPERIMENT, "vae", "vae", (0, 1)) as live, LiveRuns(EXPERIMENT, "other", "vae", (0,)) as other:
        for writer, seed in ((live, 0), (live, 1), (other, 0)):
            for row in rows(seed):
                writer.log(seed, row)
    assert capfd.readouterr().err == ""
    for name in ("vae-seed-0", "vae-seed-1", "other-seed-0"):
        assert statuses(name) == [("live", "FINISHED")]
    for run in all_runs():
        points = client().get_metric_history(run.info.run_id, "train_total")
        expected = [row["train_total"] for row in rows(int(run.data.tags["randomz.seed"]))]
        assert [point.value for point in points] == expected
    publish()
    assert check() == []
    assert statuses("other-seed-0") == [("superseded", "FINISHED")]


def history_of(seed):
    with Path("reports/vae/history.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [row for row in rows if row["seed"] == seed]


def system(run):
    return {name: value for name, value in run.data.metrics.items() if name.startswith("system/")}


@pytest.mark.usefixtures("workspace")
def test_what_the_machine_did_goes_from_the_live_run_to_the_published_one_of_that_training():
    with LiveRuns(EXPERIMENT, "vae", "vae", (0, 1)) as live:
        for row in history_of(0):
            live.log(0, row)
        for row in rows(1):  # another training: its losses are not those of the files
            live.log(1, row | {"train_total": 7.0})
    (before,) = [run for run in all_runs() if run.data.tags["randomz.seed"] == "0"]
    names = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage"}
    assert {name.removeprefix("system/") for name in system(before)} >= names
    assert 0 <= before.data.metrics["system/cpu_utilization_percentage"] <= 100
    publish()
    assert system(current("vae-seed-0")) == system(before)
    assert system(current("vae-seed-1")) == {}
    # It stays with the training when only the evaluation is another.
    mirrored.write_metrics(Path(), "vae", shift=0.5)
    mirrored.finish(Path())
    assert publish() == 3
    assert system(current("vae-seed-0")) == system(before)
    assert check() == []


@pytest.mark.usefixtures("workspace")
def test_training_that_fails_or_is_killed_ends_its_live_runs():
    first = json.dumps({"experiment": EXPERIMENT, "model": "vae", "kind": "vae", "seeds": [0]})
    point = json.dumps({"seed": 0, "step": 1, "time": 1, "metrics": {"train_total": 1.0}})
    tracking.serve(iter([first, point, json.dumps({"status": "FAILED"})]))
    assert statuses("vae-seed-0") == [("live", "FAILED")]
    tracking.serve(iter([first, point]))
    assert statuses("vae-seed-0") == [("live", "KILLED"), ("superseded", "FAILED")]


@pytest.mark.usefixtures("workspace")
def test_training_that_goes_on_has_one_live_run_with_every_epoch_once():
    with LiveRuns(EXPERIMENT, "vae", "vae", (0, 1)) as live:
        live.log(0, rows(0)[0])
        live.close("KILLED")
    with LiveRuns(EXPERIMENT, "vae", "vae", (0, 1)) as live:
        for row in rows(0):  # those before the interruption too
            live.log(0, row)
    assert statuses("vae-seed-0") == [("live", "FINISHED"), ("superseded", "KILLED")]
    (run,) = [r for r in all_runs() if r.data.tags["randomz.status"] == "live" and r.data.tags["randomz.seed"] == "0"]
    points = client().get_metric_history(run.info.run_id, "train_total")
    assert [point.step for point in points] == [1, 2, 3]


def start_live(process):
    store = client()
    place = tracking.find_place()
    mirror = tracking.open_mirror(place, EXPERIMENT)
    tags = {"randomz.run": "vae-seed-0", "randomz.status": "live", "randomz.process": process}
    return store.create_run(mirror.experiment_id, tags=tags).info.run_id


@pytest.mark.usefixtures("workspace")
def test_a_live_run_is_closed_when_its_process_is_dead_and_left_alone_while_it_runs():
    start_live(token(os.getppid()))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead_token = token(dead.pid)
    dead.wait()
    start_live(dead_token)
    # The number of a living process with another start: it was used again.
    start_live(f"{token(os.getppid()).rpartition(' ')[0]} 1")
    publish()
    assert statuses("vae-seed-0") == [
        ("current", "FINISHED"),
        ("live", "RUNNING"),
        ("superseded", "KILLED"),
        ("superseded", "KILLED"),
    ]
    assert check() == []


@pytest.mark.usefixtures("workspace")
def test_another_machines_live_run_is_believed_for_a_day(monkeypatch):
    start_live("another-machine 1 1")
    publish()
    assert ("live", "RUNNING") in statuses("vae-seed-0")
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 25 * 3600 * 10**9)
    publish()
    assert statuses("vae-seed-0") == [("current", "FINISHED"), ("superseded", "KILLED")]


def test_a_server_that_is_not_there_costs_training_one_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with LiveRuns(EXPERIMENT, "vae", "vae", (0,)) as live:
        for row in rows(0):
            live.log(0, row)
    live.log(0, rows(0)[0])
    live.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("live logging to MLflow stopped, training goes on: ")
    assert len(err.splitlines()) == 1


def test_training_hears_of_a_failure_and_of_nothing_else(monkeypatch, capsys):
    def chatter(_lines):
        sys.stdout.write("View run at ...")

    def fail(_lines):
        raise ValueError("two\nlines for http://me:secret@server")

    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(tracking, "serve", chatter)
    assert tracking.main() == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(tracking, "serve", fail)
    assert tracking.main() == 0
    assert capsys.readouterr().out == "ValueError: two lines for http://server\n"


@pytest.mark.parametrize("reason", ["MlflowException: no", ""])
def test_a_writer_that_dies_costs_training_one_warning(tmp_path, monkeypatch, capfd, reason):
    writer = tmp_path / "writer"
    writer.write_text(f"#!/bin/sh\necho '{reason}'\nexit {0 if reason else 3}\n")
    writer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(writer))
    with LiveRuns(EXPERIMENT, "vae", "vae", (0,)) as live:
        for row in rows(0) * 50:
            live.log(0, row)
    err = capfd.readouterr().err
    assert err == f"live logging to MLflow stopped, training goes on: {reason or 'its process ended with status 3'}\n"


def test_a_writer_that_hangs_never_holds_training_up(tmp_path, monkeypatch, capfd):
    writer = tmp_path / "writer"
    writer.write_text("#!/bin/sh\nexec sleep 60\n")
    writer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(writer))
    monkeypatch.setattr("randomz.live.PATIENCE", 0.2)
    with LiveRuns(EXPERIMENT, "vae", "vae", (0,)) as live:
        for row in rows(0) * 1000:  # far more than a pipe holds
            live.log(0, row)
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_training_need_not_import_mlflow():
    code = "import sys, randomz.live; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("workspace")
def test_metrics_beyond_one_request_are_split(monkeypatch):
    monkeypatch.setattr(tracking, "BATCH", 7)
    sizes = []
    log_batch = mlflow.MlflowClient.log_batch

    def count(self, run_id, metrics=(), **rest):
        sizes.append(len(metrics))
        return log_batch(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", count)
    publish()
    assert max(sizes) == 7
    assert check() == []


@pytest.mark.usefixtures("workspace")
def test_runs_that_are_not_ours_are_left_alone():
    publish()
    store = client()
    mine = store.create_run(current("report").info.experiment_id, run_name="a notebook")
    store.log_batch(mine.info.run_id, metrics=[Metric("x", 1.0, 0, 0)])
    assert check() == []
    publish()
    assert store.get_run(mine.info.run_id).info.status == "RUNNING"
    assert "randomz.status" not in store.get_run(mine.info.run_id).data.tags
