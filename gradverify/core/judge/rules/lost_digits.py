"""Backward loses so many digits that rounding decides what it gives.

S^-1 of a matrix of condition 1e7, in terms that cancel, is off by a thousandth in float64: a right formula, of which
the properties on precision tell what it loses. All primals times 1 + 1e-14 round otherwise at each step. Numbers that
were equal stay equal, and zeros zero, so that what chooses among ties does not move the gradient; nor do a wrong
factor or term, by more than 1e-13 of themselves. Code in float32 rounds otherwise at a factor of 1 + 1e-6.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.once import gradients
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array, Stream

_UNIT = 4  # of the last place, times a whole number up to _LARGEST: some units, and no more than a few hundred
_LARGEST = 64
_DRAWS = 8
_REACH = 4.0  # times what is heard in all draws: one more may be off by as much, and the outputs round as well


@add("lost digits", "backward is off by no more than it moves when its values round otherwise", cost=60)
def lost_digits(dispute: Dispute) -> Answer:
    """Which entries are off by no more than some times that."""
    return answer(dispute.gap <= _REACH * _moved(dispute)[dispute.entries])


def _moved(dispute: Dispute) -> Array:
    """How far apart each entry of the gradient, shape (P,), lies in all draws; 0 of one that is not the same twice."""
    point, case = dispute.point, dispute.case
    free = {p.name for p in point.layer.primals if not p.domain.discrete}
    factors = 1 + _UNIT * point.eps * case.rng(Stream.LOST_DIGITS).integers(1, _LARGEST, _DRAWS)

    def at(factor: float) -> Array:
        primals = {n: (a * factor).astype(a.dtype) if n in free else a for n, a in case.primals.items()}
        return point.claimed(gradients(point.layer, case.but(primals=primals)))

    try:
        if not np.array_equal(at(1.0), at(1.0)):
            return np.zeros(point.size)
        found = np.array([at(float(factor)) for factor in factors])
    except LayerFailure:
        return np.zeros(point.size)
    return np.nan_to_num(np.ptp(found, axis=0), nan=0.0, posinf=0.0)
