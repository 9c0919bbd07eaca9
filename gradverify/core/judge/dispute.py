"""A dispute: entries whose analytic and numerical derivatives differ by more than their bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gradverify.core.differentiate.point import Point
from gradverify.core.differentiate.sides import crowded, has_corner, has_kink, ties
from gradverify.core.nouns import DISAGREES, UNRESOLVED, Array, Case


@dataclass(slots=True)
class Dispute:
    """Entries in dispute; every array has shape (n,).

    Attributes
    ----------
    point : where the forward was differenced
    entries : flat indices
    analytic, numerical, bound : of these entries
    """

    point: Point
    entries: Array
    analytic: Array
    numerical: Array
    bound: Array
    _has_kink: list[bool] = field(default_factory=list)

    @property
    def case(self) -> Case:
        """The case that the point was made of."""
        return self.point.case

    @property
    def kinks(self) -> str:
        """The convention that the author declared: "between", "left", "right" or "middle"."""
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
    def has_kink(self) -> bool:
        """Whether the forward has a kink at the point, or between neighbours where three of them tie."""
        if not self._has_kink:
            point, tied = self.point, crowded(ties(self.point), self.entries).any()
            self._has_kink.append(has_kink(point) or bool(tied and has_corner(point)))
        return self._has_kink[0]

    def only(self, rows: Array | slice) -> Dispute:
        """The dispute over some of the entries; `rows` is a mask, indices or a slice."""
        entries, analytic = self.entries[rows], self.analytic[rows]
        return Dispute(self.point, entries, analytic, self.numerical[rows], self.bound[rows], self._has_kink)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rule says of each entry of a dispute; every array has shape (n,).

    Attributes
    ----------
    verdicts : KINK or UNRESOLVED where the rule takes the entry out of the dispute, DISAGREES where it does not
    vain : whether the layer is not of the kind that the rule is for, so that it need not be asked at other points
    """

    verdicts: Array
    vain: bool = False


def answer(accepted: Array, verdict: int = UNRESOLVED) -> Answer:
    """One verdict for the entries of a mask."""
    return Answer(np.where(accepted, verdict, DISAGREES).astype(np.int8))
