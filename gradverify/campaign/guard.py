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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradverify.campaign import journal, parcel
from gradverify.campaign.process import GRACE, HUNG, ended, has_ended, place, said
from gradverify.campaign.unit import Delta, Found, Plan, Unit, digest
from gradverify.core.errors import GradverifyError, TargetError
from gradverify.ending import Silence

Listener = Callable[[Delta], None]
Listed = tuple[list[tuple[str, str, int]], list[str]]

_BLINK = 0.1  # seconds between two looks at a child that says nothing
_PATIENCE = 4  # limits that pass before a process counts as hung where no case is at hand
_LOADING = 300.0  # seconds that an import may take
_ATTEMPTS = 20  # new children for one unit
_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")  # what reads NAME_NUM_THREADS
_TRIALS = 3  # new children for one confirmation


class Died(Exception):
    """The child is gone, or had to be killed.

    Attributes
    ----------
    status : as `subprocess.Popen.returncode`; HUNG if it gave no sign of life in time
    loaded : whether it had loaded the layer
    """

    def __init__(self, status: int | str, loaded: bool) -> None:
        super().__init__(str(status))
        self.status = status
        self.loaded = loaded


class Failed(Exception):
    """The child lives, but cannot do its task.

    Attributes
    ----------
    ours : whether by an error in gradverify, and not because the journal cannot be written
    """

    def __init__(self, why: str, ours: bool) -> None:
        super().__init__(why)
        self.ours = ours


