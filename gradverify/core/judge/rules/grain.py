"""The grain of a forward: the changes of an entry that it rounds away before it does anything else with it.

(x + 1e6) - 1e6 takes all x within 1e-10 for one. The differences then belong to a neighbour of the point, and
so may the analytic gradient; between them lies the second derivative times the distance. That a computed result
is the exact one of nearby data is backward error analysis (N. J. Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 1.5).
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate.point import Point
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array

_LARGEST, _STEPS = 2.0**-4, 48  # steps in natural units at which an entry may move nothing, each half the one before
_WIDE, _BEYOND = 2.0**-10, 16.0  # natural steps, and grains, over which the second derivative is taken
_FACTOR = 4.0  # an entry may lie as far from where it is taken as the largest step that moves nothing, and twice so
_FIRST = 2  # entries that are looked at, those with the smallest differences; the others if one of them is small


@add("grain", "the forward rounds its input before use, and the slope changes by that much within its grain", cost=100)
def grain(dispute: Dispute) -> Answer:
    """Which differences are no more than the slope changes over the grain of the entry."""
    point, gap = dispute.point, dispute.gap
    found = np.zeros(dispute.size, bool)
    order = np.argsort(gap)
    for near in (order[:_FIRST], order[_FIRST:]):
        width = width_of(point, dispute.entries[near])
        found[near] = gap[near] <= width * _curvature(point, dispute.entries[near], width)
        if not found.any():
            break  # there is a finding whatever the others say
    return answer(found)


def width_of(point: Point, entries: Array) -> Array:
    """Width of the interval that forward takes for one number; 0 where every step moves something."""
    steps = _LARGEST * 2.0 ** -np.arange(_STEPS) * point.scale[entries][:, None]
    rows = np.repeat(entries, _STEPS)
    real = steps > np.spacing(np.abs(point.values[entries]))[:, None]
    still = np.zeros(entries.size)
    for side in (1.0, -1.0):  # on one of them the next number may be close by
        moved = point.slopes(rows, side * steps.ravel(), None, _STEPS).moved.reshape(steps.shape)
        quiet = ~moved & np.maximum.accumulate(moved, axis=1) & real
        still = np.maximum(still, np.where(quiet, steps, 0.0).max(axis=1, initial=0.0))
    return _FACTOR * still


def _curvature(point: Point, entries: Array, width: Array) -> Array:
    """Magnitude of the second derivative along each entry, by a second difference."""
    steps = np.maximum(_WIDE * point.scale[entries], _BEYOND * width)
    up, down = (point.slopes(entries, sign * steps, None) for sign in (1.0, -1.0))
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.abs(up.change + down.change) / steps**2, posinf=0.0)
