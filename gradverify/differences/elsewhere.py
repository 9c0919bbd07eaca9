"""Differences along single entries, formed where the layer computes: on a device, or in another package's arrays.

The adapter gets what it needs to contract them there; the first entries are done here as well, and
what comes back for them has to be the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradverify.differences.flat import Differences, Slot
from gradverify.evaluate import LayerFailure
from gradverify.layer import Contraction
from gradverify.types import Array

if TYPE_CHECKING:
    from gradverify.differences.point import Point

_TRIED = 2  # entries that are done here as well
_WORTH = 32  # entries from which on it pays
COARSE = 1e-3  # steps from which on outputs round more coarsely than at the point


def elsewhere(point: Point, slot: Slot, entries: Array, a: Array, b: Array) -> Differences | None:
    """What `Point.slopes` gives for entries of one primal; None where that has to be done here.

    Parameters
    ----------
    entries, a, b : flat indices and offsets, shape (n,)
    """
    hook = point.layer.hooks.slopes
    real = not slot.complex and all(y.dtype.kind == "f" for y in point.at_point)
    if (
        hook is None
        or not real
        or point.grid is not None
        or entries.size < _WORTH
        or point.layer.declared.surrogate is not None
    ):
        return None
    trial = point.moved(entries[:_TRIED], a[:_TRIED], b[:_TRIED], (slot,), 1)
    way = point.accepted_way((slot.name,))
    if way is None:
        return None
    coarse = bool(np.max(np.abs(a)) > COARSE)
    weights, shapes = point.weights.astype(float), tuple(tuple(s) for s in point.shapes)
    how = Contraction(
        point.options,
        way,
        weights,
        point.sigma.astype(float),
        shapes,
        coarse,
        point.relative if coarse else 0.0,
        point.memory,
    )
    try:
        change, noise, moved, gap = hook(point.primals, slot.name, entries - slot.start, a, b, how)
    except LayerFailure:
        return None
    point.forwards += 2 * entries.size
    slack = 8 * trial.noise + 64 * point.eps * point.loudness
    with np.errstate(invalid="ignore"):
        if not (np.abs(change[:_TRIED] - trial.change) <= slack).all():
            return None
    return Differences(change, gap, noise + point.hidden(moved), moved)
