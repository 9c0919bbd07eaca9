"""A gradient that is read from an update: the weight before minus after, over the rate.

The subtraction rounds it to eps |w| / rate. This rounding is known and not measured, so it counts also where it is
larger than the gradient itself.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add

_ROUNDINGS = 4.0  # of the weight before and after, of the difference, and of the quotient


@add(
    "updated",
    "the gradient is read from an update, and rounded by the weight that it was taken from",
    cost=0,
    applies=lambda dispute: dispute.point.layer.hooks.gradient_rounding is not None,
)
def updated(dispute: Dispute) -> Answer:
    """Which gaps are no larger than eps |w| / rate."""
    point, found = dispute.point, np.zeros(dispute.size, bool)
    measure = point.layer.hooks.gradient_rounding
    grains = {} if measure is None else measure(dispute.case.primals)
    for slot in (s for s in point.slots if s.name in grains):
        inside = (dispute.entries >= slot.start) & (dispute.entries < slot.stop)
        found |= inside & (dispute.gap <= dispute.bound + _ROUNDINGS * grains[slot.name])
    return answer(found)
