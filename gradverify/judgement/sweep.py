"""Estimates against analytic values: agrees, disagrees, kink or unresolved, entry by entry.

Most entries are decided by one central difference: where value and analytic gradient differ by no
more than the rounding noise, and the noise is small, no finer instrument could say more. The rest
climb the ladder; what then disagrees is tried for a kink, and for rounding in the backward itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradverify.differences import ladder
from gradverify.differences.central import NOISE_FACTOR, best_step, central, paired
from gradverify.differences.chain import abreast, chain
from gradverify.differences.complexstep import complex_step
from gradverify.differences.point import Point
from gradverify.judgement.dispute import Dispute, finer_scales, one_sided
from gradverify.judgement.rules.kink import between
from gradverify.judgement.table import tried
from gradverify.types import AGREES, DISAGREES, KINK, UNRESOLVED, Array, Case, Comparison, Estimate

FINE = 4e-9  # a single step decides only where its bound is below this share of the largest entry
UPWARD = ladder.RATIO ** np.arange(8.0)  # steps from the best one upward, each RATIO times the one before
SKIPPED = 2  # at the most, of the first ones
DOWNWARD = ladder.RATIO ** -np.arange(1.0, 5.0)  # and from there downward
LARGE = (1.0, 2.0**-4, 2.0**-8)  # relative steps at which to ask whether anything moves at all
FIRM = 8.0  # errors up to this many bounds are in doubt, not wrong
WIDE = 1e-3  # a bound above this share of the entry ...
ROUNDINGS = 1e-14  # of the analytic value itself: some tens of operations in float64
COARSE = 1e-4  # ... and this share of the primal's scale is too wide to tell


@dataclass(slots=True)
class Sweep:
    """Element-by-element result over the flat parameters; every array has shape (P,)."""

    numerical: Array
    bound: Array
    verdicts: Array
    scale: Array  # for each entry, the scale of its primal's gradient


@np.errstate(all="ignore")
def sweep(
    point: Point,
    analytic: Array,
    step: float | None = None,
    *,
    method: str = "adaptive",
    allowance: Callable[[bool], Array] | None = None,
    entries: Array | None = None,
    case: Case | None = None,
) -> Sweep:
    """Compare a gradient element by element.

    Parameters
    ----------
    analytic : flat gradient, shape (P,); NaN entries are left unresolved
    step : relative step tried first; None starts at the best step
    method : "adaptive"; "central" for the tutorial's procedure at `step` alone; "complex" for the complex step
    allowance : ``(small) -> rounding error of the analytic gradient itself``, shape (P,), asked for only on
        disagreement; `small` tells that one is so small that rounding may be all of it
    entries : flat indices to compare, default all
    case : of the point; with it, disagreements where several kinks meet are looked at from nearby
    """
    result = Sweep(
        numerical=np.full(point.size, np.nan),
        bound=np.full(point.size, np.inf),
        verdicts=np.full(point.size, UNRESOLVED, np.int8),
        scale=_scales(point, analytic),
    )
    todo = np.arange(point.size) if entries is None else entries
    todo = todo[np.isfinite(analytic[todo])]
    if method == "complex":
        _settle(point, result, analytic, todo, complex_step(point, todo))
    elif method == "central":
        _settle(point, result, analytic, todo, paired(point, todo, step or best_step(point.eps), analytic)[0])
    else:
        todo = _single_steps(point, result, analytic, todo, step)
        todo = _climb(point, result, analytic, todo)
    wrong = np.flatnonzero(result.verdicts == DISAGREES)
    if wrong.size and allowance is not None:
        wrong = _allow(point, result, analytic, wrong, allowance)
    if wrong.size:
        _dispute(point, case, result, analytic, wrong)
    if point.layer.declared.kinks != "between":
        _conventions(point, result, analytic)
    return result


def _scales(point: Point, analytic: Array) -> Array:
    """Largest analytic entry of each primal; where that is zero, the natural scale |v y| / |x|."""
    tops = point.tops(analytic)
    return tops if tops.all() else np.where(tops > 0, tops, point.loudness / point.scale)


def _single_steps(point: Point, result: Sweep, analytic: Array, todo: Array, step: float | None) -> Array:
    """Settle what single steps can, at two forwards for each entry and step; the rest is returned.

    First the step that was given, then from the best one upward: noise shrinks as the step grows. Where truncation
    is in the way, from there downward. Where no output moves at the best step, only a large one can tell.
    """
    first = best_step(point.eps) * ladder.RATIO ** _loud(point, result, todo)
    ways = first * UPWARD, first * DOWNWARD
    given = () if step is None else (np.array([max(step, 8 * point.eps)]),)
    for steps in (*given, *ways):
        if todo.size == 0:
            break
        fine = FINE * result.scale[todo]
        found = chain(point, todo, analytic, steps, fine)
        value, noise, decided = analytic[todo] + found.error, found.noise, found.noise <= fine
        if steps is ways[0]:
            if found.still.any():
                _still(point, result, analytic, todo[found.still])
            if found.through.any():
                decided |= found.through & (judge(analytic[todo], value, noise, result.scale[todo]) == AGREES)
        _store(result, todo[decided], value[decided], noise[decided], AGREES)
        todo = todo[result.verdicts[todo] != AGREES]
    return todo


def _loud(point: Point, result: Sweep, entries: Array) -> int:
    """How many steps to leave out from the best one upward, since outputs as large as these are rounded too coarsely
    to decide there.
    """
    if entries.size == 0:
        return 0
    bound = NOISE_FACTOR * point.eps * point.loudness / (4 * best_step(point.eps) * point.scale[entries])
    excess = bound / (FINE * result.scale[entries])
    most = entries.size // 2  # entries that may stay behind
    return sum(int(np.count_nonzero(excess <= ladder.RATIO**k) <= most) for k in range(SKIPPED))


def _still(point: Point, result: Sweep, analytic: Array, entries: Array) -> None:
    """Settle entries that move no output, not even by a large step: saturated, switched off, not used."""
    first = 0
    while entries.size and first < len(LARGE):
        steps = np.array(LARGE[first : first + abreast(point, entries.size, first)])
        first += steps.size
        estimate, _, moved = central(point, entries, steps, analytic)
        for quiet, noise in zip(~moved, estimate.rounding):
            at, bound = entries[quiet], noise[quiet]
            verdicts = judge(analytic[at], 0.0, bound, _floor(point, result, analytic, at, np.zeros(at.size)))
            better = (verdicts == AGREES) & (bound < result.bound[at])
            _store(result, at[better], 0.0, bound[better], AGREES)
        entries = entries[moved.all(axis=0)]


def _widen(point: Point, result: Sweep, entries: Array, numerical: Array) -> None:
    """A primal's scale is the largest of either gradient, so that one that is zero by mistake does not hide."""
    known = np.zeros(point.size)
    known[entries] = numerical
    np.maximum(result.scale, point.tops(known), out=result.scale)


