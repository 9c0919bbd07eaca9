"""Generic mutants of any layer: what its right backward gives, changed in one of nine ways.

They answer one question of a test suite: which wrong gradients of this layer would it let through?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.functions import taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import by_name, handed
from gradverify.core.nouns import Array
from gradverify.mutants import Mutant, baseline

Change = Callable[[Array], Array]


def twice(gradient: Array) -> Array:
    return 2 * gradient


def negated(gradient: Array) -> Array:
    return -gradient


def transposed(gradient: Array) -> Array:
    """The last two axes swapped where both have one size; any other shape would be noticed at once."""
    square = gradient.ndim > 1 and gradient.shape[-1] == gradient.shape[-2]
    return np.swapaxes(gradient, -1, -2).copy() if square else gradient


def last_entry_lost(gradient: Array) -> Array:
    changed = np.array(gradient)
    if changed.size:
        changed.flat[changed.size - 1] = 0
    return changed


def last_row_lost(gradient: Array) -> Array:
    changed = np.array(gradient)
    if changed.ndim and len(changed):
        changed[-1] = 0
    return changed


def dropped(gradient: Array) -> Array:
    return np.zeros_like(gradient)


CHANGES: tuple[tuple[str, str, Change, int], ...] = (
    ("FACTOR", "scaled by 2", twice, 0),
    ("SIGN", "wrong sign", negated, 0),
    ("INDEX", "transposed where square", transposed, 2),
    ("INDEX", "last entry lost", last_entry_lost, 0),
    ("SHAPE", "last row lost", last_row_lost, 1),
    ("DROPPED", "zero", dropped, 0),
)  # class, words, change, and the number of axes that a primal must have


def mutants(layer: Layer) -> tuple[Mutant, ...]:
    """Every generic mutant that a layer admits, numbered from 1."""
    planted = (*_changed(layer), *_batch(layer), *_whole(layer))
    return tuple(_mutant(layer, number, *one) for number, one in enumerate(planted, 1))


Planted = tuple[str, str, Layer]


def _mutant(layer: Layer, number: int, bug_class: str, text: str, wrong: Layer) -> Mutant:
    named = wrong.derive(name=f"{layer.name}_mutant_{number}", origin=None)
    return Mutant(number, layer.name, bug_class, text, lambda: layer, lambda: named)


def _changed(layer: Layer) -> Iterator[Planted]:
    """The gradient of one primal changed."""
    for primal in layer.differentiable:
        if primal.name in layer.declared.zero:
            continue
        for bug_class, words, change, axes in CHANGES:
            if len(primal.dims.axes) >= axes and (change is not transposed or _can_be_square(primal)):
                yield bug_class, f"{primal.name}: {words}", _with(layer, _one(primal.name, change))


def _can_be_square(primal: Primal) -> bool:
    """Whether the last two axes can have one size; H and 4*H cannot."""
    rows, columns = primal.dims.axes[-2:]
    return rows.text == columns.text or set(rows.names).isdisjoint(columns.names)


def _one(name: str, change: Change) -> Callable[[dict[str, Any], Any, Any], dict[str, Any]]:
    def changed(gradients: dict[str, Any], cotangents: Any, again: Any) -> dict[str, Any]:
        value = gradients.get(name)
        return gradients if value is None else {**gradients, name: change(np.asarray(value))}

    return changed


def _batch(layer: Layer) -> Iterator[Planted]:
    """Primals without the batch axis get the gradient of the first row alone."""
    if layer.batch is None or not layer.returns:
        return
    axes = [
        d.text.split().index(layer.batch) if layer.batch in d.text.split() else None for d in layer.returns.values()
    ]
    if None in axes:
        return
    for primal in layer.differentiable:
        if layer.batch not in primal.dims.names and primal.name not in layer.declared.zero:
            wrong = _with(layer, _first_row(primal.name, [a for a in axes if a is not None]))
            yield "UNBROADCAST", f"{primal.name}: not summed over {layer.batch}", wrong


def _first_row(name: str, axes: list[int]) -> Callable[[dict[str, Any], Any, Any], dict[str, Any]]:
    def changed(gradients: dict[str, Any], cotangents: Any, again: Any) -> dict[str, Any]:
        parts = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        first = []
        for v, axis in zip(parts, axes):
            kept = np.zeros_like(v)
            kept[(slice(None),) * axis + (slice(0, 1),)] = v[(slice(None),) * axis + (slice(0, 1),)]
            first.append(kept)
        return {**gradients, name: again(tuple(first) if isinstance(cotangents, tuple) else first[0])[name]}

    return changed


def _whole(layer: Layer) -> Iterator[Planted]:
    """Mutants that need a second call, or look at the cotangent."""
    if layer.hooks.session is None:
        yield "STALE", "backward takes what the forward before saved", _stale(layer)
    case = baseline.typical(layer)
    shapes = [np.shape(case.primals[p.name]) for p in layer.differentiable]
    if np.shape((case.cotangents or (None,))[0]) in shapes:
        yield "MUTATE", "a gradient of the cotangent's shape written into it", _with(layer, _aliased)
    yield "UPSTREAM", "the cotangent ignored", _with(layer, _ones)


def _aliased(gradients: dict[str, Any], cotangents: Any, again: Any) -> dict[str, Any]:
    v = cotangents[0] if isinstance(cotangents, tuple) else cotangents
    for name, value in gradients.items():
        if value is not None and np.shape(value) == np.shape(v) and np.asarray(value).dtype == v.dtype:
            v[...] = value
            return {**gradients, name: v}
    return gradients


def _ones(gradients: dict[str, Any], cotangents: Any, again: Any) -> dict[str, Any]:
    ones = tuple(np.ones_like(v) for v in cotangents) if isinstance(cotangents, tuple) else np.ones_like(cotangents)
    result: dict[str, Any] = again(ones)
    return result


def _with(layer: Layer, change: Callable[[dict[str, Any], Any, Any], dict[str, Any]]) -> Layer:
    """The layer with its gradients changed: change(gradients by name, cotangents, backward once more)."""

    def backward(cotangents: Any, saved: Any, **options: Any) -> dict[str, Any]:
        def again(v: Any) -> dict[str, Any]:
            return _pull(layer, v, saved, options)

        return change(again(cotangents), cotangents, again)

    return layer.derive(backward=backward, hooks=_without_rules(layer))


def _pull(layer: Layer, cotangents: Any, saved: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The right gradients by name; backward may take its cotangents one by one."""
    given = handed(layer.backward, cotangents if isinstance(cotangents, tuple) else (cotangents,), saved)
    return by_name(layer, layer.backward(*given, **taken_by(layer.backward, options, len(given))))


def _without_rules(layer: Layer) -> Any:
    """Sessions bring a backward of their own, which would be the right one."""
    return replace(layer.hooks, session=None, wants=None, accumulate=None)


def _stale(layer: Layer) -> Layer:
    """Backward takes what the forward before the last one saved, if that had arrays of the same shapes."""
    calls: list[tuple[Any, Any]] = []

    def forward(*primals: Any, **options: Any) -> Any:
        result = layer.forward(*primals, **options)
        calls.append(([np.shape(p) for p in primals], result))
        del calls[:-2]
        return result

    def backward(cotangents: Any, saved: Any, **options: Any) -> Any:
        if len(calls) == 2 and calls[0][0] == calls[1][0]:
            saved = calls[0][1][1]
        return _pull(layer, cotangents, saved, options)

    return layer.derive(forward=forward, backward=backward, hooks=_without_rules(layer))
