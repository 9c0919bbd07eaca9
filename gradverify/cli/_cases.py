"""The Case of a finding as a file, and the command that replays it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gradverify.cli._output import note

if TYPE_CHECKING:
    from gradverify.core.nouns import Finding
    from gradverify.core.summarise.report import Report

FOLDER = Path(".gradverify") / "cases"


def save(reports: Iterable[Report], folder: Path = FOLDER) -> dict[Finding, str]:
    """Write ``<layer>-<property>-<digest>.npz`` for each finding; gives the paths of those that were written.

    A folder or an option that cannot be written is told once on stderr; the check goes on.
    """
    from gradverify.core.errors import CaseFileError

    files: dict[Finding, str] = {}
    for finding in (finding for report in reports for finding in report.findings):
        try:
            files[finding] = _save(finding, folder)
        except OSError as error:
            note(f"gradverify: cannot write case files to {str(folder)!r}: {error.strerror or error}")
            break
        except CaseFileError as error:
            note(f"gradverify: the case of {finding.case.layer!r} is not saved: {error}")
    return files


def _save(finding: Finding, folder: Path) -> str:
    from gradverify import casefile

    stem = "-".join(re.sub(r"[^\w.+]+", "_", part) for part in (finding.case.layer, finding.property))
    return str(casefile.save(finding.case, folder / f"{stem}-{casefile.digest(finding.case)}.npz"))
