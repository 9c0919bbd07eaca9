"""Kinks that cancel: whether an entry's smooth slope is an accident of the other values.

leaky(-leaky(x)) has the slope -0.01 on both sides of 0, and relu(x) - relu(-x) is x; a backward that
picks one slope for each unit gives -1 there, or 0, and is right all the same. The same layer with
other weights, and zeros where they were, has a kink at that place, and its gradient lies between the
slopes. (S. M. Kakade and J. D. Lee, "Provably correct automatic subdifferentiation for qualified
programs", NeurIPS 2018, give the example.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.kinks import has_kink
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array, Case, Estimate, Stream

_TIMES, _FIRST = 40, 12  # variations; those after which entries without any kink are given up
_HUGE = 1e300  # four times a larger number is none
_MANY = 0.3  # share of whole quarters: shrinking leaves nearly all round, drawing few, and then sums cancel by accident
_LIMIT = 64  # entries; more that are wrong at once are no accident of round numbers
_LOOKS = 3  # variations of all primals at once, besides one of each alone, in which a kink must show at all


@add("cancelling", "kinks cancel here by accident; with other values backward is between the slopes", cost=4000)
def cancelling(dispute: Dispute) -> Answer:
    """The first entry before the others: where it is wrong there is a finding, whatever they say."""
    point, case, entries = dispute.point, dispute.case, dispute.entries
    found = np.zeros(entries.size, bool)
    if entries.size <= _LIMIT and _round(point.values) and _anywhere(point, case):
        found[:1] = coincident(point, case, entries[:1])
        if found[0] and entries.size > 1:
            found[1:] = coincident(point, case, entries[1:])
    return answer(found)


def coincident(point: Point, case: Case, entries: Array) -> Array:
    """Which entries are at a kink, with the gradient between its slopes, where the other values differ, shape (n,)."""
    found, kinks = (np.zeros(entries.size, bool) for _ in range(2))

    def asked(there: Point, analytic: Array) -> tuple[Array, Estimate, Estimate]:
        left, right = (ladder.entrywise(there, entries, side=side) for side in (-1, +1))
        return analytic[entries], left, right

    for k in range(_TIMES):
        kinked, inside = _kinked(point, case, k, asked)
        found, kinks = found | inside, kinks | kinked  # a slope that is wrong at its kink is outside in all variations
        if found.all() or (k + 1 >= _FIRST and not kinks.all()):
            break
    return found


def _round(values: Array) -> bool:
    """Whether there are zeros, or enough round numbers that sums of them cancel."""
    quarters = 4 * values[np.abs(values) < _HUGE]
    return bool((values == 0).any() or np.sum(quarters == np.rint(quarters)) > _MANY * values.size)


def coincident_along(point: Point, case: Case, direction: Array) -> bool:
    """The same for entries that are all 0 and move together along a flat direction, shape (P,)."""
    kinks = False

    def asked(there: Point, analytic: Array) -> tuple[Array, Estimate, Estimate]:
        left, right = (ladder.directional(there, direction, analytic, side=side) for side in (-1, +1))
        return np.zeros(1), left, right

    for k in range(_TIMES):
        kinked, inside = _kinked(point, case, k, asked)
        if inside[0]:
            return True
        kinks |= bool(kinked[0])
        if k + 1 >= _FIRST and not kinks:
            break
    return False


def _kinked(
    point: Point, case: Case, k: int, asked: Callable[[Point, Array], tuple[Array, Estimate, Estimate]]
) -> tuple[Array, Array]:
    """What has a kink at one variation, and what of that has the gradient between its slopes; both shape (n,) or (1,).

    Parameters
    ----------
    asked : (the variation, its analytic gradient) -> analytic values there, slopes from the left, from the right
    """
    nothing = np.zeros(1, bool), np.zeros(1, bool)
    varied = _variation(point, case, k)
    if varied is None:
        return nothing
    try:
        return _between(*asked(*varied))
    except LayerFailure:  # beyond the edge of a domain
        return nothing


def _anywhere(point: Point, case: Case) -> bool:
    """Whether any of the first variations has a kink: a tenth of what it costs to ask where one is."""
    for k in range(min(_FIRST, _LOOKS + len(point.slots))):
        varied, _ = _varied_primals(point, case, k)
        try:
            if has_kink(Point(point.layer, case.but(primals=varied), None, point.memory), point.relative):
                return True
        except LayerFailure:
            continue
    return False


def _variation(point: Point, case: Case, k: int) -> tuple[Point, Array] | None:
    """Another point and its analytic gradient: zeros stay, other numbers change size and sign.

    In turn all primals change and each one alone: what cancels inside the layer may then go on to cancel.
    """
    moved, rng = _varied_primals(point, case, k)
    weights = tuple(_varied(np.asarray(v), rng) for v in case.cotangents or ())
    other = case.but(primals=moved, cotangents=weights)
    try:
        there = Point(point.layer, other, None, point.memory)
        return there, there.gradient(other)
    except LayerFailure:
        return None


def _varied_primals(point: Point, case: Case, k: int) -> tuple[dict[str, Array], np.random.Generator]:
    rng = case.rng(Stream.CANCELLING, k)
    names = [slot.name for slot in point.slots if point.layer.primal(slot.name).domain.name in ("real", "complex")]
    chosen = names if k % (len(names) + 1) == 0 else [names[k % (len(names) + 1) - 1]]
    moved = {name: _varied(point.primals[name], rng) for name in chosen}
    return {**point.primals, **moved}, rng


def _between(analytic: Array, left: Estimate, right: Estimate) -> tuple[Array, Array]:
    slack = left.bound + right.bound
    with np.errstate(invalid="ignore"):
        low, high = np.minimum(left.value, right.value), np.maximum(left.value, right.value)
        kink: Array = (high - low > slack) & np.isfinite(slack)
        inside: Array = kink & (analytic >= low - slack) & (analytic <= high + slack)
    return kink, inside


def _varied(array: Array, rng: np.random.Generator) -> Array:
    """Other magnitudes, any signs or all positive: sums of kinked terms are convex then, and do not cancel."""
    if array.dtype.kind not in "fc":
        return array
    signs = rng.choice([-1.0, 1.0], array.shape)
    if array.dtype.kind == "f" and rng.random() < 0.5:
        signs = np.sign(array)
    return np.asarray(array * (signs * rng.uniform(0.5, 1.5, array.shape))).astype(array.dtype)
