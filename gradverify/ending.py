"""How processes end: not by the author's code, for what `os._exit(0)` ends would read as passed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

_WAITS = 0.02  # share of the processor below which a process waits; one that competes for it gets more
_MOST = 20  # limits on the clock after which it counts as silent in any case
_ENDS = ("_exit", "abort", "execv", "execve")  # functions of `os` that end a process; the other ones call these


@contextmanager
def kept_alive() -> Iterator[None]:
    """Inside, `os._exit` and its like raise SystemExit in this process, which is told as a crash of the code's line.

    Processes that are forked meanwhile end as they like.
    """
    owner = os.getpid()
    ends: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in _ENDS if hasattr(os, name)}

    def instead(name: str) -> Callable[..., NoReturn]:
        def refused(*arguments: Any) -> NoReturn:
            if os.getpid() != owner:
                ends[name](*arguments)
            raise SystemExit(f"os.{name}({', '.join(map(repr, arguments))})")

        return refused

    for name in ends:
        setattr(os, name, instead(name))
    try:
        yield
    finally:
        for name, end in ends.items():
            setattr(os, name, end)


def die_with_parent(parent: int) -> None:
    """Ask Linux to end this process with its parent, even while a layer hangs in compiled code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before we asked
            os._exit(1)


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

    def longer_than(self, seconds: float, waits: bool = True) -> bool:
        """Whether it has been silent for `seconds` of its own; `waits` where one that waits counts as well."""
        clock = time.monotonic() - self._since
        if clock < seconds:
            return False
        now = processor_time(self.pid)
        if now is None or self._used is None or clock > _MOST * seconds:
            return waits
        used = now - self._used
        return used >= seconds or (waits and used < _WAITS * clock)


def processor_time(pid: int) -> float | None:
    """Seconds of the processor that a process has used; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None
