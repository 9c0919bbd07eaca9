"""Larger steps in a row agree with the analytic value, and smaller ones do not.

A value that is rounded inside the layer does not move under small steps, and their quotients form a plateau of their
own, without noise that could be measured at the outputs.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.sides import TINY
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array

LENGTH = 4  # larger steps in a row that agree cast doubt on smaller ones that do not
CLOSE = 0.02  # of the disagreement: steps that are this near agree with the analytic value


@add(
    "plateau", "larger steps agree with backward, and a value inside is rounded too coarsely for smaller ones", cost=50
)
def plateau(dispute: Dispute) -> Answer:
    point, still, natural = dispute.point, dispute.numerical == 0, dispute.point.scale[dispute.entries]
    found = np.zeros(dispute.size, bool)
    for scale, rows in ((natural, natural > 0), (np.ones(dispute.size), still & (natural < TINY))):
        at = np.flatnonzero(rows & ~found)
        if at.size:
            entries, known = dispute.entries[at], dispute.analytic[at]
            residual, _ = ladder.quotients(point, entries, known, scale=scale[at])
            found[at] = in_a_row(residual, dispute.gap[at], still[at])
    return answer(found)


def in_a_row(residual: Array, gap: Array, still: Array) -> Array:
    """Whether several larger steps in a row agree with the analytic value where smaller ones do not, shape (n,).

    Parameters
    ----------
    residual : difference quotients minus the analytic value, shape (n, R)
    gap : size of the disagreement, shape (n,)
    still : whether small steps move nothing at all, shape (n,); a shorter row is enough then
    """
    with np.errstate(invalid="ignore"):
        close = np.abs(residual) <= CLOSE * gap[:, None]

    def rows(length: int) -> Array:
        found: Array = np.lib.stride_tricks.sliding_window_view(close, length, axis=1).all(-1).any(-1)
        return found

    return rows(LENGTH) | (still & rows(LENGTH - 1))
