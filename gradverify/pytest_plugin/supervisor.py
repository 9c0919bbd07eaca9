"""A parent for pytest: whatever ends it in the middle of a run, the status is not 0.

What a test of the project's own checks runs in the process of pytest, where compiled code can end it with status 0
and nobody notices. So the first process forks before anything of the project is imported: pytest goes on in the
child, and the parent, whose status it is that counts, waits for it. It ends a child in which a layer never returns,
and that no time limit inside can end: compiled code that goes on for ever. Imports the standard library only.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

_ENTRIES = ("console_main", "_console_main")
ENDED = 70  # the status of a run that was ended with status 0 before its end
_FORKS_BADLY = ("torch", "jax", "tensorflow", "cupy")  # their threads and devices do not survive it
_runs: list[int] = []
_line: list[int] = []  # to the parent, in the child
_page: list[mmap.mmap] = []  # shared with the parent, in the child: what it is at
_BEAT = struct.Struct("<QddB")  # cases so far, when this one began, its limit in seconds, and what it is at
_FREE, _BUSY, _LEAVING = range(3)
_GRACE = 3.0  # seconds beyond the limit that is kept inside, after which the parent ends it
_PATIENCE = 10.0  # seconds for a process to leave in which a layer has left threads behind
_TICK = 1.0


def begin() -> None:
    """Go on in a child of this process, where that can be done and nobody will notice."""
    _begin(None)


def begin_late(config: Any) -> None:
    """As `begin`, once the project is imported: not where a package was that does not survive a fork."""
    if not _line and not any(name in sys.modules for name in _FORKS_BADLY):
        _begin(config)


def where(journal: Path, corpus: Path) -> None:
    """Tell the parent where the case at hand is written down, and where failing cases are kept."""
    _say(f"journal\0{journal}\0{corpus}")


def busy(seconds: float) -> None:
    """A layer's code is about to run, within a time limit; not where a debugger may stop it."""
    if _page and sys.gettrace() is None:
        from gradverify.ending import since_boot

        _BEAT.pack_into(_page[0], 0, _BEAT.unpack_from(_page[0])[0] + 1, since_boot(), seconds, _BUSY)


def free() -> None:
    """It has returned."""
    if _page:
        _page[0][_BEAT.size - 1] = _FREE


def leaving() -> None:
    """Layers have left threads behind, which may keep the process from its end."""
    if _page:
        _page[0][_BEAT.size - 1] = _LEAVING


def tell(status: int) -> None:
    """The session is over, with this status."""
    _say(f"status\0{int(status)}")


def done() -> None:
    """pytest has come to its end."""
    _say("done")


def _say(text: str) -> None:
    if _line:
        with suppress(OSError):
            os.write(_line[0], f"{text}\n".encode())


