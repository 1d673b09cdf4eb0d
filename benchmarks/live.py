"""What MLflow costs: the stage train with and without live logging, publishing all runs, and the start of its pages.

`python -m benchmarks.live [--model vae] [--epochs 13] [--turns 4]`, in a repository after `dvc repro`. The two
trainings take turns, the stage itself in a folder of its own; processor seconds count every process, the one that logs
too, and mean something on a machine that has other work as well. As two trainings alike may differ by more than logging
costs, those of the process that logs are also counted by themselves. Publishing and pages use a store of their own.
"""

import argparse
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from benchmarks.metrics import RESULTS, spread
from randomz.batches import load_split
from randomz.devices import choose_device
from randomz.files import write_json
from randomz.models import load_kind
from randomz.params import load_params
from randomz.snapshots import is_pictured, snapshot
from randomz.trainer import build_seeded

UI = ("mlflow", "ui", "--workers", "1", "--backend-store-uri")  # as in the Makefile
UI_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
ROOT = Path(__file__).resolve().parents[1]
LIVE = """
import runpy, sys
sys.argv = ["train", sys.argv[1]]
runpy.run_module("pipeline.train", run_name="__main__", alter_sys=True)
"""
WITHOUT = """
from contextlib import nullcontext
from unittest.mock import Mock
from randomz import live
live.LiveRuns = lambda *_: nullcontext(Mock())
"""
COUNTED = """
import resource
from pathlib import Path
from randomz import live

def used():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime

class Counted(live.LiveRuns):
    def close(self, status="FINISHED"):
        before = used()  # seeds have ended
        super().close(status)
        Path("logger_seconds").write_text(str(used() - before))

live.LiveRuns = Counted
"""
PATIENCE = 120  # seconds


def processor_seconds() -> float:
    """Of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of the processors."""
    clock, processors = time.perf_counter(), processor_seconds()
    work()
    return {"seconds": time.perf_counter() - clock, "processor_seconds": processor_seconds() - processors}


def small_workspace(folder: Path, epochs: int) -> None:
    """What the stage reads: the params here with so many epochs, and the data here."""
    yaml = YAML()
    params = yaml.load(Path("params.yaml").read_text(encoding="utf-8"))
    params["train"]["epochs"] = epochs
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    (folder / "data").symlink_to(Path("data").resolve())


def compare_training(folder: Path, model: str, turns: int) -> dict[str, Any]:
    """The whole stage in a folder, all seeds side by side, with and without live logging."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONPATH": str(ROOT)}

    def run(script: str) -> None:
        subprocess.run([sys.executable, "-c", script, model], cwd=folder, env=environment, check=True)  # noqa: S603

    def run_live() -> None:
        run(COUNTED + LIVE)
        loggers.append(float((folder / "logger_seconds").read_text(encoding="utf-8")))

    loggers: list[float] = []
    sides = {"without": lambda: run(WITHOUT + LIVE), "live": run_live}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in sorted(sides, reverse=bool(turn % 2)):
            measured[name].append(timed(sides[name]))
    found: dict[str, Any] = {}
    for unit in ("seconds", "processor_seconds"):
        values = {name: [each[unit] for each in results] for name, results in measured.items()}
        shares = [live / plain - 1 for live, plain in zip(values["live"], values["without"], strict=True)]
        found[unit] = {name: spread(each) for name, each in values.items()} | {"live_costs": spread(shares)}
    training = found["processor_seconds"]["without"]["median"]
    logger = {"processor_seconds": spread(loggers), "share": spread([seconds / training for seconds in loggers])}
    return {"training": found, "logger": logger}


def pictures_seconds(model: str, epochs: int, turns: int) -> dict[str, Any]:
    """Seconds that pictures by epoch take of one training."""
    params, device = load_params(), choose_device()
    config = params.model(model)
    built = build_seeded(lambda: load_kind(config.kind).build(config, params.network), 0).to(device)
    images = load_split(Path("data/validation.safetensors"), device).images
    pictured = sum(is_pictured(epoch, epochs) for epoch in range(1, epochs + 1))
    return spread([timed(lambda: snapshot(built, images))["seconds"] * pictured for _ in range(turns + 1)][1:])


def publish_twice(uri: str) -> dict[str, dict[str, float]]:
    """The command into an empty store, and again."""
    command = [sys.executable, "-m", "pipeline.publish"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}

    def publish() -> None:
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)  # noqa: S603

    return {name: timed(publish) for name in ("publish", "publish_again")}


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server, stopped at the end."""
    everything = {**os.environ, **environment}
    with subprocess.Popen(  # noqa: S603
        command, env=everything, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # its worker too


def ui_seconds(uri: str) -> float:
    """Until the page of `make ui` is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    start = time.perf_counter()
    with started([sys.executable, "-m", *UI, uri, "--port", port], UI_ENVIRONMENT) as process:
        while time.perf_counter() - start < PATIENCE and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                    if page.status == 200:  # noqa: PLR2004 (HTTP's word for well)
                        return time.perf_counter() - start
            except OSError:
                time.sleep(0.05)
    raise RuntimeError(f"mlflow ui gave no page within {PATIENCE} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__)
    parser.add_argument("--model", default="vae", help="entry of params.yaml (default: vae)")
    parser.add_argument("--epochs", type=int, help="of a training (default: those of params.yaml)")
    parser.add_argument("--turns", type=int, default=4, help="of both (default: 4)")
    parser.add_argument("--no-store", action="store_true", help="training alone: neither publish nor pages")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the result (default: {RESULTS})")
    asked = parser.parse_args(arguments)
    device = choose_device(forks=True)
    results, params = asked.results.resolve(), load_params()
    epochs = asked.epochs or params.train.epochs
    tree: dict[str, Any] = {
        "device": device.type,
        "processors": os.cpu_count(),
        "model": asked.model,
        "epochs": epochs,
        "seeds": params.seeds,
        "n": asked.turns,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "mlflow": version("mlflow")},
    }
    with tempfile.TemporaryDirectory() as folder:
        small_workspace(Path(folder), epochs)
        tree |= compare_training(Path(folder), asked.model, asked.turns)
        with chdir(folder):
            tree["pictures_seconds"] = pictures_seconds(asked.model, epochs, asked.turns)
    if not asked.no_store:
        with tempfile.TemporaryDirectory() as folder:
            uri = f"sqlite:///{folder}/mlflow.db"
            tree |= publish_twice(uri) | {"ui_seconds": ui_seconds(uri)}
    path = results / f"{device.type}-live.json"
    write_json(path, tree)
    print(path.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
