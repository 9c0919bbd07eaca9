"""Draw Cases, verify them, shrink what fails: the one call behind every face."""

from __future__ import annotations

import math
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradverify.core import tuning
from gradverify.core.check.progress import DRAWING, Listener, Progress
from gradverify.core.check.settings import Settings
from gradverify.core.check.smaller import Smaller, most, smaller
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.declare.registry import layers
from gradverify.core.declare.validation import refusal
from gradverify.core.diagnose import diagnosed
from gradverify.core.evaluate.limits import TOO_SLOW
from gradverify.core.evaluate.outside import Outside
from gradverify.core.lines.recorder import Recorder
from gradverify.core.nouns import Case, Finding, Fit
from gradverify.core.nouns.ledger import NotVerified
from gradverify.core.properties import LATER, Property, properties, unexplained
from gradverify.core.summarise.coverage import Coverage
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import Tally
from gradverify.core.verify import NO_MEMORY, aware, behind, examine, property_of, selected

_TOLD = 3  # cases that are too large to be judged
_ENOUGH = 25  # cases drawn after the first finding, to see whether there are others
_CERTAIN = 20.0  # bounds that a gradient is wrong by, beyond which no other case is asked about it
_WEIGHED = 4  # of how many cases one tells what each output adds: of the ledger's medians a quarter tells as much
_SLOW = 3  # cases that were given up as too slow, after which a property is no longer tried


def check_layer(layer: Layer, settings: Settings, listen: Listener | None = None) -> Report:
    """Check one layer with given settings; `listen` hears of progress after each case."""
    return Search(layer, settings, listen or (lambda event: None)).run()


def told(layer: Layer, report: Report) -> Report:
    """The report of one Case with what its findings look like: one mistake in full, what follows from it behind it."""
    found: list[Finding] = []
    for finding in sorted(unexplained({f.fingerprint: f for f in report.findings}), key=_first):
        found.append(diagnosed(layer, finding, _lead(finding, found)))
    return replace(report, findings=behind(found))


class _Enough(Exception):
    """Enough cases were seen after the first finding."""


