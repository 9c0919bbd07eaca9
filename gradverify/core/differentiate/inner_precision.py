"""The precision that code computes in, where that is lower than what it is given and what it returns.

A softmax that is taken in float32 inside a float64 run rounds values in it, and no output tells: its differences
resolve what float32 resolves, and its gradient has the digits of float32. It is judged as code in float32 is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array
from gradverify.core.tuning import current

_SMALL = 2.0**-32  # relative change that float64 hears, and float32 only where a value is about to be rounded up
_LARGER = ((2.0**-18, np.float32), (2.0**-8, np.float16))  # and the first larger one that is heard tells which it is
_ULPS = 8.0  # units in the last place of an output that the small change would make, judged by the larger one
_MOST = 0.5  # share of the changes due that are silent: float64 hears nearly all of them, float32 one in hundreds
_INWARDS = 1e-3  # of an entry in a domain with bounds, towards zero: fills its digits and leaves no domain


def computes_in(point: Point) -> Any:
    """float32 or float16 where the code computes in it, else None.

    Tried on primals near 1, so that nothing has settled and nothing cancels, for one primal after the other; once for
    the same options in a search, since it is code, and not a point, that is asked about.
    """
    told, name = current().vain, f"inner precision {point.options}"
    if point.dtype != np.float64 or (told is not None and name in told):
        return None
    found = _tried(point)
    if found is None and told is not None:
        told.add(name)
    return found


def _tried(point: Point) -> Any:
    rng = np.random.default_rng(point.size)
    tame = {name: _tame(point, name, rng) for name in point.primals}
    found = []
    try:
        base = point.flat(tame)
        for slot in point.slots:
            changes = []
            for part in (_SMALL, *(step for step, _ in _LARGER)):
                away = part * rng.choice([-1.0, 1.0], tame[slot.name].shape)
                with np.errstate(all="ignore"):
                    changes.append(np.abs(point.flat({**tame, slot.name: tame[slot.name] * (1 + away)}) - base))
            found.append(_type_of_changes(base, changes))
    except LayerFailure:
        return None
    return next((kind for _, kind in reversed(_LARGER) if kind in found), None)


def _type_of_changes(base: Array, changes: list[Array]) -> Any:
    """The type that the changes of the outputs tell of: most are silent at the first step, and should not be."""
    if not np.isfinite(base).all():
        return None
    for change, (step, kind) in zip(changes[1:], _LARGER):
        if change.any():
            due = change * (_SMALL / step) > _ULPS * np.spacing(np.abs(base))
            return kind if due.any() and np.mean(changes[0][due] == 0) > _MOST else None
    return None


def _tame(point: Point, name: str, rng: np.random.Generator) -> Array:
    """Values between 1 and 2 in size where any are legal; else about what the point has, with all digits in use."""
    array = point.primals[name]
    if array.dtype.kind not in "fc":
        return array
    if point.layer.primal(name).domain.name not in ("real", "complex"):
        return np.asarray(array * (1 - _INWARDS * rng.uniform(0.0, 1.0, array.shape))).astype(array.dtype)
    signs = np.where(array == 0, rng.choice([-1.0, 1.0], array.shape), np.sign(array.real))
    return np.asarray(signs * rng.uniform(1.0, 2.0, array.shape)).astype(array.dtype)
