"""What a process that died in the middle of a check left behind, read from its journal."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from gradverify import casefile
from gradverify.campaign import journal
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Case, Finding
from gradverify.files import Fields, FindingText, unpacked

KILLED = "killed"  # kind of the finding that a dead process leaves behind
RUNNING, FOUND = ".running", ".found"  # files of a journal: the case at hand, and one for each finding


@dataclass(frozen=True)
class Left:
    """What a dead process left behind.

    Attributes
    ----------
    owner : the check that it was running
    asked : the property that it was trying
    findings : what it had found, and last, as one of kind "killed", the case that it was looking at
    """

    owner: str
    asked: str
    findings: tuple[Finding, ...]


def left_by(folder: Path, worker: str) -> Left | None:
    """What a worker of pytest-xdist left behind; its journal is removed."""
    running = sorted((*folder.glob(f"{worker}-*{RUNNING}"), *folder.glob(f"{worker}{RUNNING}")))
    return _left(running[0]) if running else None


def left_by_the_dead(folder: Path) -> list[Left]:
    """What processes of this machine that live no more have left behind; their journals are removed."""
    if os.name != "posix":  # elsewhere one cannot ask for a process without disturbing it
        return []
    found = []
    for path in sorted(folder.glob(f"*-{platform.node()}-*{RUNNING}")):
        pid = path.name.removesuffix(RUNNING).rpartition("-")[2]
        if pid.isdecimal() and not _lives(int(pid)):
            found.append(_left(path))
    return [left for left in found if left is not None]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _left(running: Path) -> Left | None:
    stem = running.name.removesuffix(RUNNING)
    paths = [*sorted(running.parent.glob(f"{stem}-*{FOUND}")), running]
    try:
        *found, (about, case) = (_read(path) for path in paths)
        texts = [(FindingText.from_json(fields), its) for fields, its in found]
        owner, asked = about.text("owner"), about.line("asked")
    except CaseFileError:
        return None
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    findings = [Finding(t.property, t.kind, t.primal, t.message, its, severity=t.severity) for t, its in texts]
    message = "the process ended while it ran the layer on this case"
    return Left(owner, asked, (*findings, Finding(asked, KILLED, None, message, case)))


def _read(path: Path) -> tuple[Fields, Case]:
    about, content = unpacked(journal.read(path) or b"")
    return about, casefile.loads(content)
