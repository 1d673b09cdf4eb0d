"""The mirror in MLflow, and the only file that imports mlflow: records -> runs, and what differs between them.

A run of ours carries `randomz.run`, the name of its record, and `randomz.status`:
    pending     being written; a publish that was killed leaves it, the next one closes it
    current     the one finished run of its record (`experiment <name>` in the workspace of a DVC experiment)
    live        written while training ran; `python -m randomz.tracking` is the process that writes it
    superseded  replaced or given up; kept for its history
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from randomz import packaging
from randomz.faults import SYSTEM, Held, find_faults
from randomz.garbage import without_collection
from randomz.processes import is_alive, token
from randomz.records import DATASET, Package, Record, run_name
from randomz.sheets import draw_sheets, draw_steps

# Read when mlflow is imported: no chatter, no call home, no `uv export` for the requirements of a model, and a server
# that is not there is given up after seconds rather than minutes.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

# The import makes 1,800 modules: to look for garbage among them, where there is none, would take a tenth of its time.
with without_collection():
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, LoggedModelOutput, Metric, Param, Run
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path

OURS = "randomz."  # before our tags
RUN, STATUS, PROCESS = "randomz.run", "randomz.status", "randomz.process"
PENDING, CURRENT, LIVE, SUPERSEDED = "pending", "current", "live", "superseded"
BATCH = 1000  # metrics that one request may hold
PAGE = 1000  # runs that one request is asked for
EXAMPLES = 4  # images in a model's input example
FOREIGN_PATIENCE = 24 * 3600  # seconds after which a run that another machine left running counts as dead
WATCHED = 1.0  # seconds, at least, between two looks at what the machine does
STEPPED = re.compile(r"images/(.+)[+%]step[+%](\d+)[+%]timestamp[+%].*\.png")  # MLflow's name of a picture with a step
MODEL = "model"


class TrackingError(RuntimeError):
    """MLflow cannot be reached or used; the message names the store."""


@dataclass(frozen=True)
class Place:
    """Where the mirror is."""

    uri: str
    artifacts: Path | None  # None: where a server puts them
    lock: Path
    status: str  # that a finished run has here

    @property
    def database(self) -> Path | None:
        """The sqlite file, if the store is one."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None


@dataclass(frozen=True)
class Mirror:
    """An open store and the experiment in it."""

    client: MlflowClient
    experiment_id: str
    place: Place


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """The default is mlflow.db at the repository root (DVC_ROOT, else here); MLFLOW_TRACKING_URI points elsewhere.

    A relative sqlite path starts from the root too: the workspace of a DVC experiment is deleted afterwards.
    """
    here = Path.cwd().resolve()
    root = Path(environment.get("DVC_ROOT") or here).resolve()
    status = CURRENT if root == here else f"experiment {environment.get('DVC_EXP_NAME') or here.name}"
    uri = environment.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if not uri.startswith("sqlite:///"):
        return Place(uri, None, root / "mlflow.db.lock", status)
    database = root / uri.removeprefix("sqlite:///")
    lock = database.with_name(f"{database.name}.lock")
    return Place(f"sqlite:///{database}", database.parent / "mlartifacts", lock, status)


def publish(experiment: str, records: Iterable[Record], say: Callable[[str], None]) -> int:
    """Leave one current finished run a record, holding what its files hold; returns how many were written.

    A run that is right is left alone. `say` gets one line for each run that is written. Raises TrackingError.
    """
    place, records = find_place(), list(records)
    with _errors_of(place), _locked(place.lock):
        mirror = open_mirror(place, experiment)
        runs = _runs(mirror)
        written = [record for record in records if _publish_one(mirror, runs, record, say)]
        _supersede(mirror, _left_over(mirror, runs, records))
    return len(written)


def check(experiment: str, records: Iterable[Record]) -> list[str]:
    """One line for each difference between the store and the records; nothing is written. Raises TrackingError."""
    place, records = find_place(), list(records)
    if place.database and not place.database.exists():
        return [f"{record.name}: no current run ({place.database.name} is absent)" for record in records]
    with _errors_of(place), _locked(place.lock):
        client = _connect(place)
        found = client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage == "deleted":
            return [f"{record.name}: no current run (no experiment {experiment})" for record in records]
        if _is_astray(found, place):
            return [f"experiment {experiment}: its artifacts are at {found.artifact_location}, not {place.artifacts}"]
        return _differences(Mirror(client, found.experiment_id, place), records)


