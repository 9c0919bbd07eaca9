"""The fundamental theorem of calculus: the gradient, integrated around a point, against the change of the outputs.

A value that is rounded inside the layer (1 + tanh x far in the tail, 1 + x^2 for tiny x) does not
move under small steps, and the outputs tell a slope that is none. A backward that does not jump at
the point, and whose integral over wider intervals is what the outputs change by, is not refuted by that.
So it is where a kink lies next to the point, nearer than the smallest step that code in float32 can tell.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate.point import Point
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array

_NEAR, _PLACES = 1e-7, 4  # of the entry, and units in its last place: a continuous gradient changes little over them
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)  # exact to the degree 15; what is left says nothing (`_SHARE`)
_HALVES = 4.0 ** -np.arange(1.0, 7.0)  # half lengths of the way, in natural steps, from a fourth to 1/4096
_SHARE = 0.1  # of the disagreement that the integral may be off by
_FAINT = 2.0**32  # roundings: a disagreement above this share of the natural gradient (1e-6) is not due to them ...
_LOUD = 1e-6  # ... and in lower precision, of which few fit into it, only where backward keeps its value for a way
_PART = 0.25  # of the nodes; on one side of a kink at the point are half of them
_LIMIT = 8  # entries; more than a few that are wrong by rounding alone are not met


@add("integral", "backward, integrated around the point, is what the outputs change by", cost=1001)
def integral(dispute: Dispute) -> Answer:
    """Which entries have a continuous gradient with the right integral."""
    found = np.zeros(dispute.size, bool)
    for k, (entry, analytic, gap) in enumerate(zip(dispute.entries[:_LIMIT], dispute.analytic, dispute.gap)):
        found[k] = _holds(dispute.point, int(entry), float(analytic), float(gap))
        if not found[k]:
            break  # there is a finding whatever the others say
    return answer(found)


def _holds(point: Point, entry: int, analytic: float, gap: float) -> bool:
    scale = float(point.scale[entry])
    if gap > _FAINT * point.inner / scale:
        return False
    near = max(_NEAR, _PLACES * point.eps) * np.array([-1.0, 1.0])
    close = point.gradients_along(entry, near * (abs(float(point.values[entry])) or scale))
    if close is None or not np.all(np.abs(close - analytic) <= _SHARE * gap):
        return False
    part = _PART if gap > _LOUD * point.inner / (point.eps * scale) else 0.0
    return _agrees_twice(point, entry, analytic, gap, part)


def _agrees_twice(point: Point, entry: int, analytic: float, gap: float, part: float) -> bool:
    """Whether two neighbouring intervals agree: one could by accident.

    Parameters
    ----------
    part : of the nodes, where backward must be what it is at the point: where it has settled, the sum says nothing
    """
    before = False
    for width in point.scale[entry] * _HALVES:
        d = point.slopes(np.array([entry]), np.array([width]), np.array([-width]))
        values = point.gradients_along(entry, width * _NODES)
        now = False
        if values is not None and np.isfinite(d.change[0]) and _like(values, analytic, gap) >= part:
            mean = float(values @ _WEIGHTS) / 2
            now = abs(float(d.change[0] / d.gap[0]) - mean) <= _SHARE * gap
        if now and before:
            return True
        before = now
    return False


def _like(values: Array, analytic: float, gap: float) -> float:
    """The share of values that are as wrong, or as right, as the analytic one."""
    return float(np.mean(np.abs(values - analytic) <= _SHARE * gap))
