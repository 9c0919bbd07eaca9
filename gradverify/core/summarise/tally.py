"""A Tally: what the outcomes of one property over many cases add up to."""

from __future__ import annotations

import builtins
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from gradverify.core.judge import says
from gradverify.core.nouns import AGREES, DISAGREES, UNRESOLVED, Comparison, Outcome, Verdict
from gradverify.core.nouns.ledger import NO_REASON, Counts, Weighted

RATIOS = tuple(float(f"1e{k}") for k in range(-6, 9))  # borders of the bins of `Tally.histogram`
_BORDERS = np.array(RATIOS)
_NAMES = tuple(verdict.name.lower() for verdict in Verdict)
NOTHING_ADDED = "it adds nothing to any gradient"
_NOTHING = "on no case was there anything to compare"


@dataclass(slots=True)
class Tally:
    """Sums over the cases of one property.

    `failing` counts the cases with a finding, also where that of another property explains it; `stopped` those that
    did not get that far, for what another property tells (a crash, random outputs);
    `primals` counts the entries that disagree, for each primal that was compared;
    `histogram` counts the entries that were decided by their error in units of its bound: below the first
    of `RATIOS`, between each and the next, and from the last on (NaN included).
    """

    property: str
    cases: int = 0
    failing: int = 0
    entries: int = 0
    verdicts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0))
    primals: dict[str, int] = field(default_factory=dict)
    worst_ratio: float = 0.0
    resolutions: list[float] = field(default_factory=list)
    histogram: list[int] = field(default_factory=lambda: [0] * (len(RATIOS) + 1))
    skipped: int = 0
    reason: str | None = None
    seconds: float = 0.0
    stopped: int = 0
    shares: dict[str, Counts] = field(default_factory=dict)
    outputs: dict[str, Counts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, seconds: float = 0.0) -> None:
        """Count one more outcome."""
        self.seconds += seconds
        self.notes += [note for note in outcome.notes if note not in self.notes]
        if outcome.skipped is not None:
            self.skipped += 1
            self.reason = outcome.skipped
            return
        if not (outcome.findings or outcome.compared or outcome.entries):
            self.skipped += 1
            self.reason = self.reason or _NOTHING
            return
        self.cases += 1
        own = any(finding.property == self.property for finding in outcome.findings)
        self.failing += own
        self.stopped += bool(outcome.findings) and not (own or outcome.compared or outcome.entries)
        self.entries += outcome.entries
        for name, seen in outcome.outputs.items():
            resolution, why = noticed(seen, outcome.compared)
            left_open = {why: seen.entries} if why and seen.entries else {}
            self.outputs.setdefault(name, Counts()).add(seen.entries, left_open, resolution)
        for comparison in outcome.compared:
            self._compared(comparison)

    def _compared(self, comparison: Comparison) -> None:
        name, resolution = comparison.primal, comparison.resolution
        self.shares.setdefault(name, Counts()).add(comparison.verdicts.size, reasons(comparison), resolution)
        counts = np.bincount(comparison.verdicts.ravel(), minlength=len(_NAMES)).tolist()
        for verdict, count in zip(_NAMES, counts):
            self.verdicts[verdict] += count
        self.primals[name] = self.primals.get(name, 0) + counts[DISAGREES]
        if counts[AGREES] + counts[DISAGREES]:
            verdicts = comparison.verdicts
            ratio = comparison.ratio[(verdicts == AGREES) | (verdicts == DISAGREES)]
            self.worst_ratio = float(np.fmax.reduce(ratio, initial=self.worst_ratio))
            self.resolutions.append(resolution)
            bins = np.bincount(np.searchsorted(_BORDERS, ratio, side="right"), minlength=len(self.histogram))
            self.histogram = [count + more for count, more in zip(self.histogram, bins.tolist())]

    @builtins.property  # a field of this class is called property
    def resolution(self) -> float:
        """Smallest error, relative to the gradient, that would have been noticed: the median over comparisons."""
        return float(np.median(self.resolutions)) if self.resolutions else 0.0

    @builtins.property  # a field of this class is called property
    def verified(self) -> bool:
        """Whether anything was decided: a tally in which all is unresolved has verified nothing."""
        return self.cases > self.stopped and (self.decided > 0 or self.verdicts["unresolved"] == 0)

    @builtins.property  # a field of this class is called property
    def decided(self) -> int:
        """Number of entries with a verdict other than unresolved."""
        return sum(self.verdicts.values()) - self.verdicts["unresolved"]


def noticed(output: Weighted, compared: Iterable[Comparison]) -> tuple[float, str]:
    """Smallest relative error of what an output adds to gradients that one of them would have shown; why none would."""
    least, told, open_ = math.inf, False, Counter[str]()
    for comparison in compared:
        resolution = comparison.resolution
        if not math.isfinite(resolution):
            open_.update(reasons(comparison))
            continue
        told = True
        added = comparison.scale if output.added is None else output.added.get(comparison.primal, 0.0)
        if added > 0:
            least = min(least, resolution * (comparison.scale or 1.0) / added)
    if math.isfinite(least):
        return least, ""
    return math.inf, NOTHING_ADDED if told else next(iter(dict(open_.most_common(1))), NO_REASON)


def reasons(comparison: Comparison) -> dict[str, int]:
    """Why entries of a comparison were left open, in words, and how many for each reason."""
    given = {says(name): n for (verdict, name), n in comparison.because().items() if verdict == "unresolved"}
    rest = int((comparison.verdicts == UNRESOLVED).sum()) - sum(given.values())
    return given | ({NO_REASON: rest} if rest else {})
