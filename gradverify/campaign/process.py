"""One process that may be ended by what it runs: how it stands, and how it and all that it started are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress

HUNG = "hung"  # the status of a process that had to be ended
GRACE = 3.0  # seconds beyond a limit before a process counts as hung
_LEAVING = 2.0  # seconds that a process gets to end by itself when it has hung up


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; its status stays to be asked for."""
    if not hasattr(os, "waitid"):  # macOS
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def ended(process: subprocess.Popen[bytes], patience: float = _LEAVING) -> int:
    """End a process that has not ended by itself in time, and all that it has forked; gives its status."""
    deadline = time.monotonic() + patience
    while not has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    # before it is waited for: until then, no other process can have its number
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
