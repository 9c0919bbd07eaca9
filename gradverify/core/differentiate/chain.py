"""Chains of single steps: two forwards for each entry and step, for as long as the steps agree.

A residual that is no larger than its own rounding noise says that the gradient is right to within that
noise, unless truncation happens to make up for an error; a chain in which two steps in a row agree, while
truncation grows sixteenfold from one to the next, leaves no room for that. How much noise there is at one
step tells at which it is small enough, and the steps between are left out. Where truncation shows, one
extrapolation with the step before (L. F. Richardson, 1911) does without it. No wrong gradient is found
here: what a chain leaves open is for the ladder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradverify.core.differentiate.central import central
from gradverify.core.differentiate.ladder import RATIO, extrapolations
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Array

_AHEAD = 256 << 10  # bytes of perturbed copies that are cheaper than another call


@dataclass(frozen=True, slots=True)
class Chain:
    """Where the chains of some entries ended; every array has shape (n,)."""

    error: Array  # numerical minus analytic derivative at the last step that agreed
    noise: Array  # its rounding bound; infinite where no step agreed
    through: Array  # whether every step agreed and the noise is not yet as small as was asked for
    still: Array  # whether no output moved at the first step
    doubt: Array  # how many times its noise the disagreement at the first step is


def chain(point: Point, entries: Array, analytic: Array, steps: Array, fine: Array) -> Chain:
    """Walk from step to step until the noise is small enough.

    Parameters
    ----------
    entries : flat indices, shape (n,)
    analytic : flat gradient, shape (P,)
    steps : relative steps, each RATIO times as large or as small as the one before
    fine : noise at which each entry needs no other step, shape (n,)
    """
    n = entries.size
    made = Chain(np.zeros(n), np.full(n, np.inf), np.zeros(n, bool), np.zeros(n, bool), np.zeros(n))
    going, due = np.ones(n, bool), np.zeros(n, int)
    before = np.zeros(n), np.full(n, np.inf)  # error and noise at the step before; infinite where that was left out
    first, rising = 0, bool(steps[-1] > steps[0])
    while going.any() and first < steps.size:
        first = max(first, int(due[going].min()))
        block = steps[first : first + abreast(point, int(np.count_nonzero(going)), first)]
        rows = np.flatnonzero(going & (due < first + block.size))
        estimate, residuals, moves = central(point, entries[rows], block, analytic)
        for k, residual, noise, moved in zip(range(first, steps.size), residuals, estimate.rounding, moves):
            asked = going[rows] & (due[rows] <= k)
            at, moved, error, width = rows[asked], moved[asked], residual[asked], noise[asked]
            second = np.isfinite(before[1][at])
            now = error, width
            if second.any():
                straight = _straightened(now, (before[0][at], before[1][at]), steps)
                error, width = (np.where(second, *pair) for pair in zip(straight, now))
            agrees = moved & (np.abs(error) <= width)
            kept = at[agrees]
            made.error[kept], made.noise[kept] = error[agrees], width[agrees]
            if k == 0:
                made.still[at] = ~moved
                with np.errstate(all="ignore"):
                    made.doubt[at] = np.nan_to_num(np.abs(error) / width, posinf=np.inf)
            done = (width <= fine[at]) & (second | (k == 0))
            on = np.where(agrees, ~done, moved & (k == 0))
            going[at] = on
            at, now = at[on], (now[0][on], now[1][on])
            due[at] = k + 1
            if k + 2 < steps.size - 1 and rising:
                due[at] = np.where(agrees[on], _enough(now[1] / fine[at], k, steps.size), k + 1)
            before[0][at], before[1][at] = now[0], np.where(due[at] == k + 1, now[1], np.inf)
        first += block.size
    made.through[going] = np.isfinite(made.noise[going])
    return made


def _enough(excess: Array, k: int, count: int) -> Array:
    """The step before the one at which noise that is too large by such a factor at step `k` is small enough.

    Noise falls as the step grows, and nobody needs the steps between. Truncation that makes up for an error at one
    step is sixteen times smaller at the one before: what agrees at both, as it stands, with noise as small as was asked
    for at the larger, is right to within five times that.
    """
    more = np.ceil(np.log(excess) / np.log(RATIO))
    return np.asarray(np.clip(k + more - 1, k + 1, count - 2)).astype(int)


def abreast(point: Point, count: int, done: int) -> int:
    """Steps of some entries that go through one forward: where that is cheap, some are made in vain; the first, when
    none are `done`, rarely is. Where each copy takes a forward of its own none are.
    """
    if point.one_by_one:
        return 1
    cheap = max(_AHEAD, 0 if point.native is None else point.native.ahead) if done else _AHEAD // 4
    width: int = 16 * max(1, count) * (point.size + point.base.size)
    return max(1, cheap // width)


def _straightened(now: tuple[Array, Array], before: tuple[Array, Array], steps: Array) -> tuple[Array, Array]:
    """Error and noise of a step, extrapolated with the one before where truncation shows."""
    ordered = (now, before) if steps[-1] > steps[0] else (before, now)
    rates, widths = (np.stack([step[k] for step in ordered], axis=1) for k in (0, 1))
    smooth, spread = (a[:, 0] for a in extrapolations(rates, widths, (2,))[1])
    curved = np.abs(now[0]) > now[1]
    return np.where(curved, smooth, now[0]), np.where(curved, spread, now[1])
