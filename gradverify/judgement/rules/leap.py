"""The smallest steps change the outputs as much as larger ones do, and as steadily.

The point then lies in a transition that is narrower than they are, as where a softmax of scores in the millions has
a tie, or where forward jumps: what the slope is within, no step tells.
"""

from __future__ import annotations

import numpy as np

from gradverify.differences import ladder
from gradverify.judgement.dispute import Answer, Dispute, answer
from gradverify.judgement.table import add
from gradverify.types import Array

STEADY = 0.9  # the least of these changes against the largest


@add(
    "leap",
    "the outputs change as much at the smallest step as at larger ones: a jump, or narrower than any step",
    cost=50,
)
def leap(dispute: Dispute) -> Answer:
    found = np.zeros(dispute.size, bool)
    for _, residual, _ in dispute.ladders():
        found |= steady(residual + dispute.analytic[:, None])
    return answer(found)


def steady(rate: Array) -> Array:
    """Whether the smallest steps change the outputs as much as larger ones do, shape (n,).

    Parameters
    ----------
    rate : difference quotients, shape (n, R), large steps first
    """
    change = (np.abs(rate) * ladder.RATIO ** -np.arange(rate.shape[1], dtype=float))[:, -ladder.SUPPORT - 1 :]
    with np.errstate(invalid="ignore"):
        found: Array = change.min(axis=1) > STEADY * change.max(axis=1)
    return found
