"""Outputs taken apart: whether a backward picks, for each output, a slope between those of its two sides.

At a tie every window of a pooling layer may choose for itself, one this entry and another that. The sum over the
outputs, with cotangents of either sign, then lies outside of its own two slopes, and outside of those that any
neighbour of the point has. Each output on its own tells that the choice is legal.
"""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.differentiate.central import NOISE_FACTOR
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import KINK, Array

_MOST, _LIMIT = 256, 16  # outputs that are taken apart, entries that are looked at
_STEP = 1e-7  # in natural units, for the slopes of the two sides
_CLOSE = 1e-6  # of the slopes: what a step of that size bends
_LINEAR = 1e-9  # of its terms: backward is linear in the cotangent up to rounding, or outputs say nothing of their sum


def _asked(dispute: Dispute) -> bool:
    real = all(y.dtype.kind == "f" for y in dispute.point.at_point)
    few = dispute.size <= _LIMIT
    return dispute.kinks == "between" and real and dispute.point.grid is None and few


@add(
    "outputs apart",
    "each output alone has a kink here, and backward gives a slope between its two sides",
    cost=300,
    applies=_asked,
)
def outputs_apart(dispute: Dispute) -> Answer:
    """Which entries are at a kink of some outputs, and between the slopes of the two sides in every one."""
    point, case, entries = dispute.point, dispute.case, dispute.entries
    nothing = answer(np.zeros(dispute.size, bool))
    left, right, noise = _sides(point, entries)
    slack = noise + _CLOSE * np.maximum(np.abs(left), np.abs(right))
    kinked = np.abs(right - left) > 4 * slack  # each side is off by one slack, and their difference by two
    touched = np.flatnonzero((kinked | (np.abs(left) + np.abs(right) > slack)).any(axis=0))
    if touched.size > _MOST or not kinked.any():
        return nothing
    try:
        units = (evaluate.unit_cotangents(point.cotangents, int(k)) for k in touched)
        slopes = np.array([point.gradient(case.but(primals=point.primals, cotangents=v))[entries] for v in units]).T
    except LayerFailure:
        return nothing
    low, high = (np.minimum(left, right) - slack)[:, touched], (np.maximum(left, right) + slack)[:, touched]
    between = np.all((low <= slopes) & (slopes <= high), axis=1)
    weights = point.weights[touched]
    whole = np.abs(slopes @ weights - dispute.analytic) <= _LINEAR * (np.abs(slopes) @ np.abs(weights))
    return answer(kinked.any(axis=1) & between & whole, KINK)


def _sides(point: Point, entries: Array) -> tuple[Array, Array, Array]:
    """Slopes of every output below and above each entry, and their rounding, shape (n, K)."""
    n, rows = entries.size, np.arange(entries.size)
    step = _STEP * point.scale[entries]
    flat = np.tile(point.values, (2 * n, 1))
    flat[rows, entries] += step
    flat[n + rows, entries] -= step
    y = point.outputs(point.unpacked(flat, point.slots), 2 * n)
    up = (flat[rows, entries] - point.values[entries])[:, None]
    down = (point.values[entries] - flat[n + rows, entries])[:, None]
    with np.errstate(all="ignore"):
        return (point.base - y[n:]) / down, (y[:n] - point.base) / up, NOISE_FACTOR * point.sigma / step[:, None]