class Guard:
    """One child process, started when it is needed and replaced when it dies."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        self._journal = self._log = Path()
        self._left: list[str] = []
        self._sending = threading.Lock()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def begin(self) -> None:
        """Start the child, which imports what it needs while this process goes on."""
        self._start(None)

    def list(self, plan: Plan) -> Listed:
        """Name, target and weight of every layer that was named, and why some are left out, found out in the child.

        Raises TargetError if one of them cannot be loaded, or ends the process.
        """
        try:
            answer = self._ask(None, _LOADING, lambda delta: None, "list", plan)
        except Died as died:
            raise TargetError(f"the process {how(died)} while it imported {', '.join(plan.named or ())}") from None
        except Failed as failed:
            raise TargetError(f"{', '.join(plan.named or ())} cannot be loaded:\n{failed}") from None
        if isinstance(answer, str):
            raise TargetError(answer)
        found, left_out = answer
        listed = [(str(name), str(target), int(weight)) for name, target, weight in found]
        return listed, [str(why) for why in left_out]

    def run(self, unit: Unit, listen: Listener) -> None:
        """Work on a unit to its end; `listen` hears of everything that happens meanwhile."""
        done, worked = 0, 0.0  # without the time that new processes take to start
        settled: set[str] = set()
        known = dict(unit.known)  # what ended the process while it was made small is not made small again

        def heard(delta: Delta) -> None:
            nonlocal done, worked
            done += delta.cases
            worked += delta.seconds
            settled.update(delta.dropped, delta.unfit)
            known.update({found.raw: found.size for found in delta.found})
            listen(delta)

        for attempt in range(_ATTEMPTS):
            left = max(0.0, unit.seconds - worked)
            rest = dataclasses.replace(
                unit,
                attempt=attempt,
                seed=unit.seed + attempt,
                seconds=left,
                cases=None if unit.cases is None else unit.cases - done,
                pending=() if attempt else unit.pending,
                known=tuple(known.items()),
            )
            if attempt and (left == 0.0 or rest.cases == 0 or self.stopping.is_set()):
                return
            try:
                error = self._ask(unit.journal, unit.plan.case_seconds + GRACE, heard, "unit", rest)
            except Failed as failed:
                if failed.ours:
                    self._tell(unit, heard, failed=str(failed), stuck=_stuck(rest, settled))
                else:
                    self._tell(unit, heard, error=str(failed))
                return
            except Died as died:
                if self.stopping.is_set():
                    record = self.taken()  # there is no time left to find out why it is gone; the next run may
                    if record is not None:
                        self._tell(unit, heard, held=[record])
                    return
                if not died.loaded and attempt:
                    self._tell(unit, heard, error=f"the process {how(died)} while it imported {unit.target!r}")
                    return
                if self._blame(rest, died, heard, settled):
                    return
            else:
                if error is not None:
                    self._tell(unit, heard, error=error)
                return
        self._tell(unit, heard, error=f"its process was lost {_ATTEMPTS} times in one unit")

    @property
    def said(self) -> Sequence[str]:
        """What the layer has printed last."""
        return said(self._log)

    def stop(self) -> None:
        """Ask the child to end its task after the case at hand; from any thread."""
        self.stopping.set()
        with self._sending, suppress(OSError, AttributeError, ValueError):
            self._connection.send(("stop",))

    def kill(self) -> None:
        """End the child at once; from any thread. What it was looking at is told, if another thread listens."""
        self.stopping.set()
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the child."""
        self.stopping.set()
        self._kill()
        for path in (self._journal, self._log):
            if path != Path():
                path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def __del__(self) -> None:  # the thread of an executor that is not ours has ended
        with suppress(Exception):
            self.close()

    def _blame(self, unit: Unit, died: Died, listen: Listener, settled: set[str]) -> bool:
        """Whether the case at hand was to blame for the end of the child; if so, `listen` has heard of it."""
        record = self.taken()
        stuck = _stuck(unit, settled)
        if record is None:
            self._tell(unit, listen, lost=[how(died)])
            return False
        known = next((raw for raw, _ in unit.known if raw[:2] == ("complete", "timeout")), None)
        if died.status == HUNG and known is not None:  # to try it again would take the whole time limit once more
            self._tell(unit, listen, again={known: 1}, dropped=[digest(record)], stuck=stuck)
            return True
        found = self.confirmed(unit, record, died, listen)
        if isinstance(found, str):
            self._tell(unit, listen, error=found, held=[record])
            return True
        if found is None and self.stopping.is_set():
            self._tell(unit, listen, held=[record])
            return True
        if found is None:
            self._tell(unit, listen, lost=[how(died)], stuck=stuck)
            return False
        self._tell(unit, listen, found=[found], dropped=[digest(record)], stuck=stuck)
        return True

    def confirmed(self, unit: Unit, record: bytes, died: Died, listen: Listener) -> Found | str | None:
        """The finding for a record that ends a trial too; else None, or why it cannot be tried at all."""
        lines = self.said
        self._log.unlink(missing_ok=True)
        found = self._tried(unit, record, died, listen)
        if not isinstance(found, Found) or not lines:
            return found
        said = "\n".join(f"    {line}" for line in lines)
        message, report = (
            f"{found.message}{place(lines)}",
            f"{found.report}\n  the process said last:\n{said}",
        )
        return dataclasses.replace(found, message=message, report=report)

    def _tried(self, unit: Unit, record: bytes, died: Died, listen: Listener) -> Found | str | None:
        limit, why = 10 * (unit.plan.case_seconds + GRACE), ""
        for _ in range(_TRIALS):
            if self.stopping.is_set():
                return None
            try:
                found: Found | None = self._ask(unit.journal, limit, listen, "confirm", unit, record, died.status)
                return found
            except Failed as failed:
                return str(failed)
            except Died as again:  # not even the trial's parent survives: drawing the case ends the process
                self.taken()
                why = f"drawing a case ended the process: it {how(again)}"
        return None if self.stopping.is_set() else why

    def taken(self) -> bytes | None:
        """What the child has left in its journal, which is empty then."""
        record = journal.read(self._journal)
        self._journal.unlink(missing_ok=True)
        return record

    def _tell(self, unit: Unit, listen: Listener, **what: Any) -> None:
        listen(Delta(unit.number, unit.layer, host=platform.node(), **what))

    def call(self, seconds: float, listen: Callable[[Any], None], function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of one of our modules answers in the child, of which it gets the worker first.

        Parameters
        ----------
        seconds : for which the child may be silent

        Raises
        ------
        Died, Failed
        """
        return self._ask(None, seconds, listen, "call", function, *arguments)

    def _ask(self, folder: str | None, seconds: float, listen: Callable[[Any], None], *task: Any) -> Any:
        """Send a task and wait for its answer; a child that is silent for `seconds` is killed."""
        if self.stopping.is_set():
            raise Died(HUNG, False)
        process = self._start(folder)
        limit, loaded, silence = _LOADING, False, Silence(process.pid)
        try:
            with self._sending:
                self._connection.send(task)
            while True:
                if not self._connection.poll(_BLINK):
                    # a process that it has forked may hold the line, so its death is seen by its number
                    if has_ended(process) and not self._connection.poll(0):
                        raise EOFError
                    if silence.longer_than(limit) and (
                        journal.read(self._journal) or silence.longer_than(_PATIENCE * limit)
                    ):
                        self._kill()
                        raise Died(HUNG, loaded)
                    continue
                kind, content, *left = parcel.loads(self._connection.recv_bytes())
                silence.heard()
                self._left += left[0] if left else []
                if kind == "done":
                    return content
                if kind == "unwritten":
                    raise Failed(f"the journal cannot be written: {content}", ours=False)
                if kind == "failed":
                    raise Failed(content, ours=True)
                if kind == "loaded":
                    loaded, limit = True, seconds
                else:
                    listen(content)
        except (EOFError, OSError, parcel.Garbled):
            raise Died(self._reap(), loaded) from None

    def _start(self, folder: str | None) -> subprocess.Popen[bytes]:
        if self._process is not None and not self._left and not has_ended(self._process):
            return self._process
        self._kill()
        place = Path(folder) if folder is not None and os.access(folder, os.W_OK) else self._own_folder()
        stem = f"{platform.node()}-{os.getpid()}-{threading.get_ident()}"
        self._journal, self._log = place / f"{stem}{journal.SUFFIX}", place / f"{stem}.log"
        self._log.unlink(missing_ok=True)
        ours, theirs = multiprocessing.Pipe()
        # one thread, whatever the shell says: the cores are busy with the other workers
        environment = {**os.environ, **{f"{name}_NUM_THREADS": "1" for name in _THREADS}, "VECLIB_MAXIMUM_THREADS": "1"}
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from gradverify.campaign.child import main; "
            f"main({theirs.fileno()}, {str(self._journal)!r}, {str(self._log)!r}, {os.getpid()})"
        )
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,  # so that Ctrl-C reaches the campaign alone
        )
        theirs.close()
        with self._sending:
            self._connection, self._left = ours, []
        return process

    def _own_folder(self) -> Path:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="gradverify-", ignore_cleanup_errors=True)
        return Path(self._temporary.name)

    def _kill(self) -> None:
        if self._process is not None:
            self._reap(0.0)

    def _reap(self, patience: float = GRACE) -> int:
        """End the child, and whatever it has started; gives its status."""
        assert self._process is not None
        status = ended(self._process, patience)
        self._process = None
        with self._sending:
            self._connection.close()
        return status


def _stuck(unit: Unit, settled: set[str]) -> str | None:
    """The pending record that the child was trying again, if it was still at that."""
    return next((name for name in map(digest, unit.pending) if name not in settled), None)


def how(died: Died) -> str:
    """The end of a child in words, for events."""
    if died.status == HUNG:
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
    deltas: list[Delta] = []
    guard_of_thread().run(unit, listen or deltas.append)
    return deltas


def guard_of_thread() -> Guard:
    """The guard that belongs to the calling thread."""
    if not hasattr(_own, "guard"):
        _own.guard = Guard()
    guard: Guard = _own.guard
    return guard


def adopt(guard: Guard) -> None:
    """Make a guard that of the calling thread."""
    _own.guard = guard
