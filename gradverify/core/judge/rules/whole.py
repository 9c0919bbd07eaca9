"""Values so large that rounding them to a whole number changes little, or nothing.

floor(x) is x at 1e16, where every number is whole, and at 1e10 the steps of a difference are thousands: they tell the
slope of the stair and not that of a step. A gradient of 0 is not refuted there if short steps move nothing, or cannot
be taken.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add

_LARGE = 1e3  # natural steps; those of a zero beside large numbers are large as well
_SHORT = 0.25  # a step that leaves a number on its stair, to one side at least


@add("whole", "at values this large a stair of whole numbers looks like a slope", cost=2)
def whole(dispute: Dispute) -> Answer:
    """Which gradients of 0 are of large entries that a short step leaves where they are."""
    point, entries = dispute.point, dispute.entries
    found = (dispute.analytic == 0) & (point.scale[entries] > _LARGE)
    near = np.flatnonzero(found & (np.spacing(np.abs(point.values[entries])) < _SHORT))
    if near.size:
        sides = (point.slopes(entries[near], np.full(near.size, side), None).moved for side in (_SHORT, -_SHORT))
        found[near] = ~np.logical_and(*sides)
    return answer(found)
