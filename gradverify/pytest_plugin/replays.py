"""Cases of the corpus, examined again at the start of the check that found them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradverify.campaign.trial import HUNG, cause, forked
from gradverify.corpus import Entry
from gradverify.errors import UsageError
from gradverify.layer import Layer
from gradverify.properties import Property
from gradverify.pytest_plugin.journal import KILLED
from gradverify.settings import Settings
from gradverify.types import Case, Finding
from gradverify.verification import SECONDS, checked, examine, selected, watcher

_TIMES = 5  # runs of a case that tell a wrong layer from a flaky one


@dataclass(frozen=True)
class Check:
    """One check of one layer.

    Attributes
    ----------
    owner : node id of the test that it stands for, which is also its owner in the corpus
    settings : of the engine
    shard : which part of how many; only the first replays the corpus
    """

    layer: Layer
    owner: str
    settings: Settings
    shard: int = 0
    shards: int = 1


class Replays:
    """The cases of the corpus that belong to a check, examined again.

    Attributes
    ----------
    outcomes : by property, for the tallies
    failing, fixed : entries that still fail, and those that do not and may go
    stale : entries that do not fit the layer any more, and why
    deadly : whether one of them ends the process again
    """

    def __init__(self, check: Check, props: Sequence[str], kept: Sequence[Entry]) -> None:
        self.check = check
        self.outcomes: dict[str, list[Any]] = {}
        self.findings: list[Finding] = []
        self.failing: list[Entry] = []
        self.fixed: list[Entry] = []
        self.stale: list[tuple[Path, str]] = []
        self.notes: list[str] = []
        self.count = 0
        self.deadly = False
        for entry in kept:
            if self._concerns(entry):
                self._replay(entry, [p for p in props if entry.owner is None or p == entry.asked])

    def _concerns(self, entry: Entry) -> bool:
        """One shard does it for all, but each must know what would end it."""
        mine = entry.case.layer == self.check.layer.name and entry.owner in (None, self.check.owner)
        return mine and (self.check.shard == 0 or entry.fingerprint[1] == KILLED)

    def _replay(self, entry: Entry, props: Sequence[str]) -> None:
        layer = self.check.layer
        try:
            case = checked(layer, entry.case)
        except UsageError as error:
            self.stale.append((entry.path, str(error)))
            return
        self.count += bool(props) and self.check.shard == 0
        found: list[Finding] = []
        for prop in selected(props):
            if entry.fingerprint[1] == KILLED and (ended := _ended(layer, case, prop)) is not None:
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
        status = forked(lambda: _unwatched(layer, case, prop), SECONDS + 5)
    return None if status in (None, HUNG) else cause(status)[1]


def _unwatched(layer: Layer, case: Case, prop: Property) -> None:
    watcher.set(None)
    examine(layer, case, prop)


def shown(path: Path) -> str:
    """A path as one types it here."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)