def _climb(point: Point, result: Sweep, analytic: Array, todo: Array) -> Array:
    """Ladder on what one step left open; wider, finer or one-sided where the natural scale says nothing."""
    if todo.size == 0:
        return todo
    rate, noise = ladder.quotients(point, todo, analytic[todo])
    _settle(point, result, analytic, todo, ladder.chosen(point, todo, analytic[todo], rate, noise))
    left = result.verdicts[todo] == UNRESOLVED
    todo = todo[left]
    if todo.size:  # what is rounded inside may make a ladder doubt its smaller steps, and larger ones tell
        wary = ladder.chosen(point, todo, analytic[todo], rate[left], noise[left], wary=True)
        _settle(point, result, analytic, todo, wary)
        todo = todo[result.verdicts[todo] == UNRESOLVED]
    tiny = todo[point.scale[todo] < 1e-2]  # steps relative to a tiny entry may be far below the length scale
    if tiny.size:
        _settle(point, result, analytic, tiny, ladder.entrywise(point, tiny, analytic[tiny], scale=np.ones(tiny.size)))
    for finer in finer_scales(point):
        todo = todo[~np.isfinite(result.bound[todo])]
        if todo.size:
            close = ladder.entrywise(point, todo, analytic[todo], scale=finer[todo], wary=point.grid is not None)
            _settle(point, result, analytic, todo, close)
    for side in (+1, -1):  # the edge of a domain has one side only
        todo = todo[~np.isfinite(result.bound[todo])]
        if todo.size:
            _settle(point, result, analytic, todo, ladder.entrywise(point, todo, analytic[todo], side=side))
    return todo


