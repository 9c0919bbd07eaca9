"""What is measured along an entry: single steps first, which settle most; then the ladder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.central import best_step, central
from gradverify.core.differentiate.chain import abreast, chain
from gradverify.core.differentiate.point import Point
from gradverify.core.differentiate.sides import TINY, finer_scale
from gradverify.core.judge.verdicts import APART, FAINT, FIRM, JUMP, UNDECLARED, Sweep, judge
from gradverify.core.nouns import AGREES, DISAGREES, UNRESOLVED, Array, Estimate

INNER = 4  # times what values inside are rounded by: two outputs are subtracted, and either may be off by two of it
_HIDES = 1e-4  # of a gradient: what backward is rounded by hides no more, whatever its rounding is measured to be
FINE = 0.25  # of the square root of the precision: a single step decides below that share of the largest entry (4e-9)
UPWARD = ladder.RATIO ** np.arange(8.0)  # steps from the best one upward, each RATIO times the one before
DOWNWARD = ladder.RATIO ** -np.arange(1.0, 5.0)  # and from there downward
TINIEST = 2.0 ** -np.array([12.0, 18.0, 24.0, 30.0])  # natural steps over which the outputs change by the same ...
STEADY = 0.9  # ... to this share, where forward jumps
TURNING = 16  # entries that are looked at where a gradient may turn over within the smallest step
SHEER = 2.0**-44  # natural steps, some units in the last place, over which nothing but a jump changes by as much ...
SHEERER = 2.0 ** -np.arange(5.0, 125.0, 5.0)  # times that, where the entry is so small that this can be stepped ...
GRADUAL = 2.0**-6  # ... and a slope, at one of them, changes by between this share of it and STEADY
MODEST = 1e3  # ... unless values are larger than this: a transition between scores of 1e10 is steeper
TALL = 1e-3  # of the outputs: a forward that iterates to a tolerance jumps by less
SMALL = 1e-3  # of the natural step: an entry below may be far from what its primal's scale tells
OTHER = np.array([1.37, 1.83]) * 2.0**-6  # times the best step: small enough that truncation is below noise
LARGE = (1.0, 2.0**-4, 2.0**-8)  # relative steps at which to ask whether anything moves at all


def single_steps(sweep: Sweep, todo: Array, step: float | None, drawn: float | None) -> tuple[Array, Array]:
    """Settle what single steps can, at two forwards for each entry and step.

    First the step that was given, then from the best one upward: noise shrinks as the step grows. Where truncation
    is in the way, from there downward. Where no output moves at the best step, only a large one can tell.

    Parameters
    ----------
    step : relative step tried first, if any
    drawn : relative step of which the others are multiples by powers of RATIO: the one among them that is nearest to
        the best one stands for it. A step that is drawn at random decides one entry in five, and the best one most

    Returns
    -------
    the entries that are left, and for each how many times its noise the disagreement is, at the least, shape (n,)
    """
    point, analytic = sweep.point, sweep.analytic
    first = nearest(best_step(point.eps), drawn)
    ways = first * UPWARD, first * DOWNWARD
    given = () if step is None else (np.array([max(step, 8 * point.eps)]),)
    doubt = np.full(todo.size, np.inf)
    for steps in (*given, *ways):
        if todo.size == 0:
            break
        fine = FINE * sweep.point.eps**0.5 * sweep.scale[todo]
        found = chain(point, todo, analytic, steps, fine)
        value, noise, decided = analytic[todo] + found.error, found.noise, found.noise <= fine
        if steps is ways[0]:
            if found.still.any():
                _settle_unmoved(sweep, todo[found.still])
            if found.through.any():
                decided |= found.through & (judge(analytic[todo], value, noise, sweep.scale[todo]) == AGREES)
        sweep.store(todo[decided], value[decided], noise[decided], AGREES)
        left = sweep.verdicts[todo] != AGREES
        todo, doubt = todo[left], np.minimum(doubt, found.doubt)[left]
    return todo, doubt


def nearest(best: float, drawn: float | None) -> float:
    """The multiple of a drawn step by a power of RATIO that is nearest to the best step."""
    if drawn is None:
        return best
    return float(drawn * ladder.RATIO ** np.round(np.log(best / drawn) / np.log(ladder.RATIO)))


def _settle_unmoved(sweep: Sweep, entries: Array) -> None:
    """Settle entries that move no output, not even by a large step: saturated, switched off, not used."""
    first = 0
    while entries.size and first < len(LARGE):
        steps = np.array(LARGE[first : first + abreast(sweep.point, entries.size, first)])
        first += steps.size
        estimate, _, moved = central(sweep.point, entries, steps, sweep.analytic)
        for quiet, noise in zip(~moved, estimate.rounding):
            at, bound = entries[quiet], noise[quiet]
            verdicts = judge(sweep.analytic[at], 0.0, bound, sweep.floor(at, 0.0))
            better = (verdicts == AGREES) & (bound < sweep.bound[at])
            sweep.store(at[better], 0.0, bound[better], AGREES)
        entries = entries[moved.all(axis=0)]


def climb(sweep: Sweep, todo: Array) -> None:
    """Ladder on what single steps left open; wider, finer or one-sided where the natural scale says nothing."""
    if todo.size == 0:
        return
    point, known, every = sweep.point, sweep.analytic, todo
    rate, noise = ladder.quotients(point, todo, known[todo])
    measured(sweep, todo, ladder.chosen(point, todo, known[todo], rate, noise))
    left = sweep.verdicts[todo] == UNRESOLVED
    todo = todo[left]
    if todo.size:  # what is rounded inside may make a ladder doubt its smaller steps, and larger ones tell
        rate, noise = rate[left], noise[left]
        wider = ladder.chosen(point, todo, known[todo], rate, noise, wary=True)
        kept = ~_contradicted(rate, noise, wider.value - known[todo], wider.bound)
        measured(sweep, todo[kept], wider.rows(kept))
        todo = sweep.among(todo, UNRESOLVED)
    tiny = todo[point.scale[todo] < TINY]  # steps relative to a tiny entry may be far below the length scale
    if tiny.size:
        measured(sweep, tiny, ladder.entrywise(point, tiny, known[tiny], scale=np.ones(tiny.size)), length=1.0)
    todo = todo[~np.isfinite(sweep.bound[todo])]
    if todo.size:
        finer, wary = finer_scale(point)[todo], point.grid is not None
        measured(sweep, todo, ladder.entrywise(point, todo, known[todo], scale=finer, wary=wary))
    for side in (+1, -1):  # the edge of a domain has one side only
        todo = todo[~np.isfinite(sweep.bound[todo])]
        if todo.size:
            measured(sweep, todo, ladder.entrywise(point, todo, known[todo], side=side))
    _closer(sweep, every)
    _jumping(sweep, every[(sweep.verdicts[every] == DISAGREES) | ~np.isfinite(sweep.bound[every])])
    _other_digits(sweep, every)


def _contradicted(rate: Array, noise: Array, off: Array, bound: Array) -> Array:
    """Which disagreements, shape (n,), the smallest step of a ladder denies: it is nearer to backward, for certain.

    Beyond a border, as that of a clip next to the point, all larger steps tell one slope, and it is not that of the
    point.

    Parameters
    ----------
    rate, noise : difference quotients less the analytic value, shape (n, R), large steps first
    """
    usable = np.isfinite(rate)
    last = np.arange(off.size), rate.shape[1] - 1 - np.argmax(usable[:, ::-1], axis=1)
    near, far = np.abs(rate[last]), np.abs(rate[last] - off)
    return np.asarray((np.abs(off) > bound) & (near < far - noise[last] - bound))


def _other_digits(sweep: Sweep, entries: Array) -> None:
    """Widen the bound of what disagrees by what it changes over steps with other digits than those of the ladder.

    All of these are powers of two times one number. Where what is added up inside is rounded in proportion to the step,
    as around a point at which all outputs are 0, their quotients are one wrong number, and no noise shows:
    LayerNorm(x).sum() of three zeros changes by 2^-45 of each step.
    """
    wrong = sweep.among(entries, DISAGREES)
    if wrong.size == 0 or sweep.point.loudness > 0:
        return
    estimate, _, _ = central(sweep.point, wrong, best_step(sweep.point.eps) * OTHER, sweep.analytic)
    with np.errstate(invalid="ignore"):
        apart = np.abs(estimate.value - sweep.numerical[wrong])
        heard = (apart > estimate.rounding + sweep.bound[wrong]) & np.isfinite(estimate.rounding)
    more = np.where(heard, apart, 0.0).max(axis=0)
    sweep.bound[wrong] += more
    known, value, bound = sweep.analytic[wrong], sweep.numerical[wrong], sweep.bound[wrong]
    sweep.settle(wrong[more > 0], judge(known, value, bound, sweep.floor(wrong, value))[more > 0])


def _jumping(sweep: Sweep, entries: Array) -> None:
    """Name what has no slope because forward jumps there: the change does not shrink with the step.

    Such a change over a step is a slope as well, and next to one of 1e50, as where a softmax of scores as large has a
    tie, the slopes of all steps look alike.
    """
    if entries.size == 0:
        return
    steps = np.multiply.outer(sweep.point.scale[entries], TINIEST)
    moved = sweep.point.slopes(np.repeat(entries, TINIEST.size), steps.ravel(), -steps.ravel(), TINIEST.size)
    change = np.abs(moved.change).reshape(steps.shape)
    jumps = (change.min(axis=1) > STEADY * change.max(axis=1)) & (change.max(axis=1) > 0)
    sweep.settle(entries[jumps], UNRESOLVED, JUMP)
    if jumps.any() and not sweep.point.layer.declared.jumps:
        torn = _torn(sweep, entries[jumps], change[jumps].max(axis=1))
        sweep.settle(entries[jumps][torn], UNRESOLVED, UNDECLARED)


def _torn(sweep: Sweep, entries: Array, change: Array) -> Array:
    """Which jumps are no steep slope, and no step between two levels, whose slope is 0 by everybody's convention.

    Parameters
    ----------
    change : over steps at which it no longer shrinks, shape (n,)
    """
    point = sweep.point
    sizes = [float(np.max(np.abs(a), initial=0.0)) for a in point.primals.values() if a.dtype.kind in "fc"]
    if point.grid is not None or max(sizes, default=0.0) > MODEST:
        return np.zeros(entries.size, bool)
    least, beside = SHEER * point.scale[entries], TINIEST[0] * point.scale[entries]
    sheer = np.abs(point.slopes(entries, least, -least).change) > STEADY * change
    flat = sweep.analytic[entries] == 0
    for side in (1.0, -1.0):
        flat &= ~point.slopes(entries, side * 2 * beside, side * beside).moved
    torn = np.asarray(sheer & ~flat & (change > TALL * point.loudness))
    torn[torn] = ~_sloping(point, entries[torn], least[torn], change[torn])
    return torn


def _sloping(point: Point, entries: Array, least: Array, change: Array) -> Array:
    """Which entries at or next to zero move outputs by degrees over still smaller steps, as in x / max(|x|, 1e-12)."""
    near = np.flatnonzero(np.abs(point.values[entries]) < least)
    steps = np.multiply.outer(least[near], SHEERER)
    moved = point.slopes(np.repeat(entries[near], SHEERER.size), steps.ravel(), -steps.ravel(), SHEERER.size)
    share = np.abs(moved.change).reshape(steps.shape) / change[near, None]
    found = np.zeros(entries.size, bool)
    found[near] = ((share > GRADUAL) & (share < STEADY)).any(axis=1)
    return found


def _closer(sweep: Sweep, entries: Array) -> None:
    """Look again, at steps of its own size, at what disagrees and is far smaller than the rest of its primal.

    An even function such as 1/x^2 differences to 0 across its pole, and looks converged. Of two estimates that
    exclude each other the one at smaller steps is right: a larger step counts while it agrees with smaller ones.
    Where the smaller ones tell nothing beside numbers whose last place is no small step, the larger ones do not either.
    """
    own = np.abs(sweep.point.values)
    wrong = sweep.among(entries, DISAGREES)
    small = wrong[(own[wrong] > 0) & (own[wrong] < SMALL * sweep.point.scale[wrong])]
    if small.size == 0:
        return
    coarse = ladder.coarse(sweep.point)
    near = _moved(sweep.point, small, own) if coarse else sweep.point
    close = ladder.entrywise(near, small, sweep.analytic[small], scale=own[small].astype(float))
    apart = np.abs(close.value - sweep.numerical[small]) > close.bound + sweep.bound[small]
    apart |= ~np.isfinite(close.bound) & coarse
    measured(sweep, small[apart], close.rows(apart), True)


def _moved(point: Point, entries: Array, step: Array) -> Point:
    """The point with no weight on outputs that stay what they are when entries move: these lend but their rounding."""
    rows = np.zeros((2, point.size))
    rows[:, entries] = step[entries] * np.array([[1.0], [-1.0]])
    y = point.outputs(point.unpacked(point.values + rows, point.slots), 2)
    near = Point(point.layer, point.case, None, point.memory)
    near.weights = np.where((y == point.base).all(axis=0), 0.0, point.weights)
    return near


def measured(
    sweep: Sweep, entries: Array, estimate: Estimate, anyway: bool = False, length: float | None = None
) -> None:
    """Keep estimates that are better than what is known, or all of them; `length` is that of steps but natural ones."""
    value, bound = np.asarray(estimate.value, float), np.asarray(estimate.bound, float)
    better = (bound < sweep.bound[entries]) | anyway
    entries, value, bound = entries[better], value[better], bound[better]
    sweep.widen(entries, value)
    known = sweep.analytic[entries]
    verdicts = judge(known, value, bound, sweep.floor(entries, value))
    sweep.store(entries, value, bound, verdicts)
    faint = np.abs(value - known) <= INNER * sweep.point.inner / (length or sweep.point.scale[entries])
    sweep.settle(entries[faint & (verdicts == DISAGREES)], UNRESOLVED, FAINT)


def allow(sweep: Sweep, wrong: Array, allowance: Callable[[bool], Array]) -> Array:
    """Add the rounding of the backward itself to the bound, unless it is so large that it would hide anything.

    Where primals are so large that their last place is no small step, it settles nothing and leaves nothing wrong: of
    many entries some differ by little one unit away, and are as little told as the others.

    Returns the entries that still disagree.
    """
    if wrong.size == 0:
        return wrong
    point = sweep.point
    is_coarse = ladder.coarse(point)
    cap = _HIDES * np.maximum(sweep.scale[wrong], point.loudness / point.scale[wrong])
    error = np.abs(sweep.numerical[wrong] - sweep.analytic[wrong])
    if not (is_coarse or (error <= FIRM * (sweep.bound[wrong] + cap)).any()):
        return wrong  # whatever backward is rounded by, it settles none of them
    every = allowance(bool((error <= cap).any()))
    extra = every[wrong]
    apart = (error <= point.tops(np.where(np.isfinite(every), every, 0.0))[wrong]) & is_coarse
    extra = np.where(np.isfinite(extra) & (extra <= cap), extra, 0.0)
    sweep.bound[wrong] += extra
    pardoned = error <= FIRM * sweep.bound[wrong]
    sweep.settle(wrong[pardoned], UNRESOLVED)
    sweep.settle(wrong[error <= sweep.bound[wrong]], AGREES)
    if is_coarse and not (pardoned | apart).all():
        apart |= _between_steps(sweep, wrong, error)
    sweep.settle(wrong[apart & ~pardoned], UNRESOLVED, APART)
    return wrong[~pardoned & ~apart]


def _between_steps(sweep: Sweep, entries: Array, error: Array) -> Array:
    """Which of a few entries have another gradient on both sides, as near as the smallest step: no difference tells of
    a softmax of scores of 1e8 that turns over within that.
    """
    point, found = sweep.point, np.zeros(entries.size, bool)
    for k, entry in enumerate(entries[:TURNING]):
        smallest = ladder.steps(point, entries[k : k + 1])[0, -1]
        there = point.gradients_along(int(entry), smallest * np.array([1.0, -1.0]))
        if there is None or not (np.abs(there - sweep.analytic[entry]) > 0.5 * error[k]).all():
            break  # there is a finding whatever the others say
        found[k] = True
    return found
