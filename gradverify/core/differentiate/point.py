"""Differences along single entries, formed where the layer computes: on a device, or in another package's arrays.

The adapter gets what it needs to contract them there. One entry of each primal is done here as well, once at each
point, and what comes back for it has to be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradverify.core.declare.hooks import Contraction, Elsewhere, Moves
from gradverify.core.differentiate.flat import Differences, Slot
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns.case import Array

if TYPE_CHECKING:
    from gradverify.core.differentiate.point import Point

_WORTH = 32  # entries from which on it pays
COARSE = 1e-3  # steps from which on outputs round more coarsely than at the point


@dataclass(frozen=True, slots=True)
class Part:
    """Entries of one primal, each moved alone: flat indices and offsets, shape (n,)."""

    slot: Slot
    entries: Array
    a: Array
    b: Array | None

    @property
    def middle(self) -> int:
        """An entry to try, not at the edge, where much is special."""
        return int(self.entries.size) // 2


def arrived(point: Point) -> Elsewhere | None:
    """The point where the layer computes; None where that is here, or not of use."""
    hook, declared = point.layer.hooks.elsewhere, point.layer.declared
    real = all(y.dtype.kind == "f" for y in point.at_point)
    if hook is None or not real or point.grid is not None or declared.surrogate is not None:
        return None
    shapes = tuple(tuple(shape) for shape in point.shapes)
    try:
        own = {name: np.array(a) for name, a in point.primals.items()}  # its forward may write into what it is given
        made: Elsewhere = hook(own, point.options, point.weights.astype(float), shapes, point.memory)
    except LayerFailure:
        return None
    return made


def elsewhere(point: Point, parts: list[Part]) -> list[Differences | None]:
    """For each part what `Point.slopes` gives, in the order of its entries; None where that has to be done here."""
    found: list[Differences | None] = [None] * len(parts)
    if point.there is None or any(part.b is None for part in parts):
        return found
    left = [k for k, part in enumerate(parts) if _worthwhile(point, part)]
    coarse = {k: bool(np.max(np.abs(parts[k].a)) > COARSE) for k in left}
    for way in point.ways():
        for kind in set(coarse.values()) if left else ():
            now = [k for k in left if coarse[k] is kind and _open(point, parts[k].slot.name, way)]
            for k, differences in zip(now, _asked(point, [parts[k] for k in now], way, kind) if now else ()):
                if differences is not None:
                    point.settled[parts[k].slot.name] = way
                    found[k] = differences
        left = [k for k in left if found[k] is None]
    for k in left:
        point.settled.setdefault(parts[k].slot.name, "")
    return found


def _worthwhile(point: Point, part: Part) -> bool:
    """Whether to ask: a few entries alone are not worth it, nor is what was refused."""
    settled = point.settled.get(part.slot.name)
    least = 1 if settled else _WORTH
    return settled != "" and part.entries.size >= least and not part.slot.complex


def _open(point: Point, name: str, way: str) -> bool:
    """Whether copies of a primal go this way, as far as is known."""
    settled = point.settled.get(name)
    return settled == way or (settled is None and point.carries(way, (name,)))


def _asked(point: Point, parts: list[Part], way: str, coarse: bool) -> list[Differences | None]:
    """What comes back for these parts together, or one by one where that fails or is not the same as here."""
    assert point.there is not None
    news = [k for k, part in enumerate(parts) if part.slot.name not in point.settled]
    here = _here(point, [parts[k] for k in news]) if news else None
    how = Contraction(way, point.sigma.astype(float, copy=False), coarse, point.relative if coarse else 0.0)
    moves = [Moves(p.slot.name, p.entries - p.slot.start, p.a, p.b) for p in parts]
    try:
        told = point.there.slopes(moves, how)
    except LayerFailure:
        told = None
    if told is not None and here is not None:
        change = sum(told[k][0][parts[k].middle] for k in news)
        slack = 8 * here.noise[0] + 64 * point.eps * point.loudness
        told = told if np.abs(change - here.change[0]) <= slack else None
    if told is None:
        return [None] if len(parts) == 1 else [_asked(point, [part], way, coarse)[0] for part in parts]
    point.forwards += 2 * sum(part.entries.size for part in parts)
    return [Differences(change, gap, noise + point.hidden(moved), moved) for change, noise, moved, gap in told]


def _here(point: Point, parts: list[Part]) -> Differences:
    """The difference where one entry of each part moves, all at once: the sum of theirs, but for terms of the third
    order in the step.
    """
    tried = [(p.entries[p.middle], p.a[p.middle], p.b[p.middle]) for p in parts if p.b is not None]
    return point.jointly(*(np.array(field) for field in zip(*tried)))


def directed(
    point: Point, direction: Array, a: Array, b: Array | None, analytic: Array | None
) -> tuple[Array, Array] | None:
    """Flat outputs at steps along a direction, and <analytic, realised step>; None where that is done here.

    Parameters
    ----------
    direction, analytic : flat real vectors, shape (P,)
    a, b : steps, shape (r,); b = None is the point itself
    """
    if point.there is None or point.straight is False or any(slot.complex for slot in point.slots):
        return None
    parts = {slot.name: direction[slot.start : slot.stop].reshape(slot.shape) for slot in point.slots}
    parts = {name: part for name, part in parts.items() if part.any()}
    known = None if analytic is None else {s.name: analytic[s.start : s.stop].reshape(s.shape) for s in point.slots}
    try:
        raw, gap = point.there.along(parts, a, b, known)
        y = point.stacked(raw, a.size if b is None else 2 * a.size)
    except (LayerFailure, ValueError):
        point.straight = False  # and is not asked again
        return None
    point.forwards += len(y)
    if point.straight is None:
        point.straight = point.alike(y[0], point.row_along(direction, float(a[0])))
    return (y, gap) if point.straight else None
