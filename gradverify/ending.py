"""How processes end: not by the author's code, for what `os._exit(0)` ends would read as passed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

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
