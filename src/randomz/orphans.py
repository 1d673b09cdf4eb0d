"""No orphan goes on writing what a second run writes too: a process dies with the one that started it. Linux only."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from randomz.processes import is_alive, token

PR_SET_PDEATHSIG = 1
VARIABLE = "DVC_STAGE"  # that DVC sets for what it starts
PATIENCE = 0.2  # seconds between two looks


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        _die()


def die_with_dvc() -> None:
    """Kill this process when the `dvc` that started it dies, though a shell stand between them; without one do nothing.

    The signal of a parent's death would not come then: the shell, which is the parent, lives on.
    """
    if sys.platform != "linux" or VARIABLE not in os.environ:
        return
    dvc = _starter()
    watched = token(dvc)
    try:
        # DVC and what it starts are of one group; an orphan belongs to a process of another one.
        orphaned = os.getpgid(dvc) != os.getpgrp() or _starter() != dvc
    except ProcessLookupError:
        orphaned = True
    if orphaned:
        _die()
    threading.Thread(target=_outlive_not, args=(watched,), daemon=True).start()


def _starter() -> int:
    """The nearest ancestor that DVC did not start: DVC itself."""
    pid = os.getppid()
    own = f"{VARIABLE}={os.environ[VARIABLE]}".encode()
    while pid > 1 and own in _environment(pid):
        pid = _parent(pid)
    return pid


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 1


def _outlive_not(watched: str) -> None:
    while is_alive(watched):
        time.sleep(PATIENCE)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
