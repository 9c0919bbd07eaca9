"""Differences of a layer's forward around one point, run here, contracted with the cotangent.

Two primitives serve every method: `slopes` moves one entry at a time, `along` moves all primals
together. Both difference the outputs first and contract with the cotangent after (the other order
loses the digits that matter), use the step as it was realised in floating point, and report the
rounding noise of each difference.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import noise
from gradverify.core.differentiate.entries import Entries
from gradverify.core.differentiate.flat import Differences, Part, Slot, displaced, joined
from gradverify.core.nouns import Array, Case

MEMORY = 4 << 20  # bytes of perturbed primals and outputs in flight; fits the cache of a CPU core
COARSE = 1e-3  # steps from which on outputs round more coarsely than at the point
_MAGNIFIED = 100  # roundings, by hand: honest noise stays below, and what is heard of kinks at 0 is far above
_ABREAST = 16  # times that, up to which all points that measure the noise go through one forward


class HostPoint(Entries):
    """A layer's forward around the primals of one Case, and its differences.

    Parameters
    ----------
    layer, case : the case must have cotangents
    dtype : floating type in which the forward is run; None takes the case's own
    memory : bytes of perturbed copies in flight at once
    outputs : of the layer's forward at the case, where they are known already
    inside : floating type that the code computes in, where it is lower than that of the outputs
    """

    def __init__(
        self,
        layer: Layer,
        case: Case,
        dtype: Any = None,
        memory: int | None = None,
        outputs: tuple[Array, ...] | None = None,
        inside: Any = None,
    ) -> None:
        super().__init__(layer, case, dtype, outputs)
        if inside is not None:
            self.dtype = np.dtype(inside)
            self.eps = float(np.finfo(inside).eps)
        self.memory = memory or MEMORY
        self._slopes: dict[str, Array] = {}  # by name of a primal, see `noise.slopes`
        assert case.cotangents is not None
        self.cotangents = case.cotangents
        self.weights = self._weights(case.cotangents)

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

    @cached_property
    def sigma(self) -> Array:
        """Rounding noise of each flat output, about one standard deviation; at least what `accuracy` says."""
        return np.maximum(self._heard(), self._unfinished)

    @cached_property
    def _unfinished(self) -> float:
        """How far outputs may be from their limit, as declared."""
        accuracy = self.layer.declared.accuracy
        return accuracy * max(1.0, float(np.max(np.abs(self.base[np.isfinite(self.base)]), initial=0.0)))

    def _heard(self) -> Array:
        if self.base.size == 0 or self.size == 0:
            return 0.5 * self.eps * np.abs(self.base)
        if self._abreast(noise.POINTS):
            return noise.levels(self, self.outputs(self.unpacked(noise.samples(self), self.slots), noise.POINTS))
        return noise.levels(self, self._reached(noise.direction(self), noise.steps(self), None, None)[0])

    @cached_property
    def relative(self) -> float:
        """Typical rounding noise of an output relative to its size."""
        size = np.abs(self.base)
        found = (size > 0) & np.isfinite(self.sigma)
        return max(self.eps, float(np.median(self.sigma[found] / size[found]))) if found.any() else self.eps

    @cached_property
    def magnified(self) -> bool:
        """Whether the noise is far above the rounding of values as large as the primals, their steps and the outputs.

        Zeros have steps of 1: where all primals of a sum of kinks are 0, the noise is measured across the kinks.
        """
        largest = max(self._magnitude, float(np.max(self.scale, initial=0.0)))
        weights = np.abs(self.weights)
        return bool(self.sigma @ weights > _MAGNIFIED * self.eps * largest * np.sum(weights))

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
        row = 8 * (self.size + self.base.size)
        if 2 * entries.size * row <= self.memory // 8:
            return self.moved(entries, a, b, self.slots, rungs)
        places, rising = [], bool((entries[1:] > entries[:-1]).all())
        for slot in self.slots:
            if rising:
                at: Any = slice(*np.searchsorted(entries, (slot.start, slot.stop)))
            else:
                at = np.flatnonzero((entries >= slot.start) & (entries < slot.stop))
            places.append(at)
        parts = [Part(slot, entries[at], a[at], None if b is None else b[at]) for slot, at in zip(self.slots, places)]
        done = self.native_slopes(parts) if rungs == 1 else [None] * len(parts)
        found = [self._chunked(part, rungs) if d is None else d for part, d in zip(parts, done)]
        return joined(found, None if rising else np.concatenate(places))

    def native_slopes(self, parts: list[Part]) -> list[Differences | None]:
        """For each part what `slopes` gives, in the order of its entries; None where that has to be done here."""
        return [None] * len(parts)

    def native_along(
        self, direction: Array, a: Array, b: Array | None, analytic: Array | None
    ) -> tuple[Array, Array] | None:
        """Flat outputs at steps along a direction, and <analytic, realised step>; None where that is done here.

        Parameters
        ----------
        direction, analytic : flat real vectors, shape (P,)
        a, b : steps, shape (r,); b = None is the point itself
        """
        return None

    def _chunked(self, part: Part, rungs: int) -> Differences:
        """Differences along entries of one primal, in chunks; an entry's rungs stay together."""
        slot, entries, a, b = part.slot, part.entries, part.a, part.b
        width = 16 * (slot.stop - slot.start + 4 * self.base.size + 1)
        step = rungs * max(1, self.memory // (width * rungs))
        chunks = (slice(first, first + step) for first in range(0, entries.size, step))
        return joined([self.moved(entries[c], a[c], None if b is None else b[c], (slot,), rungs) for c in chunks])

    def moved(self, entries: Array, a: Array, b: Array | None, slots: tuple[Slot, ...], rungs: int) -> Differences:
        """Differences along entries of consecutive primals, all in one forward."""
        n = entries.size
        offsets = a if b is None else np.concatenate([a, b])
        at = np.arange(offsets.size), (entries if b is None else np.concatenate([entries, entries])) - slots[0].start
        y, reached = self._displaced_rows(offsets.size, at, offsets, slots)
        own = self._slope_noise(entries) * np.abs(offsets[:n, None]) if rungs > 1 else 0.0
        if b is None:
            return self._contract(y, self.base[None], reached - self.values[entries], a, rungs, own)
        return self._contract(y[:n], y[n:], reached[:n] - reached[n:], a, rungs, own)

    def _slope_noise(self, entries: Array) -> Array:
        """Rounding noise of the slope of each output along each entry, shape (n, K)."""
        found = np.zeros((entries.size, self.base.size))
        for slot in self.slots:
            inside = (entries >= slot.start) & (entries < slot.stop)
            if inside.any():
                if slot.name not in self._slopes:
                    self._slopes[slot.name] = noise.slopes(self, slot)
                found[inside] = self._slopes[slot.name] / self.scale[entries[inside], None]
        return found

    def jointly(self, entries: Array, a: Array, b: Array) -> Differences:
        """The difference where all these entries move at once: one row, whose `gap` says nothing."""
        ways = np.zeros((2, self.size))
        ways[:, entries] = a, b
        y = np.stack([self.row_along(way, 1.0) for way in ways])
        return self._contract(y[:1], y[1:], np.zeros(1), a, 1)

    def together(self, groups: list[Array], steps: Array) -> Differences | None:
        """Differences between point + step and point - step where the entries of one group move at once: a row for
        each group, all in one forward. None where so many copies of all primals would be too large.

        Parameters
        ----------
        groups : flat indices of each of n groups
        steps : of each group, shape (n,)
        """
        n = len(groups)
        if not self._abreast(2 * n + noise.POINTS):
            return None
        entries, row = np.concatenate(groups), np.repeat(np.arange(n), [group.size for group in groups])
        at = np.concatenate([row, row + n]), np.concatenate([entries, entries])
        y, _ = self._displaced_rows(2 * n, at, np.concatenate([steps[row], -steps[row]]), self.slots)
        return self._contract(y[:n], y[n:], 2.0 * steps, steps, 1)

    def _abreast(self, rows: int) -> bool:
        """Whether copies of all primals are so small that as many go through one forward."""
        return 8 * rows * self.size <= _ABREAST * self.memory

    def _displaced_rows(
        self, count: int, at: tuple[Array, Array], offsets: Array, slots: tuple[Slot, ...]
    ) -> tuple[Array, Array]:
        """Flat outputs of rows with some elements displaced, shape (count, K), and these elements as realised.

        Where all primals move, the same forward measures the noise, if nobody has yet.
        """
        unheard = "sigma" not in vars(self) and len(slots) == len(self.slots) and self.base.size > 0
        unheard = unheard and self._abreast(noise.POINTS)
        low, high = slots[0].start, slots[-1].stop
        flat = np.empty((count + unheard * noise.POINTS, high - low), self.values.dtype)
        flat[:count] = self.values[low:high]
        flat[at] = displaced(flat[at], offsets, self.grid)
        if unheard:
            flat[count:] = noise.samples(self)
        stack = self.unpacked(flat, slots)
        reached = flat[at]
        y = self.outputs(stack, len(flat))
        if unheard:
            self.sigma = np.maximum(noise.levels(self, y[count:]), self._unfinished)
        return y[:count], reached

    def along(self, direction: Array, a: Array, b: Array | None, analytic: Array | None = None) -> Differences:
        """Differences between point + a * direction and point + b * direction, one row for each step.

        Parameters
        ----------
        direction, analytic : flat real vectors, shape (P,); `gap` of the result is <analytic, realised step>
        a, b : steps, shape (r,); b = None is the point itself
        """
        rows, parts = max(1, _ABREAST * self.memory // (16 * self.base.size + 1)), []
        for first in range(0, a.size, rows):
            chunk = slice(first, first + rows)
            y, gap = self._reached(direction, a[chunk], None if b is None else b[chunk], analytic)
            n = gap.size
            parts.append(self._contract(y[:n], y[n:] if b is not None else self.base[None], gap, a[chunk], n))
        return joined(parts)

    def _reached(self, direction: Array, a: Array, b: Array | None, analytic: Array | None) -> tuple[Array, Array]:
        """Flat outputs at the steps a, and then at b, along a direction; and <analytic, realised step>."""
        rows = max(1, self.memory // (16 * (self.size + self.base.size) + 1))
        found = self.native_along(direction, a, b, analytic) if rows == 1 else None
        if found is not None:
            return found
        near, far, gaps = [], [], []
        for first in range(0, a.size, rows):
            n = a[first : first + rows].size
            steps = a[first : first + n] if b is None else np.concatenate([a[first : first + n], b[first : first + n]])
            stack, gap = self.displaced_along(direction, steps, n, analytic)
            y = self.outputs(stack, steps.size)
            near.append(y[:n])
            far.append(y[n:])
            gaps.append(gap)
        return np.concatenate(near + far), np.concatenate(gaps)

    def row_along(self, direction: Array, step: float) -> Array:
        """Flat outputs at one step along a direction, shape (K,)."""
        return self.flat({n: a[0] for n, a in self.displaced_along(direction, np.array([step]), 1, None)[0].items()})

    def _contract(
        self, ya: Array, yb: Array, gap: Array, a: Array, rungs: int, least: Array | float = 0.0
    ) -> Differences:
        with np.errstate(all="ignore"):
            delta = ya - yb
            change = delta @ self.weights
            changed = delta != 0
            weight = np.abs(self.weights)
            if rungs > 1 or (a.size and np.max(np.abs(a)) > COARSE):  # away from the point outputs round more coarsely
                level = np.maximum(self.sigma, self.relative * np.maximum(np.abs(ya), np.abs(yb)))
                noise = np.where(changed, np.maximum(level, least), 0) @ weight
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
        that no step changed may hide that much at the largest step, and less at others. Where a step changes nothing
        at all, values as large as primals and outputs may have been rounded on the way to those that it could change.
        """
        if peak is None:
            return self.hidden(moved)
        weight = 0.5 * self.eps * np.abs(self.weights * self.base)
        shape = (a.size // rungs, rungs, changed.shape[1])
        depends = np.logical_or.accumulate(changed.reshape(shape), axis=1)
        highest = np.nanmax(np.where(np.isfinite(peak), peak, 0.0).reshape(shape), axis=1, initial=0.0)
        inside = 0.5 * self.eps * np.abs(self.weights) * np.maximum(highest, self._magnitude)
        rounded = np.einsum("nrk,nk->nr", depends & ~changed.reshape(shape), inside)
        ever = depends[:, -1]
        some: Array = ever.any(axis=1)
        never = ~ever @ weight
        inner = np.where(some, self.eps * self._magnitude * (ever @ np.abs(self.weights)), self.inner)
        step = np.abs(a).reshape(-1, rungs)
        share = np.where(some[:, None], step / np.maximum(step[:, :1], np.finfo(float).tiny), 1.0)
        still = ~moved.reshape(step.shape)
        return (rounded + share * never[:, None] + np.where(still, inner[:, None], 0.0)).ravel()

    def hidden(self, moved: Array) -> Array:
        """What may have been rounded away inside where no output moved at one step; shape of `moved`."""
        return np.zeros(moved.shape) if moved.all() else np.where(moved, 0.0, 2 * self.inner)

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
    def unseen(self) -> float:
        """The same, where constants such as 1 are added inside to values that are smaller than they are."""
        return self.eps * max(1.0, self._magnitude) * float(np.sum(np.abs(self.weights)))