@dataclass
class Search:
    """One check of one layer: what was counted and found so far."""

    layer: Layer
    settings: Settings
    listen: Listener
    tallies: dict[str, Tally] = field(default_factory=dict)
    found: dict[tuple[str, str, str], tuple[Finding, Property]] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    tables: dict[str, Any] = field(default_factory=dict)  # of the sizes that `assume` allows
    cases: int = 0
    total: int = 0
    first: int | None = None
    slow: Counter[str] = field(default_factory=Counter)
    refused: bool = False
    beyond: set[str] = field(default_factory=set)  # what is too large, or too slow, to be judged, in words
    few: list[str] = field(default_factory=list)  # what drawing lacked, in words
    tuned: tuning.Tuning = field(init=False)
    recorder: Recorder = field(init=False)
    smaller: Smaller = field(init=False)
    outside: Outside = field(init=False)

    def __post_init__(self) -> None:
        self.tuned = replace(self.settings.tuning, vain=set())
        self.outside = Outside(self.layer)
        self.smaller = Smaller(self.layer, self.settings, self._report_progress)

    def run(self) -> Report:
        """Draw, verify, shrink; one pass for each group of properties that draw alike."""
        start = time.perf_counter()
        with tuning.using(self.tuned), Recorder(self.layer) as self.recorder:
            groups = list(alike(self.applicable()))
            self.total = sum(_count(self.settings.examples, props) for _, props in groups)
            for regime, props in groups:
                if not self.over and not self.refused:
                    self._draw(regime, props)
            findings = self._final()
        return Report(
            self.layer.name,
            self.tallies,
            behind(findings),
            self.layer.declared.lines(),
            seed=self.seed,
            seconds=time.perf_counter() - start,
            examples=self.settings.examples,
            notes=self.notes(),
            coverage=self.coverage,
            lines=self.recorder.result(),
            unverified=self.left_out,
            origin=self.layer.origin,
        )

    def notes(self) -> tuple[str, ...]:
        """What the reader of a report is told besides: what was refused, and what was too large or too slow."""
        lacks = (refusal(self.layer),) if self.refused else self.coverage.lacks()
        return (*lacks, *self.few, *(f"not judged: {told}" for told in sorted(self.beyond)[:_TOLD]))

    @property
    def left_out(self) -> tuple[NotVerified, ...]:
        """What no property looks at, as far as was seen."""
        return (*self.layer.left_out, *self.outside.missing())

    @property
    def blocked(self) -> bool:
        """Whether some of that is no pass."""
        return any(item.blocks for item in self.left_out)

    def _final(self) -> list[Finding]:
        """Every finding that no other explains, small and diagnosed; behind those of a part that is wrong by itself."""
        found = sorted(unexplained(self.found), key=lambda item: _first(item[0]))
        within = self._within() if found and self.settings.shrink else []
        if within:
            return [*within, *(finding.but(follows=within[0].fingerprint) for finding, _ in found)]
        findings: list[Finding] = []
        for finding, prop in found:
            findings.append(self.minimal(finding, prop, _lead(finding, findings)))
        return self._by_cause(findings)

    def _by_cause(self, findings: list[Finding]) -> list[Finding]:
        """Findings, one of which a law explains before the vague one that it was told behind: the weight, and not the
        input that the error reaches through it.
        """
        for lead in [finding for finding in findings if finding.follows is None and _fit(finding) < Fit.LAW]:
            group = [finding for finding in findings if finding.follows == lead.fingerprint]
            cause = max(group, key=_fit, default=lead)
            if _fit(cause) < Fit.LAW or cause.property != lead.property or not self.settings.shrink:
                continue
            if cause.fingerprint not in self.found:  # it comes and goes, which no law explains
                continue
            first = self.minimal(*self.found[cause.fingerprint])
            if _fit(first) >= Fit.LAW:
                rest = [f.but(follows=first.fingerprint) if f in (lead, *group) else f for f in findings if f != cause]
                findings = [first, *rest]
        return findings

    def _within(self) -> list[Finding]:
        """The findings of the first layer, of those that this one is built of, that has any."""
        reports = (check_layer(part, self.settings, self.listen) for part in self.layer.parts)
        return next((list(report.findings) for report in reports if report.findings), [])

    @property
    def over(self) -> bool:
        """Whether one case is enough to show what is wrong, and costs enough, as where the layer hangs or exhausts the
        memory, or whether it is random, so that all is.
        """
        costly = any(kind in ("timeout", "random") for _, kind, _ in self.found)
        return costly or any(exhausts(finding) for finding, _ in self.found.values())

    @property
    def seed(self) -> int:
        return int(self.settings.seed or 0)

    def applicable(self) -> list[Property]:
        """Properties that are asked for and apply; the tallies of the others say why not."""
        chosen = []
        for prop in selected(self.settings.properties):
            tally = self.tallies.setdefault(prop.name, Tally(prop.name))
            tally.reason = prop.applies(self.layer)
            if tally.reason is None:
                chosen.append(prop)
        return chosen

    def _draw(self, regime: Regime, props: list[Property]) -> None:
        from gradverify.core.draw import drawing_of, explored

        target = self.layer.origin or (self.layer.name if self.layer.name in layers else None)
        drawing = drawing_of(
            self.layer, regime, dtype=self.settings.dtype, eps=self.settings.eps, target=target, tables=self.tables
        )
        drawn, most = 0, max(prop.share for prop in props)  # the share that decides how many cases are drawn
        wanted = _count(self.settings.examples, props)

        def body(case: Case) -> bool:
            nonlocal drawn
            drawn += 1
            self.cases += 1
            self.coverage.add(self.layer, case)
            self.recorder.begin(case, props[0])
            for prop in props:
                if self.over:
                    break
                if self.slow[prop.name] >= _SLOW:
                    continue
                if _due(drawn, prop.share / most):
                    self._try(case, prop)
            reached = bool(self.recorder.end())
            if not self.over and self.outside.due(case):
                aware(self.layer, case, props[-1])
                self.outside.look(case)
            self._report_progress()
            if self.over or (self.first is not None and self.cases >= self.first + _ENOUGH):
                raise _Enough
            return reached

        try:
            explored(drawing, wanted, zlib.crc32(f"{self.seed} {self.layer.name} {regime}".encode()), body)
        except _Enough:
            self.first = self.cases  # the next group of properties gets its own chance
        else:
            if 0 < drawn < wanted // 2:
                self.few.append(f"no more than {drawn} of {wanted} cases could be drawn")
        self.beyond |= drawing.beyond
        self.coverage.asked(drawing.tried, drawing.refused, drawing.possible)
        self.refused = self.cases == 0  # many attempts, and as many for each other group

    def _try(self, case: Case, prop: Property) -> None:
        begun = time.perf_counter()
        outputs = self.cases % _WEIGHED == 1
        with tuning.using(replace(tuning.current(), known=self._known(prop), few=True, outputs=outputs)):
            outcome = examine(self.layer, case, prop)
        self.recorder.add(outcome)
        self.tallies[prop.name].add(outcome, time.perf_counter() - begun)
        if outcome.skipped and outcome.skipped.startswith((NO_MEMORY, TOO_SLOW)):
            self.beyond.add(outcome.skipped)
        self.slow[prop.name] += bool(outcome.skipped and outcome.skipped.startswith(TOO_SLOW))
        prop = property_of(outcome, prop)
        for finding in outcome.findings:
            known = self.found.get(finding.fingerprint)
            if known is None:
                self.first = self.cases if self.first is None else self.first
                self.found[finding.fingerprint] = (finding, prop)
            else:
                self.found[finding.fingerprint] = (smaller(known[0], finding), known[1])

    def _known(self, prop: Property) -> frozenset[str]:
        """Primals that are wrong for certain, by this property or by one that would explain it: other findings are
        looked for from then on.
        """
        clear = (finding for finding, _ in self.found.values() if most(finding) >= _CERTAIN)
        same = (f for f in clear if f.property == prop.name or (f.property in prop.implied_by and f.kind == "wrong"))
        return frozenset(f.primal for f in same if f.primal is not None)

    def minimal(self, finding: Finding, prop: Property, lead: Finding | None = None) -> Finding:
        """The same finding on a small case, diagnosed; behind a lead that is told already, in brief."""
        if exhausts(finding):
            return finding.but(kind="memory")
        with tuning.using(self.tuned):
            return self.smaller(finding, prop, lead)

    def _report_progress(self, stage: str = DRAWING) -> None:
        self.listen(Progress(self.layer.name, self.cases, self.total, len(self.found), stage))