def open_mirror(place: Place, experiment: str) -> Mirror:
    """The store with the experiment in it, made where it is absent, restored where it was deleted."""
    client = _connect(place)
    with _locked(place.lock.with_suffix(".start")):
        found = client.get_experiment_by_name(experiment)
        if found is not None and _is_astray(found, place):
            # Artifact paths are absolute and cannot be changed, so after a move a new experiment takes the name.
            client.rename_experiment(found.experiment_id, f"{experiment} (moved, {found.experiment_id})")
            client.delete_experiment(found.experiment_id)
            found = None
        if found is None:
            location = place.artifacts.as_uri() if place.artifacts else None
            return Mirror(client, client.create_experiment(experiment, artifact_location=location), place)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
    return Mirror(client, found.experiment_id, place)


@contextmanager
def _errors_of(place: Place) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        reason = " ".join(str(error).split())[:500]
        message = f"MLflow at {place.uri}: {reason}; MLFLOW_TRACKING_URI says where it is"
        raise TrackingError(_without_password(message)) from error


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; it is free again when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _connect(place: Place) -> MlflowClient:
    """A client of a store that is ready: two processes that at once make the tables of a fresh sqlite file crash."""
    with _locked(place.lock.with_suffix(".start")):
        client = MlflowClient(place.uri)
        client.search_experiments(max_results=1)
    return client


def _is_astray(experiment: Experiment, place: Place) -> bool:
    """Whether the artifacts are elsewhere on this machine than beside the database; a bucket is somebody's choice."""
    location: str = experiment.artifact_location
    if place.artifacts is None or ("://" in location and not location.startswith("file:")):
        return False
    return Path(local_file_uri_to_path(location)) != place.artifacts  # type: ignore[no-untyped-call]


def _runs(mirror: Mirror) -> list[Run]:
    """Our runs that are not superseded, newest first."""
    runs: list[Run] = []
    page_token: str | None = None
    while page_token != "":
        page = mirror.client.search_runs(
            [mirror.experiment_id],
            filter_string=f"tags.`{STATUS}` != '{SUPERSEDED}'",
            max_results=PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=page_token,
        )
        runs += page
        page_token = page.token or ""
    return runs


def _current(mirror: Mirror, runs: Iterable[Run], record: Record) -> list[Run]:
    return [r for r in runs if r.data.tags.get(RUN) == record.name and r.data.tags[STATUS] == mirror.place.status]


def _left_over(mirror: Mirror, runs: Iterable[Run], records: Iterable[Record]) -> list[Run]:
    """Runs of records that there no longer are, and pending or live ones that no process writes any more."""
    names = {record.name for record in records}
    gone = [r for r in runs if r.data.tags[STATUS] == mirror.place.status and r.data.tags.get(RUN) not in names]
    # The lock is held, so no publish of this very process is under way.
    own = token()
    unfinished = [r for r in runs if r.data.tags[STATUS] in {PENDING, LIVE}]
    return gone + [r for r in unfinished if r.data.tags.get(PROCESS) == own or not _is_written(r)]


def _is_written(run: Run) -> bool:
    """Whether the process that writes a run still does; another machine's is believed for a day."""
    if run.info.status != "RUNNING":
        return False
    alive = is_alive(run.data.tags.get(PROCESS, ""))
    return _now() - run.info.start_time < FOREIGN_PATIENCE * 1000 if alive is None else alive


def _supersede(mirror: Mirror, runs: Iterable[Run]) -> None:
    for run in runs:
        if run.info.status == "RUNNING":
            mirror.client.set_terminated(run.info.run_id, "KILLED")
        for output in run.outputs.model_outputs if run.outputs else ():
            mirror.client.set_logged_model_tags(output.model_id, {STATUS: SUPERSEDED})
        mirror.client.set_tag(run.info.run_id, STATUS, SUPERSEDED)


def _differences(mirror: Mirror, records: list[Record]) -> list[str]:
    runs = _runs(mirror)
    lines: list[str] = []
    for record in records:
        current = _current(mirror, runs, record)
        if len(current) != 1:
            lines.append(f"{record.name}: {len(current) or 'no'} current run{'s' if current else ''}")
        for run in current:
            faults = find_faults(_held(mirror, run, record), record)
            lines += [f"{record.name}: run {run.info.run_id}: {fault}" for fault in faults]
    for run in _left_over(mirror, runs, records):
        name, status = run.data.tags.get(RUN), run.data.tags[STATUS]
        lines.append(f"{name}: run {run.info.run_id}: {status} ({run.info.status}), yet to be marked superseded")
    return lines


