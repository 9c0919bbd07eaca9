"""Chains of single steps: two forwards for each entry and step, for as long as the steps agree.

A residual that is no larger than its own rounding noise says that the gradient is right to within that
noise, unless truncation happens to make up for an error; a chain in which every step agrees, while
truncation grows sixteenfold from one to the next, leaves no room for that. Where truncation shows, one
extrapolation with the step before (L. F. Richardson, 1911) does without it. No wrong gradient is found
here: what a chain leaves open is for the ladder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradverify.core.differentiate.central import central
from gradverify.core.differentiate.ladder import extrapolations
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
    open_ = np.arange(entries.size)
    before: tuple[Array, Array] | None = None
    first = 0
    while open_.size and first < steps.size:
        block = steps[first : first + abreast(point, open_.size, first)]
        first += block.size
        estimate, residuals, moves = central(point, entries[open_], block, analytic)
        rows = np.arange(open_.size)
        for residual, noise, moved in zip(residuals, estimate.rounding, moves):
            if rows.size == 0:
                break
            now = residual[rows], noise[rows]
            error, width = now if before is None else _straightened(now, before, steps)
            agrees = moved[rows] & (np.abs(error) <= width)
            at = open_[rows]
            kept = at[agrees]
            made.error[kept], made.noise[kept] = error[agrees], width[agrees]
            done = agrees & (width <= fine[at])
            if before is None:
                made.still[at] = ~moved[rows]
                with np.errstate(all="ignore"):
                    made.doubt[at] = np.nan_to_num(np.abs(error) / width, posinf=np.inf)
            going = ~done & (agrees | (moved[rows] & (before is None)))
            before = now[0][going], now[1][going]
            rows = rows[going]
        open_ = open_[rows]
    made.through[open_] = np.isfinite(made.noise[open_])
    return made


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
    ordered = (now, before) if steps[1] > steps[0] else (before, now)
    rates, widths = (np.stack([step[k] for step in ordered], axis=1) for k in (0, 1))
    smooth, spread = (a[:, 0] for a in extrapolations(rates, widths, (2,))[1])
    curved = np.abs(now[0]) > now[1]
    return np.where(curved, smooth, now[0]), np.where(curved, spread, now[1])
