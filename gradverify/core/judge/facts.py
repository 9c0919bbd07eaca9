"""Plain numbers about a disagreement, for diagnosis and reports: ratio, transposition, place."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.core.nouns import Array, Comparison


def facts_of(comparison: Comparison) -> dict[str, Any]:
    """Facts about analytic against numerical gradient of one primal.

    Returns
    -------
    dict with, as plain Python values: `ratio` (best scalar between analytic and numerical, least
    squares), `remainder` (relative error after it), `transposed` (relative error against the
    transposed numerical gradient, square matrices only), `error` (relative error as it is),
    `wrong` and `total` (entries), `axes` (for each axis label, the indices that hold all wrong
    entries, if not all), `analytic_zero` (whether the wrong entries are all exactly zero)
    """
    a, n = np.asarray(comparison.analytic, float), np.asarray(comparison.numerical, float)
    known = np.isfinite(a) & np.isfinite(n)
    ratio, remainder = best_ratio(a[known], n[known])
    wrong = comparison.wrong
    facts: dict[str, Any] = {
        "ratio": ratio,
        "remainder": remainder,
        "error": relative(a[known], n[known]),
        "wrong": int(wrong.sum()),
        "total": int(wrong.size),
        "analytic_zero": bool((a[wrong] == 0).all()),
        "axes": _places(wrong, comparison.labels),
    }
    if a.ndim == 2 and a.shape[0] == a.shape[1] and known.all():
        facts["transposed"] = relative(a, n.T)
    return facts


@np.errstate(over="ignore", invalid="ignore")
def best_ratio(a: Array, n: Array) -> tuple[float, float]:
    """The scalar r that minimises |a - r n|, and |a - r n| / |a| (1 where a is zero)."""
    power = float(n @ n)
    if power == 0.0:
        return float("nan"), 1.0
    ratio = float(a @ n) / power
    return ratio, relative(a, ratio * n)


@np.errstate(over="ignore", invalid="ignore")
def relative(a: Array, n: Array) -> float:
    """|a - n| over the larger of the two norms; 0 where both are zero."""
    top = max(float(np.linalg.norm(a)), float(np.linalg.norm(n)))
    return float(np.linalg.norm(a - n)) / top if top else 0.0


def _places(wrong: Array, labels: tuple[str, ...]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for axis, extent in enumerate(wrong.shape):
        others = tuple(k for k in range(wrong.ndim) if k != axis)
        hit = np.flatnonzero(wrong.any(axis=others))
        if hit.size < extent:
            places[labels[axis] if axis < len(labels) else f"axis {axis}"] = [int(k) for k in hit[:32]]
    return places
