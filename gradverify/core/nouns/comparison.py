"""Analytic beside numerical gradients: an Estimate, a Verdict, a Comparison."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from gradverify.core.nouns.case import Array


class Verdict(enum.IntEnum):
    """Of one entry or direction, from the comparison of an Estimate with the analytic value."""

    AGREES = 0
    KINK = 1  # the analytic value lies between the one-sided slopes
    UNRESOLVED = 2  # the bound is too wide to tell
    DISAGREES = 3


# As plain numbers: up to Python 3.11, looking a member of an Enum up takes as long as adding two small arrays.
AGREES, KINK, UNRESOLVED, DISAGREES = (int(verdict) for verdict in Verdict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Numerical derivatives with their bounds, all arrays of the same shape.

    Attributes
    ----------
    value : numerical derivative
    truncation, rounding : bounds on the two parts of its error, same unit as `value`
    """

    value: Array
    truncation: Array
    rounding: Array

    @property
    def bound(self) -> Array:
        """Bound on the error of `value`: truncation plus rounding."""
        return self.truncation + self.rounding

    def rows(self, chosen: Array) -> Estimate:
        """Some of them; `chosen` is a mask or indices."""
        return Estimate(self.value[chosen], self.truncation[chosen], self.rounding[chosen])


SIDES = ("analytic", "numerical")  # of a comparison with a numerical derivative


@dataclass(frozen=True, slots=True)
class Comparison:
    """Analytic against numerical gradient of one primal; every array has the primal's shape.

    Attributes
    ----------
    primal : its name
    analytic, numerical : the two gradients
    bound : bound on the error of their difference
    verdicts : `Verdict` values (int8)
    scale : magnitude against which an unresolved bound is judged; same unit as the gradient
    labels : a readable name for each axis
    reasons : for each entry, the place in `rules` of what its verdict rests on (int8); None where nobody says
    rules : names; the first is "", for a verdict that a measurement gives by itself
    sides : what `analytic` and `numerical` are called, where two calls are compared and neither is a difference
    """

    primal: str
    analytic: Array
    numerical: Array
    bound: Array
    verdicts: Array
    scale: float
    labels: tuple[str, ...] = ()
    reasons: Array | None = None
    rules: tuple[str, ...] = ("",)
    sides: tuple[str, str] = SIDES

    @property
    def two_calls(self) -> bool:
        """Whether two calls of the backward are compared, and no numerical derivative."""
        return self.sides != SIDES

    def reason(self, place: tuple[int, ...]) -> str:
        """Name of what the verdict of an entry rests on, "" where it is plain; see `gradverify.core.judge.says`."""
        return "" if self.reasons is None else self.rules[int(self.reasons[place])]

    def because(self) -> dict[tuple[str, str], int]:
        """Number of entries for each verdict and name of its reason, plain ones left out."""
        if self.reasons is None or not self.reasons.any():
            return {}
        found: dict[tuple[str, str], int] = {}
        for verdict in Verdict:
            counts = np.bincount(self.reasons[self.verdicts == verdict].ravel().astype(int), minlength=len(self.rules))
            found |= {(verdict.name.lower(), self.rules[k]): int(counts[k]) for k in np.flatnonzero(counts) if k}
        return found

    @property
    def error(self) -> Array:
        with np.errstate(invalid="ignore"):  # of infinities, which have no difference
            difference: Array = np.abs(self.analytic - self.numerical)
        return difference

    @property
    def wrong(self) -> Array:
        """Mask of the entries that disagree."""
        return self.verdicts == DISAGREES

    @property
    def ratio(self) -> Array:
        """Disagreement in units of the bound; 0 where both are 0."""
        error = self.error
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(error == 0, 0.0, error / self.bound)

    @property
    def resolution(self) -> float:
        """Smallest error that would have been noticed in most entries: the median bound relative to the scale."""
        decided = np.sort(self.bound[self.verdicts != UNRESOLVED])  # np.median takes six times as long on few numbers
        if decided.size == 0:
            return float("inf")
        return 0.5 * float(decided[(decided.size - 1) // 2] + decided[decided.size // 2]) / (self.scale or 1.0)

    @property
    def severity(self) -> float:
        """The largest `ratio` of an entry that disagrees; infinity where such an entry is no number."""
        return float(np.max(self._beyond[self.wrong]))

    @property
    def _beyond(self) -> Array:
        ratio = self.ratio
        return np.where(np.isnan(ratio), np.inf, ratio)

    @property
    def worst(self) -> tuple[int, ...]:
        """Index of the entry that disagrees most, in units of its bound."""
        decided = (self.verdicts == AGREES) | (self.verdicts == DISAGREES)
        ratio = np.where(decided, self._beyond, -1.0)
        return tuple(int(k) for k in np.unravel_index(int(np.argmax(ratio)), ratio.shape)) if ratio.size else ()
