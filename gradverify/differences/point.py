"""Differences of a layer's forward around one point, contracted with the cotangent.

Two primitives serve every method: `slopes` moves one entry at a time, `along` moves all primals
together. Both difference the outputs first and contract with the cotangent after (the other order
loses the digits that matter), use the step as it was realised in floating point, and report the
rounding noise of each difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradverify.differences import noise
from gradverify.differences.forward import Forward
from gradverify.layer import Layer
from gradverify.types import Array, Case

MEMORY = 4 << 20  # bytes of perturbed primals and outputs in flight; fits the cache of a CPU core


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one primal lies in the flat vector of real parameters."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]  # of the real parameters: complex primals have a last axis of 2
    complex: bool


@dataclass(frozen=True, slots=True)
class Differences:
    """Contracted differences phi(a) - phi(b); every array has one element for each row.

    Attributes
    ----------
    change : sum over outputs of cotangent * (y(a) - y(b))
    gap : realised step between a and b (1-D), or the analytic prediction <g, a - b> along a direction
    noise : rounding noise of `change`, about one standard deviation, same unit
    moved : whether any output changed at all
    """

    change: Array
    gap: Array
    noise: Array
    moved: Array


class Point(Forward):
    """A layer's forward around the primals of one Case, and its differences.

    Parameters
    ----------
    layer, case : the case must have cotangents
    dtype : floating type in which the forward is run; None takes the case's own
    memory : bytes of perturbed copies in flight at once
    """

    def __init__(self, layer: Layer, case: Case, dtype: Any = None, memory: int | None = None) -> None:
        super().__init__(layer, case, dtype)
        self.memory = memory or MEMORY
        self.slots = tuple(self._slots())
        self.size = self.slots[-1].stop if self.slots else 0
        assert case.cotangents is not None
        self.cotangents = case.cotangents
        self.weights = self._weights(case.cotangents)

    def _slots(self) -> Iterator[Slot]:
        start = 0
        for primal in self.layer.differentiable:
            array = self.primals[primal.name]
            is_complex = array.dtype.kind == "c"
            shape = (*array.shape, 2) if is_complex else array.shape
            stop = start + int(np.prod(shape))
            yield Slot(primal.name, start, stop, shape, is_complex)
            start = stop

    def _weights(self, cotangents: tuple[Array, ...]) -> Array:
        """Cotangents as real weights on the flat outputs; dL = Re(conj(v) dy), or Re(v dy) by declaration."""
        sign = 1.0 if self.layer.declared.conjugate else -1.0
        parts = []
        for v, y in zip(cotangents, self.at_point):
            v = np.asarray(v)
            if y.dtype.kind == "c":
                parts.append(np.stack([v.real, sign * v.imag], -1).ravel())
            else:
                parts.append((v.real if y.dtype.kind == "f" else np.zeros(y.shape)).ravel())
        wide = np.result_type(np.float64, self.dtype)
        return np.concatenate(parts).astype(wide) if parts else np.zeros(0, wide)

    def vector(self, arrays: Mapping[str, Array]) -> Array:
        """Arrays by primal name as one flat real vector; a missing one is NaN."""
        flat = np.full(self.size, np.nan)
        for slot in self.slots:
            if slot.name in arrays:
                flat[slot.start : slot.stop] = real_parts(arrays[slot.name], slot, self.layer.declared.conjugate)
        return flat

    @cached_property
    def values(self) -> Array:
        """The differentiable primals as one flat real vector."""
        flat = np.empty(self.size, np.result_type(np.float64, *[a.real.dtype for a in self.primals.values()]))
        for slot in self.slots:
            flat[slot.start : slot.stop] = real_parts(self.primals[slot.name], slot, True)
        return flat

    @cached_property
    def scale(self) -> Array:
        """Natural step of each entry: its own magnitude or its primal's root mean square, 1 where both are 0."""
        magnitude = np.abs(self.values).astype(float)
        if self.size == 0:
            return magnitude
        top = self.tops(magnitude)
        top[top == 0] = 1.0
        squares = np.add.reduceat((magnitude / top) ** 2, self._starts)
        rms = np.sqrt(squares / self._lengths)
        scale: Array = np.maximum(magnitude, top * np.repeat(np.where(rms > 0, rms, 1.0), self._lengths))
        return scale

    @cached_property
    def _starts(self) -> Array:
        """Where each primal that is not empty begins."""
        return np.array([slot.start for slot in self.slots if slot.stop > slot.start], dtype=np.intp)

    @cached_property
    def _lengths(self) -> Array:
        return np.diff(np.append(self._starts, self.size))

    def tops(self, flat: Array) -> Array:
        """For each entry, the largest finite magnitude in its primal: shape (P,), from shape (P,)."""
        if self.size == 0:
            return np.zeros(0)
        size = np.abs(flat)
        size[~np.isfinite(size)] = 0.0
        largest: Array = np.repeat(np.maximum.reduceat(size, self._starts), self._lengths)
        return largest

    @cached_property
    def sigma(self) -> Array:
        """Rounding noise of each flat output, about one standard deviation."""
        if self.base.size == 0 or self.size == 0:
            return 0.5 * self.eps * np.abs(self.base)
        return noise.levels(self, self.outputs(noise.samples(self), noise.POINTS))

    @cached_property
    def relative(self) -> float:
        """Typical rounding noise of an output relative to its size."""
        size = np.abs(self.base)
        told = (size > 0) & np.isfinite(self.sigma)
        return max(self.eps, float(np.median(self.sigma[told] / size[told]))) if told.any() else self.eps

    @cached_property
    def magnified(self) -> bool:
        """Whether the noise is far above the rounding of values as large as the primals and outputs."""
        return bool(self.sigma @ np.abs(self.weights) > 100 * self.inner)

    @cached_property
    def loudness(self) -> float:
        """Sum of |cotangent * output|: what a relative change of one would amount to."""
        return float(np.sum(np.abs(self.weights * self.base)))

    def slopes(self, entries: Array, a: Array, b: Array | None, rungs: int = 1) -> Differences:
        """Differences between entry + a and entry + b, one entry at a time.

        Parameters
        ----------
        entries : flat indices, shape (n,)
        a, b : offsets, shape (n,); b = None is the point itself
        rungs : consecutive rows that belong to one entry, largest step first
        """
        parts = [
            self._slope_chunk(entries[chunk], a[chunk], None if b is None else b[chunk], slots, rungs)
            for chunk, slots in self._chunks(entries, rungs)
        ]
        return _joined(parts)

    def _chunks(self, entries: Array, rungs: int) -> Iterator[tuple[Array, tuple[Slot, ...]]]:
        """Rows that go through one forward, with the primals that move in it; an entry's rungs stay together."""
        row = 8 * (self.size + self.base.size)
        if 2 * entries.size * row <= self.memory // 8:
            stops = np.array([slot.stop for slot in self.slots])
            hit = np.bincount(np.searchsorted(stops, entries, side="right"), minlength=len(self.slots))
            yield np.arange(entries.size), tuple(slot for slot, count in zip(self.slots, hit) if count)
            return
        for slot in self.slots:
            inside = np.flatnonzero((entries >= slot.start) & (entries < slot.stop))
            width = 16 * (slot.stop - slot.start + 4 * self.base.size + 1)
            step = rungs * max(1, self.memory // (width * rungs))
            for first in range(0, inside.size, step):
                yield inside[first : first + step], (slot,)

    def _slope_chunk(
        self, entries: Array, a: Array, b: Array | None, slots: tuple[Slot, ...], rungs: int
    ) -> Differences:
        n = entries.size
        offsets = a if b is None else np.concatenate([a, b])
        tiled = entries if b is None else np.concatenate([entries, entries])
        stack, reached = {}, np.empty(offsets.size, self.values.dtype)
        # where all primals move, the noise is measured by the same forward
        listening = "sigma" not in vars(self) and len(slots) == len(self.slots) and self.base.size > 0
        extra = noise.samples(self) if listening else {}
        count = offsets.size + (noise.POINTS if extra else 0)
        for slot in slots:
            array = self.primals[slot.name]
            copies = np.empty((count, *array.shape), array.dtype)
            copies[: offsets.size] = array
            if extra:
                copies[offsets.size :] = extra[slot.name]
            rows = np.flatnonzero((tiled >= slot.start) & (tiled < slot.stop))
            flat = (copies.view(copies.real.dtype) if slot.complex else copies).reshape(count, -1)
            local = tiled[rows] - slot.start
            with np.errstate(over="ignore"):
                flat[rows, local] += offsets[rows].astype(flat.dtype)
            reached[rows] = flat[rows, local]
            stack[slot.name] = copies
        y = self.outputs(stack, count)
        if extra:
            self.sigma = noise.levels(self, y[offsets.size :])
            y = y[: offsets.size]
        if b is None:
            return self._contract(y, self.base[None], reached - self.values[entries], a, rungs)
        return self._contract(y[:n], y[n:], reached[:n] - reached[n:], a, rungs)

    def along(self, direction: Array, a: Array, b: Array | None, analytic: Array | None = None) -> Differences:
        """Differences between point + a * direction and point + b * direction, one row for each step.

        Parameters
        ----------
        direction, analytic : flat real vectors, shape (P,); `gap` of the result is <analytic, realised step>
        a, b : steps, shape (r,); b = None is the point itself
        """
        rows = max(1, int(self.memory // (16 * (self.size + self.base.size) + 1)))
        if a.size > rows:
            return self._along_loop(direction, a, b, analytic, rows)
        return self._along_chunk(direction, a, b, analytic)

    def _along_loop(
        self, direction: Array, a: Array, b: Array | None, analytic: Array | None, rows: int
    ) -> Differences:
        parts = []
        for first in range(0, a.size, rows):
            chunk = slice(first, first + rows)
            parts.append(self._along_chunk(direction, a[chunk], None if b is None else b[chunk], analytic))
        return _joined(parts)

    def _along_chunk(self, direction: Array, a: Array, b: Array | None, analytic: Array | None) -> Differences:
        n, steps = a.size, a if b is None else np.concatenate([a, b])
        stack, gap = {}, np.zeros(n)
        for slot in self.slots:
            part = direction[slot.start : slot.stop]
            if not part.any():
                continue
            array = self.primals[slot.name]
            real = (array.view(array.real.dtype) if slot.complex else array).reshape(-1)
            moved = real + (steps[:, None] * part).astype(real.dtype)
            if analytic is not None:
                realised = moved[:n] - (moved[n:] if b is not None else real)
                gap += realised.astype(float) @ np.nan_to_num(analytic[slot.start : slot.stop])
            stack[slot.name] = (moved.view(array.dtype) if slot.complex else moved).reshape(steps.size, *array.shape)
        y = self.outputs(stack, steps.size)
        return self._contract(y[:n], y[n:] if b is not None else self.base[None], gap, a, n)

    def _contract(self, ya: Array, yb: Array, gap: Array, a: Array, rungs: int) -> Differences:
        with np.errstate(all="ignore"):
            delta = ya - yb
            change = delta @ self.weights
            changed = delta != 0
            weight = np.abs(self.weights)
            if rungs > 1 or (a.size and np.max(np.abs(a)) > 1e-3):  # away from the point outputs round more coarsely
                level = np.maximum(self.sigma, self.relative * np.maximum(np.abs(ya), np.abs(yb)))
                noise = np.where(changed, level, 0) @ weight
            else:
                noise = changed.astype(weight.dtype) @ (weight * self.sigma)
            moved = changed.any(axis=1)
            peak = np.maximum(np.abs(ya), np.abs(yb)) if rungs > 1 else None
            noise = noise + self._hidden(changed, moved, a, rungs, peak)
        return Differences(change, gap, noise, moved)

    def _hidden(self, changed: Array, moved: Array, a: Array, rungs: int, peak: Array | None) -> Array:
        """What outputs that did not change may hide: half a unit in their last place.

        An output that a larger step of the same entry does change depends on it, and was rounded back at
        this step, maybe inside the layer, on the way to an output as large as it gets on other rungs; one
        that no step changed may hide that much at the largest step, and less at others.
        """
        if peak is None:
            return np.zeros(moved.shape) if moved.all() else np.where(moved, 0.0, 2 * self.inner)
        weight = 0.5 * self.eps * np.abs(self.weights * self.base)
        shape = (a.size // rungs, rungs, changed.shape[1])
        depends = np.logical_or.accumulate(changed.reshape(shape), axis=1)
        highest = np.nanmax(np.where(np.isfinite(peak), peak, 0.0).reshape(shape), axis=1, initial=0.0)
        inside = 0.5 * self.eps * np.abs(self.weights) * np.maximum(highest, self._magnitude)
        rounded = np.einsum("nrk,nk->nr", depends & ~changed.reshape(shape), inside)
        never = (~depends[:, -1]) @ weight if rungs else np.zeros(shape[0])
        step = np.abs(a).reshape(-1, rungs)
        share = step / np.maximum(step[:, :1], np.finfo(float).tiny)
        still = ~moved.reshape(step.shape)
        return (rounded + np.where(still, 1.0, share) * never[:, None] + np.where(still, self.inner, 0.0)).ravel()

    @cached_property
    def _magnitude(self) -> float:
        """Scale of the values inside the layer, as far as primals and outputs tell."""
        parts = [np.abs(self.base), *(np.abs(a.ravel()) for a in self.primals.values() if a.dtype.kind in "fc")]
        return float(max((np.max(p[np.isfinite(p)], initial=0.0) for p in parts), default=0.0))

    @cached_property
    def inner(self) -> float:
        """What may be rounded away inside the layer when no output changes at all."""
        return self.eps * self._magnitude * float(np.sum(np.abs(self.weights)))

    @property
    def lowered(self) -> bool:
        """Whether outputs have fewer digits than primals: these are rounded inside, before anything else."""
        return any(a.dtype.kind in "fc" and np.finfo(a.dtype).eps < self.eps for a in self.primals.values())

    @property
    def unseen(self) -> float:
        """The same, where constants such as 1 are added inside to values that are smaller than they are."""
        return self.eps * max(1.0, self._magnitude) * float(np.sum(np.abs(self.weights)))


def real_parts(array: Any, slot: Slot, conjugate: bool) -> Array:
    """A gradient or primal as the flat real parameters of a slot."""
    array = np.asarray(array)
    if not slot.complex:
        return array.real.ravel()
    return np.stack([array.real, array.imag if conjugate else -array.imag], -1).ravel()


def _joined(parts: list[Differences]) -> Differences:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Differences(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, bool))
    return Differences(
        *(np.concatenate([getattr(p, field) for p in parts]) for field in ("change", "gap", "noise", "moved"))
    )
