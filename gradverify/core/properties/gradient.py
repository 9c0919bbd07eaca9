"""The gradient property: analytic and numerical gradients agree in every entry of every primal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import ladder, screen
from gradverify.core.differentiate.inner_precision import computes_in
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure, once
from gradverify.core.judge import backward_noise
from gradverify.core.judge.facts import facts_of
from gradverify.core.judge.sweep import comparisons, sweep
from gradverify.core.judge.verdicts import SCREENED, Sweep
from gradverify.core.nouns import Array, Case, Comparison, Finding, Outcome, Stream, Verdict
from gradverify.core.nouns.ledger import weighted
from gradverify.core.properties import SECOND, Property, add
from gradverify.core.tuning import current

NAME = "gradient"
NOTHING = "forward is not finite at the point: nothing to differentiate"
_UNSEEN = 8  # times the largest of these draws: five normal numbers are below an eighth once in 100,000
_DRAWS, _MOST_DRAWS = 5, 24  # an entry that is all rounding takes few values, and five draws may show one of them


def applies(layer: Layer) -> str | None:
    if not layer.differentiable:
        return "no primal is differentiable"
    fixed = layer.hooks.reference is not None
    return "the code is fixed to a low precision: the property reference judges it" if fixed else None


@dataclass(frozen=True, slots=True)
class Compared:
    """A gradient beside the numerical one, at one Case.

    Attributes
    ----------
    case, point : the completed case, and the layer's forward around it
    good, bad : gradients by primal name, as `evaluate.usable` splits them
    analytic : all of them as one flat vector
    sweep : verdicts, entry by entry
    """

    case: Case
    point: Point
    good: dict[str, Array]
    bad: list[LayerFailure]
    analytic: Array
    sweep: Sweep

    @property
    def outcome(self) -> Outcome:
        """Findings and comparisons of the primals in question."""
        layer = self.point.layer
        compared = comparisons(self.sweep, asked(layer))
        findings = tuple(finding(self.case, c) for c in compared if c.wrong.any())
        entries = int(np.isfinite(self.analytic).sum())
        asks = current().outputs
        outputs = weighted(layer.returns, self.case.cotangents or (), self._alone) if asks else {}
        return Outcome(NAME, findings, compared, entries, outputs=outputs)

    def _alone(self, cotangents: Sequence[Array]) -> dict[str, Array]:
        """The gradients for other cotangents; none where backward fails for them, which is not asked here."""
        layer, primals = self.point.layer, self.point.primals
        try:
            raw = evaluate.gradients(layer, primals, self.case.options, tuple(cotangents))
        except LayerFailure:
            return {}
        return evaluate.usable(layer, self.case.but(primals=primals), raw)[0]


def holds(layer: Layer, case: Case) -> Outcome:
    """Compare every entry; see `gradverify.compare`."""
    found = compared(layer, case)
    return Outcome(NAME, skipped=NOTHING) if found is None else found.outcome


def compared(layer: Layer, case: Case) -> Compared | None:
    """The gradient that the layer gives for a case, compared; None where forward is not finite there."""
    known, gradients = once.evaluated(layer, case)
    case, outputs = known.case, known.outputs
    if not all(np.isfinite(y).all() for y in outputs if y.dtype.kind in "fc"):
        return None
    dtype = working_dtype(case)
    if dtype is None:
        good, bad = gradients()
    else:
        working = case.but(primals=evaluate.cast(case.primals, dtype))
        raw = evaluate.gradients(layer, working.primals, case.options, case.cotangents or ())
        good, bad = evaluate.usable(layer, working, raw)
    point = Point(layer, case, dtype, current().memory, outputs)
    analytic = point.claimed(good)
    result = compare(point, case, analytic)
    if (result.verdicts == Verdict.DISAGREES).any():
        _as_computed(point, case, dtype, analytic, result)
    return Compared(case, point, good, bad, analytic, result)


def working_dtype(case: Case) -> Any:
    """float32 and float16 points are differentiated in float64; the precision property judges the rest."""
    floats = [a.real.dtype for a in case.primals.values() if a.dtype.kind in "fc"]
    return np.float64 if floats and np.result_type(*floats).itemsize < 8 else None


def _as_computed(point: Point, case: Case, dtype: Any, analytic: Array, result: Sweep) -> None:
    """Look again at what disagrees, in the precision that the code computes in where that is lower."""
    inside = computes_in(point)
    if inside is None:
        return
    wrong = np.flatnonzero(result.verdicts == Verdict.DISAGREES)
    coarse = Point(point.layer, case, dtype, point.memory, inside=inside)
    allowance = partial(backward_rounding, coarse, case, analytic)
    result.take(sweep(coarse, analytic, allowance=allowance, entries=wrong), wrong)


def compare(point: Point, case: Case, analytic: Array) -> Sweep:
    """Element by element where that is cheap or asked for, else a screen that localises what it finds."""
    tuning = current()
    layer = point.layer
    allowance = partial(backward_rounding, point, case, analytic)
    zero = [slot for slot in point.slots if slot.name in layer.declared.zero]
    wanted = [s for s in point.slots if s not in zero and s.name in asked(layer)]
    every = np.concatenate([np.arange(s.start, s.stop) for s in wanted]) if wanted else np.arange(0)
    large = point.size > tuning.sweep_limit
    chosen = screened_entries(point, case, analytic, every, tuning.sample) if large else every
    result = sweep(
        point,
        analytic,
        tuning.eps,
        drawn=case.step,
        method=tuning.method,
        allowance=allowance,
        entries=chosen,
        few=tuning.few,
    )
    if large:
        result.settle(np.setdiff1d(every, chosen), Verdict.UNRESOLVED, SCREENED)
    for slot in zero:
        part = np.arange(slot.start, slot.stop)
        result.store(part, 0.0, np.zeros(part.size), np.where(analytic[part] == 0, Verdict.AGREES, Verdict.DISAGREES))
    return result


def asked(layer: Layer) -> set[str]:
    """Names of the primals that are in question."""
    tuning = current()
    names = {primal.name for primal in layer.differentiable} - tuning.known
    return names if tuning.only is None else names & {tuning.only}


def screened_entries(point: Point, case: Case, analytic: Array, chosen: Array, sample: int) -> Array:
    """Entries worth a look of their own: what group testing points at, and a random sample."""
    rng = case.rng(Stream.SCREENED_SAMPLE)
    picked = rng.choice(chosen, min(sample, chosen.size), replace=False)
    if not screen.screen(point, analytic, case.seed).agrees:
        picked = np.concatenate([picked, screen.localise(point, analytic, case.seed)])
    return np.intersect1d(picked, chosen)


def backward_rounding(point: Point, case: Case, analytic: Array, small: bool = False) -> Array:
    """How far the analytic gradient moves when primals and cotangents move by one unit in the last place.

    And when it is computed with more digits, where the code takes them: what a gradient that is all rounding
    has lost, a few draws may fail to show. Where primals are so large that their last place is no small step, what is
    0 there moves as well: an input of 1e50 multiplies it.
    """
    spread, zeros = np.zeros(point.size), ladder.coarse(point)
    rng = case.rng(Stream.BACKWARD_ROUNDING)
    part = point.eps if point.grid is not None else None  # finer changes are rounded away
    nudged = (
        (
            {n: backward_noise.nudge(a, rng, part, zeros) for n, a in point.primals.items()},
            tuple(backward_noise.nudge(v, rng, part) for v in case.cotangents or ()),
        )
        for _ in range(_MOST_DRAWS if small else _DRAWS)
    )
    for primals, cotangents in chain(nudged, [(evaluate.cast(point.primals, np.longdouble), case.cotangents or ())]):
        try:
            moved = point.gradient(case.but(primals=primals, cotangents=cotangents))
        except LayerFailure:
            continue
        with np.errstate(invalid="ignore"):
            spread = np.fmax(spread, np.abs(moved - analytic))
    return _UNSEEN * spread


def finding(case: Case, comparison: Comparison) -> Finding:
    """The finding for one primal, with the facts that diagnosis builds on."""
    where = comparison.worst
    count, total = int(comparison.wrong.sum()), comparison.wrong.size
    a, n = comparison.analytic[where], comparison.numerical[where]
    digits = next((k for k in range(6, 17) if f"{a:.{k}g}" != f"{n:.{k}g}"), 6)  # two that look alike say nothing
    message = (
        f"the gradient of {comparison.primal} is wrong in {count} of {total} "
        f"{'entry' if total == 1 else 'entries'}: at {comparison.primal}{list(where) if where else ''} "
        f"analytic {a:.{digits}g}, numerical {n:.{digits}g} ± {comparison.bound[where]:.1g}"
    )
    return Finding(
        NAME, "wrong", comparison.primal, message, case, comparison, comparison.severity, facts_of(comparison)
    )


SAYS = "analytic and numerical gradients agree in every entry of every primal"
add(Property(NAME, SAYS, holds, applies, turn=SECOND))
