"""Cases of the corpus, examined again at the start of the check that found them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradverify.campaign.process import HUNG
from gradverify.campaign.trial import cause, forked
from gradverify.core import tuning
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import UsageError
from gradverify.core.nouns import Case, Finding
from gradverify.core.properties import Property
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import Tally
from gradverify.core.verify import SECONDS, checked, examine, ranked, selected
from gradverify.corpus import Entry
from gradverify.pytest_plugin.left import KILLED

DEADLY = (KILLED, "crash", "memory")  # kinds of findings on whose case a process may have ended
_FEW = 25  # new cases for a check that fails on its corpus already
_TIMES = 5  # runs of a case that tell a wrong layer from a flaky one


@dataclass(frozen=True)
class Check:
    """One check of one layer."""

    layer: Layer
    owner: str  # node id of the test that it stands for, which is also its owner in the corpus
    settings: Settings  # of the engine
    shard: int = 0  # which part of how many; only the first replays the corpus
    shards: int = 1

    def concerns(self, entry: Entry) -> bool:
        """Whether this check replays a case of the corpus; one shard does, but each must know what would end it."""
        mine = entry.case.layer == self.layer.name and entry.owner in (None, self.owner)
        return mine and (self.shard == 0 or entry.fingerprint[1] in DEADLY)


@dataclass(frozen=True)
class Examined:
    """What a check came to, in plain data, as it comes from another process as well.

    Attributes
    ----------
    failing, fixed : paths of entries that still fail, and of those that do not and may go
    stale : paths of entries that do not fit the layer any more, and why
    replayed : number of entries that were tried
    """

    report: Report
    failing: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    stale: tuple[tuple[str, str], ...] = ()
    replayed: int = 0


def examined(
    layer: Layer, settings: Settings, kept: Sequence[Entry], first: bool, check: Callable[[Layer, Settings], Report]
) -> Examined:
    """Replay what is in the corpus, and draw new cases.

    Raises GradverifyError if the layer or the settings cannot be used.

    Parameters
    ----------
    kept : entries of the corpus that concern the check
    first : whether it is the first shard
    check : draws the new cases
    """
    props = [prop.name for prop in selected(settings.properties)]
    with tuning.using(settings.tuning):
        replays = Replays(layer, props, kept, first)
        fewer = replace(settings, examples=min(settings.examples, _FEW))
        if replays.deadly:
            report = undrawn(layer, settings, props)
        else:
            report = check(layer, fewer if replays.findings else settings)
    for name, outcomes in replays.outcomes.items():
        for outcome in outcomes:
            report.tallies[name].add(outcome)
    report = replace(report, findings=_united(report.findings, replays.findings), notes=tuple(replays.notes))
    return Examined(
        report,
        tuple(str(entry.path) for entry in replays.failing),
        tuple(str(entry.path) for entry in replays.fixed),
        tuple((str(path), why) for path, why in replays.stale),
        replays.count,
    )


def undrawn(layer: Layer, settings: Settings, props: Sequence[str]) -> Report:
    """The report of a layer that no new case is shown, for it would end the process."""
    tallies = {name: Tally(name) for name in props}
    return Report(layer.name, tallies, (), layer.declared.lines(), seed=settings.seed, examples=settings.examples)


def _united(new: Sequence[Finding], old: Sequence[Finding]) -> tuple[Finding, ...]:
    """One finding for each fingerprint: the one on the smaller case."""
    best: dict[tuple[str, str, str], Finding] = {}
    for finding in (*old, *new):
        known = best.get(finding.fingerprint)
        if known is None or finding.case.size < known.case.size:
            best[finding.fingerprint] = finding
    return ranked(best.values())


class Replays:
    """The cases of the corpus that belong to a check, examined again.

    Attributes
    ----------
    outcomes : by property, for the tallies
    failing, fixed : entries that still fail, and those that do not and may go
    stale : entries that do not fit the layer any more, and why
    deadly : whether one of them ends the process again
    """

    def __init__(self, layer: Layer, props: Sequence[str], kept: Sequence[Entry], first: bool) -> None:
        self.layer, self.first = layer, first
        self.outcomes: dict[str, list[Any]] = {}
        self.findings: list[Finding] = []
        self.failing: list[Entry] = []
        self.fixed: list[Entry] = []
        self.stale: list[tuple[Path, str]] = []
        self.notes: list[str] = []
        self.count = 0
        self.deadly = False
        for entry in kept:
            self._replay(entry, [p for p in props if entry.owner is None or p == entry.asked])

    def _replay(self, entry: Entry, props: Sequence[str]) -> None:
        layer = self.layer
        try:
            case = checked(layer, entry.case)
        except UsageError as error:
            self.stale.append((entry.path, str(error)))
            return
        self.count += bool(props) and self.first
        found: list[Finding] = []
        for prop in selected(props):
            if entry.fingerprint[1] in DEADLY and (ended := _ended(layer, case, prop)) is not None:
                self.deadly = True
                found.append(Finding(prop.name, KILLED, None, f"{ended} while it ran the layer on this case", case))
                continue
            runs = [examine(layer, case, prop)]
            if runs[0].findings or entry.fingerprint[1] in ("nondeterministic", "random"):
                runs += [examine(layer, case, prop) for _ in range(_TIMES - 1)]
            self.outcomes.setdefault(prop.name, []).append(runs[0])
            found += _confirmed([run.findings for run in runs])
        if found:
            self.failing.append(entry)
            self.findings += found
            self.notes.append(f"still fails on {shown(entry.path)}")
        elif props and not entry.pinned:
            self.fixed.append(entry)


def _confirmed(runs: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Findings of several runs of one case; one that some runs lack is nondeterministic, and chance explains others."""
    seen: dict[tuple[str, str, str], list[Finding]] = {}
    for findings in runs:
        for finding in findings:
            seen.setdefault(finding.fingerprint, []).append(finding)
    random = {key: same for key, same in seen.items() if same[0].kind == "random"}
    return [
        same[0]
        if len(same) == len(runs)
        else same[0].but(
            kind="random" if random else "nondeterministic",
            message=f"nondeterministic ({len(same)} of {len(runs)} runs of one case): {same[0].message}",
        )
        for same in (random or seen).values()
    ]


def _ended(layer: Layer, case: Case, prop: Property) -> str | None:
    """How a process of its own ended on the case, in words; None if it did not, or there can be none."""
    if not hasattr(os, "fork"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: those of pytest-xdist only wait
        status = forked(lambda: examine(layer, case, prop), SECONDS + 5)
    return None if status in (None, HUNG) else cause(status)[1]


def shown(path: Path) -> str:
    """A path as one types it here."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)
