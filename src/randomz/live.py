"""Losses in MLflow while training runs, best effort: whatever happens there, training goes on.

A process of its own (`python -m randomz.tracking`) talks to MLflow and gets one JSON line a message, so that training
neither imports MLflow nor waits for it, and runs are closed even if training is killed. The stage `publish` is the
authority; nothing depends on what is logged here.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

PATIENCE = 10.0  # seconds that `close` waits for the last points to be written
# Without these MLflow tries to reach a server for minutes.
GIVE_UP_SOON = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


class LiveRuns:
    """One run a seed of a model, in the experiment that params.yaml names.

    A context manager: runs end as FINISHED, as FAILED after an exception, as KILLED where the process was killed.
    """

    def __init__(self, experiment: str, model: str, kind: str, seeds: Sequence[int]) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "randomz.tracking"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | GIVE_UP_SOON,
                start_new_session=True,
            )
        except OSError as error:
            _warn(str(error))
            return
        os.set_blocking(_open(self._process.stdin).fileno(), False)
        self._send({"experiment": experiment, "model": model, "kind": kind, "seeds": list(seeds)})

    def log(self, seed: int, row: Mapping[str, float]) -> None:
        """Add one row of history; its `epoch` is the step, all else but `seed` are metrics."""
        metrics = {key: float(value) for key, value in row.items() if key not in {"seed", "epoch"}}
        now = time.time_ns() // 1_000_000
        self._send({"seed": int(seed), "step": int(row["epoch"]), "time": now, "metrics": metrics})

    def close(self, status: str = "FINISHED") -> None:
        """End the runs and wait up to PATIENCE seconds for what is yet to be written. A second call does nothing."""
        self._send({"status": status})
        self._end()

    def __enter__(self) -> "LiveRuns":  # noqa: PYI034 (the run-time type checker of the tests knows no Self here)
        """Logging began with the object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; an exception goes on."""
        self.close("FINISHED" if kind is None else "FAILED")

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is None:
            return
        line = json.dumps(message).encode() + b"\n"
        try:
            # A pipe takes so short a line whole or not at all. It is full where MLflow lags far behind; the row is
            # then left to publish.
            with suppress(BlockingIOError):
                os.write(_open(self._process.stdin).fileno(), line)
        except OSError:
            self._end()

    def _end(self) -> None:
        """Let the other process finish; say in one line what went wrong with it."""
        process, self._process = self._process, None
        if process is None:
            return
        _open(process.stdin).close()
        reason = ""
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            reason = f"nothing was heard of it for {PATIENCE:.0f} s"
        with _open(process.stdout) as output:
            reason = output.read().decode(errors="replace").strip() or reason
        if reason or process.returncode:
            _warn(reason or f"its process ended with status {process.returncode}")


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _warn(reason: str) -> None:
    print(f"live logging to MLflow stopped, training goes on: {reason}", file=sys.stderr)  # noqa: T201
