"""The differentiable primals of a layer at one point, as one flat vector of real entries, and moved copies of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.differentiate.flat import Slot, displaced, real_parts
from gradverify.core.differentiate.forward import Forward
from gradverify.core.nouns import Array, Case


class Entries(Forward):
    """A layer's forward, and the entries that it is differentiated by."""

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Where each differentiable primal lies in the flat vector."""
        return tuple(self._slots())

    @cached_property
    def size(self) -> int:
        """Number P of real entries."""
        return self.slots[-1].stop if self.slots else 0

    def _slots(self) -> Iterator[Slot]:
        start = 0
        for primal in self.layer.differentiable:
            array = self.primals[primal.name]
            is_complex = array.dtype.kind == "c"
            shape = (*array.shape, 2) if is_complex else array.shape
            stop = start + prod(shape)
            yield Slot(primal.name, start, stop, shape, is_complex)
            start = stop

    @cached_property
    def grid(self) -> Any:
        """The type of the outputs where it is lower than that of a primal, which the layer then may cast; else None."""
        sizes = [self.primals[slot.name].real.dtype.itemsize for slot in self.slots]
        return self.dtype if self.dtype.itemsize < max(sizes, default=0) else None

    def vector(self, arrays: Mapping[str, Array]) -> Array:
        """Arrays by primal name as one flat real vector; a missing one is NaN."""
        flat = np.full(self.size, np.nan)
        for slot in self.slots:
            if slot.name in arrays:
                flat[slot.start : slot.stop] = real_parts(arrays[slot.name], slot, self.layer.declared.conjugate)
        return flat

    def claimed(self, gradients: Mapping[str, Array]) -> Array:
        """Analytic gradients by primal name as one flat real vector, without the factors that are declared."""
        factor = self.layer.declared.factor_of
        return self.vector({name: np.asarray(g) / factor(name) for name, g in gradients.items()})

    def gradient(self, case: Case) -> Array:
        """The analytic gradient at a case near this point, flat; NaN where backward gives none that can be compared.

        Raises LayerFailure if forward or backward fails there.
        """
        raw = evaluate.gradients(self.layer, case.primals, case.options, case.cotangents or ())
        return self.claimed(evaluate.usable(self.layer, case, raw)[0])

    def moved_to(self, values: Array) -> Case:
        """The case with other values in place of the differentiable primals, shape (P,)."""
        moved = {name: a[0] for name, a in self.unpacked(np.array(values)[None], self.slots).items()}
        return self.case.but(primals={**self.primals, **moved})

    def gradient_at(self, values: Array) -> Array:
        """The analytic gradient there, see `gradient`."""
        return self.gradient(self.moved_to(values))

    def gradients_along(self, entry: int, offsets: Array) -> Array | None:
        """The analytic derivative along one entry, where that entry is moved; None where backward gives none."""
        values = np.tile(self.values, (offsets.size, 1))
        values[:, entry] += offsets
        try:
            found = np.array([self.gradient_at(row)[entry] for row in values])
        except evaluate.LayerFailure:
            return None
        return found if np.isfinite(found).all() else None

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
        return np.array([slot.stop - slot.start for slot in self.slots if slot.stop > slot.start], dtype=np.intp)

    def tops(self, flat: Array) -> Array:
        """For each entry, the largest finite magnitude in its primal: shape (P,), from shape (P,)."""
        if self.size == 0:
            return np.zeros(0)
        size = np.abs(flat)
        size[~np.isfinite(size)] = 0.0
        largest: Array = np.repeat(np.maximum.reduceat(size, self._starts), self._lengths)
        return largest

    def unpacked(self, flat: Array, slots: tuple[Slot, ...]) -> dict[str, Array]:
        """Stacked primals by name, shape (count, *shape), from rows of the flat vector.

        Parameters
        ----------
        flat : shape (count, width), over consecutive slots; rounded in place to what the primals can hold
        """
        stack = {}
        for slot in slots:
            array = self.primals[slot.name]
            part = flat[:, slot.start - slots[0].start : slot.stop - slots[0].start]
            if array.real.dtype != flat.dtype:
                with np.errstate(over="ignore"):
                    held = part.astype(array.real.dtype)
                part[...] = held
                part = held
            stack[slot.name] = (part.view(array.dtype) if slot.complex else part).reshape(len(flat), *array.shape)
        return stack

    def displaced_along(
        self, direction: Array, steps: Array, n: int, analytic: Array | None
    ) -> tuple[dict[str, Array], Array]:
        """Primals at these steps, stacked, by name; <analytic, realised step> from the others, or the point, to the
        first n.
        """
        stack, gap = {}, np.zeros(n)
        for slot in self.slots:
            part = direction[slot.start : slot.stop]
            if not part.any():
                continue
            array = self.primals[slot.name]
            real = (array.view(array.real.dtype) if slot.complex else array).reshape(-1)
            moved = displaced(real, steps[:, None] * part, self.grid)
            if analytic is not None:
                realised = moved[:n] - (moved[n:] if steps.size > n else real)
                gap += realised.astype(float) @ np.nan_to_num(analytic[slot.start : slot.stop])
            stack[slot.name] = (moved.view(array.dtype) if slot.complex else moved).reshape(steps.size, *array.shape)
        return stack, gap
