"""Derivatives at neighbours of a point: whether an entry sits where several kinks meet.

Where many units of a network are exactly at their kink, the derivative along one entry can be
smooth and still differ from every right backward, which picks one slope for each unit. What a
backward may return there is bounded by the derivatives nearby (the generalised gradient of
F. H. Clarke, "Optimization and Nonsmooth Analysis", 1983).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradverify.core.differentiate.central import NOISE_FACTOR, central
from gradverify.core.differentiate.kinks import BESIDE, crowded, reach, ties
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Answer, Dispute
from gradverify.core.judge.table import add
from gradverify.core.nouns import DISAGREES, KINK, UNRESOLVED, Array, Case, Stream

_STEP = 0.01  # of their distance, for the slopes at neighbours
_APART = (-0.9, 0.2)  # powers of 10 of that distance: others are out of reach of a step from beside, _NEARER too
_NEARER = 8.0  # how much nearer other neighbours are, that tell a kink from curvature
_BENT = 0.02  # of the gap: slopes that differ by less explain none of it
_FIRST, _MORE = 12, 24  # neighbours that tell whether there is a kink; those that span its slopes
_EDGE, _CLOSE = 0.02, 1e-6  # of the gap, and of the derivative, by which a slope at the edge of those seen is one
_SAME = 0.05  # of the width of all slopes: those that are nearer are one slope; a kink of two has no more than two
_RANKS = 48, 200  # places among its ties that an entry is put in, where it has many: at least, at most

Offset = Callable[[int], Array]  # the k-th neighbour, shape (P,), in natural steps


def neighbours(point: Point, entries: Array, offset: Offset, count: int, nearer: float = 1.0) -> tuple[Array, Array]:
    """Central differences at neighbours and their rounding, shape (count, n); NaN where not finite."""
    far = reach(point)
    found, rounding = (np.full((count, entries.size), np.nan) for _ in range(2))
    for k in range(count):
        values = point.values + far / nearer * point.scale * offset(k)
        try:
            there = Point(point.layer, point.moved_to(values), None, point.memory)
            there.scale = point.scale  # what was zero is tiny now, and no measure of a step
            estimate, _, _ = central(there, entries, _STEP * far)
        except LayerFailure:  # beyond the edge of a domain
            continue
        finite = np.isfinite(estimate.rounding)
        found[k], rounding[k] = (np.where(finite, a, np.nan) for a in (estimate.value, estimate.rounding))
    return found, rounding


def _scattered(case: Case, size: int, entries: Array, stream: Stream) -> Offset:
    """Neighbours at random, and where backwards make their choices among ties, which are rare at random.

    The first or the last of some tied entries wins, or one in question is the largest, the smallest or in the middle.
    """

    def offset(k: int) -> Array:
        rng = case.rng(stream, k)
        at_random: Array = rng.choice([-1.0, 1.0], size) * 10.0 ** rng.uniform(*_APART, size)
        if k % 6 == 2:
            at_random[entries] = BESIDE * rng.choice([-1.0, 1.0], entries.size)
        elif k % 6 == 3:
            at_random[entries] = rng.choice([-1.0, 1.0], entries.size) * rng.uniform(2.0, 4.0, entries.size)
        elif k % 6 == 4:
            at_random = rng.choice([-1.0, 1.0]) * (1.0 + np.arange(size))
        return at_random

    return offset


def _ranked(case: Case, groups: Array, entry: int) -> tuple[Offset, int]:
    """Neighbours where an entry comes after few, some or most of those that are tied with it, and how many to try."""
    tied = np.flatnonzero(groups == groups[entry])
    tied = tied[tied != entry]
    count = min(max(_RANKS[0], tied.size + 1), _RANKS[1])

    def offset(k: int) -> Array:
        rng = case.rng(Stream.RANKED_NEIGHBOURS, k)
        distance: Array = rng.choice([-1.0, 1.0], groups.size) * 10.0 ** rng.uniform(*_APART, groups.size)
        below = round(tied.size * k / (count - 1))
        order = rng.permutation(tied)
        distance[order] = np.abs(distance[order])
        distance[order[:below]] *= -1.0
        distance[entry] = BESIDE
        return distance

    return offset, count


@add(
    "neighbours",
    "kinks meet here, and backward gives a slope within those nearby",
    cost=1000,
    applies=lambda dispute: dispute.has_kink,
)
def kinks_meet(dispute: Dispute) -> Answer:
    """A kink where it lies within the slopes nearby, and unresolved where it nearly does."""
    point, case, entries = dispute.point, dispute.case, dispute.entries
    analytic, numerical = dispute.analytic, dispute.numerical
    verdicts = np.full(dispute.size, DISAGREES, np.int8)
    gap = np.abs(analytic - numerical)
    scattered = _scattered(case, point.size, entries, Stream.NEIGHBOURS)
    slopes, kinked = _looked(point, entries, numerical, gap, scattered, _FIRST)
    near = _EDGE * gap + _CLOSE * np.abs(numerical)
    within = kinked & _inside(analytic, slopes, near)
    groups = ties(point)
    for k in np.flatnonzero(~within & crowded(groups, entries)):
        one = slice(k, k + 1)
        ranked, count = _ranked(case, groups, int(entries[k]))
        found, also = _looked(point, entries[one], numerical[one], gap[one], ranked, count)
        slopes = np.concatenate([slopes, np.full((count, entries.size), np.nan)])
        slopes[-count:, one] = found
        kinked[one] |= also
        if not (kinked[one] & _inside(analytic[one], slopes[:, one], near[one])).all():
            break  # there is a finding whatever the others say
    chosen = np.flatnonzero(kinked)
    if chosen.size == 0:
        return Answer(verdicts)
    scattered = _scattered(case, point.size, entries[chosen], Stream.NEAR_NEIGHBOURS)
    more = np.concatenate([slopes[:, chosen], neighbours(point, entries[chosen], scattered, _MORE)[0]])
    low, high = np.nanmin(more, axis=0), np.nanmax(more, axis=0)
    width = high - low
    values, inside = analytic[chosen], _inside(analytic[chosen], more, near[chosen])
    several = np.array([_distinct(column, _SAME * w) > 2 for column, w in zip(more.T, width)])
    outside = ~inside & several & (values >= low - width) & (values <= high + width)
    # slopes of steps this small may be the rounding of what is inside, and no output tells
    hidden = NOISE_FACTOR * point.unseen / (_STEP * reach(point) * point.scale[entries[chosen]])
    sure = width > 2 * hidden
    verdicts[chosen] = np.where(inside & sure, KINK, np.where(outside | inside, UNRESOLVED, DISAGREES))
    return Answer(verdicts)


def _inside(values: Array, slopes: Array, near: Array) -> Array:
    """Which values, shape (n,), lie within slopes, shape (count, n), or as near to them as that."""
    low, high = np.nanmin(slopes, axis=0, initial=np.inf), np.nanmax(slopes, axis=0, initial=-np.inf)
    return np.asarray((values >= low - near) & (values <= high + near))


def _looked(
    point: Point, entries: Array, numerical: Array, gap: Array, offset: Offset, count: int
) -> tuple[Array, Array]:
    """Slopes at neighbours, shape (count, n), and whether they tell a kink, shape (n,).

    They differ from the slope at the point, and as much at nearer neighbours: those of a kink do, those of a
    smooth curve do not.
    """
    far, rounding = neighbours(point, entries, offset, count)
    with np.errstate(all="ignore"):
        kinked = np.nanmax(np.abs(far - numerical) - rounding, axis=0, initial=0.0) > _BENT * gap
    if not kinked.any():
        return far, kinked
    near, rounding = neighbours(point, entries, offset, count, nearer=_NEARER)
    with np.errstate(all="ignore"):
        abrupt = _spread(near, rounding) > 0.5 * _spread(far, np.zeros(far.shape))
    return far, kinked & abrupt


def _spread(slopes: Array, rounding: Array) -> Array:
    """How far the largest and the smallest slope of each entry are apart for certain, shape (n,)."""
    highest = np.nanmax(slopes - rounding, axis=0, initial=-np.inf)
    lowest: Array = np.nanmin(slopes + rounding, axis=0, initial=np.inf)
    return highest - lowest


def _distinct(values: Array, tolerance: float) -> int:
    """Number of clusters of values further apart than the tolerance."""
    ordered = np.sort(values[np.isfinite(values)])
    return 1 + int(np.sum(np.diff(ordered) > tolerance)) if ordered.size else 0
