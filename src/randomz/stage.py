"""What every stage script does around its own work: one writer at a time, one clear line for what goes wrong."""

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

from randomz.devices import DeviceError
from randomz.orphans import die_with_dvc

SCRATCH = Path("scratch")


def run_stage(name: str, work: Callable[[], None]) -> int:
    """Do the work of a stage under its lock; the exit status is 1, with a line on standard error, where it fails.

    A second writer of the same outputs refuses at once: its children hold the lock too, should they outlive it.
    """
    die_with_dvc()
    SCRATCH.mkdir(exist_ok=True)
    lock = SCRATCH / f"{name}.lock"
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"{name}: already running as process {file.read().strip()}; wait for it or end it", file=sys.stderr)  # noqa: T201
            return 1
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            work()
        except (ValueError, OSError, DeviceError) as error:
            print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
            return 1
    return 0
