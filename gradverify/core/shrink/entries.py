"""Rounder entries: zeros, ones, small integers and single decimals, for whole arrays, blocks and single places.

And other values in a case of the same sizes: what is wrong at one primal is most often wrong at another one there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Union

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.nouns import Array, Case, Stream
from gradverify.core.shrink.search import Shrinker

Slot = Union[str, int]  # a primal by name, or a cotangent by position

_SIMPLE_IS_ONE = ("mask", "signs", "bool")
_MANY = 200  # arrays with more places than this are simplified in blocks only
_RUNS = 64  # blocks in which such an array is simplified at the finest: each costs a try


def simplify(search: Shrinker) -> None:
    """Whole arrays first, all of them, then blocks and single places of each."""
    slots: list[Slot] = [*search.best.primals, *range(len(search.best.cotangents or ()))]
    for slot in slots:
        for array in _whole(search, slot):
            if _replace(search, slot, array):
                break
    for slot in slots:
        _empty(search, slot)
    for slot in slots:
        _round(search, slot)


def _array(case: Case, slot: Slot) -> Array:
    return np.asarray(case.primals[slot] if isinstance(slot, str) else (case.cotangents or ())[slot])


def _simplest(search: Shrinker, slot: Slot) -> int:
    return int(isinstance(slot, str) and search.layer.primal(slot).domain.name in _SIMPLE_IS_ONE)


def _whole(search: Shrinker, slot: Slot) -> Iterator[Array]:
    array = _array(search.best, slot)
    simplest = _simplest(search, slot)
    yield np.full_like(array, simplest)
    yield np.full_like(array, 1 - simplest)
    if array.dtype.kind == "c":
        yield from (np.rint(array.real).astype(array.dtype), np.round(array.real, 1).astype(array.dtype))
    if array.dtype.kind in "fc":
        yield from (np.rint(array) + 0, np.round(array, 1) + 0, array + 0)  # + 0: no negative zeros


def _replace(search: Shrinker, slot: Slot, array: Array) -> bool:
    """Try another array in a slot; only simpler ones, in the domain, and never with all cotangents zero."""
    best, old = search.best, _array(search.best, slot)
    if _complexity(search, slot, array) >= _complexity(search, slot, old):
        return False
    if isinstance(slot, str):
        primals = {**best.primals, slot: array}
        sizes = search.sizes()
        if sizes is None or not search.layer.primal(slot).domain.contains(array, sizes):
            return False
        return search.attempt(best.but(primals=primals))
    cotangents = list(best.cotangents or ())
    cotangents[slot] = array
    return any(v.any() for v in cotangents) and search.attempt(best.but(cotangents=tuple(cotangents)))


def _edit(search: Shrinker, slot: Slot, places: Any, value: Any) -> bool:
    """Try a value at some places (positions in the flattened array)."""
    array = np.array(_array(search.best, slot))
    array.reshape(-1)[places] = value
    return _replace(search, slot, array)


def _empty(search: Shrinker, slot: Slot) -> None:
    """Set runs of places to the simplest value, shorter and shorter ones."""
    simplest = _simplest(search, slot)
    places = np.flatnonzero(_array(search.best, slot) != simplest)
    chunk = (len(places) + 1) // 2
    shortest = max(1, len(places) // _RUNS)
    while chunk >= shortest:
        for start in range(0, len(places), chunk):
            _edit(search, slot, places[start : start + chunk], simplest)
        places = np.flatnonzero(_array(search.best, slot) != simplest)
        chunk //= 2


def _round(search: Shrinker, slot: Slot) -> None:
    """Rounder values for single places that are not the simplest, as far as there are few."""
    places = np.flatnonzero(_array(search.best, slot) != _simplest(search, slot))
    if len(places) > _MANY:
        return
    for place in places:
        for value in _candidates(_array(search.best, slot).reshape(-1)[place]):
            if _edit(search, slot, place, value):
                break
        _smaller(search, slot, int(place))


def _candidates(value: Any) -> Iterator[Any]:
    yield from (0, 1, -1)
    if isinstance(value, np.complexfloating):
        yield from (1j, value.real, 1j * value.imag)
    if isinstance(value, np.inexact):
        yield from (np.rint(value) + 0, 2 * np.rint(value) + 0, np.round(value, 1) + 0, np.round(value, 2))


def _smaller(search: Shrinker, slot: Slot, place: int) -> None:
    """The smallest magnitude of an integer value at which the case still fails, by bisection."""
    value = _array(search.best, slot).reshape(-1)[place]
    if np.iscomplexobj(value) or not 2 < abs(value) < 2**31 or value != np.rint(value):
        return
    sign, low, high = (1 if value > 0 else -1), 1, int(abs(value))
    while high - low > 1:
        middle = (low + high) // 2
        if _edit(search, slot, place, sign * middle):
            high = middle
        else:
            low = middle


def _complexity(search: Shrinker, slot: Slot, array: Array) -> float:
    """How hard an array is to read: 0 for each simplest entry, little for small integers, much for many digits."""
    values = np.asarray(array)
    if values.dtype.kind == "c":
        return _digits(values.real) + _digits(values.imag)
    if _simplest(search, slot):
        return float(np.count_nonzero(values != 1))
    return _digits(values)


def _digits(values: Array) -> float:
    values = np.asarray(values, dtype=float)
    with np.errstate(all="ignore"):
        magnitude = np.minimum(np.abs(values), 1e6)
        tenths = np.abs(np.round(values, 1) - values) <= 1e-3 * np.abs(values)
        cost = np.where(values == 0, 0.1 * np.signbit(values), 2.0 + magnitude / 1e3 + 0.5 * (values < 0))
        cost = np.where(values == 1, 1.0, cost)
        cost += np.where(values == np.rint(values), 0.0, np.where(tenths, 5.0, 20.0))
    return float(np.where(np.isfinite(values), cost, 100.0).sum())


TIMES = 2  # draws: one may hide the finding by chance


def refilled(layer: Layer, case: Case) -> Iterator[Case]:
    """Cases of the same sizes and options with real values in tenths, and cotangents drawn from the case's seed."""
    sizes = layer.named_sizes(case.primals, case.options) or {}
    for k in range(TIMES):
        rng = case.rng(Stream.REFILLED, k)
        primals = dict(case.primals)
        for primal in layer.differentiable:
            array = np.asarray(case.primals[primal.name])
            if array.dtype.kind == "f" and primal.domain.strategy is None:
                raw = np.round(rng.standard_normal(array.shape), 1)
                primals[primal.name] = np.asarray(primal.domain.project(raw, sizes)).astype(array.dtype)
        yield case.but(primals=primals, cotangents=None, seed=k)