def _held(mirror: Mirror, run: Run, record: Record) -> Held:
    client, run_id = mirror.client, run.info.run_id
    histories = {name: client.get_metric_history(run_id, name) for name in record.curves if name in run.data.metrics}
    folders = {Path(path).parent.as_posix() for path in [*record.files, *record.drawn]}
    # The client would ask for the run and its models each time.
    repository = get_artifact_repository(run.info.artifact_uri, mirror.place.uri)
    listings = [repository.list_artifacts(None if folder == "." else folder) for folder in folders]
    models = [output.model_id for output in (run.outputs.model_outputs if run.outputs else ())]
    stepped = repository.list_artifacts("images") if record.snapshots else []
    steps: dict[str, list[int]] = {}
    for found in (STEPPED.fullmatch(entry.path) for entry in stepped):
        if found:
            steps.setdefault(found[1], []).append(int(found[2]))
    return Held(
        finished=run.info.status == "FINISHED",
        tags={key.removeprefix(OURS): value for key, value in run.data.tags.items()},
        params=run.data.params,
        metrics=run.data.metrics,
        curves={name: [(point.step, point.value) for point in points] for name, points in histories.items()},
        datasets=[entry.dataset.digest for entry in (run.inputs.dataset_inputs if run.inputs else ())],
        artifacts={entry.path: entry.file_size or 0 for listing in listings for entry in listing if not entry.is_dir},
        models=sum("MLmodel" in {e.path for e in client.list_logged_model_artifacts(model)} for model in models),
        steps=steps,
    )


def _publish_one(mirror: Mirror, runs: Iterable[Run], record: Record, say: Callable[[str], None]) -> bool:
    """Make the record's run right and the only current one; returns whether a new one was needed."""
    current = _current(mirror, runs, record)
    right = next((run.info.run_id for run in current if not find_faults(_held(mirror, run, record), record)), None)
    kept = right or _write(mirror, record, _machine(mirror, runs, record))
    _supersede(mirror, [run for run in current if run.info.run_id != kept])
    if right is None:
        say(f"{record.name}: run {kept}")
    return right is None


def _machine(mirror: Mirror, runs: Iterable[Run], record: Record) -> list[Metric]:
    """What the machine did during the very training of a record, if a run that shows its losses says so."""
    for run in runs:
        shown = {name: value for name, value in run.data.metrics.items() if name in record.curves}
        if run.data.tags.get(RUN) == record.name and shown == {name: _last(record.curves[name]) for name in shown}:
            names = [name for name in run.data.metrics if name.startswith(SYSTEM)]
            if shown and names:
                return [point for name in names for point in mirror.client.get_metric_history(run.info.run_id, name)]
    return []


def _last(curve: Mapping[int, float]) -> float:
    return curve[max(curve)]


def _write(mirror: Mirror, record: Record, machine: list[Metric]) -> str:
    """One new run with all that its record asks for; it becomes current in the last step."""
    client, now = mirror.client, _now()
    tags = {STATUS: PENDING, RUN: record.name, PROCESS: token(), **_tags(record), **_git_tags()}
    run_id: str = client.create_run(mirror.experiment_id, start_time=now, tags=tags, run_name=record.name).info.run_id
    client.log_batch(run_id, params=[Param(key, value) for key, value in record.params.items()])
    points = [Metric(name, value, now, 0) for name, value in record.metrics.items()]
    points += [Metric(name, value, now, step) for name, curve in record.curves.items() for step, value in curve.items()]
    points += machine
    for start in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])
    for path, file in record.files.items():
        folder = Path(path).parent.as_posix()
        client.log_artifact(run_id, str(file), None if folder == "." else folder)
    if record.dataset:
        dataset = Dataset("mnist-train", record.dataset, "local", json.dumps({"uri": DATASET.as_posix()}))
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    if record.snapshots:
        for name, epoch, drawn in draw_steps(record.snapshots):
            client.log_image(run_id, drawn, key=name, step=epoch, timestamp=now, synchronous=True)
    if record.package:
        with tempfile.TemporaryDirectory() as scratch:
            draw_sheets(record.package.pictures, Path(scratch) / "pictures")
            client.log_artifacts(run_id, str(Path(scratch) / "pictures"), "pictures")
            _log_model(mirror, run_id, record, record.package, Path(scratch))
    client.set_terminated(run_id, "FINISHED")
    client.set_tag(run_id, STATUS, mirror.place.status)
    return run_id


