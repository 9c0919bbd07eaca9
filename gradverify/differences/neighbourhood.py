"""Derivatives at random neighbours of a point: whether an entry sits where several kinks meet.

Where many units of a network are exactly at their kink, the derivative along one entry can be
smooth and still differ from every right backward, which picks one slope for each unit. What a
backward may return there is bounded by the derivatives nearby (the generalised gradient of
F. H. Clarke, "Optimization and Nonsmooth Analysis", 1983).
"""

from __future__ import annotations

import numpy as np

from gradverify.differences.central import central
from gradverify.differences.point import Point
from gradverify.types import Array, Case

_FAR = 1e-6  # distance of the neighbours, in natural steps
_NEARER = 8.0  # how much nearer other neighbours are, that tell a kink from curvature
_FIRST, _MORE = 12, 24  # neighbours that tell whether there is a kink; those that span its slopes


def neighbours(
    point: Point, case: Case, entries: Array, count: int, stream: int, nearer: float = 1.0
) -> tuple[Array, Array]:
    """Central differences at random neighbours and their rounding, shape (count, n); NaN where not finite."""
    rng = np.random.default_rng([case.seed, stream])
    reach = _FAR * max(1.0, point.eps / np.finfo(float).eps) ** 0.5
    far = reach / nearer
    found, rounding = (np.full((count, entries.size), np.nan) for _ in range(2))
    for k in range(count):
        moved = dict(point.primals)
        offset = far * point.scale * rng.choice([-1.0, 1.0], point.size) * 10.0 ** rng.uniform(-1.5, 0.2, point.size)
        for slot in point.slots:
            part = offset[slot.start : slot.stop].reshape(slot.shape)
            part = part[..., 0] + 1j * part[..., 1] if slot.complex else part
            moved[slot.name] = (point.primals[slot.name] + part).astype(point.primals[slot.name].dtype)
        there = Point(point.layer, case.but(primals=moved), None, point.memory)
        there.scale = point.scale  # what was zero is tiny now, and no measure of a step
        estimate, _, _ = central(there, entries, 0.01 * reach)
        finite = np.isfinite(estimate.rounding)
        found[k], rounding[k] = (np.where(finite, a, np.nan) for a in (estimate.value, estimate.rounding))
    return found, rounding


def explained(point: Point, case: Case, entries: Array, analytic: Array, numerical: Array) -> tuple[Array, Array]:
    """Which entries sit where kinks meet, and are within the slopes nearby (accepted), or nearly so (unclear).

    Parameters
    ----------
    entries : flat indices, shape (n,)
    analytic, numerical : values of these entries, shape (n,)
    """
    accepted, unclear = np.zeros(entries.size, bool), np.zeros(entries.size, bool)
    gap = np.abs(analytic - numerical)
    first, rounding = neighbours(point, case, entries, _FIRST, 21)
    with np.errstate(all="ignore"):
        kinked = np.nanmax(np.abs(first - numerical) - rounding, axis=0, initial=0.0) > 0.02 * gap
    kinked &= _abrupt(point, case, entries, first)
    chosen = np.flatnonzero(kinked)
    if chosen.size == 0:
        return accepted, unclear
    more = np.concatenate([first[:, chosen], neighbours(point, case, entries[chosen], _MORE, 22)[0]])
    low, high = np.nanmin(more, axis=0), np.nanmax(more, axis=0)
    width = high - low
    near = 0.02 * gap[chosen] + 1e-6 * np.abs(numerical[chosen])
    values = analytic[chosen]
    inside = (values >= low - near) & (values <= high + near)
    several = np.array([_distinct(column, 0.05 * w) > 2 for column, w in zip(more.T, width)])
    outside = ~inside & several & (values >= low - width) & (values <= high + width)
    accepted[chosen], unclear[chosen] = inside, outside
    return accepted, unclear


def _abrupt(point: Point, case: Case, entries: Array, far: Array) -> Array:
    """Whether the slopes differ as much at nearer neighbours: those of a kink do, those of a smooth curve do not."""
    near, rounding = neighbours(point, case, entries, far.shape[0], 23, nearer=_NEARER)
    with np.errstate(all="ignore"):
        spread, wide = (
            np.nanmax(a, axis=0, initial=-np.inf) - np.nanmin(a, axis=0, initial=np.inf) for a in (near, far)
        )
        abrupt: Array = spread - 2 * np.nanmax(rounding, axis=0, initial=0.0) > 0.5 * wide
    return abrupt


def _distinct(values: Array, tolerance: float) -> int:
    """Number of clusters of values further apart than the tolerance."""
    ordered = np.sort(values[np.isfinite(values)])
    return 1 + int(np.sum(np.diff(ordered) > tolerance)) if ordered.size else 0
