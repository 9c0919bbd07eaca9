"""Trials of a case in a forked process: does it end the process again, and how small can it be made?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from gradverify.campaign.explore import case_of, found_of
from gradverify.campaign.process import GRACE, HUNG
from gradverify.campaign.unit import Found, Record, Unit
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate.failures import COMPLETE
from gradverify.core.nouns import Case, Finding
from gradverify.core.properties import properties
from gradverify.core.shrink import shrink
from gradverify.core.verify import examine, watcher
from gradverify.ending import die_with_parent

_SHRINK_SECONDS = 3.0


def confirm(unit: Unit, layer: Layer, data: bytes, status: int | str) -> Found | None:
    """The finding for a case that ended a worker, made small; None if it does not end a trial the same way.

    Parameters
    ----------
    data : the record that the worker left in its journal
    status : how it ended, as `subprocess.Popen.returncode`
    """
    record = Record.loads(data)

    def ended(case: Case | None = None) -> int | str | None:
        def body() -> None:
            tried = case if case is not None else case_of(record, layer, unit)
            if tried is not None:
                examine(layer, tried, properties.get(record.asked), unit.plan.case_seconds)

        return forked(body, unit.plan.case_seconds + GRACE)

    # that it was silent for all of its time needs no trial
    if status != HUNG and ended() != status:
        return None
    case = case_of(record, layer, unit)
    if case is None:
        return None
    known = dead(layer, case, record, status)
    if status != HUNG and known.raw not in {raw for raw, _ in unit.known}:
        # the search would run the forward outside a trial, to draw cotangents
        harmless = layer.derive(forward=_refuse)
        case = shrink(harmless, case, lambda candidate: ended(candidate) == status, seconds=_SHRINK_SECONDS)
        return dead(layer, case, record, status)
    return known


def _refuse(*primals: Any, **options: Any) -> Any:
    raise RuntimeError("this layer ends its process")


def dead(layer: Layer, case: Case, record: Record, status: int | str) -> Found:
    """The finding for a case on which the process ended, or had to be ended."""
    kind, how = cause(status)
    message = f"{how} while it ran {layer.name!r} on this case"
    prop = properties.get(record.asked)
    finding = Finding(COMPLETE, kind, None, message, case)
    return found_of(layer, finding, prop, record.regime, finding.fingerprint)


def cause(status: int | str) -> tuple[str, str]:
    """Kind of the finding, and the end of a process in words."""
    if status == HUNG:
        return "timeout", "the process did not return in time"
    code = int(status)
    if code == -signal.SIGKILL:
        return "memory", "the process was killed (SIGKILL), as the system does when memory is exhausted,"
    if code < 0:
        try:
            return "crash", f"the process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return "crash", f"the process was ended by signal {-code}"
    return "crash", f"the process left with status {code}, as by os._exit,"


def forked(body: Callable[[], object], seconds: float) -> int | str | None:
    """Run `body` in a fork: None if it returns or raises, else how the process ended, or HUNG."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent)
            watcher.set(None)
            body()
        except BaseException:  # noqa: BLE001  an exception ends no process
            pass
        finally:
            _leave(_RETURNED)
    deadline, pause = time.monotonic() + seconds, 0.0005
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code == _RETURNED else code
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return HUNG


_leave = os._exit  # whatever a layer makes of its name
_RETURNED = 113  # an exit status that stands for "returned"; a layer that leaves with it is not noticed
