"""The verdict of one measurement, and the plain reasons for which it cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradverify.core.differentiate.point import Point
from gradverify.core.differentiate.sides import TINY
from gradverify.core.nouns import AGREES, DISAGREES, UNRESOLVED, Array
from gradverify.core.nouns.ledger import TORN

FIRM = 8.0  # errors up to this many bounds are in doubt, not wrong
WIDE = 1e-3  # a bound above this share of the entry ...
ROUNDINGS = 1e-14  # of the analytic value itself: some tens of operations in float64
COARSE = 1e-4  # ... and this share of the primal's scale is too wide to tell

NOT_FINITE, NO_SLOPE, JUMP, UNDECLARED = "not finite", "no slope", "jump", "undeclared"
TOO_WIDE, TOO_CLOSE, FAINT, APART = "wide", "close", "faint", "apart"
SCREENED, ENOUGH, CONVENTION = "screened", "enough", "convention"
PLAIN = {
    NOT_FINITE: "backward's value is not finite",
    NO_SLOPE: "no few steps agree on one derivative",
    JUMP: "forward jumps, or as good as that: it changes as much over the smallest steps as over larger ones",
    UNDECLARED: TORN,
    TOO_WIDE: "rounding in the forward leaves a bound too wide to tell",
    TOO_CLOSE: f"the difference is more than its bound and less than {FIRM:g} bounds",
    APART: "values are so large that backward differs by as much over the smallest step that tells",
    FAINT: "the difference is less than what values inside the layer are rounded by",
    SCREENED: "not looked at one by one; directions over all entries cover it",
    ENOUGH: "another entry of this primal is wrong for certain, so this one was not tried",
    CONVENTION: "the slopes on the two sides differ, and backward gives the declared one",
}


@dataclass(slots=True)
class Sweep:
    """The entries of a gradient, and what is known of each so far; every array has shape (P,).

    Attributes
    ----------
    point : where the forward is differenced
    analytic : the gradient that is judged, flat
    numerical, bound : of each entry; the bound includes the rounding of the analytic value
    verdicts : `Verdict` values
    scale : for each entry, the scale of its primal's gradient
    reasons : for each entry, the place in `names` of what its verdict rests on; 0 where a measurement speaks for itself
    """

    point: Point
    analytic: Array
    numerical: Array
    bound: Array
    verdicts: Array
    scale: Array
    reasons: Array
    names: list[str]

    @classmethod
    def blank(cls, point: Point, analytic: Array) -> Sweep:
        """Nothing compared yet."""
        n, tops = point.size, point.tops(analytic)
        return cls(
            point,
            analytic,
            np.full(n, np.nan),
            np.full(n, np.inf),
            np.full(n, UNRESOLVED, np.int8),
            tops if tops.all() else np.where(tops > 0, tops, point.loudness / point.scale),
            np.zeros(n, np.int8),
            [""],
        )

    def store(self, entries: Array, value: Array | float, bound: Array, verdicts: Array | int) -> None:
        """Keep a measurement and its verdict."""
        self.numerical[entries] = value
        self.bound[entries] = rounded(self.analytic[entries], value, bound)
        self.settle(entries, verdicts)

    def settle(self, entries: Array, verdicts: Array | int, reason: str = "") -> None:
        """Give entries a verdict, and the name of what it rests on."""
        if reason not in self.names:
            self.names.append(reason)
        self.verdicts[entries] = verdicts
        self.reasons[entries] = self.names.index(reason)

    def take(self, other: Sweep, entries: Array) -> None:
        """What another sweep says of some entries."""
        for field in ("numerical", "bound", "verdicts", "scale"):
            getattr(self, field)[entries] = getattr(other, field)[entries]
        for k, name in enumerate(other.names):
            by = entries[other.reasons[entries] == k]
            self.settle(by, other.verdicts[by], name)

    def among(self, entries: Array, verdict: int) -> Array:
        """Those of some entries that have a verdict."""
        found: Array = entries[self.verdicts[entries] == verdict]
        return found

    def explain(self, entries: Array) -> None:
        """Say why a measurement could not tell, where no rule has said so."""
        open_ = self.among(entries, UNRESOLVED)
        open_ = open_[self.reasons[open_] == 0]
        error, bound = np.abs(self.numerical[open_] - self.analytic[open_]), self.bound[open_]
        why = np.where(error > bound, TOO_CLOSE, TOO_WIDE)
        why = np.where(np.isfinite(bound), why, NO_SLOPE)
        why = np.where(np.isfinite(self.analytic[open_]), why, NOT_FINITE)
        for name in np.unique(why):
            self.settle(open_[why == name], UNRESOLVED, str(name))

    def floor(self, entries: Array, value: Array | float) -> Array:
        """Scale below which a bound is fine enough to tell: the primal's own, or the natural one where all is noise."""
        point, length = self.point, self.point.scale[entries]
        natural = point.loudness / np.where(length < TINY, 1.0, length)  # an entry of 1e-15 makes no slope negligible
        scale = self.scale[entries]
        dead = (value == 0) & (self.analytic[entries] == 0)
        natural = np.where(dead, np.maximum(natural, point.inner / point.eps / length), natural)
        return np.where((scale > 64 * point.eps * natural) & ~dead, scale, natural)

    def widen(self, entries: Array, numerical: Array) -> None:
        """A primal's scale is the largest of either gradient, so that one that is zero by mistake does not hide."""
        known = np.zeros(self.point.size)
        known[entries] = numerical
        np.maximum(self.scale, self.point.tops(known), out=self.scale)


def rounded(analytic: Array, value: Array | float, bound: Array) -> Array:
    """The bound, and the rounding of the analytic value itself."""
    wider: Array = bound + ROUNDINGS * np.maximum(np.abs(value), np.abs(analytic))
    return wider


def judge(analytic: Array, value: Array | float, bound: Array, scale: Array) -> Array:
    """Verdicts without regard to kinks; every array has one element for each entry."""
    error = np.abs(value - analytic)
    wide = (bound > WIDE * np.abs(analytic)) & (bound > COARSE * scale)  # the value is as large, where it agrees
    bound = rounded(analytic, value, bound)
    verdicts = np.where(wide, UNRESOLVED, AGREES)
    verdicts = np.where(error > bound, UNRESOLVED, verdicts)
    return np.where((error > FIRM * bound) & np.isfinite(bound), DISAGREES, verdicts).astype(np.int8)
