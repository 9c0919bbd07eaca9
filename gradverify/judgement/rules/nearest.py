"""The smallest step agrees with the analytic value, with noise far below the disagreement.

A border just beyond that step makes all larger ones agree on something else.
"""

from __future__ import annotations

import numpy as np

from gradverify.judgement.dispute import Answer, Dispute, answer
from gradverify.judgement.table import add
from gradverify.types import Array

QUIET = 1e-3  # of the disagreement: noise that is this far below it leaves no doubt of the smallest step


@add("nearest", "the smallest step agrees with backward, and a border lies just beyond it", cost=50)
def nearest(dispute: Dispute) -> Answer:
    found = np.zeros(dispute.size, bool)
    for _, residual, noise in dispute.ladders():
        found |= at_the_smallest(residual, noise, dispute.gap) & (dispute.analytic != 0)
    return answer(found)


def at_the_smallest(residual: Array, noise: Array, gap: Array) -> Array:
    """Whether the smallest step that can be used agrees with the analytic value, shape (n,).

    Parameters
    ----------
    residual, noise : difference quotients minus the analytic value, and their noise, shape (n, R)
    gap : size of the disagreement, shape (n,)
    """
    usable = np.isfinite(residual) & np.isfinite(noise)
    last = residual.shape[1] - 1 - np.argmax(usable[:, ::-1], axis=1)
    rows = np.arange(last.size)
    r, s = residual[rows, last], noise[rows, last]
    with np.errstate(invalid="ignore"):
        agrees: Array = usable[rows, last] & (np.abs(r) <= s) & (s <= QUIET * gap)
    return agrees
