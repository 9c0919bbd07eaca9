"""Slopes on one side of an entry, and the scales at which to look closer than the natural one."""

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
