"""A worker's parent: keeps one child process at work, and knows which case ended it.

Whatever a layer does to its process (a segmentation fault, `os._exit`, a hang, exhausted memory) ends
the child alone. The guard reads the child's journal, tries the case again in a new child, and makes a
finding of it; if the case is not to blame, the rest of the unit is done by the new child.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradverify.campaign import journal
from gradverify.campaign.unit import Delta, Found, Plan, Unit, digest
from gradverify.errors import GradverifyError, TargetError

Listener = Callable[[Delta], None]

_GRACE = 5.0  # seconds beyond a limit before a process counts as hung
_LOADING = 300.0  # seconds that an import may take
_ATTEMPTS = 20  # new children for one unit
_LOG_LINES = 12
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Died(Exception):
    """The child is gone, or had to be killed.

    Attributes
    ----------
    status : as `subprocess.Popen.returncode`; "hung" if it gave no sign of life in time
    loaded : whether it had loaded the layer
    """

    def __init__(self, status: int | str, loaded: bool) -> None:
        super().__init__(str(status))
        self.status = status
        self.loaded = loaded


class Guard:
    """One child process, started when it is needed and replaced when it dies."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        self._journal = self._log = Path()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def list(self, targets: tuple[str, ...], plan: Plan) -> list[tuple[str, str]]:
        """Name and target of every layer that the targets name, found out in the child.

        Raises
        ------
        TargetError
            If one of them cannot be loaded, or ends the process.
        """
        try:
            answer = self._ask(None, _LOADING, lambda delta: None, "list", targets, plan)
        except Died as died:
            raise TargetError(f"the process {_ended(died)} while it imported {', '.join(targets)}") from None
        if isinstance(answer, str):
            raise TargetError(answer)
        return [(str(name), str(target)) for name, target in answer]

    def run(self, unit: Unit, listen: Listener) -> None:
        """Work on a unit to its end; `listen` hears of everything that happens meanwhile."""
        deadline = time.monotonic() + unit.seconds
        done = 0

        def heard(delta: Delta) -> None:
            nonlocal done
            done += delta.cases
            listen(delta)

        for attempt in range(_ATTEMPTS):
            left = max(0.0, deadline - time.monotonic())
            rest = dataclasses.replace(
                unit,
                attempt=attempt,
                seed=unit.seed + attempt,
                seconds=left if attempt else unit.seconds,
                cases=None if unit.cases is None else unit.cases - done,
                pending=() if attempt else unit.pending,
            )
            if attempt and (left == 0.0 or rest.cases == 0 or self.stopping.is_set()):
                return
            try:
                error = self._ask(unit.journal, unit.plan.case_seconds + _GRACE, heard, "unit", rest)
            except Died as died:
                if self.stopping.is_set():
                    return
                if not died.loaded and attempt:
                    self._tell(unit, heard, error=f"the process {_ended(died)} while it imported {unit.target!r}")
                    return
                if self._blame(unit, died, heard):
                    return
            else:
                if error is not None:
                    self._tell(unit, heard, error=error)
                return

    def stop(self) -> None:
        """Ask the child to end its unit after the case at hand; from any thread."""
        self.stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the child."""
        self.stopping.set()
        self._kill()
        for path in (self._journal, self._log):
            if path != Path():
                path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _blame(self, unit: Unit, died: Died, listen: Listener) -> bool:
        """Whether the case at hand was to blame for the end of the child; if so, `listen` has heard of it."""
        record, log = journal.read(self._journal), self._tail()
        self._journal.unlink(missing_ok=True)
        found: Found | None = None
        if record is not None:
            limit = 10 * (unit.plan.case_seconds + _GRACE)
            try:
                found = self._ask(unit.journal, limit, listen, "confirm", unit, record, died.status)
            except Died as again:  # not even the trial's parent survives: drawing the case ends the process
                self._tell(unit, listen, error=f"drawing a case ended the process: it {_ended(again)}")
                return True
        if found is None:
            self._tell(unit, listen, lost=[_ended(died)])
            return False
        if log:
            found = dataclasses.replace(found, report=f"{found.report}\n  the process said last:\n{log}")
        self._tell(unit, listen, found=[found], dropped=[] if record is None else [digest(record)])
        return True

    def _tell(self, unit: Unit, listen: Listener, **what: Any) -> None:
        listen(Delta(unit.number, unit.layer, host=platform.node(), **what))

    def _ask(self, folder: str | None, seconds: float, listen: Listener, *task: Any) -> Any:
        """Send a task and wait for its answer; a child that is silent for `seconds` is killed."""
        self._start(folder)
        limit, loaded = _LOADING, False
        try:
            self._connection.send(task)
            while True:
                if not self._connection.poll(limit):
                    self._kill()
                    raise Died("hung", loaded)
                kind, content = self._connection.recv()
                if kind == "done":
                    return content
                if kind == "loaded":
                    loaded, limit = True, seconds
                else:
                    listen(content)
        except (EOFError, OSError):
            raise Died(self._reap(), loaded) from None

    def _start(self, folder: str | None) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._kill()
        place = Path(folder) if folder is not None and os.access(folder, os.W_OK) else self._own_folder()
        stem = f"{platform.node()}-{os.getpid()}-{threading.get_ident()}"
        self._journal, self._log = place / f"{stem}{journal.SUFFIX}", place / f"{stem}.log"
        self._log.unlink(missing_ok=True)
        ours, theirs = multiprocessing.Pipe()
        environment = {**dict.fromkeys(_THREADS, "1"), **os.environ}
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from gradverify.campaign.child import main; "
            f"main({theirs.fileno()}, {str(self._journal)!r}, {str(self._log)!r})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,  # so that Ctrl-C reaches the campaign alone
        )
        theirs.close()
        self._connection = ours

    def _own_folder(self) -> Path:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="gradverify-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)

    def _tail(self) -> str:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        self._log.unlink(missing_ok=True)
        return "\n".join(f"    {line}" for line in lines[:_LOG_LINES])

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _reap(self) -> int:
        assert self._process is not None
        self._connection.close()
        try:
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._process = None
        return status


def _ended(died: Died) -> str:
    """The end of a child in words, for events."""
    if died.status == "hung":
        return "hung"
    code = int(died.status)
    return f"left with status {code}" if code >= 0 else f"was ended by signal {-code}"


_own = threading.local()


def run_unit(unit: Unit, listen: Listener | None = None) -> list[Delta]:
    """What an executor is asked to do: one unit, behind a guard that belongs to the executing thread.

    Without a listener, which only an executor in the same process can have, everything that happened is
    returned in the end.
    """
    if os.name != "posix":
        raise GradverifyError("a campaign needs a POSIX system on every worker")
    if not hasattr(_own, "guard"):
        _own.guard = Guard()
    deltas: list[Delta] = []
    _own.guard.run(unit, listen or deltas.append)
    return deltas


def adopt(guard: Guard) -> None:
    """Make a guard that of the calling thread."""
    _own.guard = guard
