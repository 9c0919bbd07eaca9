"""A forward, or a backward, that stops short of its limit; see `gradverify.core.judge.unfinished`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.judge.unfinished import stops_short


@add(
    "stopped",
    "forward, or backward, stops short of its limit: it jumps, and beyond its jumps backward is right",
    cost=1200,  # of all entries together, where copies that iterate go one by one
    applies=lambda dispute: dispute.point.grid is None,
)
def stopped(dispute: Dispute) -> Answer:
    """All entries or none; a layer that has no jump within any reach need not be searched at other points."""
    found, jumps = stops_short(dispute)
    return replace(answer(np.full(dispute.size, found)), vain=not jumps)
