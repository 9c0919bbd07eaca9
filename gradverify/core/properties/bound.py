"""Bound: a second derivative that is declared an upper bound is one, and not the derivative itself times a number.

Boosting takes such bounds in place of a Hessian that is zero or negative: 1 for Huber's loss, 2 p (1 - p) for the
softmax over classes, whose rows of |H| add up to that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.nouns import Array, Case, Finding, Outcome
from gradverify.core.properties import Property, add
from gradverify.core.properties.gradient import holds as compared

NAME = "bound"
_SAME = 1e-5  # relative difference of two ratios that are one number, and of what one difference can tell
_ROUGHER = 10  # times that, for sums and products of differences
_HEARD = 1e-3  # of the largest, by hand: no ratio is read from smaller derivatives, as they are rounding of the larger
_FEW = 3  # entries with derivatives that differ, of which one ratio says something


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.bounded is not None else "no second derivative is declared an upper bound"


def holds(layer: Layer, case: Case) -> Outcome:
    """No entry lies below the derivative; nor are all of them one multiple of it beyond what couplings explain."""
    assert layer.hooks.bounded is not None
    inner, primals, both = layer.hooks.bounded(evaluate.copies(case.primals), dict(case.options))
    point = np.asarray(primals[inner.primal_names[0]])
    bound = both(point.copy())[1]
    matrix = _differences(both, point)
    if not np.isfinite(matrix).all() or not np.isfinite(bound).all():
        return Outcome(NAME, skipped="the objective is not finite at the point")
    slope, rows = np.diagonal(matrix).reshape(point.shape), np.abs(matrix).sum(0).reshape(point.shape)
    top = float(rows.max(initial=0.0))
    if (bound < slope - _SAME * top).any():
        found = _below(inner, case.but(primals=primals, cotangents=None), case)
        if found is not None:
            return Outcome(NAME, (found,), entries=bound.size)
    factor = _one_factor(bound, slope)
    if factor is not None and not (bound <= rows + _ROUGHER * _SAME * top).all():
        message = (
            f"hess is declared an upper bound, and is {factor:.6g} times the second derivative in each of "
            f"{bound.size} entries: the diagonal with a factor too many, and no bound of its own"
        )
        return Outcome(
            NAME, (Finding(NAME, "wrong", None, message, case, facts={"ratio": factor}),), entries=bound.size
        )
    return Outcome(NAME, entries=bound.size)


def _differences(both: Callable[[Array], tuple[Array, Array]], point: Array) -> Array:
    """The Hessian by one central difference of grad along each entry, shape (n, n)."""
    step = float(np.finfo(float).eps) ** (1 / 3) * max(1.0, float(np.abs(point).max(initial=0.0)))
    columns = []
    for index in np.ndindex(point.shape):
        up, down = point.copy(), point.copy()
        up[index] += step
        down[index] -= step
        columns.append((both(up)[0] - both(down)[0]).ravel() / (up[index] - down[index]))
    return np.array(columns).reshape(point.size, point.size)


def _below(inner: Layer, within: Case, case: Case) -> Finding | None:
    """The finding for entries that lie below the derivative, by the comparison of which the gradient check is made."""
    within, _ = evaluate.completed(inner, within)
    outcome = compared(inner, within)
    v = np.asarray((within.cotangents or (1.0,))[0])
    for c in outcome.compared:
        hess, slope = c.analytic / v, c.numerical / v
        low = c.wrong & (hess < slope)
        if low.any():
            where = tuple(int(k) for k in np.argwhere(low)[0])
            message = (
                f"hess is declared an upper bound, and is below the second derivative in {int(low.sum())} of "
                f"{low.size} entries: at {list(where)} hess {hess[where]:.6g}, second derivative {slope[where]:.6g}"
            )
            return Finding(NAME, "wrong", None, message, case, severity=float(np.max(c.ratio[low])))
    return None


def _one_factor(bound: Array, slope: Array) -> float | None:
    """The one number above 1 by which all entries are too large, if the derivatives differ among themselves."""
    top = float(np.abs(slope).max(initial=0.0))
    large = np.abs(slope) > _HEARD * top
    if large.sum() < _FEW or np.unique(np.round(slope[large] / top, 3)).size < _FEW:
        return None
    ratio = bound[large] / slope[large]
    factor = float(np.median(ratio))
    rest = np.abs(bound - factor * slope).max() <= _ROUGHER * _SAME * top * factor
    return factor if factor > 1 + _HEARD and rest else None


add(Property(NAME, "what is declared an upper bound on the second derivative is one", holds, applies))
