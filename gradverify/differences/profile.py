"""The ladder of one entry for readers: its error at every step, before any rung is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify import evaluate
from gradverify.differences import ladder
from gradverify.differences.point import Point
from gradverify.layer import Layer
from gradverify.types import Case, Comparison

Rungs = list[tuple[float, float, float]]


def profile(layer: Layer, case: Case, comparison: Comparison, dtype: Any = None) -> Rungs:
    """Central differences at the worst entry of a comparison, large steps first.

    Parameters
    ----------
    dtype : floating type in which the forward is run; None takes the case's own

    Returns
    -------
    For each usable step (h, quotient - analytic, noise): the step in units of the primal, the
    difference quotient less the analytic value, and its rounding noise. Empty for complex primals
    and where the analytic value is not finite.

    Raises
    ------
    LayerFailure
        If forward fails at a perturbed point.
    """
    where = comparison.worst
    if comparison.analytic.size == 0 or not np.isfinite(comparison.analytic[where]):
        return []
    case, _ = evaluate.completed(layer, case)
    point = Point(layer, case, dtype)
    slot = next((s for s in point.slots if s.name == comparison.primal), None)
    if slot is None or slot.complex:
        return []
    entry = np.array([slot.start + int(np.ravel_multi_index(where, slot.shape)) if where else slot.start])
    step = ladder.steps(point, entry)
    error, noise = ladder.quotients(point, entry, np.array([float(comparison.analytic[where])]))
    usable = np.isfinite(error[0]) & np.isfinite(noise[0])
    return [(float(h), float(e), float(n)) for h, e, n in zip(step[0][usable], error[0][usable], noise[0][usable])]
