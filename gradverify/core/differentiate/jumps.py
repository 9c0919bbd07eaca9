"""Jumps of a function of one number: where code that repeats a step until little changes does so once more.

Such code is smooth between its jumps, and each jump is about as large as what it leaves undone. On an even grid high
differences of the smooth part vanish and those of a jump do not, also where it is many times smaller than all else.
The largest one is then followed to ever smaller steps, where the change over a kink or a curve vanishes as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradverify.core.nouns import Array

_ORDER = 8  # of the differences: over steps of 1/64, those of a curve that turns over 1 are below 1e-10
_NOISY = 12870.0**0.5  # times independent errors are these differences in the mean: the root of the sum of squares
_BINOMIAL = 70.0  # times a jump is the largest of these; what a curve adds to it is left room for
_NODES, _FINER = 65, 33  # over the whole reach, and over the steps that one high difference spans
_KEPT = 0.5  # share of a high difference that a jump keeps at a quarter of the step; a kink keeps a quarter
_SIDE = 7  # nodes before and after the jump, from which the function is continued up to it
_HALVINGS = 30  # of the steps that hold the jump
_PLACES = 3  # where it is roughest, that are followed
_LOUD = 64.0  # times the noise, above which a change is heard
# Half of what a jump makes of a high difference: the largest binomial of _ORDER - 1. Noise makes 113 of it, and three
# times that at most; a jump that is heard is _LOUD times as large as the noise.
_ROUGH = 0.5 * 35
# Of the high difference over steps twice as wide: a jump makes the same of both, a curve 2**-_ORDER of it. A jump that
# is to stand out against a curve at a quarter of the step has more than twice what the curve alone has.
_CURVED = 2.5 * 2.0**-_ORDER


@dataclass(frozen=True, slots=True)
class Jump:
    """A jump of a function with K values."""

    at: float  # where; the end of the reach for steps that lie too close to be told apart
    change: Array  # across it, shape (K,)


def largest_jump(
    function: Callable[[Array], Array], reach: float, noise: Array, most: Array | float = np.inf
) -> Jump | None:
    """The jump that stands out most between -reach and reach; None where none is found, or there is no value at a node.

    Parameters
    ----------
    function : of n numbers, values of shape (n, K)
    noise : rounding of each value, shape (K,), above 0
    most : changes that are larger are of no interest, shape (K,) or one for all; where values are rougher than such
        a change makes them, they are not looked at
    """

    def table(low: float, high: float, count: int) -> tuple[Array, Array]:
        nodes = np.linspace(low, high, count)
        return nodes, function(nodes)

    nodes, values = table(-reach, reach, _NODES)
    if not np.isfinite(values).all():
        return None
    noise = np.maximum(noise, np.finfo(float).eps * np.max(np.abs(values), axis=0))  # where they are larger than here
    values /= noise
    rough = _uncurved(values, _BINOMIAL * most / noise)
    for _ in range(_PLACES):
        k = int(np.argmax(rough))
        if not rough[k] > _ROUGH * _LOUD * noise.size**0.5:
            break
        finer, there = table(nodes[k], nodes[k + _ORDER], _FINER)
        stairs = _stairs(there / noise, float(np.median(rough)))
        if stairs is not None:
            return Jump(reach, stairs * noise)
        found = _followed(function, finer, there / noise, rough[k], noise)
        if found is not None:
            return found
        rough[max(0, k - _ORDER) : k + _ORDER + 1] = 0.0
    return None


def _followed(
    function: Callable[[Array], Array], nodes: Array, values: Array, wide: float, noise: Array
) -> Jump | None:
    """The jump in a table, if there is one: what makes it rough is as large as over wider steps, and stays."""
    if not np.isfinite(values).all():
        return None
    rough = _roughness(values)
    k = int(np.argmax(rough))
    if not rough[k] > _KEPT * wide:
        return None
    last = min(max(k + _ORDER // 2 - 1, _SIDE - 1), _FINER - _SIDE - 2)  # before the jump
    left = _continued(nodes[last + 1 - _SIDE : last + 1], values[last + 1 - _SIDE : last + 1])
    right = _continued(nodes[last + 2 : last + 2 + _SIDE], values[last + 2 : last + 2 + _SIDE])
    low, high, below, above = float(nodes[last]), float(nodes[last + 2]), values[last], values[last + 2]
    expected = _size(right(low) - below)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        there = function(np.array([middle]))[0] / noise
        if _size(there - left(middle)) < _size(there - right(middle)):
            low, below = middle, there
        else:
            high, above = middle, there
    slope = (values[last] - values[last - 1]) / (nodes[last] - nodes[last - 1])
    change = above - below - slope * (high - low)
    heard = _size(change)
    return Jump(low, change * noise) if heard > max(_LOUD * noise.size**0.5, _KEPT * expected) else None


def _stairs(values: Array, wide: float) -> Array | None:
    """Steps that lie closer than the nodes, shape (K,), as of a bisection whose grid stands still; None for others.

    They are as rough in the middle of a row over any steps. Errors that are evenly spread over a step have a standard
    deviation of 1 / sqrt(12) of it.
    """
    if not np.isfinite(values).all() or not wide > _ROUGH * _LOUD * values.shape[1] ** 0.5:
        return None
    if not float(np.median(_roughness(values))) > _KEPT * wide:
        return None
    spread = np.sqrt(np.mean(np.diff(values, _ORDER, axis=0) ** 2, axis=0)) / _NOISY
    return np.asarray(12.0**0.5 * spread)


def _uncurved(values: Array, most: Array) -> Array:
    """Size of the high differences, 0 where they fall with the step, as those of a curve do; shape (n - _ORDER,)."""
    rough = _roughness(values, most)
    wide = np.zeros(len(values))
    for start in (0, 1):
        twice = _roughness(values[start::2], most)
        wide[start : start + 2 * twice.size : 2] = twice
    spanned = np.lib.stride_tricks.sliding_window_view(np.pad(wide, (_ORDER, 0)), _ORDER + 1)[: rough.size]
    return np.where(rough > _CURVED * spanned.max(axis=1), rough, 0.0)


def _roughness(values: Array, most: Array | float = np.inf) -> Array:
    """Size of the high differences of rows, but for single ones above `most`; shape (n - _ORDER,), from (n, K)."""
    high = np.diff(values, _ORDER, axis=0)
    return np.asarray(np.sqrt(np.sum(np.where(np.abs(high) <= most, high, 0.0) ** 2, axis=1)))


def _continued(nodes: Array, values: Array) -> Callable[[float], Array]:
    """The polynomial through some nodes."""
    matrix = np.linalg.inv(np.vander((nodes - nodes[0]) / (nodes[-1] - nodes[0])))

    def at(t: float) -> Array:
        return np.asarray(np.vander([(t - nodes[0]) / (nodes[-1] - nodes[0])], nodes.size)[0] @ matrix @ values)

    return at


def _size(vector: Array) -> float:
    return float(np.sqrt(np.sum(vector**2)))
