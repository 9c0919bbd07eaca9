"""Slopes so steep that forward has changed all it can long before the smallest step of a difference is taken.

A few tanh units of gain 300 in a row have the slope 1e25 at 0, and are flat 1e-20 beside it. Steps that are as small as
the analytic value says can be taken where the entry is 0, or nearly so, and if they agree with it, they know better.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.rules.plateau import in_a_row
from gradverify.core.judge.table import add

_STEEP = 1e6  # times what outputs change by over the natural step; a ladder of the usual steps reaches less far
_AMPLE = 1e4  # times the step over which outputs would change by their size: the ladder goes down from there


@add("steep", "forward changes over less than the usual steps there, and smaller ones agree with backward", cost=40)
def steep(dispute: Dispute) -> Answer:
    """Which entries agree at steps of the length that their analytic value gives."""
    point, natural = dispute.point, dispute.point.scale[dispute.entries]
    size = float(np.abs(point.weights).sum()) * max(1.0, float(np.abs(point.base).max(initial=0.0)))
    with np.errstate(all="ignore"):
        lengths = size / np.abs(dispute.analytic)
    rows = np.flatnonzero(np.isfinite(lengths) & (_STEEP * lengths < natural))
    found = np.zeros(dispute.size, bool)
    if rows.size:
        entries, known = dispute.entries[rows], dispute.analytic[rows]
        h = ladder.steps(point, entries, _AMPLE * lengths[rows])
        d = point.slopes(np.repeat(entries, h.shape[1]), h.ravel(), -h.ravel(), h.shape[1])
        residual = (d.change / d.gap).reshape(h.shape) - known[:, None]  # what is measured as noise is the other steps'
        found[rows] = in_a_row(residual, dispute.gap[rows], np.zeros(rows.size, bool))
    return answer(found)
