"""The differentiable primals as one flat vector of real parameters, and differences along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.core.nouns import Array


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
    """Contracted differences phi(a) - phi(b); every array has one element for each row."""

    change: Array  # sum over outputs of cotangent * (y(a) - y(b))
    gap: Array  # realised step between a and b (1-D), or the analytic prediction <g, a - b> along a direction
    noise: Array  # rounding noise of `change`, about one standard deviation, same unit
    moved: Array  # whether any output changed at all

    def rows(self, chosen: Array) -> Differences:
        """Some of the rows."""
        return Differences(*(getattr(self, field)[chosen] for field in _FIELDS))


_FIELDS = tuple(Differences.__slots__)


def real_parts(array: Any, slot: Slot, conjugate: bool) -> Array:
    """A gradient or primal as the flat real parameters of a slot."""
    array = np.asarray(array)
    if not slot.complex:
        return array.real.ravel()
    return np.stack([array.real, array.imag if conjugate else -array.imag], -1).ravel()


def displaced(values: Array, offsets: Array, grid: Any) -> Array:
    """values + offsets as a type that is lower than theirs would store them, as far on one side as on the other.

    A layer that casts what it is given rounds a finer step away, or takes it for a larger one.

    Parameters
    ----------
    values, offsets : broadcast against each other
    grid : floating type; None adds in the type of the values
    """
    with np.errstate(all="ignore"):
        if grid is None:
            return np.asarray(values + offsets.astype(values.dtype, copy=False))
        centre = values.astype(grid)
        unit = np.spacing(np.abs(centre) + np.abs(offsets).astype(grid)).astype(values.dtype)
        return np.asarray(centre.astype(values.dtype) + np.round(offsets / unit) * unit)


def joined(parts: list[Differences], order: Array | None = None) -> Differences:
    """Parts as one; `order` says which row each of their rows is, default one after the other."""
    if len(parts) == 1 and order is None:
        return parts[0]
    if not parts:
        return Differences(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, bool))
    whole = Differences(*(np.concatenate([getattr(p, f) for p in parts]) for f in _FIELDS))
    return whole if order is None else whole.rows(np.argsort(order, kind="stable"))


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