def _first(finding: Finding) -> tuple[int, int]:
    """What is told first: code that fails, then gradients that are wrong at large, then small cases."""
    known = finding.property in properties and finding.kind != "nan"
    return properties.get(finding.property).turn if known else LATER, finding.case.size


def _fit(finding: Finding) -> Fit:
    """How well the best of its diagnoses fits."""
    return max((diagnosis.fit for diagnosis in finding.diagnoses), default=Fit.FACTS)


def exhausts(finding: Finding) -> bool:
    """Whether a finding is that memory was exhausted: each smaller case would take as long to fail."""
    return finding.kind == "crash" and "MemoryError" in finding.message


def _lead(finding: Finding, earlier: Sequence[Finding]) -> Finding | None:
    """The finding that this one is told behind, in brief: of the same kind, or on the same primal."""
    leads = {f.fingerprint: f for f in earlier if f.follows is None}
    alike = [f for f in leads.values() if f.fingerprint[:2] == finding.fingerprint[:2]]
    same = [leads[f.follows or f.fingerprint] for f in earlier if f.primal == finding.primal and f.primal is not None]
    return next(iter(alike + same), None)


def alike(props: Iterable[Property]) -> Iterable[tuple[Regime, list[Property]]]:
    """Properties that draw alike share their cases; cases as in production come first, since what is wrong with a
    kernel shows there, and after a finding few cases are drawn.
    """
    groups: dict[Regime, list[Property]] = {}
    for prop in props:
        groups.setdefault(prop.regime, []).append(prop)
    return sorted(groups.items(), key=lambda group: not group[0].production)


def _due(drawn: int, share: float) -> bool:
    """Whether a property that wants a share of the cases is tried on this one."""
    return drawn == 1 or int(drawn * share) > int((drawn - 1) * share)


def _count(examples: int, props: list[Property]) -> int:
    return max(1, math.ceil(examples * max(prop.share for prop in props)))
