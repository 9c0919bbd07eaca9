"""Watches one check: what runs in a case counts once that case is verified.

Where `sys.monitoring` can be had, all of a case is watched, with every call that a property makes. With a trace
function, forward and backward run once more for that: one run beside the many that a case takes anyway. Once every
line and side of all functions that were seen has run, that is done on some cases only: what is left to see is a
function that no case has called before.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import Any

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate.limits import TRIAL, time_limit
from gradverify.core.lines import places
from gradverify.core.lines.owner import Home, fixed
from gradverify.core.lines.watch import Engine, Seen, engine
from gradverify.core.nouns import UNRESOLVED, Case, Outcome
from gradverify.core.properties import Property
from gradverify.core.summarise.lines_ran import Function, Ran, Side
from gradverify.core.verify import aware

_STILL = 4  # of how many cases one is watched by a trace function when nothing seems left to see; it takes 0.2 ms


class Recorder:
    """What ran of one layer's code, case by case; a context manager, that stops watching at its end."""

    def __init__(self, layer: Layer) -> None:
        self._layer, self._home = layer, Home(layer)
        self._engine: Engine | None = None if self._home.sourceless else engine(self._home.owns)
        self._ran = Seen()
        self._first: Seen | None = None  # what a run before the case add, where not all of it is watched
        self._verified = False
        self._complete = False
        self._cases = 0

    def begin(self, case: Case, prop: Property) -> None:
        """A case begins, with this property."""
        self._verified, self._first = False, None
        self._cases += 1
        if self._engine is None:
            return
        if self._engine.whole:
            self._engine.begin()
            return
        if self._complete and self._cases % _STILL:
            return
        aware(self._layer, case, prop)
        self._first = _run(self._engine, self._layer, case)

    def add(self, outcome: Outcome) -> None:
        """A property has answered."""
        self._verified = self._verified or decides(outcome)

    def end(self) -> tuple[str, ...]:
        """The case is over. Gives a name for each place that ran in a verified case for the first time."""
        if self._engine is None:
            return ()
        seen = self._engine.end() if self._engine.whole else self._first
        if seen is None:
            return ()
        if not self._verified:
            self._engine.again(seen)
            for code, stage in seen.stages.items():
                self._ran.stages.setdefault(code, stage)
            return ()
        added = tuple(self._added(seen))
        if added and not self._engine.whole:
            self._complete = Ran(self._functions()).complete
        return added

    def _added(self, seen: Seen) -> Iterator[str]:
        for code, stage in seen.stages.items():
            self._ran.stages.setdefault(code, stage)
        kinds: tuple[tuple[Any, Any], ...] = ((seen.lines, self._ran.lines), (seen.jumps, self._ran.jumps))
        for new, known in kinds:
            for code, found in new.items():
                before = known.setdefault(code, set())
                for place in sorted(found - before):
                    yield f"{_name(code)} {code.co_firstlineno} {place}"
                before |= found

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def result(self) -> Ran:
        """Which lines ran so far."""
        if self._home.sourceless:
            return Ran(reason="no source")
        if self._engine is None:
            return Ran(reason="other tools hold all of sys.monitoring")
        functions = self._functions()
        return Ran(functions, None if functions else "none of the author's code was seen to run", fixed(self._layer))

    def _functions(self) -> tuple[Function, ...]:
        found: dict[tuple[str, int, str], Function] = {}
        for code, stage in self._ran.stages.items():
            function = _function(code, stage, self._ran)
            key = (function.file, function.line, function.name)
            found[key] = found[key].merged(function) if key in found else function
        return tuple(found[key] for key in sorted(found) if found[key].lines)


def decides(outcome: Outcome) -> bool:
    """Whether an outcome says of at least one number that it is right or wrong."""
    if outcome.skipped is not None:
        return False
    if outcome.compared:
        return any(bool((compared.verdicts != UNRESOLVED).any()) for compared in outcome.compared)
    return outcome.entries > 0 or bool(outcome.findings)


def _run(watching: Engine, layer: Layer, case: Case) -> Seen:
    """One forward and backward under the trace function; what they raise is add by the properties."""
    seen = Seen()
    try:
        with time_limit(TRIAL):  # a layer that hangs is found by the properties, and costs this much besides
            watching.begin()
            try:
                completed, evaluation = evaluate.evaluated(layer, case)
                evaluate.pulled(evaluation, completed.cotangents or ())
            finally:
                seen = watching.end()
    except evaluate.LayerFailure:
        pass
    return seen


def _name(code: CodeType) -> str:
    return str(getattr(code, "co_qualname", code.co_name)).replace("<locals>.", "")


def _function(code: CodeType, stage: str, ran: Seen) -> Function:
    source = places.source_of(code.co_filename)
    inside = [inner for inner in places.inner(code) if inner not in ran.stages]
    lines = places.statements(code).union(*map(places.statements, inside))
    done = places.ran(code, ran.lines.get(code, set()))
    sides, missed = _sides(code, ran.jumps.get(code, set()), done)
    asleep = {Side(*add, None) for add in map(places.lambda_in, inside) if add is not None and add[0] in done}
    return Function(
        _name(code),
        code.co_filename,
        code.co_firstlineno,
        "forward" if stage == "forward" else "backward",
        {line: source.ends.get(line, line) for line in lines},
        frozenset(done),
        sides | asleep,
        missed | asleep,
        {line: source.under.get(line, "") for line in lines},
    )


def _sides(code: CodeType, jumps: set[tuple[int, int]], done: set[int]) -> tuple[frozenset[Side], frozenset[Side]]:
    """The sides of every condition that ran, and those that did not; what stands twice in the code counts once.

    A side that leads to a line which never ran is add by that line.
    """
    known = places.conditions(code)
    every: set[Side] = set()
    ran: set[Side] = set()
    for offset, following in jumps:
        condition = known.get(offset)
        if condition is not None:
            led = [way for way, line in condition.leads.items() if line in done]
            every |= {Side(condition.line, condition.text, way) for way in led}
            ran.add(Side(condition.line, condition.text, condition.value(following)))
    return frozenset(every | ran), frozenset(every - ran)
