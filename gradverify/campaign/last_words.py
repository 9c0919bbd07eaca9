"""What a process has written before it ended: the report of a fatal error, or its last lines."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path

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
