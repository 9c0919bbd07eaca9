"""One pytest run: its settings, its corpus and journal, and one check of one layer inside it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from gradverify.core.check.search import check_layer
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Finding
from gradverify.core.nouns.ledger import ledger
from gradverify.core.summarise.report import DIFFERENTIATING, Report
from gradverify.core.verify import selected
from gradverify.corpus import Corpus, Damaged, Entry, remove, replay_command
from gradverify.ending import kept_alive
from gradverify.pytest_plugin import journal, pages, settings, supervisor
from gradverify.pytest_plugin.replays import Check, Examined, examined, shown
from gradverify.pytest_plugin.shared import Record
from gradverify.pytest_plugin.workers import Workers, workers_of
from gradverify.report.jsonreport import plain
from gradverify.report.terminal import explained, not_verified, state


@dataclass
class Result:
    """What a check came to: the report, the commands that replay its findings, and its records."""

    report: Report
    replays: dict[Finding, str]
    records: list[Record]


@dataclass
class Run:
    """What the processes of a run share, and what this one does."""

    config: pytest.Config
    settings: settings.Settings
    corpus: Corpus = field(init=False)

    def __post_init__(self) -> None:
        self.corpus = Corpus(self.settings.corpus)

    @cached_property
    def journal_folder(self) -> Path:
        cache = getattr(self.config, "cache", None)
        return journal.folder_of(None if cache is None else Path(cache.mkdir("gradverify")))

    @cached_property
    def journal(self) -> journal.Journal:
        told = getattr(self.config, "workerinput", {})
        worker = f"{told['testrunuid']}-{told['workerid']}" if told else "main"
        supervisor.where(self.journal_folder, self.corpus.folder)
        return journal.Journal(self.journal_folder, worker)

    @cached_property
    def kept(self) -> tuple[list[Entry], list[Damaged]]:
        """The corpus as it was when this process first asked."""
        return self.corpus.read()

    @cached_property
    def workers(self) -> Workers | None:
        """Where layers that are tests run; None for this process."""
        return workers_of(self.config, self.settings)

    def check(self, check: Check) -> Result:
        """Replay what is in the corpus, draw new cases, keep what fails; all in this process.

        Raises
        ------
        GradverifyError
            If the layer or the settings cannot be used.
        """
        with self.journal.watching(check.owner), kept_alive():
            done = examined(check.layer, check.settings, self.concerning(check), check.shard == 0, check_layer)
        return self.result(check, done)

    def concerning(self, check: Check) -> list[Entry]:
        """The cases of the corpus that are of a check."""
        return [entry for entry in self.kept[0] if check.concerns(entry)]

    def result(self, check: Check, done: Examined) -> Result:
        """Keep what failed, remove what is fixed, and say so in records."""
        props = [prop.name for prop in selected(check.settings.properties)]
        report, kept = done.report, {str(entry.path): entry for entry in self.kept[0]}
        asked = props[0] if len(props) == 1 else None
        failing = [kept[path] for path in done.failing]
        paths = {f: self.keep(f, check.owner, asked or f.property, failing) for f in report.findings}
        if self.settings.prune:
            for path in done.fixed:
                remove(kept[path])
        if self.settings.pages is not None:
            pages.keep(self.settings.pages, check.owner, report, paths)
        commands = {f: replay_command(path, f.case) for f, path in paths.items() if path is not None}
        records = [_record(check, report, name, props, commands) for name in props]
        records[0]["corpus"] = self._replay_record(done) | {"unkept": sum(path is None for path in paths.values())}
        return Result(report, commands, records)

    def keep(self, finding: Finding, owner: str, asked: str, failing: Sequence[Entry] = ()) -> str | None:
        """Keep a finding in the corpus; its file relative to the working folder, None if it cannot be written."""
        same = [entry for entry in failing if entry.fingerprint == finding.fingerprint and entry.owner is not None]
        try:
            return shown(self.corpus.keep(finding, owner, asked, same))
        except (OSError, CaseFileError):
            return None

    def _replay_record(self, done: Examined) -> Record:
        removed = self.settings.prune
        return {
            "replayed": done.replayed,
            "failing": len(done.failing),
            "fixed": [[shown(Path(path)), removed] for path in done.fixed],
            "stale": [[shown(Path(path)), reason] for path, reason in done.stale],
            "damaged": [[shown(damaged.path), damaged.reason] for damaged in self.kept[1]],
        }


def verdict_of(report: Report, name: str, findings: Sequence[Any]) -> str:
    """ "WRONG", "explained" (by another property's finding), "not verified", "nothing verified", "ok" or "skipped"."""
    if findings:
        return "WRONG"
    untold = "nothing verified" if report.tallies[name].reason is None else "skipped"
    known = {"explained": "explained", "ok": "ok", "open": "nothing verified", "skipped": untold}
    verdict = known.get(state(report, name), "WRONG")
    left_out = bool(report.blocking) and name in DIFFERENTIATING
    return "not verified" if verdict == "ok" and left_out else verdict


def _record(check: Check, report: Report, name: str, props: Sequence[str], replays: dict[Finding, str]) -> Record:
    tally = report.tallies[name]
    # a finding of another property (the code failed outright) belongs to the first check that met it
    findings = [f for f in report.findings if f.property == name or (f.property not in props and name == props[0])]
    file, line = source_of(check.layer)
    compared = sum(tally.verdicts.values())
    verdict = verdict_of(report, name, findings)
    return {
        "layer": check.layer.name,
        "test": check.owner.partition("::")[0],
        "property": name,
        "shard": check.shard,
        "shards": check.shards,
        "seed": int(report.seed or 0),
        "examples": int(report.examples),
        "cases": int(tally.cases),
        "entries": int(tally.entries),
        "compared": int(compared),
        "unresolved": int(tally.verdicts["unresolved"]),
        "worst_ratio": float(tally.worst_ratio),
        "resolution": float(tally.resolution),
        "seconds": float(tally.seconds),
        "verdict": verdict,
        "reason": explained(report, name) if verdict == "explained" else tally.reason,
        "verified": [plain(asdict(share)) for share in ledger([tally], ()).verified],
        "not_verified": not_verified(report) if name == props[0] else [],
        "file": file,
        "line": line,
        "lines": None if report.lines is None else report.lines.plain(),
        "findings": [told_of(f, replays.get(f)) for f in findings],
    }


def told_of(finding: Finding, replay: str | None) -> Record:
    """A finding in plain values, with the command that replays it."""
    return {
        "property": finding.property,
        "kind": finding.kind,
        "primal": finding.primal,
        "message": finding.message,
        "severity": float(finding.severity),
        "replay": replay,
    }


def source_of(layer: Layer) -> tuple[str | None, int | None]:
    """File and line of the backward, for annotations."""
    function = inspect.unwrap(layer.backward)
    code = getattr(function, "__code__", None)
    return (shown(Path(code.co_filename)), int(code.co_firstlineno)) if code is not None else (None, None)
