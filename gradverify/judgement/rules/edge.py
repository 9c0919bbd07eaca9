"""The edge of a domain: one side only has a slope, or neither has one that can be told."""

from __future__ import annotations

import numpy as np

from gradverify.judgement.dispute import Answer, Dispute
from gradverify.judgement.table import add
from gradverify.types import DISAGREES, KINK, UNRESOLVED


@add("edge", "the slope of one side at the most can be told, as at the edge of a domain", cost=201)
def edge(dispute: Dispute) -> Answer:
    """A kink where backward gives the one slope there is; unresolved where it gives what the other may be."""
    right, left = dispute.slopes(+1), dispute.slopes(-1)
    tells = np.isfinite(left.bound), np.isfinite(right.bound)
    verdicts = np.where(tells[0] | tells[1], DISAGREES, UNRESOLVED).astype(np.int8)
    for alone, side in zip((tells[0] & ~tells[1], tells[1] & ~tells[0]), (left, right)):
        low, high = np.minimum(side.value, 0.0) - side.bound, np.maximum(side.value, 0.0) + side.bound
        flat = (low <= dispute.analytic) & (dispute.analytic <= high)  # as the other side may be
        verdicts[alone & flat] = UNRESOLVED
        verdicts[alone & (np.abs(dispute.analytic - side.value) <= side.bound)] = KINK
    return Answer(verdicts)
