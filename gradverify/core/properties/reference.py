"""Reference: a kernel loses no more digits than a good kernel of its type must, against high precision.

The truth is the reference's own derivative in float64, by one pullback, at the stored point; differences along
random directions confirm that it is the derivative. What may be lost is derived: see `_allowance`.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np

from gradverify.core import evaluate, tuning
from gradverify.core.declare.hooks import Hooks
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.point import Point
from gradverify.core.differentiate.sides import one_sided
from gradverify.core.evaluate.failures import LayerFailure, out_of_memory
from gradverify.core.evaluate.limits import SLOW
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Comparison, Finding, Outcome, Stream
from gradverify.core.properties import Property, _runs, _screened, add, gradient
from gradverify.core.properties._allowance import FACTOR
from gradverify.core.properties._draws import SOME, Draws, upstream

NAME = "reference"
_AGAIN = 0.25  # of the cases without a finding on which the kernel is run again: see `_runs`
# The same on which the reference's own derivative is confirmed. Of 80 cases it leaves 20, of which a detach that shows
# in one case of five escapes one time in 87; and where a kernel seems wrong it is confirmed at any rate.
_CONFIRMED = 0.25


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.reference is not None else "no high-precision forward is declared (reference=...)"


def holds(layer: Layer, case: Case) -> Outcome:
    """Outputs first, then the gradients of every primal; what is wrong is believed of a confirmed reference only."""
    reference: Any = layer.hooks.reference
    if not hasattr(reference, "sample"):
        return _screened.holds(NAME, layer, case)
    stored = reference.at(case.primals)
    if not all(np.isfinite(a).all() for a in stored.values() if a.dtype.kind == "f"):
        return Outcome(NAME, skipped=f"the primals leave the range of {reference.type}")
    drawn = case.cotangents is None
    watching = reference.watching()
    with watching:
        case, evaluation = evaluate.evaluated(layer, case.but(primals=stored))
    outputs = evaluation.outputs
    cotangents = upstream(case, case.cotangents or ()) if drawn else case.cotangents or ()
    case = case.but(cotangents=tuple(reference.stored(np.asarray(v, float)) for v in cotangents))
    arrays = tuple(stored[p.name] for p in layer.primals)
    try:
        raw, tape = evaluate.guarded("reference", reference.forward, *arrays, **case.options)
        expected = evaluate.outputs_of(layer.derive(name=f"the reference of {layer.name}"), raw)
    except LayerFailure as failure:
        return _unusable(case, failure)
    if [y.shape for y in expected] != [y.shape for y in outputs]:
        shapes = [y.shape for y in outputs], [y.shape for y in expected]
        message = f"outputs have shapes {shapes[0]}, those of the reference {shapes[1]}"
        return Outcome(NAME, (Finding(NAME, "forward", None, message, case),))
    if not any(np.isfinite(y).any() for y in expected):
        return Outcome(NAME, skipped="no output of the reference is finite")
    if any(np.abs(y).max(initial=0.0, where=np.isfinite(y)) > reference.largest / 2 for y in expected):
        return Outcome(NAME, skipped=f"the outputs leave the range of {reference.type}")
    v = case.cotangents or ()
    given = v if len(expected) > 1 else v[0]
    try:
        truths = evaluate.guarded("reference", reference.backward, given, tape)
    except LayerFailure as failure:
        return _unusable(case, failure)
    judged: dict[str, Array] | LayerFailure
    try:
        with watching:
            judged = exact.usable(layer, case, evaluate.pulled(evaluation, case.cotangents or ()))
    except LayerFailure as failure:
        judged = failure
    answers = (*outputs, *(judged.values() if isinstance(judged, dict) else ()))
    if not all(map(_finite, answers)) and reference.beyond(v, tape):
        return Outcome(
            NAME,
            skipped=f"a value on the way leaves the range of float32, or one of a product that of {reference.type}",
        )
    kept = reference.kept(evaluation.saved, watching, v)
    draws = Draws(layer, case, lambda k, closed: reference.sample(v, k, kept, tape, closed))
    draws.beside = lambda: reference.terms(v, tape)
    forward = _forward(layer, case, outputs, expected, draws)
    if isinstance(judged, LayerFailure):
        if forward is None:
            raise judged
        judged = {}
    comparisons = [] if forward else _gradients(layer, judged, truths, draws)
    findings = [forward] if forward else [_finding(layer, case, c) for c in comparisons if c.wrong.any()]
    confirmed, again = case.rng(Stream.REFERENCE_CONFIRMED).random(2)
    notes: tuple[str, ...] = ()
    if comparisons and (findings or again < _AGAIN):
        runs = _runs.repeated(layer, case, judged, lambda run: _gradients(layer, run, truths, draws))
        findings, notes = _of_all(runs, case, comparisons, findings), runs.notes
    intended = layer.declared.surrogate is not None  # then the reference detaches on purpose
    if not intended and (findings or confirmed < _CONFIRMED):
        wrong = [f.comparison for f in findings if f.comparison is not None]
        doubt = _confirmed(layer, case, truths, wrong, draws)
        findings = [doubt] if doubt is not None else findings
    entries = sum(y.size for y in expected) + sum(c.bound.size for c in comparisons)
    return Outcome(NAME, tuple(findings), tuple(comparisons), entries, notes=notes)


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def within(layer: Layer, case: Case) -> bool:
    """Whether a kernel's gradients at a case are not seen to be worse than those of a good one."""
    return layer.hooks.reference is not None and not holds(layer, case).findings


