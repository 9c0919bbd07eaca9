"""Which layer gets the next slice: the one that has had the least time for what it still yields."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from gradverify.campaign.unit import Fingerprint, Row
from gradverify.core.declare.regime import Regime
from gradverify.core.nouns import Array

FIRST_SLICE = 0.5  # seconds; each further slice of a layer is twice as long, up to the longest
_ROWS = 64  # that a unit is sent to mutate; they are chosen from less than twice as many, as campaigns run for days
_REGIMES: dict[Regime, Regime] = {}  # one object for each, as every row that comes home brings its own


@dataclass(slots=True)
class Standing:
    """What is known of one layer in a campaign.

    Attributes
    ----------
    cases, entries, ratio, verified : of this run, and of earlier ones on the same store
    before : cases of earlier runs
    seconds, spent : of examining its cases, and of all that its units took, in this run
    units, running, deaths : begun, in flight, and ended by the layer
    findings : number of findings in the store
    fresh : whether its last slice met anything new
    failures : errors in gradverify itself
    error, idle : why it cannot be tried any more, or why there is nothing to try
    features : hashes of what its cases had, sorted; an array, as there are many
    fragile : digests of pending records that ended a process while they were settled
    """

    name: str
    target: str
    cases: int = 0
    before: int = 0
    entries: int = 0
    ratio: float = 0.0
    verified: bool = False
    findings: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    units: int = 0
    deaths: int = 0
    running: int = 0
    fresh: bool = True
    failures: int = 0
    error: str | None = None
    idle: str | None = None
    features: Array = field(default_factory=lambda: np.zeros(0, np.uint32))
    rows: list[Row] = field(default_factory=list)
    known: dict[Fingerprint, tuple[str, int]] = field(default_factory=dict)
    pending: dict[str, bytes] = field(default_factory=dict)
    fragile: set[str] = field(default_factory=set)

    @property
    def rate(self) -> float | None:
        """Cases per second of examining, in this run."""
        return (self.cases - self.before) / self.seconds if self.seconds else None

    def learn(self, row: Row) -> None:
        """Remember an interesting row."""
        if row.features:
            self.features = np.union1d(self.features, np.array(row.features, np.uint32))
        self.rows.append(replace(row, features=(), regime=_REGIMES.setdefault(row.regime, row.regime)))
        self.ratio = max(self.ratio, row.ratio)
        if len(self.rows) >= 2 * _ROWS:  # the store has them all
            self.rows = list(self.chosen(len(self.features)))

    def chosen(self, seed: int) -> tuple[Row, ...]:
        """Rows for the next unit: those with the largest disagreements, those that reached new code last, and of
        the others now these, now those.
        """
        records = sorted((row for row in self.rows if row.ratio), key=lambda row: -row.ratio)[: _ROWS // 4]
        records += [row for row in self.rows if row.reached and row not in records][-_ROWS // 2 :]
        others = sorted(self.rows, key=lambda row: hashlib.blake2b(row.data, key=seed.to_bytes(8, "big")).digest())
        return tuple(dict.fromkeys([*records, *others[: _ROWS - len(records)]]))

    def slice(self, longest: float) -> float:
        """Seconds of the next unit."""
        return float(min(longest, FIRST_SLICE * 2.0 ** min(self.units, 20)))

    @property
    def urgency(self) -> tuple[bool, float]:
        """The smaller, the sooner: unsettled findings first, then seconds spent, weighted."""
        weight = (2.0 if self.fresh else 1.0) / (1.0 + self.deaths)
        return (not (self.pending and not self.running), (self.spent + 5.0 * self.running) / weight)


def next_layer(layers: Iterable[Standing]) -> Standing | None:
    """The most urgent layer that can be tried at all."""
    tried = (layer for layer in layers if layer.error is None and layer.idle is None)
    return min(tried, key=lambda layer: layer.urgency, default=None)


def seed_of(campaign: int, run: int, number: int) -> int:
    """A seed of its own for each unit of each run."""
    return int.from_bytes(hashlib.sha256(f"{campaign} {run} {number}".encode()).digest()[:7], "big")
