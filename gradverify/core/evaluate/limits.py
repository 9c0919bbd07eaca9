"""A time limit around the layer's code: a layer that never returns is a finding, not a hung run.

One that returns, but is called so often that a case takes too long, is slow and not wrong: the case is
given up without a finding. A machine that is busy with other things is no fault of the layer, so a body
that computes has the limit in processor time, and a body that waits has it on the clock. A body that waits for a
processor alone does neither: on that clock such time does not pass.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gradverify.core.evaluate import edge
from gradverify.core.evaluate.failures import LayerFailure, computed, running

TIMEOUT = "timeout"  # kind of the failure of a call that did not return
BEYOND = "beyond"  # kind of the failure of one that did not return where nobody promised a value
SLOW = "slow"  # kind of the failure of a case that took too long although every call returned
TOO_SLOW = "the layer is slow"
TRIAL = 2.0  # seconds for a call that is no case of its own: it may wait for ever, and a case that does is told as one

_WAITS = 0.02  # share of the processor below which a body waits; one that competes for it gets more
_AGAIN = 0.25  # of the limit, after which a body that goes on in spite of it is ended again
_MOST = 20  # limits on the clock after which it ends in any case
_SOON = 1e-3  # seconds, after which what a destructor has swallowed is raised once more


class _Expired(BaseException):
    """Time is up: on its way to the limit, which makes a LayerFailure of it.

    No LayerFailure itself, nor an Exception: what tries a layer's code and takes a failure for an answer, ours or the
    author's, must not take this for one.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@contextmanager
def time_limit(seconds: float | None, inner: bool = False) -> Iterator[None]:
    """End the body after `seconds` of computing, or of waiting.

    Raises LayerFailure of kind "timeout" in the body, "slow" if no single call took half of them, "beyond" if the call
    lay beyond its domain.

    Uses the interval timer of the process, so it works in the main thread of a POSIX system only; elsewhere the body
    runs without one. Inside another limit it does as well, unless it is an `inner` one, of less than is left there.
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    outer = signal.getitimer(signal.ITIMER_REAL)[0] if usable else 0.0
    if not usable or seconds is None or (outer and not (inner and seconds < outer)):
        yield
        return

    limit, begun, late = seconds, time.process_time(), _starved()
    start = time.perf_counter() - late
    seen = (begun, start)
    expired: list[_Expired] = []

    def expire(signum: int, frame: FrameType | None) -> None:
        nonlocal seen
        used, clock = time.process_time(), _clock()
        waits = used - seen[0] < _WAITS * (clock - seen[1])
        left = limit - (used - begun)
        if not waits and left > 0 and clock - start < _MOST * limit:
            seen = used, clock
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.05 * limit))
            return
        signal.setitimer(signal.ITIMER_REAL, _AGAIN * limit)  # whoever catches this must not run on without a limit
        if max(computed(), running() - (_starved() - late)) >= 0.5 * limit:
            expired.append(_Expired(TIMEOUT, f"the layer did not return within {limit:g} s"))
        else:
            expired.append(_Expired(SLOW, f"{TOO_SLOW}: a case took more than {limit:g} s"))
        raise expired[-1]

    def swallowed(unraisable: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a destructor or in the callback of a weak reference."""
        if isinstance(unraisable.exc_value, _Expired):
            signal.setitimer(signal.ITIMER_REAL, _SOON)
        else:
            told(unraisable)

    told, sys.unraisablehook = sys.unraisablehook, swallowed
    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except (LayerFailure, _Expired) as error:
        if not expired:
            raise
        raise _failure(expired[0]) from error
    else:
        if expired:  # and the layer's code, or a destructor, has swallowed it
            raise _failure(expired[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
        if outer:  # asks by itself how much it has used
            signal.setitimer(signal.ITIMER_REAL, max(outer - (_clock() - start), _SOON))
        if sys.unraisablehook is swallowed:  # unless the layer put its own in place
            sys.unraisablehook = told


def _failure(expired: _Expired) -> LayerFailure:
    kind = BEYOND if expired.kind == TIMEOUT and edge.expired() else expired.kind
    return LayerFailure(kind, "forward", str(expired))


def _clock() -> float:
    """Seconds in which the main thread had a processor, or asked for none."""
    return time.perf_counter() - _starved()


def _starved() -> float:
    """Seconds for which the main thread waited for a processor so far; 0 where the system does not tell (not Linux)."""
    try:
        with open("/proc/self/schedstat", "rb") as file:
            return 1e-9 * int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
