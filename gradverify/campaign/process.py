"""One process that may be ended by what it runs: how it stands, how much memory it may use, and what it has said last.

How it and all that it started are ended; an allocation fails before the machine suffers.
"""

from __future__ import annotations

import linecache
import os
import re
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HUNG = "hung"  # the status of a process that had to be ended
GRACE = 3.0  # seconds beyond a limit before a process counts as hung
_LEAVING = 2.0  # seconds that a process gets to end by itself when it has hung up


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; its status stays to be asked for."""
    if not hasattr(os, "waitid"):  # macOS
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def ended(process: subprocess.Popen[bytes], patience: float = _LEAVING) -> int:
    """End a process that has not ended by itself in time, and all that it has forked; gives its status."""
    deadline = time.monotonic() + patience
    while not has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    # before it is waited for: until then, no other process can have its number
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def data_size() -> int | None:
    """Bytes that RLIMIT_DATA counts of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def limit_memory(size: int) -> None:
    """Let allocations fail that would make the data of this process larger."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard < 0 else min(size, hard), hard))
    except (ImportError, OSError, ValueError):
        return  # a system that has no such limit


@contextmanager
def limited_memory(size: int | None) -> Iterator[None]:
    """As `limit_memory` inside; None for no other limit than there is."""
    if size is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    if before[0] == resource.RLIM_INFINITY or size < before[0]:
        limit_memory(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before[0], resource.getrlimit(resource.RLIMIT_DATA)[1]))


_LINES, _BYTES, _CUT = 12, 1 << 16, 120
_FATAL = "Fatal Python error"  # with which faulthandler begins
_FRAME = re.compile(r'File "(?P<file>.*)", line (?P<line>\d+) in .*')
_HERE, _PYTHON = str(Path(__file__).parents[1]), sysconfig.get_path("stdlib")
_PACKAGES = f"{os.sep}site-packages{os.sep}"


def said(log: Path) -> list[str]:
    """The report of a fatal error in a log if there is one, else its last lines."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    fatal = [k for k, line in enumerate(lines) if line.startswith(_FATAL)]
    return lines[fatal[-1] :][:_LINES] if fatal else lines[-_LINES:]


def place(lines: Iterable[str]) -> str:
    """The author's line in the report of a fatal error, in words; "" if there is none."""
    for found in (_FRAME.fullmatch(line.strip()) for line in lines):
        if found is not None and not _is_ours(found["file"]):
            file, number = found["file"], int(found["line"])
            return f" (line {number} of {os.path.basename(file)}: {linecache.getline(file, number).strip()[:_CUT]})"
    return ""


def _is_ours(file: str) -> bool:
    """Whether a file is none of the author's: gradverify's, NumPy's or Python's own."""
    return file.startswith(_HERE) or f"{_PACKAGES}numpy" in file or (file.startswith(_PYTHON) and _PACKAGES not in file)
