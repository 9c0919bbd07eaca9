"""The ledger of a check: what was verified of each primal and output, and what was not, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NotVerified:
    """Something that a check could have looked at and did not.

    Attributes
    ----------
    name : of a primal, an output or an attribute, as its author writes it
    reason : why it was not verified
    declare : what would declare it, as an argument; None where nothing has to be
    blocks : the check does not pass with it
    """

    name: str
    reason: str
    declare: str | None = None
    blocks: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}{f': {self.declare} would declare it' if self.declare else ''}"


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
