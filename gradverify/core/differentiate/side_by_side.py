"""Perturbed copies joined along an axis that the layer has anyway: rows of a batch, which do not see one another.

Code that fixes its axes (`x.mean(axis=1)`) takes no leading one, and does take a longer batch. That is tried, bit for
bit, never assumed: a mean over the batch is refused, and so is a product that is rounded otherwise when it is longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import TRIAL, time_limit
from gradverify.core.nouns import Array

BYTES = 4 << 20  # of joined primals in one forward: as many fit the cache of a CPU core
_REFUSALS = 6  # after which an axis of a layer is not tried again: each costs a few forwards for each shape
_FEWEST = 8  # copies for which a trial, of four forwards, is worth its price

_refused: WeakKeyDictionary[Callable[..., Any], dict[str, int]] = WeakKeyDictionary()


class Forward(Protocol):
    """What is asked of the forward whose copies are joined."""

    layer: Layer
    primals: dict[str, Array]
    shapes: list[tuple[int, ...]]
    base: Array
    forwards: int

    def call(self, primals: Mapping[str, Array]) -> tuple[Array, ...]: ...
    def row(self, stack: Mapping[str, Array], k: int) -> Array: ...
    def flattened(self, parts: list[Array]) -> Array: ...
    def differing(self, names: tuple[str, ...]) -> tuple[dict[str, Array], int]: ...


class SideBySide:
    """Ways to join copies of what a Forward evaluates, and which of them it was seen to carry."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.axes = _axes(forward)
        self._carried: set[tuple[str, ...]] = set()

    def outputs(self, stack: Mapping[str, Array], count: int) -> tuple[Array, Array]:
        """Which copies came out joined, a mask of shape (count,), and their flat outputs, shape (copies, K).

        Parameters
        ----------
        stack : perturbed primals, each of shape (count, *its own)
        """
        refused = _refused.setdefault(self.forward.layer.forward, {})
        tried = {a: where for a, where in self.axes.items() if count >= _FEWEST and refused.get(a, 0) < _REFUSALS}
        points = self.forward.primals.items() if tried else ()
        moved = {n: (stack[n] != a).reshape(count, -1).any(axis=1) for n, a in points if n in stack}
        for label, where in tried.items():
            free = ~np.any([m for n, m in moved.items() if n not in where] or [np.zeros(count, bool)], axis=0)
            chosen, names = np.flatnonzero(free), tuple(n for n in where if n in stack)
            if not names or chosen.size < _FEWEST:
                continue
            found = self._in_parts({n: stack[n][chosen] for n in names}, label) if self._carries(label, names) else None
            if found is not None and self._same(found[chosen.size // 2], stack, chosen[chosen.size // 2]):
                return free, found
            refused[label] = refused.get(label, 0) + 1
        return np.zeros(count, bool), np.zeros((0, self.forward.base.size))

    def _carries(self, label: str, names: tuple[str, ...]) -> bool:
        """Whether copies that differ much come out as they do one by one."""
        key = (label, *names)
        if key not in self._carried:
            stack, count = self.forward.differing(tuple(self.axes[label]))
            found = None
            with suppress(LayerFailure), time_limit(TRIAL, inner=True):  # one that takes longer gains nothing by it
                found = self._joined(stack, label)
            if found is None or not all(self._same(found[k], stack, k) for k in (0, count - 1)):
                return False
            self._carried.add(key)
        return True

    def _same(self, found: Array, stack: Mapping[str, Array], k: int) -> bool:
        try:
            return np.array_equal(found, self.forward.row(stack, k), equal_nan=True)
        except LayerFailure:
            return False

    def _in_parts(self, stack: Mapping[str, Array], label: str) -> Array | None:
        count = len(next(iter(stack.values())))
        size = sum(self.forward.primals[n].nbytes for n in self.axes[label])
        most = max(1, BYTES // (size + 1))
        parts = [self._joined({n: a[k : k + most] for n, a in stack.items()}, label) for k in range(0, count, most)]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]

    def _joined(self, stack: Mapping[str, Array], label: str) -> Array | None:
        """Flat outputs of all copies from one forward, shape (copies, K); None where they cannot be told apart."""
        forward, count = self.forward, len(next(iter(stack.values())))
        given = dict(forward.primals)
        for name, axis in self.axes[label].items():
            point = forward.primals[name]
            copies = stack[name] if name in stack else np.broadcast_to(point, (count, *point.shape))
            given[name] = _merged(copies, axis)
        try:
            parts = [_parted(y, count, shape) for y, shape in zip(forward.call(given), forward.shapes, strict=True)]
        except (LayerFailure, ValueError):
            return None
        forward.forwards += count
        return forward.flattened(parts)


def _axes(forward: Forward) -> dict[str, dict[str, int]]:
    """Axes by name, the batch first: of each, which axis it is of every primal that has it, if all are as long."""
    layer, found = forward.layer, dict[str, dict[str, int]]()
    for primal in layer.primals:
        labels = primal.dims.labels(np.ndim(forward.primals[primal.name]))
        for axis, label in enumerate(labels):
            if label.isidentifier() and labels.count(label) == 1:
                found.setdefault(label, {})[primal.name] = axis
    sizes = {label: {forward.primals[n].shape[k] for n, k in where.items()} for label, where in found.items()}
    names = sorted(found, key=lambda label: label != layer.batch)
    return {label: found[label] for label in names if len(sizes[label]) == 1 and sizes[label] != {0}}


def _merged(copies: Array, axis: int) -> Array:
    """An axis of copies, the first, merged into another axis."""
    shape = copies.shape[1:]
    return np.moveaxis(copies, 0, axis).reshape(*shape[:axis], -1, *shape[axis + 1 :])


def _parted(y: Array, count: int, shape: tuple[int, ...]) -> Array:
    """The copies of an output, shape (count, *shape).

    Raises ValueError if it is not one axis that is as long as all copies together.
    """
    longer = [k for k, (found, own) in enumerate(zip(y.shape, shape)) if found != own]
    if y.ndim != len(shape) or len(longer) != 1 or y.shape[longer[0]] != count * shape[longer[0]]:
        raise ValueError("the copies were not carried through")
    axis = longer[0]
    return np.moveaxis(y.reshape(*shape[:axis], count, *shape[axis:]), axis, 0)