def good(layer: Layer, case: Case, judged: dict[str, Array]) -> bool:
    """Whether these gradients are not seen to be worse than those of a good kernel at a case."""
    return within(layer.derive(backward=lambda *_: judged), case)


def _of_all(runs: _runs.Runs, case: Case, comparisons: list[Comparison], findings: list[Finding]) -> list[Finding]:
    """The findings, where they hold of all runs; of primals that are wrong in some runs, that."""
    known = {f.primal: f for f in findings}
    of_all = []
    for name in (c.primal for c in comparisons):
        erratic, finding = runs.erratic(NAME, case, name), known.get(name)
        if erratic is not None:
            of_all.append(erratic)
        elif finding is not None:
            of_all.append(finding.but(facts={**finding.facts, _runs.RUNS: len(runs.compared)}))
    return of_all


def _unusable(case: Case, failure: LayerFailure) -> Outcome:
    """The reference's own code fails: no fault of the kernel, unless it is time or memory that lacks."""
    if failure.kind in (SLOW, "timeout") or out_of_memory(failure):
        raise failure
    message = (
        f"the reference cannot be used, and nothing can be judged by it: {failure}; where it takes no such case, "
        "leave those out by assume=..."
    )
    return Outcome(NAME, (Finding(NAME, "doubtful", None, message, case),))


def _forward(
    layer: Layer, case: Case, outputs: tuple[Array, ...], expected: tuple[Array, ...], draws: Draws
) -> Finding | None:
    for k, (y, t) in enumerate(zip(outputs, expected)):
        if y.dtype.kind != "f" or y.size == 0:
            continue
        found = draws.compared(f"output {k}", y, t, lambda s, k=k: s[0][k], ())  # type: ignore[misc]
        if found.wrong.any():
            where = found.worst
            place = f"output {k}{list(where) if where else ''}"
            message = (
                f"forward differs from its reference: {place} is {y[where]:.6g}, the reference {t[where]:.6g} "
                f"± {found.bound[where]:.1g}"
            )
            return Finding(NAME, "forward", None, message, case, severity=found.severity, facts=_digits(found))
    return None


def _gradients(layer: Layer, judged: dict[str, Array], truths: dict[str, Array], draws: Draws) -> list[Comparison]:
    found, now = [], tuning.current()
    for name, gradient_ in judged.items():
        if gradient_.dtype.kind != "f" or name not in truths:
            continue
        if name in now.known or now.only not in (None, name):
            continue
        truth = np.asarray(truths[name], float)
        labels = layer.primal(name).dims.labels(truth.ndim)
        nothing = np.zeros(truth.shape)
        found.append(
            draws.compared(name, gradient_, truth, lambda s, n=name, z=nothing: s[1].get(n, z), labels)  # type: ignore[misc]
        )
    return found


