"""The rounding noise of a forward, measured at points a few units in the last place apart.

J. J. More and S. M. Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011): in a
difference table over closely spaced points the smooth part vanishes, and the k-th differences have
variance sigma^2 (2k)!/(k!)^2.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import numpy as np

from gradverify.core.differentiate.entries import Entries
from gradverify.core.differentiate.flat import Slot, displaced
from gradverify.core.nouns import Array

POINTS = 7  # More and Wild, "Estimating computational noise" (2011), take 6 to 8; odd, so that the point is one
_LOUDEST = 1e3  # roundings that the outputs together speak for: one that cancels does not speak for all others
_UNSURE = 1.5  # by hand: a noise measured on seven points is often this far too small
_SPACING = 64.0  # units in the last place: values inside must move by several of their own, or they hide
_PLACES = np.arange(POINTS) - POINTS // 2
_ORDERS = (3, 4)  # of the difference table: a smooth function over a few hundred ulps has nothing left in them
_NEAR = 2.0**-16  # natural steps over which a slope is told to some digits
_SMALL = 1 << 16  # entries up to which the random line is kept


def samples(point: Entries) -> Array:
    """The flat vector of primals at `POINTS` equidistant points on a random line, shape (POINTS, P)."""
    return displaced(point.values, steps(point)[:, None] * direction(point), point.grid)


def direction(point: Entries) -> Array:
    """Of the random line: natural steps with random signs and factors, shape (P,)."""
    line = _line if point.size <= _SMALL else _line.__wrapped__
    return np.asarray(point.scale * line(point.size))


def steps(point: Entries) -> Array:
    """Where on it the points lie, shape (POINTS,)."""
    types = {a.dtype for a in point.primals.values()}
    eps = max(float(np.finfo(t).eps) for t in types if t.kind in "fc")
    if point.grid is not None:
        eps = max(eps, point.eps)
    return _PLACES * (2 * _SPACING * eps)  # twice half: 1e308 has no double


@lru_cache(maxsize=16)
def _line(size: int) -> Array:
    """Signed magnitudes in [0.5, 1), shape (size,)."""
    rng = np.random.default_rng(size)
    return rng.choice([-1.0, 1.0], size) * rng.uniform(0.5, 1.0, size)


def levels(point: Entries, table: Array) -> Array:
    """About one standard deviation of the rounding error of each flat output, shape (K,).

    Never below half a unit in the last place of the output itself, nor far below the relative noise
    that is typical of the others: seven samples of one output can agree by accident.

    Parameters
    ----------
    table : flat outputs at `samples`, shape (POINTS, K)
    """
    with np.errstate(all="ignore"):
        measured = _table_noise(table)
        measured[~np.isfinite(measured)] = 0.0
        magnitude = np.abs(point.base)
        relative = np.minimum(measured / np.where(magnitude > 0, magnitude, np.inf), 1.0)
        return np.asarray(np.maximum(_UNSURE * measured, _typical(point, relative) * magnitude))


def _typical(point: Entries, relative: Array) -> float:
    """What may be the noise of an output relative to its size, as far as those of all others tell."""
    pooled = float(np.sqrt(relative @ relative / relative.size))
    return max(0.5 * point.eps, min(pooled, _LOUDEST * point.eps))


def slopes(point: Entries, slot: Slot) -> Array:
    """Rounding noise of the slope of each output along an entry of one primal, for a natural step, shape (K,).

    Values inside that do not depend on the primal are rounded alike on both sides of each difference: p_1 v_1 + p_2 v_2
    has the slope p_1, and is off by what p_1 is. Where v_1 = v_2 and the p add up to 1, they are off in opposite ways,
    and no noise at the point tells. A step away it does, and as a share of the change is what it is for the slope; but
    where more than half of the digits are gone there, as beyond a pole, that is nothing to do with the point.
    """
    line, away = direction(point), np.zeros(point.size)
    away[slot.start : slot.stop] = line[slot.start : slot.stop]
    rows = np.concatenate([away + steps(point)[:, None] * line, _NEAR * away[None]])
    table = point.outputs(point.unpacked(displaced(point.values, rows, point.grid), point.slots), POINTS + 1)
    with np.errstate(all="ignore"):
        share = _UNSURE * _table_noise(table[:-1]) / np.abs(table[POINTS // 2] - point.base)
        share = np.where(np.isfinite(share), np.minimum(share, point.eps**0.5), 0.0)
        found = np.maximum(share, _typical(point, share)) * np.abs(table[-1] - point.base) / _NEAR
    return np.where(np.isfinite(found), found, 0.0)


def _table_noise(table: Array) -> Array:
    """Largest estimate over the orders of the difference table, shape (K,)."""
    nearby = table - table[POINTS // 2]  # nothing is rounded here, and no digits are lost below
    high = _DIFFERENCES @ nearby
    _, power = np.frexp(np.abs(high).max(axis=0))  # the square of 1e-200 is 0, and a noise of 0 would be claimed
    squares = np.ldexp(high, -power) ** 2
    largest: Array = np.ldexp(np.sqrt((_MEANS @ squares).max(axis=0)), power).astype(float)
    return largest


def _tables() -> tuple[Array, Array]:
    """Rows that form the differences of each order, and those that average their squares, over the variance factor."""
    rows, means, first = [], [], 0
    for order in _ORDERS:
        differences = np.diff(np.eye(POINTS), order, axis=0)
        gamma = factorial(order) ** 2 / factorial(2 * order)
        mean = np.zeros(sum(POINTS - k for k in _ORDERS))
        mean[first : first + len(differences)] = gamma / len(differences)
        first += len(differences)
        rows.append(differences)
        means.append(mean)
    return np.concatenate(rows), np.array(means)


_DIFFERENCES, _MEANS = _tables()