def _settle(point: Point, result: Sweep, analytic: Array, entries: Array, estimate: Estimate) -> None:
    value, bound = np.asarray(estimate.value, float), np.asarray(estimate.bound, float)
    better = bound < result.bound[entries]
    entries, value, bound = entries[better], value[better], bound[better]
    _widen(point, result, entries, value)
    verdicts = judge(analytic[entries], value, bound, _floor(point, result, analytic, entries, value))
    faint = np.abs(value - analytic[entries]) <= 4 * point.inner / point.scale[entries]
    verdicts[faint & (verdicts == DISAGREES)] = UNRESOLVED  # below what values inside are rounded by
    _store(result, entries, value, bound, verdicts)


def _floor(point: Point, result: Sweep, analytic: Array, entries: Array, value: Array) -> Array:
    """Scale below which a bound is fine enough to tell: the primal's own, or the natural one where all is noise."""
    natural = point.loudness / point.scale[entries]
    scale = result.scale[entries]
    dead = (value == 0) & (analytic[entries] == 0)
    natural = np.where(dead, np.maximum(natural, point.inner / point.eps / point.scale[entries]), natural)
    return np.where((scale > 64 * point.eps * natural) & ~dead, scale, natural)


def judge(analytic: Array, value: Array | float, bound: Array, scale: Array) -> Array:
    """Verdicts without regard to kinks; every array has one element for each entry."""
    error = np.abs(value - analytic)
    wide = (bound > WIDE * np.maximum(np.abs(value), np.abs(analytic))) & (bound > COARSE * scale)
    bound = bound + ROUNDINGS * np.maximum(np.abs(value), np.abs(analytic))
    verdicts = np.where(wide, UNRESOLVED, AGREES)
    verdicts = np.where(error > bound, UNRESOLVED, verdicts)
    return np.where((error > FIRM * bound) & np.isfinite(bound), DISAGREES, verdicts).astype(np.int8)


def _store(result: Sweep, entries: Array, value: Array | float, bound: Array, verdicts: Array | int) -> None:
    result.numerical[entries] = value
    result.bound[entries] = bound
    result.verdicts[entries] = verdicts


def _allow(point: Point, result: Sweep, analytic: Array, wrong: Array, allowance: Callable[[bool], Array]) -> Array:
    """Add the rounding of the backward itself to the bound, unless it is so large that it would hide anything."""
    cap = 1e-4 * np.maximum(result.scale[wrong], point.loudness / point.scale[wrong])
    error = np.abs(result.numerical[wrong] - analytic[wrong])
    extra = allowance(bool((error <= cap).any()))[wrong]
    extra = np.where(np.isfinite(extra) & (extra <= cap), extra, 0.0)
    result.bound[wrong] += extra
    pardoned = error <= FIRM * result.bound[wrong]
    result.verdicts[wrong[pardoned]] = UNRESOLVED
    result.verdicts[wrong[error <= result.bound[wrong]]] = AGREES
    return wrong[~pardoned]


def _dispute(point: Point, case: Case | None, result: Sweep, analytic: Array, wrong: Array) -> None:
    """Ask every rule about what disagrees."""
    told = tried(Dispute(point, case, wrong, analytic[wrong], result.numerical[wrong], result.bound[wrong]))
    result.verdicts[wrong] = told.verdicts
    result.numerical[wrong], result.bound[wrong] = told.numerical, told.bound


def _conventions(point: Point, result: Sweep, analytic: Array) -> None:
    """A declared convention is stricter than a central difference, which any symmetric kink satisfies."""
    entries = np.flatnonzero(np.isfinite(analytic) & (result.verdicts != DISAGREES))
    if entries.size == 0:
        return
    right, left = (one_sided(point, entries, analytic[entries], side) for side in (+1, -1))
    accepted, jump = between(analytic[entries], left, right, point.layer.declared.kinks)
    result.verdicts[entries[jump]] = DISAGREES
    result.verdicts[entries[accepted]] = KINK


def comparisons(point: Point, analytic: Array, result: Sweep) -> tuple[Comparison, ...]:
    """The flat result as one Comparison for each primal, in the primal's shape."""
    found = []
    for slot in point.slots:
        part = slice(slot.start, slot.stop)
        primal = point.layer.primal(slot.name)
        labels = primal.dims.labels(len(slot.shape) - slot.complex) + (("re/im",) if slot.complex else ())
        shaped = (a[part].reshape(slot.shape) for a in (analytic, result.numerical, result.bound, result.verdicts))
        a, n, b, v = shaped
        top = float(result.scale[part].max(initial=0.0))
        found.append(Comparison(slot.name, a, n, b, v, top, labels))
    return tuple(found)
