"""Runs of a kernel: where atomics add in another order each time, all of them must be within the bound.

Bits that change from run to run are no fault of a kernel. What a good one may lose holds for any order of its sums, so
each run is held against it. Where some runs are beyond it, or all of them and they differ by more than two right runs
could, it is that which is told: a race, or a sum in too low a type whose order varies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate.foreign import same
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Comparison, Finding

RUNS = "runs"  # name of a fact of findings: how many runs were compared
# A race that spoils a share q of runs is as likely as not to spoil all of n, or none, with q^n + (1 - q)^n: at q = 1/2
# one time in eight for four runs. At defaults 80 cases and a quarter of them again make up to 140 runs, of which a race
# in one run of 40 escapes one time in 35.
_FURTHER = 3

Judged = dict[str, Array]


@dataclass(frozen=True)
class Runs:
    """Comparisons of several runs of one case, by primal; one for each run that was made."""

    compared: tuple[tuple[Comparison, ...], ...]
    varying: tuple[str, ...]  # primals whose gradient was not the same in all of them

    @property
    def notes(self) -> tuple[str, ...]:
        """For the report of a kernel that is right in all of them."""
        wrong = {c.primal for run in self.compared for c in run if c.wrong.any()}
        return tuple(
            f"the gradient of {name} varies from run to run, within the bound"
            for name in self.varying
            if name not in wrong
        )

    def of(self, primal: str) -> list[Comparison]:
        """One for each run."""
        return [c for run in self.compared for c in run if c.primal == primal]

    def erratic(self, name: str, case: Case, primal: str) -> Finding | None:
        """The finding where the runs of a primal are beyond the bound by what makes them differ."""
        found = self.of(primal)
        beyond = [c for c in found if c.wrong.any()]
        stateful = not found[0].wrong.any() and len(beyond) == len(found) - 1  # a second call is another property's
        if primal not in self.varying or not beyond or stateful:
            return None
        worst = max(beyond, key=lambda c: c.severity)
        at = worst.worst
        values = [float(c.analytic[at]) for c in found]
        apart = max(values) - min(values)
        if len(beyond) == len(found) and apart <= 2 * float(worst.bound[at]):  # two right runs are no closer
            return None
        place = f"{primal}{list(at) if at else ''}"
        message = (
            f"the gradient of {primal} varies from run to run by more than the order of sums may: in {len(beyond)} of "
            f"{len(found)} runs it is beyond the bound, at {place} between {min(values):.6g} and {max(values):.6g}, "
            f"the reference {worst.numerical[at]:.6g} ± {worst.bound[at]:.1g}"
        )
        facts = {RUNS: len(found), "beyond": len(beyond)}
        return Finding(name, "random", primal, message, case, worst, worst.severity, facts)


def repeated(layer: Layer, case: Case, first: Judged, compare: Callable[[Judged], Sequence[Comparison]]) -> Runs:
    """The run that was made, and more of them if the next one is not the same bit by bit."""
    made = [first]
    for k in range(_FURTHER):
        made.append(exact.gradients(layer, case))
        if k == 0 and not _varying(made):
            break
    return Runs(tuple(tuple(compare(run)) for run in made), _varying(made))


def _varying(made: Sequence[Judged]) -> tuple[str, ...]:
    first = made[0]
    return tuple(n for n in first if not all(same(first[n], m[n]) for m in made[1:]))
