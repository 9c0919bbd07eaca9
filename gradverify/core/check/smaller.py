"""One finding made small: confirmed, shown on a case that tells, and diagnosed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from gradverify.core import tuning
from gradverify.core.check.progress import DIAGNOSING, SMALLER
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import diagnosed
from gradverify.core.diagnose.telling import telling, tells
from gradverify.core.judge.randomness import steady
from gradverify.core.nouns import WORST_SEEN, Case, Finding
from gradverify.core.properties import Property
from gradverify.core.shrink import shrink
from gradverify.core.verify import examine

_CONFIRM = 5  # runs of the minimal case that tell a wrong layer from a flaky one, once two of them differ
_CLEAR = 10.0  # bounds that a smaller case must be wrong by, or what the finding is: less may be another fault
_FOLLOW_SECONDS = 0.25  # for a finding of the same kind as one that was shrunk: most show on its case as well
_PICTURED = 400  # elements of a drawn case up to which it is shown, as a picture


@dataclass
class Smaller:
    """Makes the findings of one layer small, one after the other; what one shows helps with the next.

    Attributes
    ----------
    stage : hears what is being done
    small : minimal cases, on which other findings may show as well
    known : what a property finds at a minimal case, by the case's id and the property's name
    """

    layer: Layer
    settings: Settings
    stage: Callable[[str], None]
    small: list[Case] = field(default_factory=list)
    known: dict[tuple[int, str], dict[tuple[str, str, str], Finding]] = field(default_factory=dict)

    def __call__(self, finding: Finding, prop: Property, lead: Finding | None = None) -> Finding:
        """The same finding on a small case; worst and minimal are both kept.

        Parameters
        ----------
        lead : a finding of the same kind that is told already; where this one shows on its case, that will do
        """
        if finding.kind == "timeout":
            return finding
        self.stage(SMALLER)
        same = self._on_known_cases(finding, prop, lead) if lead is not None and self.settings.shrink else None
        if same is not None:
            return self._diagnosed(beside(same, finding.worst or finding.case, most(finding)), lead)
        case = self._shrunk(finding, prop, lead) if self.settings.shrink else finding.case
        return self._confirmed(finding, case, prop, lead)

    def _on_known_cases(self, finding: Finding, prop: Property, lead: Finding) -> Finding | None:
        seen = (self._at(case, prop).get(finding.fingerprint) for case in (lead.case, *self.small))
        return next((same for same in seen if same is not None and _as_clear(same, finding)), None)

    def _shrunk(self, finding: Finding, prop: Property, lead: Finding | None) -> Case:
        seconds, like = (prop.shrinking, None) if lead is None else (_FOLLOW_SECONDS, lead.case)
        fails = partial(self._fails, finding, prop)
        return shrink(self.layer, finding.case, fails, seconds=seconds, first=self.small, like=like)

    def _fails(self, finding: Finding, prop: Property, case: Case) -> bool:
        times = 1 if steady(finding) else _CONFIRM  # on a smaller case two random calls may agree by chance
        tries = (self._same(case, prop, finding) for _ in range(times))
        return all(same is not None and _as_clear(same, finding) for same in tries)

    def _confirmed(self, finding: Finding, case: Case, prop: Property, lead: Finding | None) -> Finding:
        """The finding as the case shows it, if it does so every time; one that comes and goes is told as such."""
        worst, severity = finding.worst or finding.case, most(finding)
        again = [self._at(case, prop).get(finding.fingerprint)]
        if lead is None:
            again.append(self._same(case, prop, finding))
        if not steady(finding) or any(found is None for found in again):
            again += [self._same(case, prop, finding) for _ in range(_CONFIRM - len(again))]
        told = [found for found in again if found is not None]
        if told and len(told) < len(again) and self._as_asked(again, case, prop, finding):
            if again[0] is None and case is not finding.case:
                return self._confirmed(finding, finding.case, prop, lead)
            again = [*told]
        if steady(finding) and len(told) == len(again):
            shown = self._telling(told[0], (worst, finding.case), prop) if lead is None else None
            if told[0].severity >= severity:
                worst, severity = case, told[0].severity
            return self._diagnosed(beside(told[0], worst, severity).but(telling=shown), lead)
        fickle = (told[0] if told else finding).but(
            kind="nondeterministic" if steady(finding) else finding.kind,
            worst=worst,
            message=f"nondeterministic ({len(told)} of {len(again)} runs of one case): {finding.message}",
        )
        return self._diagnosed(fickle, lead)

    def _as_asked(self, again: Sequence[Finding | None], case: Case, prop: Property, finding: Finding) -> bool:
        """Whether what differs is the question and not the answer: all primals at once, or this one alone.

        At a kink more entries in dispute may tell it where fewer do not. A layer that answers each question in one way
        only is no flaky one.
        """
        if not steady(finding) or len({found is None for found in again[1:]}) > 1:
            return False
        once_more = examine(self.layer, case, prop).findings
        return (again[0] is None) is all(found.fingerprint != finding.fingerprint for found in once_more)

    def _telling(self, small: Finding, drawn: Sequence[Case], prop: Property) -> Finding | None:
        """The finding on a case that shows it, where the smallest one does not: a round one, or one as it was drawn."""
        if not self.settings.shrink or small.comparison is None or _tells(small):
            return None
        cases = (
            *telling(self.layer, small.case, small.comparison.primal),
            *(case for case in drawn if case.size <= _PICTURED),
        )
        found = (self._same(case, prop, small, few=False) for case in cases)
        return next((same for same in found if same is not None and _tells(same)), None)

    def _at(self, case: Case, prop: Property) -> dict[tuple[str, str, str], Finding]:
        """All that a property finds at a minimal case, for every primal and entry by entry; asked once."""
        key = id(case), prop.name
        if key not in self.known:
            outcome = examine(self.layer, case, prop)
            self.known[key] = {finding.fingerprint: finding for finding in outcome.findings}
            if not any(case is other for other in self.small):
                self.small.append(case)
        return self.known[key]

    def _same(self, case: Case, prop: Property, finding: Finding, few: bool = True) -> Finding | None:
        """The finding as it is on a case, if it is there."""
        with tuning.using(replace(tuning.current(), only=finding.primal, few=few)):
            outcome = examine(self.layer, case, prop)
        return next((found for found in outcome.findings if found.fingerprint == finding.fingerprint), None)

    def _diagnosed(self, finding: Finding, lead: Finding | None = None) -> Finding:
        """The finding with what it looks like, unless cases are to be left as they were drawn."""
        self.stage(DIAGNOSING)
        return diagnosed(self.layer, finding, lead) if self.settings.shrink else finding


def _as_clear(same: Finding, finding: Finding) -> bool:
    return same.severity >= min(_CLEAR, finding.severity)


def _tells(finding: Finding) -> bool:
    return finding.comparison is not None and tells(finding.case, int(finding.comparison.wrong.sum()))


def smaller(known: Finding, new: Finding) -> Finding:
    """Keep the finding on the smaller case, and remember the case where it was worst."""
    worst = max((known, new), key=most)
    best = min((known, new), key=lambda f: f.case.size)
    return beside(best, worst.worst or worst.case, most(worst))


def beside(finding: Finding, worst: Case, severity: float) -> Finding:
    """The finding, and how wrong it was where it was worst."""
    return finding.but(worst=worst, facts={**finding.facts, WORST_SEEN: severity})


def most(finding: Finding) -> float:
    """How wrong it was where it was worst, in bounds."""
    return float(finding.facts.get(WORST_SEEN, finding.severity))
