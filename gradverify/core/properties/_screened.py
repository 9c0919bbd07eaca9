"""A reference without a derivative of its own: screened along directions, and localised where that disagrees.

Cost goes with a forward, not with the number of entries. Along a random direction d the kernel's <g, d> is compared
with the numerical derivative of the reference. What a good kernel may be off by is how far that derivative moves
where the primals move by a rounding of the type (what forward saves is such a rounding away), or by four of float32,
in which a kernel computes; what rounding each entry of g leaves of the sum, 5 u |g d| in the Euclidean norm, as
roundings are independent; and one rounding of float32 of what is summed. An entry that the localisation points at is
then compared alone, under the same rule.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.hooks import Hooks
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import ladder, screen
from gradverify.core.differentiate.point import Point
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Comparison, Finding, Outcome, Stream, Verdict
from gradverify.core.properties._allowance import FACTOR, allowed, rounded

_DIRECTIONS, _SAMPLES = 3, 4  # the largest of four samples is below the median error once in 16
_SIGMAS = 5.0  # roundings of a gradient add up like a random walk; beyond five deviations: one direction in a million
_UNIT, _FEW = 2.0**-24, 4  # unit roundoff of float32, and of elementwise operations in it
_ALONE = 16  # entries that the localisation may point at, and as many at random
_EACH = 64  # entries up to which all are compared
_MODERATE = 8.0  # values above leave no digits to judge: a sample moves them by more than the result


def holds(name: str, layer: Layer, case: Case) -> Outcome:
    """Outputs first, then directions over all primals."""
    reference: Any = layer.hooks.reference
    eps = _eps(layer, case)
    stored = getattr(reference, "stored", None) or partial(rounded, eps=eps)
    case = case.but(primals={n: stored(a) for n, a in case.primals.items()})
    case, outputs = evaluate.completed(layer, case)
    case = case.but(cotangents=tuple(stored(v) for v in case.cotangents or ()))
    high = layer.derive(
        forward=lambda *arrays, **options: (reference(*arrays, **options), None),
        hooks=Hooks(batched=getattr(reference, "batched", None)),
    )
    wide = case.but(primals=evaluate.cast(case.primals, np.float64))
    truth = evaluate.run(high, wide.primals, case.options).outputs
    if [y.shape for y in truth] != [y.shape for y in outputs]:
        message = f"outputs have shapes {[y.shape for y in outputs]}, those of the reference {[y.shape for y in truth]}"
        return Outcome(name, (Finding(name, "shape", None, message, case),))
    overflown = _overflown(name, case, outputs, truth, getattr(reference, "largest", np.inf))
    if overflown is not None:
        return Outcome(name, (overflown,), entries=sum(y.size for y in truth))
    if not all(np.isfinite(y).all() for y in (*outputs, *truth) if y.dtype.kind in "fc"):
        return Outcome(name, skipped="forward is not finite at the point")
    largest = max(float(np.max(np.abs(a), initial=0.0)) for a in case.primals.values() if a.dtype.kind in "fc")
    if largest > _MODERATE:
        return Outcome(name, skipped=f"values up to {largest:.2g}: products of them leave no digits to judge")
    moved = [_moved(wide, eps, k) for k in range(_SAMPLES)]
    forward = _forward(name, high, case, outputs, truth, moved, eps)
    if forward is not None:
        return Outcome(name, (forward,), entries=sum(y.size for y in truth))
    point, elsewhere = Point(high, wide), [Point(high, m) for m in moved]
    claimed = point.claimed({n: np.asarray(g, float) for n, g in exact.gradients(layer, case).items()})
    entries = np.arange(point.size) if point.size <= _EACH else _suspects(point, elsewhere, claimed, case, eps)
    compared = _alone(layer, point, elsewhere, claimed, entries, eps)
    findings = tuple(_finding(name, case, c) for c in compared if c.wrong.any())
    return Outcome(name, findings, tuple(compared), int(entries.size))


def _overflown(name: str, case: Case, outputs: Any, truth: Any, largest: float) -> Finding | None:
    """A finding where an output is no number, or infinite, and that of the reference far from the end of the type."""
    for k, (y, t) in enumerate(zip(outputs, truth)):
        beyond = np.argwhere((y.dtype.kind == "f") & ~np.isfinite(y) & (np.abs(t) < np.sqrt(largest)))
        if len(beyond):
            at = tuple(map(int, beyond[0]))
            message = (
                f"forward differs from its reference: output {k}{list(at) if at else ''} is {y[at]:.6g}, the reference "
                f"{t[at]:.6g}"
            )
            return Finding(name, "forward", None, message, case)
    return None


def _suspects(point: Point, elsewhere: list[Point], claimed: Array, case: Case, eps: float) -> Array:
    """Entries worth a look of their own: a few at random, and those that a screen that disagrees points at."""
    picked = case.rng(Stream.KERNEL_SAMPLE).choice(point.size, min(_ALONE, point.size), replace=False)
    for direction in screen.directions(point, case.seed, _DIRECTIONS):
        residual, width = screen.probe(point, direction, claimed)
        spread = max(abs(screen.probe(p, direction, claimed)[0] - residual) for p in elsewhere)
        rounding = _SIGMAS * eps / 2 * float(np.linalg.norm(np.nan_to_num(claimed) * direction))
        if not abs(residual) <= FACTOR * spread + rounding + width:
            return np.union1d(picked, screen.localise(point, claimed, case.seed, _ALONE))
    return np.sort(picked)


def _alone(
    layer: Layer, point: Point, elsewhere: list[Point], claimed: Array, entries: Array, eps: float
) -> list[Comparison]:
    estimate = ladder.entrywise(point, entries)
    samples = [ladder.entrywise(p, entries).value for p in elsewhere]
    truth, bound = np.zeros(point.size), np.full(point.size, np.inf)
    truth[entries] = estimate.value
    own = allowed(estimate.value, samples, eps / 2, _tiny(eps))
    typical = float(np.median(own)) if own.size else 0.0  # few samples may leave one entry as it is by chance
    terms = sum(float(np.linalg.norm(v * y)) for v, y in zip(point.case.cotangents or (), point.at_point))
    bound[entries] = np.maximum(own, typical) + estimate.bound + _UNIT * terms / point.scale[entries]
    with np.errstate(all="ignore"):
        verdicts = np.where(np.abs(claimed - truth) <= bound, Verdict.AGREES, Verdict.DISAGREES)
        verdicts = np.where(np.isfinite(bound) & ~_rounding(point, claimed, truth, bound), verdicts, Verdict.UNRESOLVED)
    found = []
    for slot in point.slots:
        part, top = slice(slot.start, slot.stop), float(np.max(np.abs(truth[slot.start : slot.stop]), initial=0.0))
        if not slot.complex and np.isfinite(bound[part]).any():
            a, n, b, v = (x[part].reshape(slot.shape) for x in (claimed, truth, bound, verdicts.astype(np.int8)))
            found.append(Comparison(slot.name, a, n, b, v, top, layer.primal(slot.name).dims.labels(len(slot.shape))))
    return found


def _rounding(point: Point, claimed: Array, truth: Array, bound: Array) -> Array:
    """Entries of no gradient of which a kernel gives a few roundings of its upstream gradient.

    As p - (a + b) does where p and a + b are 1, of a softmax over one class whose labels are smoothed: nothing tells of
    how large terms are that cancel in a reference that is known by its outputs alone.
    """
    upstream = max((float(np.max(np.abs(v), initial=0.0)) for v in point.case.cotangents or ()), default=0.0)
    found: Array = (np.abs(truth) <= bound) & (np.abs(claimed) <= _FEW * _UNIT * upstream)
    return found


def _forward(
    name: str, high: Layer, case: Case, outputs: Any, truth: Any, moved: list[Case], eps: float
) -> Finding | None:
    samples = [evaluate.run(high, m.primals, case.options).outputs for m in moved]
    for k, (y, t) in enumerate(zip(outputs, truth)):
        if y.dtype.kind != "f" or y.size == 0:
            continue
        bound = allowed(t, [s[k] for s in samples], eps / 2, _tiny(eps))
        bound = np.maximum(bound, float(np.median(bound)))
        error = np.abs(y - t)
        if (error > bound).any():
            where = np.unravel_index(int(np.argmax(error / bound)), y.shape)
            place = f"output {k}{[int(i) for i in where] if where else ''}"
            message = f"forward differs from its reference: {place} is {y[where]:.6g}, the reference {t[where]:.6g}"
            return Finding(name, "forward", None, message, case, severity=float(np.max(error / bound)))
    return None


def _finding(name: str, case: Case, comparison: Comparison) -> Finding:
    where = comparison.worst
    place = f"{comparison.primal}{list(where) if where else ''}"
    count, looked = int(comparison.wrong.sum()), int(np.isfinite(comparison.bound).sum())
    message = (
        f"the gradient of {comparison.primal} is wrong in {count} of {looked} entries that were compared: at {place} "
        f"the kernel gives {comparison.analytic[where]:.6g}, the reference {comparison.numerical[where]:.6g}; a good "
        f"kernel would be within {comparison.bound[where]:.1g}"
    )
    return Finding(name, "wrong", comparison.primal, message, case, comparison, comparison.severity, {"wrong": count})


def _moved(wide: Case, eps: float, k: int) -> Case:
    rng = wide.rng(Stream.KERNEL_ROUNDING, k)
    return wide.but(primals={n: _nudged(a, eps, rng) for n, a in wide.primals.items()})


def _nudged(array: Array, eps: float, rng: np.random.Generator) -> Array:
    return (
        array * (1 + max(eps / 2, _FEW * _UNIT) * rng.choice([-1.0, 1.0], array.shape))
        if array.dtype.kind == "f"
        else array
    )


def _eps(layer: Layer, case: Case) -> float:
    """Of the kernel's type: told by the reference, else the coarsest type of the primals."""
    known: Any = getattr(layer.hooks.reference, "eps", None)
    if known is not None:
        return float(known)
    return max(float(np.finfo(a.dtype).eps) for a in case.primals.values() if a.dtype.kind in "fc")


def _tiny(eps: float) -> float:
    return float(np.finfo(np.float16 if eps < 5e-3 else np.float32).tiny)
