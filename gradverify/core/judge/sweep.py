"""A gradient, entry by entry: agrees, disagrees, kink or unresolved.

Most entries are decided by one central difference: where value and analytic gradient differ by no more than the
rounding noise, and the noise is small, no finer instrument could say more. The rest climb the ladder; what then
disagrees by more than the backward itself may be rounded goes before the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from gradverify.core.differentiate.central import best_step, paired
from gradverify.core.differentiate.complexstep import complex_step
from gradverify.core.differentiate.point import Point
from gradverify.core.differentiate.sides import one_sided
from gradverify.core.judge.dispute import Dispute
from gradverify.core.judge.measure import allow, climb, measured, single_steps
from gradverify.core.judge.rules.kink import between
from gradverify.core.judge.table import tried
from gradverify.core.judge.verdicts import CONVENTION, ENOUGH, Sweep
from gradverify.core.nouns import DISAGREES, KINK, UNRESOLVED, Array, Comparison

FEW = 4  # entries that stand for a primal that looks wrong
CLEAR = 100.0  # times its noise that an entry disagrees by at every single step, for its primal to look wrong

Allowance = Callable[[bool], Array]


@np.errstate(all="ignore")
def sweep(
    point: Point,
    analytic: Array,
    step: float | None = None,
    *,
    drawn: float | None = None,
    method: str = "adaptive",
    allowance: Allowance | None = None,
    entries: Array | None = None,
    few: bool = False,
) -> Sweep:
    """Compare a gradient element by element.

    Parameters
    ----------
    analytic : flat gradient, shape (P,); NaN entries are left unresolved
    step : relative step tried first; None starts at the best step
    drawn : relative step of which the steps are multiples by powers of 4
    method : "adaptive"; "central" for the tutorial's procedure at `step` alone; "complex" for the complex step
    allowance : ``(small) -> rounding error of the analytic gradient itself``, shape (P,), asked for only on
        disagreement; `small` tells that one is so small that rounding may be all of it
    entries : flat indices to compare, default all
    few : whether one entry that is wrong for certain is enough for its primal, and others are then not tried
    """
    result = Sweep.blank(point, analytic)
    chosen = np.arange(point.size) if entries is None else entries
    todo = chosen[np.isfinite(analytic[chosen])]
    court = None if allowance is None else cache(allowance)
    if method == "complex":
        measured(result, todo, complex_step(point, todo))
        _decide(result, todo, court)
    elif method == "central":
        measured(result, todo, paired(point, todo, step or drawn or best_step(point.eps), analytic)[0])
        _decide(result, todo, court)
    else:
        todo, doubt = single_steps(result, todo, step, drawn)
        clearest = _clearest(point, todo, doubt) if few else np.zeros(todo.size, bool)
        for some in (todo[clearest], todo[~clearest]):
            some = _untold(result, some)
            climb(result, some)
            _decide(result, some, court)
    if point.layer.declared.kinks != "between":
        _conventions(result)
    result.explain(chosen)
    return result


def _clearest(point: Point, entries: Array, doubt: Array) -> Array:
    """The few entries of each primal that disagree most clearly, where they do at all; a mask, shape (n,)."""
    found = np.zeros(entries.size, bool)
    for slot in point.slots:
        inside = np.flatnonzero((entries >= slot.start) & (entries < slot.stop) & (doubt >= CLEAR))
        found[inside[np.argsort(-doubt[inside], kind="stable")[:FEW]]] = True
    return found


def _untold(result: Sweep, entries: Array) -> Array:
    """Entries whose primal has none yet that is wrong for certain; what is left out is marked as such."""
    enough = np.zeros(entries.size, bool)
    for slot in result.point.slots:
        if (result.verdicts[slot.start : slot.stop] == DISAGREES).any():
            enough |= (entries >= slot.start) & (entries < slot.stop)
    result.settle(entries[enough], UNRESOLVED, ENOUGH)
    return entries[~enough]


def _decide(result: Sweep, entries: Array, allowance: Allowance | None) -> None:
    """What disagrees by more than backward may be rounded goes before the rules."""
    wrong = result.among(entries, DISAGREES)
    if allowance is not None:
        wrong = allow(result, wrong, allowance)
    if wrong.size == 0:
        return
    known = result.analytic[wrong]
    verdicts, reasons = tried(Dispute(result.point, wrong, known, result.numerical[wrong], result.bound[wrong]))
    for name in dict.fromkeys(reasons):
        by = reasons == name
        result.settle(wrong[by], verdicts[by], name)


def _conventions(result: Sweep) -> None:
    """A declared convention is stricter than a central difference, which any symmetric kink satisfies."""
    entries = np.flatnonzero(np.isfinite(result.analytic) & (result.verdicts != DISAGREES))
    if entries.size == 0:
        return
    known = result.analytic[entries]
    right, left = (one_sided(result.point, entries, known, side) for side in (+1, -1))
    accepted, jump = between(known, left, right, result.point.layer.declared.kinks)
    result.settle(entries[jump], DISAGREES)
    result.settle(entries[accepted], KINK, CONVENTION)


def comparisons(result: Sweep, names: set[str]) -> tuple[Comparison, ...]:
    """The flat result as one Comparison for each of some primals, in the primal's shape."""
    found, layer = [], result.point.layer
    for slot in result.point.slots:
        if slot.name not in names:
            continue
        part = slice(slot.start, slot.stop)
        labels = layer.primal(slot.name).dims.labels(len(slot.shape) - slot.complex)
        labels += ("re/im",) if slot.complex else ()
        fields = (result.analytic, result.numerical, result.bound, result.verdicts, result.reasons)
        a, n, b, v, why = (field[part].reshape(slot.shape) for field in fields)
        top = float(result.scale[part].max(initial=0.0))
        found.append(Comparison(slot.name, a, n, b, v, top, labels, why, tuple(result.names)))
    return tuple(found)
