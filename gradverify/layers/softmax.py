"""Softmax and its logarithm, exact also where one logit towers over the others.

The largest entry of a row has a probability near 1, and 1 - p would lose every digit. So it is kept
apart: `rest` is the sum of all other exponentials, and 1 - p = rest / (1 + rest).
"""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register


def exponentials(x, axis=-1):
    """exp(x - max), x - max, the sum of all exponentials but the first largest, and the mask of that one."""
    shifted = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    e = np.exp(shifted)
    ties = shifted == 0
    top = ties & (np.cumsum(ties, axis=axis) == 1)
    return e, shifted, np.sum(np.where(top, 0, e), axis=axis, keepdims=True), top


def log_probabilities(x, axis=-1):
    """log p, p and 1 - p, each accurate in itself."""
    e, shifted, rest, top = exponentials(x, axis)
    others = np.where(top, rest, 1 + rest - e)
    return shifted - np.log1p(rest), e / (1 + rest), others / (1 + rest)


@register
class softmax:
    """y = exp(x) / sum exp(x) along one axis."""

    x = "*batch M K"
    returns = "*batch M K"
    options = {"axis": [-1, -2]}
    empty = True

    @staticmethod
    def forward(x, axis=-1):
        e, _, rest, top = exponentials(x, axis)
        y = e / (1 + rest)
        return y, (y, top)

    @staticmethod
    def backward(dy, saved, axis=-1):
        y, top = saved
        # y (dy - sum(dy y)) does not change when a constant is added to dy; with dy = 0 at the top
        # nothing cancels there.
        d = dy - np.sum(np.where(top, dy, 0), axis=axis, keepdims=True)
        return y * (d - np.sum(d * y, axis=axis, keepdims=True))


@register
class log_softmax:
    """y = x - log sum exp(x) along one axis."""

    x = "*batch M K"
    returns = "*batch M K"
    options = {"axis": [-1, -2]}
    empty = True

    @staticmethod
    def forward(x, axis=-1):
        y, p, q = log_probabilities(x, axis)
        return y, (p, q)

    @staticmethod
    def backward(dy, saved, axis=-1):
        p, q = saved
        return dy * q - p * (np.sum(dy, axis=axis, keepdims=True) - dy)
