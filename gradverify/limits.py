"""A time limit around the layer's code: a layer that never returns is a finding, not a hung run.

One that returns, but is called so often that a case takes too long, is slow and not wrong: the case is
given up without a finding.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gradverify.evaluate import LayerFailure, running

SLOW = "slow"  # kind of the failure of a case that took too long although every call returned
TOO_SLOW = "the layer is slow"


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise LayerFailure("timeout") in the body after `seconds`, "slow" if no single call took half of them.

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

    def expire(signum: int, frame: FrameType | None) -> None:
        if running() >= 0.5 * seconds:
            raise LayerFailure("timeout", "forward", f"the layer did not return within {seconds:g} s")
        raise LayerFailure(SLOW, "forward", f"{TOO_SLOW}: a case took more than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
