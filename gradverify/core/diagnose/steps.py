"""Error against step at one entry: what tells noise, truncation and a real error from one another.

Truncation shrinks as the step squared, noise grows as one over the step; an error that stays where both
are small is in the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.central import NOISE_FACTOR
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Array, Case, Comparison
from gradverify.core.properties.gradient import working_dtype


@dataclass(frozen=True, slots=True)
class Steps:
    """Central differences of one entry at steps from large to small; arrays have one element for each step.

    Attributes
    ----------
    primal, index : the entry
    step : in units of the entry
    numerical, noise : quotient, and the bound on its rounding error
    analytic : what backward says
    chosen, bound : the estimate that the ladder settles on, with its bound
    """

    primal: str
    index: tuple[int, ...]
    step: Array
    numerical: Array
    noise: Array
    analytic: float
    chosen: float
    bound: float

    @property
    def error(self) -> Array:
        """Distance of each quotient from the analytic value."""
        return np.abs(self.numerical - self.analytic)

    @property
    def rungs(self) -> tuple[tuple[float, float, float], ...]:
        """Step, quotient minus analytic value, and noise, as plain numbers, where they can be known."""
        rows = zip(self.step, self.numerical - self.analytic, self.noise)
        return tuple((float(h), float(e), float(noise)) for h, e, noise in rows if np.isfinite([e, noise]).all())

    @property
    def says(self) -> str:
        """What the table shows, in one sentence."""
        distance = abs(self.chosen - self.analytic)
        quiet = self.noise < 0.1 * distance
        level = np.abs(self.error - distance) < 0.1 * distance
        if not np.isfinite(self.bound):
            return "no step can be believed here: the numerical derivative is not known"
        if distance <= self.bound:
            return "the error falls with the step until noise takes over: central differences agree at this entry"
        if (quiet & level).sum() > 1:
            count = int((quiet & level).sum())
            return (
                f"the error stays at {distance:.3g} for {count} steps at which noise is far below it, so it is neither "
                "truncation nor noise: the gradient is wrong"
            )
        return f"the error is {distance:.3g} where the bound is {self.bound:.3g}; no step shows it clearly"


def steps(layer: Layer, case: Case, comparison: Comparison) -> Steps:
    """The ladder at the worst entry of a primal; raises LayerFailure if forward fails."""
    case, _ = evaluate.completed(layer, case)
    point = Point(layer, case, working_dtype(case))
    slot = next(s for s in point.slots if s.name == comparison.primal)
    place = comparison.worst
    flat = slot.start + int(np.ravel_multi_index(place, slot.shape)) if slot.shape else slot.start
    entries = np.array([flat])
    h = ladder.steps(point, entries)[0]
    moved = point.slopes(np.repeat(entries, h.size), h, -h, h.size)
    with np.errstate(all="ignore"):
        quotient, noise = moved.change / moved.gap, NOISE_FACTOR * moved.noise / np.abs(moved.gap)
    analytic = float(np.real(comparison.analytic[place]))
    estimate = ladder.entrywise(point, entries, np.nan_to_num(np.full(entries.size, analytic)))
    chosen, bound = float(estimate.value[0]), float(estimate.bound[0])
    return Steps(comparison.primal, place, h, quotient, noise, analytic, chosen, bound)
