"""How processes end: not by the author's code, for what `os._exit(0)` ends would read as passed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_WAITS = 0.02  # share of the processor below which a process waits; one that competes for it gets more
_MOST = 20  # limits on the clock after which it counts as silent in any case
_SIGNALS = ("kill", "killpg", "raise_signal", "pthread_kill")
_ENDS = [  # functions that end a process, or can; others of `os` call these
    *((os, name) for name in ("_exit", "abort", "execv", "execve", "kill", "killpg")),
    *((signal, name) for name in ("raise_signal", "pthread_kill")),
]
_HARMLESS = {getattr(signal, name, None) for name in ("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGINFO")}


@contextmanager
def kept_alive() -> Iterator[None]:
    """Inside, `os._exit` and its like raise SystemExit in this process, which is told as a crash of the code's line.

    So does a layer that sends its own process, or the one above it, a signal that ends it: Ctrl-C is no layer's to
    press. Processes that are forked meanwhile end as they like.
    """
    owner, above = os.getpid(), os.getppid()
    found = [(module, name, getattr(module, name)) for module, name in _ENDS if hasattr(module, name)]

    def instead(module: ModuleType, name: str, end: Callable[..., Any]) -> Callable[..., Any]:
        def refused(*arguments: Any) -> Any:
            meant = name not in _SIGNALS or _fatal(name, arguments, (owner, above, 0, -1, -os.getpgrp()))
            if os.getpid() != owner or not meant:
                return end(*arguments)
            told = _named(arguments[-1]) if name in _SIGNALS else ", ".join(map(repr, arguments))
            raise SystemExit(f"{module.__name__}.{name}({told})")

        return refused

    for module, name, end in found:
        setattr(module, name, instead(module, name, end))
    try:
        yield
    finally:
        for module, name, end in found:
            setattr(module, name, end)


def _fatal(name: str, arguments: tuple[Any, ...], ours: tuple[int, ...]) -> bool:
    """Whether a layer's code, which is running, sends one of our processes a signal that ends or stops it."""
    failures = sys.modules.get("gradverify.core.evaluate.failures")
    if failures is None or not failures.running() or not arguments or not isinstance(arguments[-1], int):
        return False
    number, whom = arguments[-1], arguments[0]
    if (name == "killpg" and whom not in (0, os.getpgrp())) or (name == "kill" and whom not in ours):
        return False
    # a handler in C, such as that of faulthandler, tells and lets it end
    handled = number in signal.valid_signals() and signal.getsignal(number) not in (signal.SIG_DFL, None)
    return number == signal.SIGINT or (number != 0 and number not in _HARMLESS and not handled)


def die_with_parent(parent: int) -> None:
    """Ask Linux to end this process with its parent, even while a layer hangs in compiled code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before we asked
            os._exit(1)


def _named(number: int) -> str:
    return signal.Signals(number).name if number in signal.valid_signals() else str(number)


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
    fields = _fields(pid)
    return None if fields is None else (fields[11] + fields[12]) / _ticks()


def since_boot() -> float:
    """Seconds on the clock by which a process has a beginning."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def born(parent: int, since: float) -> dict[int, int]:
    """Children of a process that were born then or later: by number, when, as `end_all` takes it.

    Empty where the system does not say; those that an ended process has left behind are its parent's who adopts them.
    """
    found: dict[int, int] = {}
    with suppress(OSError, ValueError):
        for task in Path(f"/proc/{parent}/task").iterdir():
            for pid in map(int, (task / "children").read_text(encoding="ascii").split()):
                fields = _fields(pid)
                if fields is not None and fields[19] >= int(since * _ticks()):
                    found[pid] = fields[19]
    return found


def end_all(processes: dict[int, int]) -> None:
    """End processes, unless others have their numbers by now."""
    for pid, begun in processes.items():
        fields = _fields(pid)
        if fields is not None and fields[19] == begun:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """Ask Linux to make this process the parent of what its children leave behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)


def _ticks() -> float:
    return float(os.sysconf("SC_CLK_TCK"))


def _fields(pid: int) -> list[int] | None:
    """What /proc says of a process in numbers, from its state (0) on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return [0, *map(int, text[1:])] if len(text) > 19 else None
    except (OSError, ValueError):
        return None
