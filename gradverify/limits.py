"""A time limit around the layer's code: a layer that never returns is a finding, not a hung run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gradverify.evaluate import LayerFailure, returned

_TICKS = 4  # looks at the layer within the limit


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise LayerFailure("timeout") in the body after `seconds` in which no call of the layer returned.

    Thousands of short calls take as long as they take: they are the checker's work, and no layer that hangs.

    Uses the interval timer of the process, so it works in the main thread of a POSIX system only;
    elsewhere, and inside another limit, the body runs without one.
    """
    usable = (
        seconds is not None
        and hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    )
    if not usable or seconds is None:
        yield
        return

    seen, still = returned(), 0

    def expire(signum: int, frame: FrameType | None) -> None:
        nonlocal seen, still
        still = still + 1 if returned() == seen else 1
        seen = returned()
        if still < _TICKS:
            return
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        raise LayerFailure("timeout", "forward", f"the layer did not return within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds / _TICKS, seconds / _TICKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
