"""What layers share in one process, and must not leave to one another."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from operator import is_
from typing import Any

import numpy as np

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP) if os.name == "posix" else ()

# Seconds after which a thread hands on: by default 5 ms, which is what each look at a file then costs for each thread
# that a layer has left spinning.
SWITCH = 1e-4


class State:
    """The process as it was before a layer ran.

    What can be put back is put back; what cannot (functions of NumPy that were replaced, threads and processes
    that are left, a module that is gone) means that no other layer may run here.
    """

    def __init__(self) -> None:
        self._numpy = _functions()
        self._filters = list(warnings.filters)
        self._streams = sys.stdout, sys.stderr, sys.stdin
        self._folder = _folder()
        self._path = list(sys.path)
        self._environment = dict(os.environ)
        self._recursion = sys.getrecursionlimit()
        self._errors = np.geterr()
        self._random = random.getstate()
        self._numbers = np.random.get_state()
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._collects, self._switch = gc.isenabled(), sys.getswitchinterval()
        self._threads = set(threading.enumerate())

    def _replaced(self) -> list[str]:
        """Functions of NumPy that are not what they were, by name."""
        now, known = vars(np), self._numpy
        if all(map(is_, map(now.get, known), known.values())):
            return []
        return [f"numpy.{name}" for name, value in known.items() if now.get(name) is not value]

    def put_back(self) -> list[str]:
        """Undo what can be undone; gives what cannot, in words."""
        sys.settrace(None)
        sys.setprofile(None)
        sys.setrecursionlimit(self._recursion)
        sys.setswitchinterval(self._switch)
        if warnings.filters != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]
            warnings._filters_mutated()  # type: ignore[attr-defined]
        sys.stdout, sys.stderr, sys.stdin = self._streams
        if self._folder is not None and _folder() != self._folder:
            os.chdir(self._folder)
        sys.path[:] = [*self._path, *(folder for folder in sys.path if folder not in self._path)]
        if dict(os.environ) != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        np.seterr(**self._errors)
        random.setstate(self._random)
        np.random.set_state(self._numbers)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        (gc.enable if self._collects else gc.disable)()
        return [*self._replaced(), *self._left()]

    def _left(self) -> list[str]:
        left = ["a thread" for thread in threading.enumerate() if thread not in self._threads]
        if sys.modules.get("numpy") is not np:
            left.append("sys.modules without numpy")
        if sys.stdout is not None and sys.stdout.closed:
            left.append("a closed sys.stdout")
        with suppress(ChildProcessError, AttributeError):  # macOS has no waitid
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            left.append("a process")
        return left


def _functions() -> Mapping[str, Any]:
    return {name: value for name, value in vars(np).items() if callable(value)}


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
