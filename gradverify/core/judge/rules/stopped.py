"""A forward that iterates to a tolerance: backward gives the derivative of the limit, and forward stops short of it.

What is left undone is smooth in the primals as long as the number of iterations is the same, so its own derivative is
part of every difference over small steps. But it stays as small as the tolerance: where the number changes forward
jumps, and takes back what the difference has added up. So a right backward, integrated over a way that crosses such
jumps, is what the outputs change by but for about one of them; a wrong one is off by its error times the way.

Backward jumps as well where it iterates, or takes what forward has saved of an iteration whose result is right to the
square of that. There the gap itself jumps, and is no more than some of its jumps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from gradverify.core.differentiate.jumps import Jump, largest_jump
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.judge.way import JUMPS, LITTLE, NEAREST, SMALL, Way, undone
from gradverify.core.nouns import Array

_FAINT = 0.05  # of what a relative change of the entry would amount to; what is more is no unfinished iteration
_LOW = 0.01  # steps that may change nothing: beside b of 1000, conjugate gradients to 1e-4 see no matrix of 1e-4
_NEAR = (NEAREST, 2.0, 0.05)  # steps within which a jump is looked for
_WINDOWS = 4.0 ** np.arange(3.0)  # ways that are wider than the nearest that crosses the jump
_WIDTHS = 2.0 ** -np.arange(4.0, 34.0)  # of a spike: within it, differences lack at least ...
_KEPT = 1.0  # ... half of what the gap comes to over the way, which is twice the width
_ROUNDINGS = 16.0  # of a backward, relative to the terms of its slope along a way
_ASIDE = 1e-3  # of a reach: differences of the fourth order over it are right to 1e-11 of a slope, and cross few jumps
_AMONG = np.array([-0.83, -0.59, -0.31, 0.23, 0.47, 0.71])  # places among stairs, as shares of the reach
_TINY = 1e-9  # a step far below the last place of float32, and far above that of float64
_BESIDE, _SAME = 1e-7, 0.1  # a step, at most, at which no continuous gradient changes by this share of the gap ...
_LOST = 1e-4  # ... above this share of what a relative change amounts to: a backward that iterates stops short as well


@add(
    "stopped",
    "forward, or backward, stops short of its limit: it jumps, and beyond its jumps backward is right",
    cost=1200,  # of all entries together, where copies that iterate go one by one
    applies=lambda dispute: dispute.point.grid is None,
)
def stopped(dispute: Dispute) -> Answer:
    """All entries or none; a layer that has no jump within any reach need not be searched at other points."""
    found, jumps = stops_short(dispute)
    return replace(answer(np.full(dispute.size, found)), vain=not jumps)


def stops_short(dispute: Dispute) -> tuple[bool, bool]:
    """Whether the sum of all differences does not outgrow the jumps of forward or backward; and whether that cannot be
    told of the layer once for all, since it jumps.
    """
    natural = dispute.point.scale
    small, wide, unit = _ways(dispute, (np.minimum(natural, 1.0), natural, np.ones_like(natural)))
    ways = list(dict.fromkeys((small, wide, unit) if natural.min() < _LOW else (small, wide)))
    every = dict.fromkeys((*ways, unit))
    if not _below(dispute, _LOST) and not _continuous(small):
        return False, True
    if any(map(_spiked, ways)):
        return True, True
    if not _below(dispute, _FAINT):
        return False, True
    found = any(_explained(way, reach) for way in ways for reach in _NEAR)
    elsewhere = not found and any(_explained_elsewhere(unit, reach) for reach in _NEAR)  # shows whether there are jumps
    found = found or (unit.slight and elsewhere)
    found = found or any(map(_told_aside, every))
    found = found or any(way.slight and _backward_explains(way, reach) for way in ways for reach in _NEAR)
    return found, any(way.jumps for way in every)


def _ways(dispute: Dispute, steps: Iterable[Array]) -> list[Way]:
    """One for each step; the same one for two steps of which a domain leaves the same."""
    ways: list[Way] = []
    for step in steps:
        new = Way(dispute, step)
        ways.append(next((way for way in ways if np.array_equal(way.size, new.size)), new))
    return ways


def _below(dispute: Dispute, share: float) -> bool:
    """Whether every gap is below a share of what a relative change of the entry would amount to.

    That is what the outputs are; where they are 0 at the point, what the slope makes of it. Outputs that are tiny
    beside 1, or beside others, may be smaller than a tolerance that forward stops at.
    """
    point = dispute.point
    move = np.minimum(point.scale[dispute.entries], 1.0)
    largest = float(np.abs(point.base).max(initial=0.0))
    least = max(point.loudness, max(LITTLE, SMALL * largest) * float(np.abs(point.weights).sum()))
    effect = np.maximum(least, np.abs(dispute.numerical) * move)
    return bool((dispute.gap * move <= share * effect).all())


def _continuous(way: Way) -> bool:
    """Whether backward gives next to the point what it gives there; what is wrong at one value alone does not."""
    here, beside = way.slope(0.0), min(_BESIDE, SMALL * way.gap)
    return all(abs(way.slope(step) - here) <= _SAME * way.gap for step in (-beside, beside))


def _takes_back(way: Way, jump: Jump | None, halves: Iterable[float] = NEAREST / _WINDOWS) -> bool:
    """Whether no way around the point, of these half lengths, lacks more than where forward jumps so."""
    return jump is not None and all(way.missing(half) <= undone(jump) for half in halves)


def _explained(way: Way, reach: float) -> bool:
    """Whether a jump within reach takes the gap back."""
    jump = way.jump(reach)
    if jump is None or way.gap == 0:
        return False
    nearest = 1.1 * abs(jump.at)
    return _takes_back(way, jump, [half for half in nearest * _WINDOWS if half <= max(reach, nearest)])


def _explained_elsewhere(way: Way, reach: float) -> bool:
    """Whether a jump takes the gap back that forward makes where the entries of each primal are alike: their mean in
    place of each, along a direction in which they grow together.

    Of many entries that differ, some are always among the slowest, and the number of iterations is the same far
    around the point.
    """
    centre, direction = np.empty(way.point.size), np.empty(way.point.size)
    for part in (slice(slot.start, slot.stop) for slot in way.point.slots if slot.stop > slot.start):
        centre[part], direction[part] = way.point.values[part].mean(), way.size[part].mean() * way.factors[part]
    return _takes_back(way, way.jump(reach, centre, direction))


def _spiked(way: Way) -> bool:
    """Whether the gap is that of a spike, and jumps at its edges take it back: beyond them backward is right.

    Where b is an eigenvector, conjugate gradients end after one step, and so they do beside it, as far as that is
    within their tolerance.
    """
    for width in _WIDTHS:
        if not way.between(-width, width, way.direction, 1) <= _KEPT * way.gap * width:
            return width < _WIDTHS[0] and _takes_back(way, way.jump(4.0 * width))
    return False


def _told_aside(way: Way) -> bool:
    """Whether jumps that were seen take the gap back along the entries in dispute alone, or on one side.

    The others may lead beyond a pole, and an eigenvector turn round on the other side.
    """
    ways = ((-1.0, 1.0, way.own), (0.0, 1.0, way.direction), (-1.0, 0.0, way.direction))
    lengths = NEAREST / _WINDOWS
    return way.slight and any(
        all(way.between(low * h, high * h, direction) <= way.most for h in lengths) for low, high, direction in ways
    )


def _backward_explains(way: Way, reach: float) -> bool:
    """Whether backward itself jumps by as much as the gap comes to, and forward's slope does not jump with it.

    So does one that iterates, or takes what forward has saved of its iterations. At a kink of forward its slope
    jumps as well, and the gap beside it is what it was.
    """
    noise = np.array([_ROUNDINGS * np.finfo(float).eps * way.terms])
    most = SMALL * way.terms
    jump = largest_jump(lambda steps: np.array([[way.slope(h)] for h in steps]), reach, noise, most)
    if jump is None or not way.gap <= JUMPS * abs(jump.change[0]):
        return False
    stairs = abs(jump.at) == reach
    if stairs and _flat(way, reach):
        return False
    way.jumps, beside, size = True, _ASIDE * reach, abs(jump.change[0])
    if stairs:
        return bool(np.ptp([_lacking(way, at, beside) for at in reach * _AMONG]) >= 0.5 * size)
    change = _lacking(way, jump.at + 3 * beside, beside) - _lacking(way, jump.at - 3 * beside, beside)
    return bool(abs(change - jump.change[0]) <= 0.5 * size)


def _flat(way: Way, reach: float) -> bool:
    """Whether stairs are flat: of what is rounded to a low type on the way from a primal, and of no iteration."""
    here, places = way.gradient(0.0, way.direction), np.arange(way.point.size)
    inside = [(slot.start <= places) & (places < slot.stop) for slot in way.point.slots]
    for moved in inside:
        alone = np.where(moved, way.direction, 0.0)
        near, far = (way.gradient(step, alone) for step in (_TINY, reach))
        changed: Array = (far != here) & np.isin(places, way.entries)
        if any(np.mean(near[of] == here[of]) > 0.5 for of in (changed & part for part in inside) if of.any()):
            return True
    return False


def _lacking(way: Way, at: float, h: float) -> float:
    """Backward's slope less forward's: a difference of the fourth order, with nodes up to 2 h away."""
    nodes = at + h * np.array([-2.0, -1.0, 1.0, 2.0])
    sums = way.outputs(way.point.values + nodes[:, None] * way.direction).sum(axis=1)
    return way.slope(at) - float(sums @ [1.0, -8.0, 8.0, -1.0]) / (12.0 * h)
