"""Differences of a layer's forward around one point, formed where the layer computes.

That is on a device, or in another package's arrays: the adapter gets what it needs to contract differences as well.
One entry of each primal is moved here as well, once at each point, and what comes back for it has to be the same.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from gradverify.core.declare.hooks import Contraction, Moves, NativePoint
from gradverify.core.differentiate.flat import Differences, Part
from gradverify.core.differentiate.host import COARSE, HostPoint
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array

_WORTH = 32  # entries from which on it pays


class Point(HostPoint):
    """A layer's forward around the primals of one Case, and its differences; parameters are those of `HostPoint`."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.native_ways: dict[str, str] = {}  # by name of a primal, how its copies go together elsewhere; "" for not
        self.native_lines_agree: bool | None = None  # whether what moves along a direction elsewhere comes out as here

    @cached_property
    def native(self) -> NativePoint | None:
        """This point where the layer computes; None where that is here, or not of use."""
        hook, declared = self.layer.hooks.native, self.layer.declared
        real = all(y.dtype.kind == "f" for y in self.at_point)
        if hook is None or not real or self.grid is not None or declared.surrogate is not None:
            return None
        shapes = tuple(tuple(shape) for shape in self.shapes)
        try:
            own = {name: np.array(a) for name, a in self.primals.items()}  # its forward may write into what it is given
            made: NativePoint = hook(own, self.options, self.weights.astype(float), shapes, self.memory)
        except LayerFailure:
            return None
        return made

    def native_slopes(self, parts: list[Part]) -> list[Differences | None]:
        found: list[Differences | None] = [None] * len(parts)
        if self.native is None or any(part.b is None for part in parts):
            return found
        left = [k for k, part in enumerate(parts) if self._worthwhile(part)]
        coarse = {k: bool(np.max(np.abs(parts[k].a)) > COARSE) for k in left}
        for way in self.ways():
            for kind in set(coarse.values()) if left else ():
                now = [k for k in left if coarse[k] is kind and self._open(parts[k].slot.name, way)]
                for k, differences in zip(now, self._asked([parts[k] for k in now], way, kind) if now else ()):
                    if differences is not None:
                        self.native_ways[parts[k].slot.name] = way
                        found[k] = differences
            left = [k for k in left if found[k] is None]
        for k in left:
            self.native_ways.setdefault(parts[k].slot.name, "")
        return found

    def _worthwhile(self, part: Part) -> bool:
        """Whether to ask: a few entries alone are not worth it, nor is what was refused."""
        native_ways = self.native_ways.get(part.slot.name)
        least = 1 if native_ways else _WORTH
        return native_ways != "" and part.entries.size >= least and not part.slot.complex

    def _open(self, name: str, way: str) -> bool:
        """Whether copies of a primal go this way, as far as is known."""
        native_ways = self.native_ways.get(name)
        return native_ways == way or (native_ways is None and self.carries(way, (name,)))

    def _asked(self, parts: list[Part], way: str, coarse: bool) -> list[Differences | None]:
        """What comes back for these parts together, or one by one where that fails or is not the same as here."""
        assert self.native is not None
        news = [k for k, part in enumerate(parts) if part.slot.name not in self.native_ways]
        here = self._here([parts[k] for k in news]) if news else None
        how = Contraction(way, self.sigma.astype(float, copy=False), coarse, self.relative if coarse else 0.0)
        moves = [Moves(p.slot.name, p.entries - p.slot.start, p.a, p.b) for p in parts]
        try:
            found = self.native.slopes(moves, how)
        except LayerFailure:
            found = None
        if found is not None and here is not None:
            change = sum(found[k][0][parts[k].middle] for k in news)
            slack = 8 * here.noise[0] + 64 * self.eps * self.loudness
            found = found if np.abs(change - here.change[0]) <= slack else None
        if found is None:
            return [None] if len(parts) == 1 else [self._asked([part], way, coarse)[0] for part in parts]
        self.forwards += 2 * sum(part.entries.size for part in parts)
        return [Differences(change, gap, noise + self.hidden(moved), moved) for change, noise, moved, gap in found]

    def _here(self, parts: list[Part]) -> Differences:
        """The difference where one entry of each part moves, all at once: the sum of theirs, but for terms of the third
        order in the step.
        """
        tried = [(p.entries[p.middle], p.a[p.middle], p.b[p.middle]) for p in parts if p.b is not None]
        return self.jointly(*(np.array(field) for field in zip(*tried)))

    def native_along(
        self, direction: Array, a: Array, b: Array | None, analytic: Array | None
    ) -> tuple[Array, Array] | None:
        if self.native is None or self.native_lines_agree is False or any(slot.complex for slot in self.slots):
            return None
        parts = {slot.name: direction[slot.start : slot.stop].reshape(slot.shape) for slot in self.slots}
        parts = {name: part for name, part in parts.items() if part.any()}
        known = None if analytic is None else {s.name: analytic[s.start : s.stop].reshape(s.shape) for s in self.slots}
        try:
            raw, gap = self.native.along(parts, a, b, known)
            y = self.stacked(raw, a.size if b is None else 2 * a.size)
        except (LayerFailure, ValueError):
            self.native_lines_agree = False  # and is not asked again
            return None
        self.forwards += len(y)
        if self.native_lines_agree is None:
            self.native_lines_agree = self.alike(y[0], self.row_along(direction, float(a[0])))
        return (y, gap) if self.native_lines_agree else None
