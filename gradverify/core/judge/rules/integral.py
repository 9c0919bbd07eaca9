"""The fundamental theorem of calculus: the gradient, integrated around a point, against the change of the outputs.

A value that is rounded inside the layer (1 + tanh x far in the tail, 1 + x^2 for tiny x) does not
move under small steps, and the outputs tell a slope that is none. A backward that does not jump at
the point, and whose integral over wider intervals is what the outputs change by, is not refuted by that.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.central import NOISE_FACTOR
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array

_NEAR = 1e-7  # of the entry: no distance at which a continuous gradient changes much
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)  # exact to the degree 15; what is left says nothing (`_SHARE`)
_HALVES = 4.0 ** -np.arange(1.0, 7.0)  # half lengths of the way, in natural steps, from a fourth to 1/4096
_TINY = 1e-2  # natural steps below which ways of the length of 1 are tried too: noise is less over longer ones
_SHARE = 0.1  # of the disagreement that the integral may be off by
_FAINT = 1e-6  # a disagreement above this share of the natural gradient is not due to rounding
_LIMIT = 8  # entries; more than a few that are wrong by rounding alone are not met


@add("integral", "backward, integrated around the point, is what the outputs change by", cost=1001)
def integral(dispute: Dispute) -> Answer:
    """Which entries have a continuous gradient with the right integral."""
    found = np.zeros(dispute.size, bool)
    disputed = zip(dispute.entries[:_LIMIT], dispute.analytic, dispute.numerical)
    for k, (entry, analytic, numerical) in enumerate(disputed):
        found[k] = _holds(dispute.point, int(entry), float(analytic), float(numerical))
        if not found[k]:
            break  # there is a finding whatever the others say
    return answer(found)


def _holds(point: Point, entry: int, analytic: float, numerical: float) -> bool:
    gap, scale = abs(analytic - numerical), float(point.scale[entry])
    if gap > _FAINT * point.inner / (point.eps * scale):
        return False
    close = _gradients(point, entry, np.array([-_NEAR, _NEAR]) * (abs(float(point.values[entry])) or scale))
    if close is None or not np.all(np.abs(close - analytic) <= _SHARE * gap):
        return False
    if _blurred(point, entry, numerical, gap):
        return True
    reaches = [scale * _HALVES, _HALVES] if scale < _TINY else [scale * _HALVES]
    return any(_agrees_twice(point, entry, widths, gap) for widths in reaches)


def _blurred(point: Point, entry: int, numerical: float, gap: float) -> bool:
    """Whether the gradient takes the numerical value within the step below which noise is louder than the gap."""
    step = NOISE_FACTOR * float(point.sigma @ np.abs(point.weights)) / gap
    values = _gradients(point, entry, step * np.array([-1.0, -0.5, -0.25, 0.25, 0.5, 1.0]))
    if values is None or not values.min() <= numerical <= values.max():
        return False
    return not _confirmed(point, entry, numerical, gap, step)


def _confirmed(point: Point, entry: int, numerical: float, gap: float, step: float) -> bool:
    """Whether extrapolations from steps well above that one tell the numerical value, too: no rounding hides there."""
    entries = np.array([entry])
    extrapolated, _ = ladder.extrapolations(*ladder.quotients(point, entries, np.array([numerical])), (2,))[1]
    larger = point.scale[entry] * ladder.rungs(point.eps)[1 : extrapolated.shape[1] + 1] > step
    with np.errstate(invalid="ignore"):
        close = np.abs(extrapolated[0]) <= _SHARE * gap
    return bool(np.sum(close & larger) >= ladder.SUPPORT)


def _agrees_twice(point: Point, entry: int, widths: Array, gap: float) -> bool:
    """Whether two neighbouring intervals agree: one could by accident."""
    before = False
    for width in widths:
        d = point.slopes(np.array([entry]), np.array([width]), np.array([-width]))
        values = _gradients(point, entry, width * _NODES)
        now = False
        if values is not None and np.isfinite(d.change[0]):
            mean = float(values @ _WEIGHTS) / 2
            now = abs(float(d.change[0] / d.gap[0]) - mean) <= _SHARE * gap
        if now and before:
            return True
        before = now
    return False


def _gradients(point: Point, entry: int, offsets: Array) -> Array | None:
    """The analytic derivative along one entry, where that entry is moved; None where backward gives none."""
    values = np.tile(point.values, (offsets.size, 1))
    values[:, entry] += offsets
    try:
        found = np.array([point.gradient_at(row)[entry] for row in values])
    except LayerFailure:
        return None
    return found if np.isfinite(found).all() else None
