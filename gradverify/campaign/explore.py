"""One unit in a worker: draw rows, decode, examine, keep what is interesting, settle what fails.

A case is interesting if it has a feature that no case before it had (a combination of options, a shape, a
region of values, a verdict, a line or branch of the author's code), or a disagreement closer to its bound than
any before.
"""

from __future__ import annotations

import os
import platform
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from gradverify import casefile
from gradverify.campaign import parcel
from gradverify.campaign.journal import Journal
from gradverify.campaign.unit import Delta, Found, Record, Row, Unit, digest, record_of, resident
from gradverify.core import tuning
from gradverify.core.check.search import Search, alike, exhausts
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.draw import Pool, cases, decoding, each
from gradverify.core.errors import CaseFileError, GradverifyError
from gradverify.core.evaluate.failures import COMPLETE
from gradverify.core.lines.recorder import Recorder
from gradverify.core.nouns import Array, Case, Finding, Outcome, Verdict
from gradverify.core.properties import Property, explained, properties
from gradverify.core.verify import aware, checked, examine, property_of, watcher
from gradverify.report.terminal import render_finding

BEAT = 0.5  # seconds between two deltas
_BATCH = 16  # cases of one group of properties before the next has its turn
_SETTLED = 5  # findings made small in one unit; the others wait for the next
ZIP = b"PK"  # with which a Case file begins
_RETRIES = 5  # of a finding that was not settled, before it counts as not seen again


class Over(BaseException):
    """The unit is over."""


class Worker(Protocol):
    """What it needs of the process that it runs in."""

    journal: Journal

    def tell(self, content: Any) -> None: ...

    def stopped(self) -> bool: ...

    def tidy(self) -> None: ...


class Turn:
    """A group of properties that draw alike, and where their cases come from."""

    def __init__(self, unit: Unit, layer: Layer, regime: Regime, props: list[Property], rng: random.Random) -> None:
        self.regime, self.props = regime, props
        self.count = max(1, round(_BATCH * max(prop.share for prop in props)))
        self.drawn = rng.randrange(100)
        self.heads = {p.name: Record.head(layer.name, unit.target, p.name, regime, True) for p in props}
        arguments: dict[str, Any] = {"dtype": unit.plan.dtype, "eps": unit.plan.eps, "target": unit.target}
        decoded = decoding(layer, regime, **arguments)
        self.pool: Pool | None = None
        self.decode: Callable[[bytes], Case | None] | None = None
        self.strategy: Any = None
        if decoded is None:
            self.strategy = cases(layer, regime, **arguments)
        else:
            lengths, self.decode = decoded
            known = [row for row in unit.rows if row.regime == regime and unit.plan.learn]
            reached = [row.data for row in known if row.reached]
            self.pool = Pool([row.data for row in known if not row.reached], lengths, rng, reached)

    def due(self) -> list[Property]:
        """The properties that want the next case, by their share of the cases."""
        self.drawn += 1
        return [p for p in self.props if int(self.drawn * p.share) > int((self.drawn - 1) * p.share)]


