"""The ladder, read as if values as large as primals and outputs, or 1, were rounded inside, tells the analytic value.

log(1 + x) rounds a small x away, and neither x nor the output tells of the 1.
"""

from __future__ import annotations

import numpy as np

from gradverify.differences import ladder
from gradverify.judgement.dispute import Answer, Dispute, answer
from gradverify.judgement.table import add

NEAR = 0.05  # of the disagreement: the other reading is this near to the analytic value


@add("hidden", "with rounding of values inside, of which no output tells, the ladder agrees with backward", cost=50)
def hidden(dispute: Dispute) -> Answer:
    found = np.zeros(dispute.size, bool)
    for first, residual, noise in dispute.ladders():
        known, scale = dispute.analytic, dispute.scale(first)
        told = ladder.chosen(dispute.point, dispute.entries, known, residual, noise, scale=scale, wary=True)
        found |= (np.abs(told.value - known) <= NEAR * dispute.gap) & np.isfinite(told.bound)
    return answer(found)
