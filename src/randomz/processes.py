"""Does the process that began something still run? Its token goes with the thing, and can be asked later."""

import os
import socket
from pathlib import Path


def token(pid: int | None = None) -> str:
    """The machine, the process (the default is this one) and its start, which tells a reused number apart."""
    pid = pid or os.getpid()
    return f"{socket.gethostname()} {pid} {_started(pid)}"


def is_alive(written: str) -> bool | None:
    """Whether the process of a token runs; None where that cannot be told, because it is another machine's."""
    host, _, rest = written.partition(" ")
    pid, _, started = rest.partition(" ")
    if host != socket.gethostname() or not pid.isdigit():
        return None
    return _started(int(pid)) == started


def _started(pid: int) -> str | None:
    """Clock ticks since boot, `?` where the system does not say; None where no such process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "?"
    return None if state in {"Z", "X"} else fields[18]
