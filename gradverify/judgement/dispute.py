"""A dispute: entries whose analytic and numerical derivatives differ by more than their bound, and what was measured
about them so far.

Rules share what they measure: two readings of one ladder cost the forwards of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np

from gradverify.differences import ladder
from gradverify.differences.bends import bends
from gradverify.differences.point import Point
from gradverify.types import DISAGREES, UNRESOLVED, Array, Case, Estimate

NATURAL, UNIT = "natural", "unit"  # first rungs of a ladder: an entry's own scale, or 1
TINY = 1e-2  # natural steps below this may be far below the length scale of the function: 1 is tried, too


@dataclass(slots=True)
class Dispute:
    """Entries in dispute; every array has shape (n,).

    Attributes
    ----------
    point : where the forward was differenced
    case : of the point; None where there is none to evaluate a backward at
    entries : flat indices
    analytic, numerical, bound : of these entries
    kinks : the convention that the author declared: "between", "left", "right" or "middle"
    """

    point: Point
    case: Case | None
    entries: Array
    analytic: Array
    numerical: Array
    bound: Array
    _ladders: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    _slopes: dict[str, Array] = field(default_factory=dict)
    _bent: list[bool] = field(default_factory=list)

    @property
    def kinks(self) -> str:
        return self.point.layer.declared.kinks

    @property
    def size(self) -> int:
        return int(self.entries.size)

    @property
    def gap(self) -> Array:
        """Size of the disagreement."""
        distance: Array = np.abs(self.numerical - self.analytic)
        return distance

    @property
    def bends(self) -> bool:
        """Whether the forward has a kink at the point, along any direction."""
        if not self._bent:
            self._bent.append(bends(self.point))
        return self._bent[0]

    def only(self, rows: Array) -> Dispute:
        """The dispute over some of the entries, with what is known of them; `rows` is a mask or indices."""
        plain = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name in _ARRAYS}
        ladders = {k: (a[rows], b[rows]) for k, (a, b) in self._ladders.items()}
        slopes = {k: a[rows] for k, a in self._slopes.items()}
        return Dispute(self.point, self.case, **plain, _ladders=ladders, _slopes=slopes, _bent=self._bent)

    def scale(self, first: str) -> Array:
        """Length of the first rung of each entry's ladder."""
        return np.ones(self.size) if first == UNIT else self.point.scale[self.entries]

    def ladders(self) -> Iterator[tuple[str, Array, Array]]:
        """First rung, difference quotients minus the analytic value, and their noise, shape (n, R), large steps first.

        From the natural scale down; and from 1 down for entries that are tiny, NaN for others.
        """
        yield NATURAL, *self.quotients(NATURAL)
        if (self.scale(NATURAL) < TINY).any():
            yield UNIT, *self.quotients(UNIT)

    def quotients(self, first: str) -> tuple[Array, Array]:
        """One of the `ladders`."""
        if first not in self._ladders:
            rows = np.flatnonzero(self.scale(NATURAL) < TINY) if first == UNIT else np.arange(self.size)
            scale = self.scale(first)[rows]
            some = ladder.quotients(self.point, self.entries[rows], self.analytic[rows], scale=scale)
            full = tuple(np.full((self.size, part.shape[1]), np.nan) for part in some)
            for whole, part in zip(full, some):
                whole[rows] = part
            self._ladders[first] = (full[0], full[1])
        return self._ladders[first]

    def slopes(self, side: int) -> Estimate:
        """One-sided slopes, to the right for +1 and to the left for -1."""
        names = [f"{side} {part}" for part in ("value", "truncation", "rounding")]
        if names[0] not in self._slopes:
            found = one_sided(self.point, self.entries, self.analytic, side)
            self._slopes.update(zip(names, (found.value, found.truncation, found.rounding)))
        return Estimate(*(self._slopes[name] for name in names))


_ARRAYS = ("entries", "analytic", "numerical", "bound")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rule says of each entry of a dispute; every array has shape (n,).

    Attributes
    ----------
    verdicts : KINK or UNRESOLVED where the rule takes the entry out of the dispute, DISAGREES where it does not
    numerical, bound : better values than the dispute has, where the rule found such; None for none
    """

    verdicts: Array
    numerical: Array | None = None
    bound: Array | None = None


def answer(accepted: Array, verdict: int = UNRESOLVED) -> Answer:
    """One verdict for the entries of a mask."""
    return Answer(np.where(accepted, verdict, DISAGREES).astype(np.int8))


def one_sided(point: Point, entries: Array, analytic: Array, side: int) -> Estimate:
    """One-sided slopes at the natural scale, or at the finest one that tells.

    Parameters
    ----------
    analytic : of these entries, shape (n,)
    """
    estimate = ladder.entrywise(point, entries, analytic, side=side)
    for finer in finer_scales(point):
        open_ = np.flatnonzero(~np.isfinite(estimate.bound))
        if open_.size:
            at, scale = entries[open_], finer[entries[open_]]
            closer = ladder.entrywise(point, at, analytic[open_], side=side, scale=scale, wary=point.grid is not None)
            for name in ("value", "truncation", "rounding"):
                getattr(estimate, name)[open_] = getattr(closer, name)
    return estimate


def finer_scales(point: Point) -> tuple[Array, Array]:
    """First rungs far below the natural scale: each entry's own magnitude, and less, for what is sharp there."""
    own = np.abs(point.values).astype(float)
    own = np.where(own > 0, np.minimum(own, 1e-4 * point.scale), 1e-4 * point.scale)
    return own, 1e-4 * own
