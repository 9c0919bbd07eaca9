"""Slopes on one side of an entry, and the scales at which to look closer than the natural one; and whether the forward
has a kink at a point: the second difference along a joint direction shrinks with the step, and that of a smooth
function with its square.

Rules about kinks that meet or cancel have nothing to say where there is none. A random direction moves all entries
at once and crosses every kink that goes through the point; outputs are looked at one by one, before the cotangents
could make them cancel.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Array, Estimate

_FINER = 1e-4  # of the natural scale: the ladder from there reaches the last places of a number
TINY = 1e-2  # natural steps below this may be far below the length scale of the function: 1 is tried, too


def one_sided(point: Point, entries: Array, analytic: Array, side: int) -> Estimate:
    """One-sided slopes at the natural scale, or at a finer one where that does not tell.

    Parameters
    ----------
    analytic : of these entries, shape (n,)
    side : +1 for the right, -1 for the left
    """
    estimate = ladder.entrywise(point, entries, analytic, side=side)
    open_ = np.flatnonzero(~np.isfinite(estimate.bound))
    if open_.size:
        at, scale = entries[open_], finer_scale(point)[entries[open_]]
        closer = ladder.entrywise(point, at, analytic[open_], side=side, scale=scale, wary=point.grid is not None)
        for name in ("value", "truncation", "rounding"):
            getattr(estimate, name)[open_] = getattr(closer, name)
    return estimate


def finer_scale(point: Point) -> Array:
    """First rungs far below the natural scale, for what is sharp there: each entry's own magnitude, where that is."""
    own, finer = np.abs(point.values).astype(float), _FINER * point.scale
    return np.where(own > 0, np.minimum(own, finer), finer)


STEP = 1e-6  # in natural units, of code in float64; others take the square root of their precision more
RATIO = 4.0  # of the two steps: a power of two, so that the nearer one is exact
SMOOTH = 8.0  # between RATIO, by which a kink's second difference shrinks, and its square, by which a curve's does
BESIDE = 0.02  # of the step: as far from its ties a neighbour is put, to be among them and not on its own kink
CORNERS = 6  # pairs of neighbours; where three numbers are equal a pair shows no corner in one of three
LOUD = 64.0  # typical roundings of an output, above which a second difference is heard


def reach(point: Point) -> float:
    """Relative step at which to look for kinks."""
    return float(STEP * max(1.0, point.eps / np.finfo(float).eps) ** 0.5)


def has_kink(point: Point, rounding: float | None = None) -> bool:
    """Whether some output has a kink at the point; also where that cannot be told, as next to the edge of a domain.

    Costs four forwards.

    Parameters
    ----------
    rounding : typical rounding of an output relative to its size, where it is known; else it is measured
    """
    if point.size == 0 or point.base.size == 0:
        return False
    direction = _direction(point)
    far, near = reach(point), reach(point) / RATIO
    steps = np.array([far, -far, near, -near])
    y = point.outputs(point.displaced_along(direction, steps, 4, None)[0], 4)
    if not np.isfinite(y).all():
        return bool(np.isfinite(point.base).all())
    wide, narrow = (np.abs(up + down - 2 * point.base) for up, down in (y[:2], y[2:]))
    return _bends(point, wide, narrow, np.abs(y).max(axis=0) + np.abs(point.base), rounding)


def has_corner(point: Point) -> bool:
    """Whether some output bends between neighbours of the point, though straight along any line through it.

    So is the median of three equal numbers: -x has the median -m. Costs two forwards of thirteen copies.
    """
    if point.grid is not None:  # whose primals hold no values in between
        return False
    ways = np.array([_direction(point, k) for k in range(CORNERS + 1)])
    ways = np.concatenate([ways, (ways[:-1] + ways[1:]) / 2])
    steps = (reach(point), reach(point) / RATIO)
    y = [point.outputs(point.unpacked(point.values + step * ways, point.slots), len(ways)) for step in steps]
    wide, narrow = (np.abs(z[:CORNERS] + z[1 : CORNERS + 1] - 2 * z[CORNERS + 1 :]) for z in y)
    return _bends(point, wide, narrow, 2 * np.abs(y).max(axis=(0, 1)), None)


def _bends(point: Point, wide: Array, narrow: Array, size: Array, rounding: float | None) -> bool:
    """Whether second differences, shape (..., K), are heard above rounding, and shrink with the step as a kink's do."""
    with np.errstate(invalid="ignore"):
        heard = wide > LOUD * (point.relative if rounding is None else rounding) * size
        return bool((heard & (narrow * SMOOTH > wide)).any())


def ties(point: Point) -> Array:
    """A number for each entry, the same for values that no step to a neighbour tells apart, shape (P,).

    Two that differ may be one where the layer casts them, and behave as one where they are next to each other.
    """
    order = np.argsort(point.values, kind="stable")
    ordered, scale = point.values[order], point.scale[order]
    apart = np.diff(ordered) > BESIDE * reach(point) * scale[1:]
    found = np.zeros(point.size, int)
    found[order[1:]] = np.cumsum(apart)
    return found


def crowded(groups: Array, entries: Array) -> Array:
    """Whether each entry is tied with at least two others, shape (n,); `groups` as `ties` gives them."""
    many: Array = np.bincount(groups)[groups[entries]] > 2
    return many


def _direction(point: Point, k: int = 0) -> Array:
    """All entries move at once, by different shares of their natural steps."""
    rng = np.random.default_rng(point.size + k)
    return np.asarray(point.scale * rng.choice([-1.0, 1.0], point.size) * rng.uniform(0.5, 1.0, point.size))
