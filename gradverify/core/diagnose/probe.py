"""Both gradients of every primal at one Case, computed when they are asked for, and where they disagree.

The numerical side is the whole Jacobian from one central difference: some nine digits, enough to name a
cause, and cheap, because gradients for any other cotangent follow from it without another forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate.central import best_step
from gradverify.core.differentiate.flat import Slot
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array, Case, Comparison

CLOSE = 1e-6  # relative to the largest entry: one central difference is good for about 1e-9
NOTHING = 1e-9  # of the largest entry: no more than a central difference is off by
APART = 1e-4  # by which ratios differ that are not one number: a hundred times what they may differ by if they are


def close(a: Array, b: Array, tolerance: float = CLOSE) -> bool:
    """Whether two arrays are equal up to a share of their largest entry; False for other shapes, NaN or infinity."""
    if np.shape(a) != np.shape(b):
        return False
    top = max(float(np.max(np.abs(a), initial=0.0)), float(np.max(np.abs(b), initial=0.0)))
    if not np.isfinite(top):
        return False
    return bool(np.all(np.abs(np.subtract(a, b)) <= tolerance * top))


class Probe:
    """A Case with the analytic and the numerical gradient of each primal; raises LayerFailure if forward fails.

    Attributes
    ----------
    case : with cotangents
    outputs : arrays, one for each output
    sizes : size of each axis name and numeric option; None where the shapes contradict the layer
    known : numerical gradients that were found by finer means, by primal; NaN where there is none
    """

    def __init__(self, layer: Layer, case: Case, known: Comparison | None = None) -> None:
        self.layer = layer
        self.case, self.outputs = evaluate.completed(layer, case)
        primals = self.case.primals
        floats = [a.real.dtype for a in primals.values() if a.dtype.kind in "fc"]
        if floats and np.result_type(*floats).itemsize < 8:
            self.case = self.case.but(primals=evaluate.cast(primals, np.float64))
        self._known = known
        self._jacobians: dict[str, Array] = {}

    @cached_property
    def point(self) -> Point:
        return Point(self.layer, self.case)

    @cached_property
    def failure(self) -> LayerFailure | None:
        """What backward broke down with, if it did."""
        return self._pulled[1]

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """Where each output lies among the flat ones, complex numbers as two."""
        ends = np.cumsum([0, *(y.size * (2 if y.dtype.kind == "c" else 1) for y in self.outputs)])
        return tuple(slice(first, last) for first, last in pairwise(ends.tolist()))

    @property
    def raw(self) -> Mapping[str, object]:
        """What backward returned, by primal; empty if it failed."""
        return self._pulled[0]

    @cached_property
    def _pulled(self) -> tuple[Mapping[str, object], LayerFailure | None]:
        return self._pull(self.case.cotangents or ())

    def _pull(self, cotangents: tuple[Array, ...]) -> tuple[Mapping[str, object], LayerFailure | None]:
        try:
            return evaluate.gradients(self.layer, self.case.primals, self.case.options, cotangents), None
        except LayerFailure as failure:
            return {}, failure

    def slot(self, name: str) -> Slot:
        """Where a primal lies among the real parameters."""
        return next(slot for slot in self.point.slots if slot.name == name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a gradient; complex primals have a last axis of two."""
        return self.slot(name).shape

    def labels(self, name: str) -> tuple[str, ...]:
        """A readable name for each axis of a gradient."""
        rank = np.ndim(self.case.primals[name])
        labels = self.layer.primal(name).dims.labels(rank)
        return (*labels, "re/im") if len(self.shape(name)) > rank else labels

    @cached_property
    def analytic(self) -> dict[str, Array]:
        """Usable analytic gradients by primal, declared factors divided out."""
        return self._usable(self.raw)

    def pulled(self, cotangents: tuple[Array, ...]) -> dict[str, Array]:
        """Analytic gradients for other cotangents."""
        return self._usable(self._pull(cotangents)[0])

    def _usable(self, raw: Mapping[str, object]) -> dict[str, Array]:
        if not raw:
            return {}
        good, _ = evaluate.usable(self.layer, self.case, raw)
        scaled = {n: np.asarray(g) / self.layer.declared.factor_of(n) for n, g in good.items()}
        flat = self.point.vector(scaled)
        return {s.name: flat[s.start : s.stop].reshape(s.shape) for s in self.point.slots if s.name in good}

    def jacobian(self, name: str) -> Array:
        """Derivative of every flat output by every entry of a primal, shape (outputs, entries)."""
        if name not in self._jacobians:
            self._jacobians[name] = self._differences(self.slot(name))
        return self._jacobians[name]

    def _differences(self, slot: Slot) -> Array:
        point, array = self.point, self.point.primals[slot.name]
        flat = np.ascontiguousarray(array).view(array.real.dtype).reshape(-1)
        step = best_step(point.eps) * point.scale[slot.start : slot.stop]
        signs = np.array([1.0, -1.0])[:, None, None]
        moved = (flat + signs * np.diag(step)).astype(flat.dtype).reshape(-1, flat.size)
        stack = {slot.name: moved.view(array.dtype).reshape(-1, *array.shape)}
        with np.errstate(all="ignore"):
            y = point.outputs(stack, 2 * flat.size)
            gap = np.diagonal(moved[: flat.size] - moved[flat.size :])
            return np.asarray((y[: flat.size] - y[flat.size :]).T / gap, float)

    def numerical(self, name: str) -> Array:
        """The right gradient of a primal."""
        shape = self.shape(name)
        if name in self.layer.declared.zero:
            return np.zeros(shape)
        value = (self.point.weights @ self.jacobian(name)).reshape(shape)
        if self._known is not None and self._known.primal == name and self._known.numerical.shape == shape:
            return np.where(np.isfinite(self._known.numerical), self._known.numerical, value)
        return value

    def contributions(self, name: str) -> Array:
        """Terms of the right gradient, one for each flat output, shape (outputs, *primal)."""
        return (self.point.weights[:, None] * self.jacobian(name)).reshape(-1, *self.shape(name))

    def under(self, name: str, weights: Array) -> Array:
        """The right gradient for other weights of the flat outputs."""
        return np.asarray((weights @ self.jacobian(name)).reshape(self.shape(name)))

    def wrong(self, name: str) -> Array:
        """Mask of the entries that disagree; all of them where there is no usable gradient."""
        a = self.analytic.get(name)
        if a is None:
            return np.ones(self.shape(name), bool)
        if self._known is not None and self._known.primal == name and self._known.wrong.shape == a.shape:
            return np.asarray(self._known.wrong | ~np.isfinite(a))
        n = self.numerical(name)
        with np.errstate(all="ignore"):
            fine = np.abs(a - n) <= self.slack(name)
        return np.where(np.isfinite(n), ~fine, np.isnan(a))

    def slack(self, name: str) -> float:
        """Difference of two gradients of a primal that means nothing."""
        n = self.numerical(name)
        top = float(np.max(np.abs(n[np.isfinite(n)]), initial=0.0))
        slot = self.slot(name)
        scale = self.point.scale[slot.start : slot.stop]
        share = self.point.eps / best_step(self.point.eps)  # of the outputs, that rounding makes of a difference
        noise = share * self.point.loudness / float(np.min(scale, initial=1.0) or 1.0)
        return CLOSE * top + min(noise, 1e-5)

    def times(self, name: str) -> Array:
        """How many times that each entry is off by, in the shape of the primal; NaN where nobody can tell."""
        with np.errstate(all="ignore"):
            off: Array = np.abs(self.analytic[name] - self.numerical(name)) / self.slack(name)
        return off.reshape(self.shape(name))

    def fails(self, name: str | None) -> bool:
        """Whether the gradient of a primal is wrong or absent; of any primal for None."""
        if self.failure is not None:
            return True
        if not all(np.isfinite(y).all() for y in self.outputs if y.dtype.kind in "fc"):
            return False
        names = [p.name for p in self.layer.differentiable] if name is None else [name]
        return any(bool(self.wrong(n).any()) for n in names)