def _log_model(mirror: Mirror, run_id: str, record: Record, package: Package, scratch: Path) -> None:
    import numpy as np  # noqa: PLC0415
    from mlflow import pyfunc  # noqa: PLC0415
    from mlflow.models import Model, ModelSignature  # noqa: PLC0415
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415

    client, tags = mirror.client, {**_tags(record), STATUS: mirror.place.status}
    logged = client.create_logged_model(mirror.experiment_id, MODEL, run_id, tags, dict(record.params))
    packaging.package(scratch / "data", package.config, package.weights, package.priors)
    images = Schema([TensorSpec(np.dtype("float32"), (-1, 28, 28))])
    asked = ParamSchema([ParamSpec("sampler", "string", ""), ParamSpec("seed", "long", 0)])
    described = Model(
        artifact_path=logged.artifact_location, run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id
    )
    pyfunc.save_model(
        scratch / MODEL,
        loader_module=packaging.__name__,
        data_path=str(scratch / "data"),
        code_paths=[str(Path(packaging.__file__).parent)],
        pip_requirements=packaging.requirements(),
        signature=ModelSignature(images, images, asked),
        input_example=load_file(package.pictures)["originals"][:EXAMPLES].astype(np.float32) / 255,
        mlflow_model=described,
    )
    client.log_model_artifacts(logged.model_id, str(scratch / MODEL))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])


def _tags(record: Record) -> dict[str, str]:
    return {OURS + key: value for key, value in record.tags.items()}


def _git_tags() -> dict[str, str]:
    """The commit, and whether a tracked file differs from it; for people, so nothing is compared with them."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return {"randomz.git_dirty": "unknown"}
    return {"mlflow.source.git.commit": commit, "randomz.git_dirty": str(bool(changes)).lower()}


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return None


def _now() -> int:
    return time.time_ns() // 1_000_000


def serve(lines: Iterable[str]) -> None:
    """Write live runs from the messages of `randomz.live`; without a last word their writer was killed."""
    messages = map(json.loads, lines)
    first = next(messages)
    mirror = open_mirror(find_place(), first["experiment"])
    _supersede(mirror, _given_up(mirror, {run_name(first["model"], seed) for seed in first["seeds"]}))
    runs = {seed: _start_live(mirror, first["model"], first["kind"], seed) for seed in first["seeds"]}
    status, machine = "KILLED", Machine()
    for message in messages:
        if "status" in message:
            status = message["status"]
            break
        # A request costs a hundredth of a second, so what the machine does goes along with the losses.
        values = message["metrics"] | {SYSTEM + name: value for name, value in machine.look().items()}
        metrics = [Metric(name, value, message["time"], message["step"]) for name, value in values.items()]
        mirror.client.log_batch(runs[message["seed"]], metrics=metrics)
    for run_id in runs.values():
        mirror.client.set_terminated(run_id, status)


class Machine:
    """What processors, memory and GPUs do, by MLflow's monitors."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor  # noqa: PLC0415
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor  # noqa: PLC0415

        self._monitors: list[Any] = [CPUMonitor()]  # type: ignore[no-untyped-call]
        with suppress(ImportError, RuntimeError):
            self._monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]
        self._values = self._seen()  # a share of time begins with the first look
        self._until = 0.0

    def look(self) -> dict[str, float]:
        """Values since the last look; the same again within a second, of which a share would be noise."""
        if time.monotonic() >= self._until:
            self._values, self._until = self._seen(), time.monotonic() + WATCHED
        return self._values

    def _seen(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.clear_metrics()
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
        return values


def _given_up(mirror: Mirror, names: set[str]) -> list[Run]:
    """Earlier live runs of these records that nothing writes any more: training that goes on logs all epochs anew."""
    earlier = [r for r in _runs(mirror) if r.data.tags[STATUS] == LIVE and r.data.tags.get(RUN) in names]
    return [run for run in earlier if not _is_written(run)]


def _start_live(mirror: Mirror, model: str, kind: str, seed: int) -> str:
    name = run_name(model, seed)
    own = {"randomz.model": model, "randomz.kind": kind, "randomz.seed": str(seed)}
    tags = {STATUS: LIVE, RUN: name, PROCESS: token(), **own}
    run_id: str = mirror.client.create_run(mirror.experiment_id, tags=tags, run_name=f"{name} (live)").info.run_id
    return run_id


def main() -> int:
    """Serve what comes on the standard input; of what goes wrong, one line goes to the standard output."""
    # The end of the messages stops it, not a Ctrl-C meant for the training.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # The parent takes every word on the standard output for the reason of a failure.
        with redirect_stdout(sys.stderr):
            serve(sys.stdin)
    except Exception as error:  # noqa: BLE001 (whatever it is, training goes on)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(_without_password(reason), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
