"""Complex step: Im phi(x + ih) / h has no subtraction, so it is exact to rounding.

W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM
Review 40 (1998). It needs a forward that takes complex numbers and is analytic in them: absolute
values, comparisons and casts to real break it silently, so a layer is only trusted with it after
its derivative along a random direction agreed with the ladder's.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array, Estimate

STEP = 1e-100  # nothing is subtracted, so no step is too small: its square, the truncation, is below any float64
_ROUNDINGS = 64  # of a forward and its imaginary part; the error of a sum of K roundings grows as the root of K
_SAME = 1e-10  # by hand: an analytic forward shares these digits with the ladder, one with abs or a maximum does not


def complex_step(point: Point, entries: Array) -> Estimate:
    """Derivatives along single entries, shape (n,); an infinite bound where the forward refuses complex numbers."""
    unknown = Estimate(np.zeros(entries.size), np.full(entries.size, np.inf), np.zeros(entries.size))
    if any(slot.complex for slot in point.slots) or point.layer.declared.surrogate is not None:
        return unknown
    value = np.empty(entries.size)
    try:
        for row, entry in enumerate(entries):
            direction = np.zeros(point.size)
            direction[entry] = 1.0
            value[row] = _derivative(point, direction)
        if not _trusted(point):
            return unknown
    except (LayerFailure, TypeError, ValueError):
        return unknown
    rounding = _ROUNDINGS * point.eps * (np.abs(value) + point.loudness / point.scale[entries] * point.eps)
    return Estimate(value, np.zeros(entries.size), np.where(np.isfinite(value), rounding, np.inf))


def _derivative(point: Point, direction: Array) -> float:
    primals = dict(point.primals)
    for slot in point.slots:
        part = direction[slot.start : slot.stop].reshape(slot.shape)
        if part.any():
            primals[slot.name] = point.primals[slot.name] + 1j * STEP * part
    outputs = point.call(primals)
    if not any(y.dtype.kind == "c" for y in outputs):
        raise LayerFailure("dtype", "forward", "the forward drops imaginary parts")
    change = np.concatenate([np.asarray(y).imag.ravel() for y in outputs]) / STEP
    return float(change @ point.weights)


def _trusted(point: Point) -> bool:
    rng = np.random.default_rng(point.size)
    direction = point.scale * rng.choice([-1.0, 1.0], point.size) * rng.uniform(1.0, 2.0, point.size)
    exact = _derivative(point, direction)
    estimate = ladder.directional(point, direction)
    return bool(abs(estimate.value[0] - exact) <= estimate.bound[0] + _SAME * abs(exact))
