"""One process that may be ended by what it runs: how it stands, and how it and all that it started are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

HUNG = "hung"  # the status of a process that had to be ended
GRACE = 3.0  # seconds beyond a limit before a process counts as hung
_WAITS = 0.02  # share of the processor below which a process waits; one that competes for it gets more
_MOST = 20  # limits on the clock after which it counts as silent in any case
_LEAVING = 2.0  # seconds that a process gets to end by itself when it has hung up


class Silence:
    """Since when a process has said nothing.

    A machine that is busy with other things is no fault of the process: one that computes has its limit in
    processor time, one that waits has it on the clock.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.heard()

    def heard(self) -> None:
        """It has said something."""
        self._since, self._used = time.monotonic(), processor_time(self.pid)

    def longer_than(self, seconds: float) -> bool:
        """Whether it has been silent for `seconds` of its own."""
        clock = time.monotonic() - self._since
        if clock < seconds:
            return False
        now = processor_time(self.pid)
        if now is None or self._used is None or clock > _MOST * seconds:
            return True
        used = now - self._used
        return used >= seconds or used < _WAITS * clock


def processor_time(pid: int) -> float | None:
    """Seconds of the processor that a process has used; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None


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
