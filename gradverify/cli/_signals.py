"""Ctrl-C, and SIGTERM, which job schedulers send before they kill: the first asks, the second insists."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def asked_first(stop: Callable[[], bool]) -> Iterator[None]:
    """Inside, a signal calls `stop`; where that gives False, as there is nothing more to ask, it interrupts."""

    def interrupt(signum: int, frame: Any) -> None:
        if not stop():
            raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, previous):
            signal.signal(number, handler)
