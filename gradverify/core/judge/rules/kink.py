"""The slopes on the two sides differ, and the analytic value lies between them, or is the one that was declared."""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.sides import one_sided
from gradverify.core.judge.dispute import Answer, Dispute
from gradverify.core.judge.table import add
from gradverify.core.nouns import DISAGREES, KINK, UNRESOLVED, Array, Estimate


@add(
    "kink",
    "the slopes on the two sides differ, and backward gives one between them",
    cost=200,
)
def kink(dispute: Dispute) -> Answer:
    """A kink only where it is one with rounding inside counted, too; else it may be none, and nothing is told."""
    right, left = (one_sided(dispute.point, dispute.entries, dispute.analytic, side) for side in (+1, -1))
    accepted, _ = between(dispute.analytic, left, right, dispute.kinks)
    verdicts = np.where(accepted, KINK, DISAGREES).astype(np.int8)
    if accepted.any():
        at, known = dispute.entries[accepted], dispute.analytic[accepted]
        below, above = (ladder.entrywise(dispute.point, at, known, side=side, wary=True) for side in (-1, +1))
        sure = between(known, below, above, dispute.kinks)[1]
        verdicts[accepted] = np.where(sure, KINK, UNRESOLVED)
    return Answer(verdicts)


def between(analytic: Array, left: Estimate, right: Estimate, convention: str) -> tuple[Array, Array]:
    """Which entries are kinks at which the analytic value is accepted, and which are kinks at all."""
    slack = left.bound + right.bound
    with np.errstate(invalid="ignore"):
        jump = np.abs(right.value - left.value) > slack
        low, high = np.minimum(left.value, right.value), np.maximum(left.value, right.value)
        if convention == "between":
            fits = (analytic >= low - slack) & (analytic <= high + slack)
        else:
            wanted = {"left": left.value, "right": right.value, "middle": 0.5 * (left.value + right.value)}[convention]
            fits = np.abs(analytic - wanted) <= slack
    return jump & fits, jump
