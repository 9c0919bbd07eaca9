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
from gradverify.core.differentiate.point import Point
from gradverify.core.differentiate.sides import has_kink
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.rules.kink import between
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array, Estimate, Stream

_TIMES, _FIRST = 40, 12  # variations; those after which entries without any kink are given up
_HUGE = 1e300  # four times a larger number is none
_MANY = 0.3  # share of whole quarters: shrinking leaves nearly all round, drawing few, and then sums cancel by accident
_LIMIT = 64  # entries; more that are wrong at once are no accident of round numbers
_LOOKS = 3  # variations of all primals at once, besides one of each alone, in which a kink must show at all


@add("cancelling", "kinks cancel here by accident; with other values backward is between the slopes", cost=4000)
def cancelling(dispute: Dispute) -> Answer:
    """The first entry before the others: where it is wrong there is a finding, whatever they say."""
    point, entries = dispute.point, dispute.entries
    found = np.zeros(entries.size, bool)
    if entries.size <= _LIMIT and _round(point.values) and _anywhere(point):
        found[:1] = coincident(point, entries[:1])
        if found[0] and entries.size > 1:
            found[1:] = coincident(point, entries[1:])
    return answer(found)


Asked = Callable[[Point, Array], tuple[Array, Estimate, Estimate]]  # analytic values, slopes from left and right


def coincident(point: Point, entries: Array) -> Array:
    """Which entries are at a kink, with the gradient between its slopes, where the other values differ, shape (n,)."""

    def asked(there: Point, analytic: Array) -> tuple[Array, Estimate, Estimate]:
        left, right = (ladder.entrywise(there, entries, side=side) for side in (-1, +1))
        return analytic[entries], left, right

    return _among_variations(point, asked, entries.size)


def coincident_along(point: Point, direction: Array) -> bool:
    """The same for entries that are all 0 and move together along a flat direction, shape (P,)."""

    def asked(there: Point, analytic: Array) -> tuple[Array, Estimate, Estimate]:
        left, right = (ladder.directional(there, direction, analytic, side=side) for side in (-1, +1))
        return np.zeros(1), left, right

    return bool(_among_variations(point, asked, 1)[0])


def _among_variations(point: Point, asked: Asked, count: int) -> Array:
    """What has a kink at some variation, and the gradient between its slopes, shape (count,).

    A slope that is wrong at its kink is outside in all variations. Zeros stay and other numbers change size and sign,
    in turn those of all primals and of each alone: what cancels inside the layer may then go on to cancel.
    """
    found, kinks = np.zeros(count, bool), np.zeros(count, bool)
    for k in range(_TIMES):
        primals, rng = _varied_primals(point, k)
        other = point.case.but(
            primals=primals, cotangents=tuple(_varied(np.asarray(v), rng) for v in point.case.cotangents or ())
        )
        try:
            there = Point(point.layer, other, None, point.memory)
            inside, kinked = between(*asked(there, there.gradient(other)), "between")
            found, kinks = found | inside, kinks | kinked
        except LayerFailure:  # beyond the edge of a domain
            pass
        if found.all() or (k + 1 >= _FIRST and not kinks.all()):
            break
    return found


def _round(values: Array) -> bool:
    """Whether there are zeros, or enough round numbers that sums of them cancel."""
    quarters = 4 * values[np.abs(values) < _HUGE]
    return bool((values == 0).any() or np.sum(quarters == np.rint(quarters)) > _MANY * values.size)


def _anywhere(point: Point) -> bool:
    """Whether any of the first variations has a kink: a tenth of what it costs to ask where one is."""
    for k in range(min(_FIRST, _LOOKS + len(point.slots))):
        varied, _ = _varied_primals(point, k)
        try:
            if has_kink(Point(point.layer, point.case.but(primals=varied), None, point.memory), point.relative):
                return True
        except LayerFailure:
            continue
    return False


def _varied_primals(point: Point, k: int) -> tuple[dict[str, Array], np.random.Generator]:
    rng = point.case.rng(Stream.CANCELLING, k)
    names = [slot.name for slot in point.slots if point.layer.primal(slot.name).domain.name in ("real", "complex")]
    chosen = names if k % (len(names) + 1) == 0 else [names[k % (len(names) + 1) - 1]]
    moved = {name: _varied(point.primals[name], rng) for name in chosen}
    return {**point.primals, **moved}, rng


def _varied(array: Array, rng: np.random.Generator) -> Array:
    """Other magnitudes, any signs or all positive: sums of kinked terms are convex then, and do not cancel."""
    if array.dtype.kind not in "fc":
        return array
    signs = rng.choice([-1.0, 1.0], array.shape)
    if array.dtype.kind == "f" and rng.random() < 0.5:
        signs = np.sign(array)
    return np.asarray(array * (signs * rng.uniform(0.5, 1.5, array.shape))).astype(array.dtype)