def _confirmed(
    layer: Layer, case: Case, truths: dict[str, Array], wrong: list[Comparison], draws: Draws
) -> Finding | None:
    """A finding where differences along random directions do not agree with the reference's own gradient.

    Or where those of an entry that the kernel is to be blamed for do not. What a good kernel may be off by, as where
    many scores tie of which the largest are sorted, is no doubt.
    """
    reference: Any = layer.hooks.reference
    high = layer.derive(forward=reference.forward, backward=reference.backward, hooks=Hooks(batched=reference.batched))
    if draws.large:
        return _spot(high, case, truths, _everywhere(case, truths))
    with tuning.using(replace(tuning.current(), sweep_limit=0, sample=0, only=None)):
        found = gradient.holds(high, case).findings
    found = tuple(f for f in found if not _excused(f, truths, draws))
    if not found:
        doubts = (_entry(high, case, comparison) for comparison in wrong)
        return next((doubt for doubt in doubts if doubt is not None), None)
    return _doubted(case, found[0].primal, re.sub(r"^.*?entr(?:y|ies): ", "", found[0].message), found[0])


def _excused(doubt: Finding, truths: dict[str, Array], draws: Draws) -> bool:
    """Whether all that differences doubt lies within what a good kernel may be off by."""
    comparison, truth = doubt.comparison, truths.get(doubt.primal or "")
    if comparison is None or truth is None or np.shape(comparison.analytic) != np.shape(truth):
        return False
    bound = draws.bound(str(doubt.primal), truth, lambda s: s[1].get(str(doubt.primal), np.zeros(truth.shape)), SOME)
    beyond = np.abs(comparison.analytic - comparison.numerical) > bound  # a sample may be no number: then none is known
    return not beyond[comparison.wrong].any()


def _entry(high: Layer, case: Case, comparison: Comparison) -> Finding | None:
    """As the screen, for the entry of a primal that is worst."""
    point = Point(high, case)
    slot = next(s for s in point.slots if s.name == comparison.primal)
    at = slot.start + int(np.ravel_multi_index(comparison.worst, slot.shape)) if slot.shape else slot.start
    truth = float(comparison.numerical[comparison.worst])
    found = ladder.entrywise(point, np.array([at]))
    value, bound = float(found.value[0]), float(found.bound[0])
    place = f"{comparison.primal}{list(comparison.worst) if comparison.worst else ''}"
    if not math.isfinite(bound):
        along = np.zeros(slot.shape)
        along[comparison.worst] = max(1.0, abs(float(case.primals[slot.name][comparison.worst])))
        known = {comparison.primal: comparison.numerical}
        return _spot(high, case, known, {comparison.primal: along}, comparison.primal, f"at {place}")
    if not abs(value - truth) > bound or comparison.bound[comparison.worst] > abs(value - truth):
        return None
    sides = [one_sided(point, np.array([at]), np.array([truth]), side) for side in (1, -1)]
    ends = [float(s.value[0]) + way * float(s.bound[0]) for s in sides for way in (-1, 1)]
    if min(ends) <= truth <= max(ends):  # a kink, where a derivative is any of those
        return None
    return _doubted(case, comparison.primal, f"at {place} it is {truth:.6g}, numerical {value:.6g} ± {bound:.1g}")


def _everywhere(case: Case, truths: dict[str, Array]) -> dict[str, Array]:
    """A random direction over all entries, each moving in proportion to its size."""
    rng = case.rng(Stream.REFERENCE_DIRECTION)
    names = [n for n in truths if case.primals[n].dtype.kind == "f"]
    sizes = {n: np.maximum(np.abs(case.primals[n]), 1.0) for n in names}
    return {n: rng.choice((-1.0, 1.0), size.shape) * size for n, size in sizes.items()}


_STEPS = (2.0**-14, 2.0**-16)  # truncation falls 16-fold: the difference of both is 15 times what is left
_ROUNDINGS = 64 * 2.0**-53  # of a sum of 4096 terms, whose error grows like sqrt(n) (Higham and Mary 2019)
# Of a smooth output the second difference falls 16-fold, too. A kink that lies within h of the point puts the slope off
# by up to half of it over h: 16 of the second less the first are ten times the second there, in the mean of all places.
_KINKED = 10.0