def _is_pytests_own() -> bool:
    """Whether this process was started as pytest, and is no program that calls it."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _ENTRIES and frame.f_globals.get("__name__") == "_pytest.config":
            return True
        frame = frame.f_back
    return False


def _alone() -> bool:
    """Whether no thread would be lost, and no debugger."""
    return threading.active_count() == 1 and "pydevd" not in sys.modules


def first() -> bool:
    """Whether this is the first run of pytest in this process, and not one inside a test of another."""
    _runs.append(os.getpid())
    return len(_runs) == 1


def _begin(config: Any) -> None:
    if len(_runs) > 1:
        return
    if os.name == "posix" and "PYTEST_XDIST_WORKER" not in os.environ and _is_pytests_own() and _alone():
        _fork(config)


def _fork(config: Any) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    heard, said = os.pipe()
    page = mmap.mmap(-1, _BEAT.size)
    parent = os.getpid()
    watched = _watched()
    from gradverify.ending import adopt_orphans, born, die_with_parent, end_all

    adopt_orphans()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        os.close(heard)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        die_with_parent(parent)
        _line.append(said)
        _page.append(page)
        return
    os.close(said)
    try:
        captures = None if config is None else config.pluginmanager.getplugin("capturemanager")
        if captures is not None:
            captures.suspend_global_capture(in_=True)
        code, hung = _wait(child, page)
        _, begun, _, state = _BEAT.unpack(page[: _BEAT.size])
        if state == _BUSY:  # it ended inside a layer's code: what that had forked ends as well
            end_all(born(os.getpid(), begun))
        status = _status(code, hung, child, heard)
    except BaseException:  # noqa: BLE001  nothing of this process may run on into pytest
        status = ENDED
    os._exit(status)


def _watched() -> set[signal.Signals]:
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCHLD")
    return {getattr(signal, name) for name in names if hasattr(signal, name)}


def _wait(child: int, page: mmap.mmap) -> tuple[int, bool]:
    """The status of the child, as `Popen.returncode`, and whether it had to be ended.

    Signals that are sent to this process alone are handed on.
    """
    patient, hung = _Patience(child, page), False
    while True:
        came = signal.sigtimedwait(_watched(), _TICK) if hasattr(signal, "sigtimedwait") else None
        if came is None and hasattr(signal, "sigtimedwait"):
            if not hung and patient.over():
                hung = True
                os.kill(child, signal.SIGKILL)
            continue
        number, sender = (signal.sigwait(_watched()), 0) if came is None else (came.si_signo, came.si_pid)  # macOS
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), hung
        elif sender or number == signal.SIGTERM:  # a terminal sends to the child as well
            with suppress(ProcessLookupError):
                os.kill(child, number)


class _Patience:
    """How long the child is waited for: a layer that never returns, and threads that it has left, are ended."""

    def __init__(self, child: int, page: mmap.mmap) -> None:
        from gradverify.ending import Silence

        self.page, self.silence = page, Silence(child)
        self.beat: tuple[Any, ...] = (0, 0.0, 0.0, _FREE)

    def over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        before, self.beat = self.beat, _BEAT.unpack(self.page[: _BEAT.size])
        if self.beat != before or self.beat[3] == _FREE:
            self.silence.heard()
            return False
        if self.beat[3] == _LEAVING:
            return self.silence.longer_than(_PATIENCE)
        # one that waits may be debugged at a terminal
        return self.silence.longer_than(self.beat[2] + _GRACE, waits=not sys.stdin.isatty())


def _status(code: int, hung: bool, child: int, line: int) -> int:
    """The status that stands for how the child ended, which is told where it is not by itself."""
    said = [text.split("\0") for text in _read(line).decode(errors="replace").splitlines()]
    about = {words[0]: words[1:] for words in said if words}
    if hung and "status" in about:
        return int(about["status"][0])
    if "status" in about or "done" in about:  # what comes after that is no layer's fault
        return code if code > 0 else 128 - code if code < 0 else int(about.get("status", ["0"])[0])
    if code > 0 and "journal" not in about:  # an error before the session, which told itself
        return code
    ended = f"with status {code}" if code >= 0 else f"by signal {-code}"
    text = f"gradverify: pytest was ended {ended} in the middle of its run"
    why = ""
    if hung:
        why = "the layer did not return in time, and could not be stopped"
        text = "gradverify: pytest was ended in the middle of its run, as a layer did not return"
    with suppress(Exception):
        text = f"{text}{_left(child, why, *map(Path, about['journal']))}"
    sys.stderr.write(f"\n{text}\n")
    sys.stderr.flush()
    return ENDED if code == 0 or hung else code if code > 0 else 128 - code


def _read(line: int) -> bytes:
    """What was said; a process that the child has forked may hold the line, so its end is not waited for."""
    os.set_blocking(line, False)
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(line, 1 << 16):
            parts.append(part)
    return b"".join(parts)


def _left(child: int, why: str, journal: Path, corpus: Path) -> str:
    """What the child was at, in words; what it had found is kept in the corpus."""
    from gradverify.corpus import Corpus, replay_command
    from gradverify.pytest_plugin.left import left_by
    from gradverify.report.terminal import render_finding

    left = left_by(journal, f"main-*-{child}")
    if left is None:
        return ""
    texts = [f", inside {left.owner}"]
    last = left.findings[-1]
    for finding in (last.but(message=why, kind="timeout") if why else last, *left.findings[:-1]):
        path = os.path.relpath(Corpus(corpus).keep(finding, left.owner, left.asked))
        texts.append(render_finding(finding, replay=replay_command(path, finding.case)))
    return "\n\n".join(texts)
