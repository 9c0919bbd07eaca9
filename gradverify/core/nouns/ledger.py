"""The ledger of a check: what was verified of each primal and output, and what was not, with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NO_REASON = "unresolved"  # where nobody gave a reason
_BLIND = 1.0  # a resolution at which a gradient of zero would pass, whatever the right one is
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
    constant : the name by which `constants=` would declare that it needs no gradient; None where that cannot help
    """

    name: str
    reason: str
    pair: str | None = None
    blocks: bool = False
    constant: str | None = None

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


def constants(items: Iterable[NotVerified]) -> str | None:
    """The argument that would declare that they need no gradient; None where it is of no use."""
    names = [item.constant or item.name for item in items if item.constant or item.pair]
    if not names:
        return None
    said = ", ".join(f'"{name}"' if '"' not in name else repr(name) for name in names)
    return f"constants={said}" if len(names) == 1 else f"constants=({said})"


@dataclass(frozen=True, slots=True)
class Share:
    """What was verified of one primal, or of one output.

    Attributes
    ----------
    name, kind : its name, and "primal" or "output"
    entries : entries compared, over all cases; of an output those that a cotangent weighted
    decided : of these, entries with a verdict other than unresolved; of an output, those of cases in which an error of
        what it adds to some gradient would have been noticed
    resolution : smallest error that would have been noticed, relative to the gradient, or to what the output adds to
        it; None where nothing was decided
    unresolved : number of entries that were left open, by the reason
    """

    name: str
    kind: str
    entries: int
    decided: int = 0
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
    """Sums over the comparisons of one primal, or of what one output adds to gradients."""

    entries: int = 0
    unresolved: Counter[str] = field(default_factory=Counter)
    resolutions: list[float] = field(default_factory=list)

    def add(self, entries: int, unresolved: Mapping[str, int], resolution: float) -> None:
        """Count one more comparison: its entries, those that are open by reason, and what it would have noticed."""
        self.entries += entries
        self.unresolved.update(unresolved)
        if sum(unresolved.values()) < entries:
            self.resolutions.append(resolution)

    def include(self, other: Counts) -> None:
        """Count all that another one counted."""
        self.entries += other.entries
        self.unresolved.update(other.unresolved)
        self.resolutions += other.resolutions

    def share(self, name: str, kind: str) -> Share:
        """The sums as they stand."""
        resolution = float(np.median(self.resolutions)) if self.resolutions else None
        decided = self.entries - self.unresolved.total()
        return Share(name, kind, self.entries, decided, resolution, dict(self.unresolved))


@dataclass(frozen=True, slots=True)
class Weighted:
    """An output of one case.

    Attributes
    ----------
    entries : those that a cotangent weighs
    added : for each primal, the largest entry of what the output adds to its gradient; None where there is no other
        output
    """

    entries: int
    added: Mapping[str, float] | None = None


def weighted(
    names: Iterable[str], cotangents: Sequence[Any], alone: Callable[[Sequence[Any]], Mapping[str, Any]]
) -> dict[str, Weighted]:
    """What cotangents weigh of each output; outputs that nobody named are y, or y0, y1, ...

    Parameters
    ----------
    alone : cotangents -> gradients by primal; asked with all but one of them zero
    """
    parts, known = [np.asarray(v) for v in cotangents], list(names)
    if len(known) != len(parts):
        known = ["y"] if len(parts) == 1 else [f"y{k}" for k in range(len(parts))]
    if len(parts) == 1:
        return {known[0]: Weighted(int(np.count_nonzero(parts[0])))}
    found = {}
    for k, (name, part) in enumerate(zip(known, parts)):
        entries = int(np.count_nonzero(part))
        rest = [v if j == k else np.zeros_like(v) for j, v in enumerate(parts)]
        added = {p: float(np.abs(g).max(initial=0.0)) for p, g in alone(rest).items()} if entries else {}
        found[name] = Weighted(entries, added)
    return found


def ledger(tallies: Iterable[Any], missing: Iterable[NotVerified]) -> Ledger:
    """Of the tallies of properties that compare with numerical derivatives, and of what no property looks at."""
    counts: dict[str, Counts] = {}
    outputs: dict[str, Counts] = {}
    for tally in tallies:
        for sums, parts in ((counts, tally.shares), (outputs, tally.outputs)):
            for name, part in parts.items():
                sums.setdefault(name, Counts()).include(part)
    shares = [part.share(name, "primal") for name, part in counts.items()]
    left = [
        NotVerified(share.name, f"no entry could be decided: {', '.join(share.unresolved)}")
        for share in shares
        if share.entries and not share.decided
    ]
    blind = "differences leave so much open that in each case an error of {:.2g} times the gradient passes"
    left += [
        NotVerified(name, blind.format(min(part.resolutions)), blocks=True)
        for name, part in counts.items()
        if min(part.resolutions, default=0.0) >= _BLIND
    ]
    left += [
        NotVerified(share.name, "forward jumps at drawn values: jumps=True declares that it may", blocks=True)
        for share in shares
        if share.unresolved.get(TORN)
    ]
    silent = [NotVerified(name, "no cotangent has weight on it") for name, part in outputs.items() if not part.entries]
    shares += [part.share(name, "output") for name, part in outputs.items() if part.entries]
    return Ledger(tuple(shares), (*missing, *left, *silent))