class Explorer:
    """One unit being worked on; as a watcher it notes every case before the layer sees it."""

    def __init__(self, unit: Unit, layer: Layer, worker: Worker) -> None:
        self.unit, self.layer, self.journal = unit, layer, worker.journal
        self.worker, self.send, self.stopped = worker, worker.tell, worker.stopped
        self.rng = random.Random(unit.seed)
        self.seen = set(unit.features)
        self.known = dict(unit.known)
        self.ratio = unit.ratio
        self.fragile = False  # whether the case at hand cannot be made small here
        self.cases = self.settled = 0
        self.started = self.last = time.perf_counter()
        self.delta = Delta(unit.number, unit.layer)
        self.record: Callable[[Property], bytes] | None = None  # for the journal, where not from the case itself
        plan = unit.plan
        settings = Settings(dtype=plan.dtype, eps=plan.eps, properties=plan.properties, method=plan.method)
        self.search = Search(layer, settings, lambda event: None)

    def run(self) -> None:
        """Work until the slice is used up, or somebody asks to stop."""
        token = watcher.set(self)
        try:
            with tuning.using(self.search.tuned), Recorder(self.layer) as self.recorder:
                for record in self.unit.pending:
                    self._retry(record)
                turns = [
                    Turn(self.unit, self.layer, regime, props, self.rng)
                    for regime, props in alike(self.search.applicable())
                ]
                while turns:
                    for turn in turns:
                        self._batch(turn)
                reasons = dict.fromkeys(tally.reason for tally in self.search.tallies.values() if tally.reason)
                self.delta.idle = f"no property that is asked for applies: {'; '.join(reasons)}"
        except Over:
            pass
        finally:
            watcher.reset(token)
            self.flush()
        self.journal.clear()

    def before(self, layer: Layer, case: Case, prop: Property) -> None:
        """Journal the case, and show that the worker lives."""
        self.worker.tidy()
        if self.record is not None:
            self.journal.write(self.record(prop))
        else:
            try:
                content = casefile.dumps(case)
            except CaseFileError:  # an option that no file can hold
                return
            self.journal.write(Record(layer.name, self.unit.target, prop.name, Regime(), content, False).dumps())
        if time.perf_counter() > self.last + BEAT:
            self.flush()

    def after(self, layer: Layer, outcome: Outcome) -> None:
        """Nothing to do."""

    def flush(self) -> None:
        """Send what happened since the last time."""
        now = time.perf_counter()
        self.delta.seconds, self.last = now - self.last, now
        self.delta.host, self.delta.pid, self.delta.memory = platform.node(), os.getpid(), resident()
        self.send(self.delta)
        self.delta = Delta(self.unit.number, self.unit.layer)

    def _check(self) -> None:
        spent = time.perf_counter() - self.started
        if spent >= self.unit.seconds or self.cases >= (self.unit.cases or self.cases + 1) or self.stopped():
            raise Over

    def _batch(self, turn: Turn) -> None:
        if turn.pool is None or turn.decode is None:
            # Hypothesis draws what an author's own strategy draws; such cases are not mutated
            each(turn.strategy, turn.count, self.rng.getrandbits(64), lambda case: self._case(turn, case, None))
            return
        for _ in range(turn.count):
            row = turn.pool.next()
            self.journal.write(turn.heads[turn.props[0].name] + row)  # decoding runs the author's `assume`
            case = turn.decode(row)
            if case is None:
                self._check()
            else:
                self._case(turn, case, row)

    def _case(self, turn: Turn, case: Case, row: bytes | None) -> None:
        self._check()
        self.cases += 1
        self.delta.cases += 1
        self.fragile = False
        noted, record = features(case), 0.0
        due = turn.due()
        if due:
            self.record = None if row is None else lambda prop: turn.heads[prop.name] + row
            if self.search.outside.due(case):
                aware(self.layer, case, due[0])
                self.search.outside.look(case)
            self.recorder.begin(case, due[0])
        for prop in due:
            self.record = None if row is None else lambda prop: turn.heads[prop.name] + row
            outcome = self._examine(case, prop)
            self.recorder.add(outcome)
            ratio = self._count(outcome)
            noted.update(verdict_features(outcome))
            if not outcome.findings:
                record = max(record, ratio)
            for finding in outcome.findings:
                self._hit(finding, property_of(outcome, prop), turn.regime)
        if row is None:
            self.journal.clear()  # so that nobody blames this case while Hypothesis draws the next
        code = code_features(self.recorder.end()) - self.seen if due else set()
        new = (noted | code) - self.seen
        best = np.isfinite(record) and record > RECORD * self.ratio
        pool = turn.pool if self.unit.plan.learn else None
        if row is not None and pool is not None and (new or best) and pool.keep(row, bool(code)):
            self.delta.rows.append(Row(turn.regime, row, tuple(sorted(new)), record if best else 0.0, bool(code)))
        self.seen |= new
        self.ratio = record if best else self.ratio

    def _examine(self, case: Case, prop: Property) -> Outcome:
        """As `examine`; what gets past it (the memory limit hit by gradverify's own arrays) is a finding too."""
        try:
            return examine(self.layer, case, prop, self.unit.plan.case_seconds)
        except MemoryError as error:
            kind, message = "memory", f"memory was exhausted while this case was examined: {error}"
        except KeyboardInterrupt:  # of the layer's making, as nobody else sends one here
            kind, message = "crash", "the layer raised KeyboardInterrupt"
        self.fragile = True
        return Outcome(prop.name, findings=(Finding(COMPLETE, kind, None, message, case),))

    def _count(self, outcome: Outcome) -> float:
        """Add an outcome to the delta; gives its largest disagreement in units of the bound."""
        if outcome.skipped is not None:
            return 0.0
        self.delta.entries += outcome.entries
        ratio, told = 0.0, not outcome.compared
        for compared in outcome.compared:
            told |= bool((compared.verdicts != Verdict.UNRESOLVED).any())
            decided = (compared.verdicts == Verdict.AGREES) | (compared.verdicts == Verdict.DISAGREES)
            if decided.any():
                ratio = max(ratio, float(np.nanmax(compared.ratio[decided], initial=0.0)))
        self.delta.verified |= told and not self.search.blocked
        self.delta.ratio = max(self.delta.ratio, ratio)
        return ratio

    def _hit(self, finding: Finding, prop: Property, regime: Regime) -> None:
        """Count a known finding; send a new one as it is, then small and confirmed."""
        if exhausts(finding):
            finding = finding.but(kind="memory")
        raw = finding.fingerprint
        size = self.known.get(raw)
        if size is not None:
            self.delta.again[raw] = self.delta.again.get(raw, 0) + 1
        if (size is not None and finding.case.size >= size) or explained(raw, self.known):
            return
        self.known[raw] = finding.case.size
        # to make such a case smaller takes too long, or too much, or ends the process
        quick = self.fragile or finding.kind in ("timeout", "memory")
        first = found_of(self.layer, finding, prop, regime, raw, quick)
        self.delta.found.append(first)
        self.flush()
        if quick or self.settled >= _SETTLED or self.stopped():
            return
        self.settled += 1
        self.record = None
        small = found_of(self.layer, self.search.minimal(finding, prop), prop, regime, raw)
        self.known[raw] = small.size
        self.delta.found.append(small)
        self.delta.dropped.append(digest(record_of(first, self.unit.target)))
        self.flush()

    def _retry(self, data: bytes) -> None:
        """Try a case again that was found or begun, and not settled, before a process ended."""
        self._check()
        name = digest(data)
        try:
            record = Record.loads(data)
            case = case_of(record, self.layer, self.unit)
            prop = properties.get(record.asked)
            case = case if case is None else checked(self.layer, case)
        except GradverifyError as error:  # the layer, or gradverify, is another than when the record was written
            self.delta.unfit[name] = str(error)
            self.flush()
            return
        self.fragile = name in self.unit.fragile
        if case is not None:
            for _ in range(_RETRIES):
                self.record = lambda prop: data
                outcome = self._examine(case, prop)
                for finding in outcome.findings:
                    self._hit(finding, property_of(outcome, prop), record.regime)
                if outcome.findings:
                    break
        self.fragile = False
        self.delta.dropped.append(name)
        self.flush()


