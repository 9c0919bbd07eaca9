"""Kinks that cancel: whether an entry's smooth slope is an accident of the other values.

leaky(-leaky(x)) has the slope -0.01 on both sides of 0, and relu(x) - relu(-x) is x; a backward that
picks one slope for each unit gives -1 there, or 0, and is right all the same. The same layer with
other weights, and zeros where they were, has a kink at that place, and its gradient lies between the
slopes. (S. M. Kakade and J. D. Lee, "Provably correct automatic subdifferentiation for qualified
programs", NeurIPS 2018, give the example.)
"""

from __future__ import annotations

import numpy as np

from gradverify import evaluate
from gradverify.differences import ladder
from gradverify.differences.point import Point
from gradverify.evaluate import LayerFailure
from gradverify.types import Array, Case, Estimate

_TIMES, _FIRST = 40, 12  # variations; those after which entries without any kink are given up
_HITS = 1  # variations with the gradient between the slopes: a wrong slope at a kink is outside in all of them
_LIMIT = 64


def coincident(point: Point, case: Case, entries: Array) -> Array:
    """Which entries are at a kink, with the gradient between its slopes, where the other values differ, shape (n,)."""
    found = np.zeros(entries.size, bool)
    if entries.size == 0 or entries.size > _LIMIT or not _round(point.values):
        return found
    if entries.size > 1 and not coincident(point, case, entries[:1]).all():
        return found  # there is a finding whatever the others say
    hits, kinks = np.zeros(entries.size, int), np.zeros(entries.size, bool)
    for k in range(_TIMES):
        kinked, inside = _kinked(point, case, entries, np.random.default_rng([case.seed, 23, k]))
        hits, kinks = hits + inside, kinks | kinked
        if (hits >= _HITS).all() or (k + 1 >= _FIRST and not kinks.all()):
            break
    return hits >= _HITS


def _round(values: Array) -> bool:
    """Whether there are zeros, or enough round numbers that sums of them cancel."""
    return bool((values == 0).any() or np.mean(4 * values == np.rint(4 * values)) > 0.3)


def coincident_along(point: Point, case: Case, direction: Array) -> bool:
    """The same for entries that are all 0 and move together along a flat direction, shape (P,)."""
    hits, kinks = 0, False
    for k in range(_TIMES):
        varied = _variation(point, case, np.random.default_rng([case.seed, 24, k]))
        if varied is not None:
            there, analytic = varied
            right, left = (ladder.directional(there, direction, analytic, side=side) for side in (+1, -1))
            kinked, inside = _between(np.zeros(1), left, right)
            hits, kinks = hits + int(inside[0]), kinks or bool(kinked[0])
        if hits >= _HITS or (k + 1 >= _FIRST and not kinks):
            break
    return hits >= _HITS


def _kinked(point: Point, case: Case, entries: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Entries with a kink at one variation, and those of them with the gradient between its slopes."""
    varied = _variation(point, case, rng)
    if varied is None:
        return np.zeros(entries.size, bool), np.zeros(entries.size, bool)
    there, analytic = varied
    right, left = (ladder.entrywise(there, entries, side=side) for side in (+1, -1))
    return _between(analytic[entries], left, right)


def _variation(point: Point, case: Case, rng: np.random.Generator) -> tuple[Point, Array] | None:
    """Another point and its analytic gradient: in about half of the primals zeros stay, other numbers change
    size and sign; the others stay as they are, so that what cancels inside the layer may go on to cancel.
    """
    moved = {
        slot.name: _varied(point.primals[slot.name], rng)
        for slot in point.slots
        if point.layer.primal(slot.name).domain.name in ("real", "complex") and rng.random() < 0.6
    }
    weights = tuple(_varied(np.asarray(v), rng) for v in case.cotangents or ())
    other = case.but(primals={**point.primals, **moved}, cotangents=weights)
    try:
        there = Point(point.layer, other, None, point.memory)
        raw = evaluate.gradients(point.layer, there.primals, case.options, weights)
        good, _ = evaluate.usable(point.layer, other, raw)
    except LayerFailure:
        return None
    return there, there.vector({n: np.asarray(g) / point.layer.declared.factor_of(n) for n, g in good.items()})


def _between(analytic: Array, left: Estimate, right: Estimate) -> tuple[Array, Array]:
    slack = left.bound + right.bound
    with np.errstate(invalid="ignore"):
        low, high = np.minimum(left.value, right.value), np.maximum(left.value, right.value)
        kink: Array = (high - low > slack) & np.isfinite(slack)
        inside: Array = kink & (analytic >= low - slack) & (analytic <= high + slack)
    return kink, inside


def _varied(array: Array, rng: np.random.Generator) -> Array:
    """Other magnitudes, with any signs or all of them positive: sums of kinked terms are convex then, and cancel least."""
    if array.dtype.kind not in "fc":
        return array
    signs = rng.choice([-1.0, 1.0], array.shape)
    if array.dtype.kind == "f" and rng.random() < 0.5:
        signs = np.sign(array)
    return np.asarray(array * (signs * rng.uniform(0.5, 1.5, array.shape))).astype(array.dtype)
