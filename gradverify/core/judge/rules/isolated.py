"""The value at the point itself is no limit of the values beside it.

Where a matrix is singular its inverse is what rounding makes of it, and one step beside it is another one. Differences
leave the point itself out, and those of an even function, as of 1 / x^2, are exactly 0.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.measure import STEADY, TALL, TINIEST
from gradverify.core.judge.table import add


@add("isolated", "the outputs at the point are no limit of those beside it", cost=8)
def isolated(dispute: Dispute) -> Answer:
    """Where y(+h) - 2 y + y(-h) does not vanish with h, as it does at each kink."""
    point, entries = dispute.point, dispute.entries
    own = np.abs(point.values[entries])  # a pole may be as near as that
    steps = np.multiply.outer(np.where(own > 0, own, point.scale[entries]), TINIEST)
    every = np.repeat(entries, TINIEST.size)
    up, down = (point.slopes(every, sign * steps.ravel(), None, TINIEST.size).change for sign in (1.0, -1.0))
    bend = np.abs(up + down).reshape(steps.shape)
    last = bend[:, -1]
    return answer((last > STEADY * bend.max(axis=1)) & (last > TALL * point.loudness))