def _spot(
    high: Layer,
    case: Case,
    truths: dict[str, Array],
    along: dict[str, Array],
    primal: str | None = None,
    where: str = "along a random direction",
) -> Finding | None:
    """As the screen, in five forwards: differences at two steps along one direction."""

    def outputs(h: float) -> tuple[Array, ...]:
        moved = {n: a + h * along[n] if n in along else a for n, a in case.primals.items()}
        return evaluate.run(high, moved, case.options).outputs

    terms = [truths[n] * along[n] for n in along]
    claimed, noise = sum(float(np.sum(t)) for t in terms), sum(float(np.sum(np.abs(t))) for t in terms)
    here, slopes, bends = outputs(0.0), [], []
    for h in _STEPS:
        ends = list(zip(case.cotangents or (), outputs(h), outputs(-h), here))
        slopes.append(sum(float(np.vdot(v, a - b)) for v, a, b, _ in ends) / (2 * h))
        bends.append([a - 2 * y + b for _, a, b, y in ends])
        loud = sum(float(np.vdot(np.abs(v), np.abs(a))) for v, a, _, _ in ends) / (2 * h)
    bent = zip(case.cotangents or (), *bends)
    kinks = sum(float(np.vdot(np.abs(v), np.abs(16 * b - a))) for v, a, b in bent) / (2 * h)
    bound = abs(slopes[1] - slopes[0]) + kinks / _KINKED + _ROUNDINGS * (loud + noise)
    if not math.isfinite(slopes[1]) or abs(slopes[1] - claimed) <= bound:
        return None
    return _doubted(case, primal, f"{where} it gives {claimed:.6g}, differences {slopes[1]:.6g} ± {bound:.1g}")


def _doubted(case: Case, primal: str | None, how: str, found: Finding | None = None) -> Finding:
    of = f", for {primal}" if primal else ""
    message = (
        f"the reference's own gradient is not its derivative{of}: {how}; a detached or rounded value in the "
        "reference does that, and nothing can be judged by it"
    )
    comparison = found.comparison if found is not None else None
    return Finding(NAME, "doubtful", primal, message, case, comparison)


def _finding(layer: Layer, case: Case, comparison: Comparison) -> Finding:
    where = comparison.worst
    place = f"{comparison.primal}{list(where) if where else ''}"
    count, total = int(comparison.wrong.sum()), comparison.wrong.size
    facts = _digits(comparison)
    message = (
        f"the gradient of {comparison.primal} is wrong in {count} of {total} entries: at {place} the kernel gives "
        f"{comparison.analytic[where]:.6g}, the reference {comparison.numerical[where]:.6g}; a good kernel in "
        f"{layer.hooks.reference.type} would be within {comparison.bound[where]:.1g} "  # type: ignore[union-attr]
        f"({facts['digits_lost']:.1f} digits more are lost than must be)"
    )
    return Finding(
        NAME, "wrong", comparison.primal, message, case, comparison, comparison.severity, {"wrong": count, **facts}
    )


def _digits(comparison: Comparison) -> dict[str, float]:
    return {"digits_lost": digits_lost(comparison)}


def digits_lost(comparison: Comparison) -> float:
    """Decimal digits lost beyond what must be, in the entry that is worst; 0 or less for a good kernel."""
    with np.errstate(all="ignore"):
        ratio = np.where(np.isnan(comparison.ratio), np.inf, comparison.ratio)[comparison.verdicts != 2]
    worst = float(np.max(ratio, initial=0.0)) * FACTOR
    return min(math.log10(worst), 16.0) if worst > 0 else -16.0


add(
    Property(
        NAME,
        "a kernel loses no more digits than a good one of its type must, against its reference in float64",
        holds,
        applies,
        regime=Regime(production=True),
        share=0.8,
        seconds=60.0,  # at declared sizes
        shrinking=1.0,  # the sums of a kernel need their terms: what is left after it is seldom smaller
    )
)
