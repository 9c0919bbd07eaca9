"""What `check` and `replay` print and keep when they are done, and the exit status that goes with it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from gradverify.cli._output import colored, note, write

if TYPE_CHECKING:
    from gradverify.core.declare.layer import Layer
    from gradverify.core.nouns import Case, Comparison, Finding
    from gradverify.core.summarise.report import Report
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradverify.core.nouns import Finding
    from gradverify.core.summarise.report import Report

OK, FOUND, NOTHING = 0, 1, 3


def show(
    reports: Sequence[Report],
    replays: Mapping[Finding, str],
    stream: TextIO,
    color: bool | None,
    matrices: bool = False,
    seconds: float | None = None,
    ended: str | None = None,
) -> None:
    """The table, each finding, and one line that sums up.

    Parameters
    ----------
    seconds : on the clock, where several layers were checked at once
    ended : the last line, where it is another one
    """
    from gradverify.report.table import labels, summary, table
    from gradverify.report.terminal import render_findings, side_by_side, undecided, why_open

    paint = colored(stream, color)
    if reports:
        write(table(reports, paint, _width()), stream)
    told, explained = _split_explained(reports)
    for report in told:
        for line in [f"{report.layer}: declared {said}" for said in report.declared]:
            _wrapped(line, stream)
        if report.lines is not None and not report.lines.complete and not report.findings:
            for said in report.lines.said():
                _wrapped(f"{report.layer}: {said}", stream)
        open_ = [undecided(report)] if not report.findings and not report.verified else []
        for said in dict.fromkeys((*open_, *report.remarks)):
            _wrapped(f"{report.layer}: {said}", stream)
        for text in render_findings(report, paint, _width(), replays):
            write(text, stream)
        for found in (finding.comparison for finding in report.findings if matrices):
            if found is not None:
                write(f"\n{report.layer}, gradient of {side_by_side(found, paint, _width())}", stream)
    right = [(name, report) for name, report in zip(labels(reports), reports) if not report.findings]
    shares = ((name, s.kind, s.entries, s.unresolved) for name, report in right for s in report.verified_by.verified)
    for line in why_open(shares):
        _wrapped(line, stream)
    for report, part in explained:
        write(f"\n{report.layer} fails as well, which {part} explains", stream)
    own = [replace(r, findings=tuple(f for f in r.findings if f.case.layer == r.layer)) for r, _ in explained]
    write(f"\n{ended or summary([*told, *own], seconds)}", stream)


def _wrapped(text: str, stream: TextIO) -> None:
    """Lines that are broken between words where they are too long, all but the first one indented."""
    for line in text.splitlines():
        own = line[: len(line) - len(line.lstrip())]
        hang = f"{own}  "
        fill = textwrap.TextWrapper(_width(), initial_indent=own, subsequent_indent=hang, break_long_words=False).fill
        write(fill(line.strip()), stream)


def _split_explained(reports: Sequence[Report]) -> tuple[list[Report], list[tuple[Report, str]]]:
    """Reports that are told, and those that a part with a report of its own explains, with the name of that part."""
    parts = [next((f.case.layer for f in r.findings if f.case.layer != r.layer), None) for r in reports]
    known = {r.layer for r, part in zip(reports, parts) if r.findings and part is None}
    told = [r for r, part in zip(reports, parts) if part not in known]
    return told, [(r, part) for r, part in zip(reports, parts) if part is not None and part in known]


def show_matrices(name: str, compared: Sequence[Comparison], stream: TextIO, color: bool | None) -> None:
    """The gradients of one case in full."""
    from gradverify.report.terminal import side_by_side

    for comparison in compared:
        write(f"\n{name}, gradient of {side_by_side(comparison, colored(stream, color), _width())}", stream)


def _width() -> int:
    """Columns of the terminal; 80 where there is none, or a narrower one."""
    return max(80, shutil.get_terminal_size((80, 24)).columns)


def status(reports: Sequence[Report], least: float | None = None) -> int:
    """0 nothing wrong, 1 a finding, 3 where for some layer nothing could be verified, or less of its code ran.

    Parameters
    ----------
    least : percent of the lines and branches of each layer that must run
    """
    from gradverify.core.summarise.lines_ran import below

    low = below({r.layer: r.lines for r in reports if r.lines is not None}, least or 0.0)
    for line in low:
        note(f"gradverify: {line}")
    if any(report.findings for report in reports):
        return FOUND
    if low:
        return NOTHING
    return OK if reports and all(report.verified for report in reports) else NOTHING


def compared(layer: Layer, case: Case) -> Sequence[Comparison]:
    """What the gradient property compared on one case."""
    from gradverify.core.properties import properties
    from gradverify.core.verify import examine

    return examine(layer, case, properties.get("gradient")).compared


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
