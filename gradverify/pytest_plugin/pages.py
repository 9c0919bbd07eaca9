"""`--gradverify-html`: the reports of all processes of a run as one page.

Each process writes its reports into a folder of the run, and the one that ends the run reads them, so that
pytest-xdist changes nothing. Nothing but that run writes there, and nothing else is read.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from gradverify.core.nouns import Finding
from gradverify.core.summarise.report import Report

Kept = tuple[str, Report, dict[tuple[str, str, str], str]]  # the test's file, the report, case files by fingerprint


def keep(folder: Path, owner: str, report: Report, files: Mapping[Finding, str | None]) -> None:
    """Write one report for the page."""
    paths = {finding.fingerprint: path for finding, path in files.items() if path is not None}
    kept: Kept = (owner.partition("::")[0], report, paths)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{uuid4().hex}.report").write_bytes(pickle.dumps(kept))


def write(folder: Path, page: Path) -> int:
    """Write the page, and remove the folder; the number of layers on it."""
    from gradverify import files
    from gradverify.report.html import render_html

    try:
        kept: list[Kept] = [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*.report"))]
        reports = merged((owner, report) for owner, report, _ in kept)
        paths = {(report.layer, key): path for _, report, named in kept for key, path in named.items()}
        found = {f: paths.get((r.layer, f.fingerprint)) for r in reports for f in r.findings}
        text = render_html(reports, {finding: path for finding, path in found.items() if path is not None})
        files.write(page, text.encode("utf-8"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return len(reports)


def merged(reports: Iterable[tuple[str, Report]]) -> list[Report]:
    """One report for each layer that a file checks: the tests of its properties together, the widest shard of each."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for owner, report in reports:
        groups.setdefault((report.layer, owner), []).append(report)
    return [_one(groups[key]) for key in sorted(groups)]


def _one(reports: Sequence[Report]) -> Report:
    if len(reports) == 1:
        return reports[0]
    tallies = {
        name: max((r.tallies[name] for r in reports if name in r.tallies), key=lambda tally: tally.cases)
        for name in sorted({name for report in reports for name in report.tallies})
    }
    findings = {finding.fingerprint: finding for report in reports for finding in report.findings}
    widest = max(reports, key=lambda report: report.cases)
    return replace(
        widest,
        tallies=tallies,
        findings=tuple(findings.values()),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        seconds=sum(report.seconds for report in reports),
        seed=None,  # each test has one of its own
        lines=None,  # which of them ran in which test is in the table of the run
    )
