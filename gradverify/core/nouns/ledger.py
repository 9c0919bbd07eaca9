"""The ledger of a check: what was verified of each primal and output, and what was not, with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NO_REASON = "unresolved"  # where nobody gave a reason
TORN = "forward jumps here, and nobody declares that it may"


@dataclass(frozen=True, slots=True)
class NotVerified:
    """Something that a check could have looked at and did not.

    Attributes
    ----------
    name : of a primal, an output or an attribute, as its author writes it
    reason : why it was not verified
    pair : what `pairs=` would declare it with: `"W": "dW"`; None where that cannot help
    blocks : the check does not pass with it
    """

    name: str
    reason: str
    pair: str | None = None
    blocks: bool = False

    @property
    def declare(self) -> str | None:
        """The argument that would declare it."""
        return declaration([self])

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}{f': {self.declare} would declare it' if self.pair else ''}"


def declaration(items: Iterable[NotVerified]) -> str | None:
    """One argument that would declare all of them; None where there is none."""
    pairs = [item.pair for item in items if item.pair is not None]
    return f"pairs={{{', '.join(pairs)}}}" if pairs else None


@dataclass(frozen=True, slots=True)
class Share:
    """What was verified of one primal, or of one output.

    Attributes
    ----------
    name, kind : its name, and "primal" or "output"
    entries : entries compared, over all cases; of an output those that a cotangent weighted
    decided : of these, entries with a verdict other than unresolved; None for an output
    resolution : smallest error that would have been noticed, relative to the gradient; None for an output, and
        where nothing was decided
    unresolved : number of entries that were left open, by the reason
    """

    name: str
    kind: str
    entries: int
    decided: int | None = None
    resolution: float | None = None
    unresolved: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a check verified, and what it did not."""

    verified: tuple[Share, ...] = ()
    missing: tuple[NotVerified, ...] = ()

    @property
    def blocking(self) -> tuple[NotVerified, ...]:
        """What keeps the check from passing."""
        return tuple(item for item in self.missing if item.blocks)


@dataclass(slots=True)
class Counts:
    """Sums over the comparisons of one primal."""

    entries: int = 0
    unresolved: Counter[str] = field(default_factory=Counter)
    resolutions: list[float] = field(default_factory=list)

    def add(self, entries: int, unresolved: Mapping[str, int], resolution: float) -> None:
        """Count one more comparison: its entries, those that are open by reason, and what it would have noticed."""
        self.entries += entries
        self.unresolved.update(unresolved)
        if sum(unresolved.values()) < entries:
            self.resolutions.append(resolution)

    def share(self, name: str) -> Share:
        """The sums as they stand."""
        resolution = float(np.median(self.resolutions)) if self.resolutions else None
        decided = self.entries - self.unresolved.total()
        return Share(name, "primal", self.entries, decided, resolution, dict(self.unresolved))


def weighted(names: Iterable[str], cotangents: Iterable[Any]) -> dict[str, int]:
    """Entries of each output that a cotangent weighs; outputs that nobody named are y, or y0, y1, ..."""
    parts, known = list(cotangents), list(names)
    if len(known) != len(parts):
        known = ["y"] if len(parts) == 1 else [f"y{k}" for k in range(len(parts))]
    return {name: int(np.count_nonzero(part)) for name, part in zip(known, parts)}


def ledger(tallies: Iterable[Any], missing: Iterable[NotVerified]) -> Ledger:
    """Of the tallies of properties that compare with numerical derivatives, and of what no property looks at."""
    counts: dict[str, Counts] = {}
    outputs: Counter[str] = Counter()
    for tally in tallies:
        outputs.update(tally.outputs)
        for name, part in tally.shares.items():
            total = counts.setdefault(name, Counts())
            total.entries += part.entries
            total.unresolved.update(part.unresolved)
            total.resolutions += part.resolutions
    shares = [part.share(name) for name, part in counts.items()]
    left = [
        NotVerified(share.name, f"no entry could be decided: {', '.join(share.unresolved)}")
        for share in shares
        if share.entries and not share.decided
    ]
    left += [
        NotVerified(share.name, "forward jumps at drawn values: jumps=True declares that it may", blocks=True)
        for share in shares
        if share.unresolved.get(TORN)
    ]
    silent = [NotVerified(name, "no cotangent has weight on it") for name, count in outputs.items() if not count]
    shares += [Share(name, "output", count) for name, count in outputs.items() if count]
    return Ledger(tuple(shares), (*missing, *left, *silent))
