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
from gradverify.core.differentiate.point import Point
from gradverify.core.differentiate.sides import BESIDE, crowded, reach, ties
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


def _scattered(dispute: Dispute, stream: Stream) -> Offset:
    """Neighbours at random, and where backwards make their choices among ties, which are rare at random.

    The first or the last of some tied entries wins, or one in question is the largest, the smallest or in the middle.
    """
    case, entries, size = dispute.case, dispute.entries, dispute.point.size

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
    """A kink where it lies within the slopes nearby, unresolved where these may be the rounding of what is inside."""
    point, verdicts = dispute.point, np.full(dispute.size, DISAGREES, np.int8)
    slopes, kinked = _among_ties(dispute, *_looked(dispute, _scattered(dispute, Stream.NEIGHBOURS), _FIRST))
    if kinked.any():
        bent = dispute.only(kinked)
        more, _ = neighbours(point, bent.entries, _scattered(bent, Stream.NEAR_NEIGHBOURS), _MORE)
        slopes = np.concatenate([slopes[:, kinked], more])
        # slopes of steps this small may be that rounding, and no output tells
        hidden = NOISE_FACTOR * point.unseen / (_STEP * reach(point) * point.scale[bent.entries])
        sure = np.nanmax(slopes, axis=0) - np.nanmin(slopes, axis=0) > 2 * hidden
        verdicts[kinked] = np.where(_inside(bent, slopes), np.where(sure, KINK, UNRESOLVED), DISAGREES)
    return Answer(verdicts)


def _among_ties(dispute: Dispute, slopes: Array, kinked: Array) -> tuple[Array, Array]:
    """What `_looked` found, and what is found where an entry that is still outside takes each place among its ties."""
    groups = ties(dispute.point)
    for k in np.flatnonzero(~(kinked & _inside(dispute, slopes)) & crowded(groups, dispute.entries)):
        one = dispute.only(slice(k, k + 1))
        ranked, count = _ranked(dispute.case, groups, int(one.entries[0]))
        found, also = _looked(one, ranked, count)
        slopes = np.concatenate([slopes, np.full((count, dispute.size), np.nan)])
        slopes[-count:, k : k + 1] = found
        kinked[k] |= also[0]
        if not (kinked[k] and _inside(one, slopes[:, k : k + 1])[0]):
            break  # there is a finding whatever the others say
    return slopes, kinked


def _inside(dispute: Dispute, slopes: Array) -> Array:
    """Which analytic values lie within slopes, shape (count, n), or as near to them as can be told, shape (n,)."""
    near = _EDGE * dispute.gap + _CLOSE * np.abs(dispute.numerical)
    low, high = np.nanmin(slopes, axis=0, initial=np.inf), np.nanmax(slopes, axis=0, initial=-np.inf)
    return np.asarray((dispute.analytic >= low - near) & (dispute.analytic <= high + near))


def _looked(dispute: Dispute, offset: Offset, count: int) -> tuple[Array, Array]:
    """Slopes at neighbours, shape (count, n), and whether they tell a kink, shape (n,).

    They differ from the slope at the point, and as much at nearer neighbours: those of a kink do, those of a
    smooth curve do not.
    """
    point, entries = dispute.point, dispute.entries
    far, rounding = neighbours(point, entries, offset, count)
    with np.errstate(all="ignore"):
        kinked = np.nanmax(np.abs(far - dispute.numerical) - rounding, axis=0, initial=0.0) > _BENT * dispute.gap
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