def case_of(record: Record, layer: Layer, unit: Unit) -> Case | None:
    """The case of a journal record; None if the layer does not allow it. Raises CaseFileError for a damaged one."""
    if not record.is_row:
        return casefile.loads(record.content) if record.content.startswith(ZIP) else parcel.loads(record.content)
    decoded = decoding(layer, record.regime, dtype=unit.plan.dtype, eps=unit.plan.eps, target=unit.target)
    return None if decoded is None else decoded[1](record.content)


def found_of(
    layer: Layer, finding: Finding, prop: Property, regime: Regime, raw: tuple[str, str, str], settled: bool = True
) -> Found:
    """A finding as plain data, with its full report."""
    try:
        content = casefile.dumps(finding.case)
    except CaseFileError:  # an option that no file can hold
        content = b""
    return Found(
        layer.name,
        finding.property,
        finding.kind,
        finding.primal,
        finding.diagnoses[0].name if finding.diagnoses else None,
        prop.name,
        raw,
        finding.message,
        render_finding(finding),
        float(finding.severity),
        content,
        finding.case.size,
        regime,
        settled,
    )


RECORD = 1.25  # a ratio counts as a record if it is larger than the last one by this factor


def features(case: Case) -> set[int]:
    """Hashes of options, shapes and regions of values; the same in every process."""
    return {zlib.crc32(text.encode()) for text in _features(case)}


def _features(case: Case) -> Iterator[str]:
    options = repr(sorted(case.options.items()))
    yield f"options {options}"
    shapes = []
    for name, array in case.primals.items():
        shape = tuple(map(_bucket, array.shape))
        shapes.append(shape)
        yield f"shape {name} {shape} {options}"
        yield f"values {name} {_region(array)}"
        if len(set(array.shape)) < array.ndim:
            yield f"equal axes {name} {[array.shape.index(n) for n in array.shape]}"
    yield f"shapes {shapes}"


def verdict_features(outcome: Outcome) -> Iterator[int]:
    """Hashes of what one property said."""
    if outcome.skipped is not None:
        yield zlib.crc32(f"{outcome.property} skipped".encode())
    for compared in outcome.compared:
        for verdict in set(compared.verdicts.ravel().tolist()) - {int(Verdict.AGREES)}:
            yield zlib.crc32(f"{outcome.property} {compared.primal} {verdict}".encode())


def code_features(places: Iterable[str]) -> set[int]:
    """Hashes of lines and branches that ran."""
    return {zlib.crc32(f"code {place}".encode()) for place in places}


def _bucket(extent: int) -> int:
    """Sizes up to 4 each for themselves, larger ones by powers of two."""
    return extent if extent <= 4 else 1 << (extent - 1).bit_length()


def _region(array: Array) -> tuple[int, ...]:
    """Sign, magnitude and repetition of the entries."""
    if array.size == 0 or array.dtype.kind not in "fciu":
        return (0,)
    with np.errstate(all="ignore"):
        values = array.real if array.dtype.kind == "c" else array
        low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    magnitude = int(np.clip(np.floor(np.log10(largest)), -9, 5)) if 0 < largest < np.inf else -10
    zero = bool((values == 0).any())
    return (1, magnitude, int(low > 0) - int(high < 0), int(low == high), int(zero))
