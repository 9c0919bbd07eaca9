"""Cases near a given one: the same layer at plain values, at other sizes, with one primal changed.

A case that a check has made small hides its cause; one in general position, with sizes that are all
different and values of order one, shows it. Nothing is drawn here but from the Case's own seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.dims import numbers_in
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Array, Case, Stream

_LARGE = 600  # elements of all primals together; above that, sizes are taken from the small pools
# Sizes of the first, second, ... axis: no two alike in a pool, where many elements do not forbid it, and other ones in
# the next, so that what depends on a size is told from what depends on another.
_SMALL = ((3, 2, 2, 2, 2, 2), (2, 2, 3, 2, 2, 3), (2, 3, 2, 2, 3, 2))
_POOLS = ((3, 2, 5, 4, 6, 7), (2, 5, 3, 4, 7, 6), (4, 3, 2, 5, 6, 7), (5, 4, 3, 6, 2, 7), (6, 7, 5, 8, 4, 9))

Sizes = Mapping[str, Any]


def axis_names(layer: Layer) -> tuple[str, ...]:
    """Names of axes whose size is free, in order of appearance; groups of leading axes keep their star."""
    names = dict.fromkeys(n for primal in layer.primals for n in primal.dims.names)
    return tuple(n for n in names if n not in layer.options)


def lone_sizes(layer: Layer, case: Case) -> dict[str, int]:
    """Sizes of the free axes, groups of leading axes only where they are one axis."""
    sizes = layer.named_sizes(case.primals, case.options) or {}
    found = {n: sizes[n] for n in axis_names(layer) if n in sizes}
    lone = {n: v[0] if isinstance(v, tuple) and len(v) == 1 else v for n, v in found.items()}
    return {n: v for n, v in lone.items() if isinstance(v, int)}


def grouped(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Sizes by name, those of groups of leading axes as a tuple of one."""
    return {n: (v,) if n.startswith("*") else v for n, v in sizes.items()}


def legal(layer: Layer, case: Case) -> bool:
    """Whether shapes, domains and the author's own predicate allow a case."""
    sizes = layer.named_sizes(case.primals, case.options)
    if sizes is None:
        return False
    for primal in layer.primals:
        domain = primal.domain
        if domain.strategy is None and not domain.contains(case.primals[primal.name], sizes):
            return False
    return layer.legal(case.primals, case.options)


def shapes(layer: Layer, sizes: Sizes) -> dict[str, tuple[int, ...]] | None:
    """Shapes of all primals, optional axes at full size; None if a size is missing or negative."""
    try:
        return {p.name: p.dims.shape(sizes) for p in layer.primals}
    except (KeyError, DeclarationError, ZeroDivisionError):
        return None


def plain(
    layer: Layer,
    case: Case,
    options: Mapping[str, Any],
    draw: int = 0,
    sizes: Sizes | None = None,
    like: Case | None = None,
) -> Case | None:
    """A case of values of order one, all different where the domain allows, at sizes that all differ.

    Parameters
    ----------
    draw : number of the draw; sizes differ from one to the next, where `sizes` does not fix them
    sizes : sizes that are fixed, by name
    like : take the shapes of this case instead
    """
    if like is not None:
        found = {n: np.shape(a) for n, a in like.primals.items()}
        return _filled(layer, case, options, found, dict(layer.named_sizes(like.primals, options) or {}), draw)
    for chosen in _sizes(layer, case, draw):
        wanted = {**chosen, **numbers_in(options), **(sizes or {})}
        shaped = shapes(layer, wanted)
        if shaped is not None and sum(prod(s) for s in shaped.values()) > _LARGE:
            wanted = {**small(layer, draw), **numbers_in(options), **(sizes or {})}
            shaped = shapes(layer, wanted)
        made = None if shaped is None else _filled(layer, case, options, shaped, wanted, draw)
        if made is not None:
            return made
    return None


def _sizes(layer: Layer, case: Case, draw: int) -> Iterator[dict[str, Any]]:
    names = axis_names(layer)
    for attempt in range(len(_POOLS)):
        pool = _POOLS[(draw + attempt) % len(_POOLS)]
        yield grouped({n: pool[k % 6] for k, n in enumerate(names)})
    own = layer.named_sizes(case.primals, case.options)
    if own is not None:
        yield own


def small(layer: Layer, draw: int) -> dict[str, Any]:
    """Sizes of 2 and 3."""
    pool = _SMALL[draw % len(_SMALL)]
    return grouped({n: pool[k % 6] for k, n in enumerate(axis_names(layer))})


def _filled(
    layer: Layer,
    case: Case,
    options: Mapping[str, Any],
    shaped: Mapping[str, tuple[int, ...]],
    sizes: dict[str, Any],
    draw: int,
) -> Case | None:
    for attempt in range(4):
        rng = case.rng(Stream.PLAIN_CASE, draw, attempt)
        primals = {p.name: values(p, shaped[p.name], sizes, rng, case.primals[p.name]) for p in layer.primals}
        made = case.but(primals=primals, options=dict(options), cotangents=None, seed=case.seed + 101 * draw + attempt)
        if legal(layer, made):
            return made
    return None


def values(primal: Primal, shape: tuple[int, ...], sizes: Sizes, rng: np.random.Generator, old: Array) -> Array:
    """Plain values of one primal; those of a domain that only its author knows are taken from an old array."""
    domain, old = primal.domain, np.asarray(old)
    if domain.strategy is not None:
        pool = old.ravel() if old.size else np.zeros(1, old.dtype)
        return rng.choice(pool, shape)
    if domain.discrete:
        raw: Array = rng.random(shape)
        if domain.name == "mask" and raw.size > 1:  # masks that keep most, and not all: that would hide what they do
            raw = np.where(raw < raw.max(), 0.75 * raw, 1.0)
    elif domain.kind == "complex":
        raw = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    else:
        raw = rng.normal(size=shape)
    return np.asarray(domain.project(raw, sizes))


def other_options(layer: Layer, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options with one of them, or one part of a tuple, at another of its choices."""
    for name, spec in layer.options.items():
        value = options.get(name)
        if isinstance(spec, tuple) and isinstance(value, tuple):
            for k, part in enumerate(spec):
                yield from ({**options, name: (*value[:k], v, *value[k + 1 :])} for v in _next(part, value[k]))
        elif isinstance(spec, (list, range)):
            yield from ({**options, name: v} for v in _next(spec, value))


def _next(spec: Any, value: Any) -> list[Any]:
    return [v for v in spec if v != value][:2] if isinstance(spec, (list, range)) else []


def with_arrays(layer: Layer, case: Case, arrays: Mapping[str, Array]) -> Case | None:
    """The case with other arrays of the same shapes in place of some; None if it is not legal."""
    made = case.but(primals={**case.primals, **arrays})
    return made if legal(layer, made) else None


def but(layer: Layer, case: Case, name: str, change: Callable[[Array], Array]) -> Case | None:
    """The case with one primal changed, cotangents kept where they still fit; None if it is not legal."""
    array = np.asarray(case.primals[name])
    changed = np.asarray(change(array.copy()), dtype=array.dtype)
    same = changed.shape == array.shape
    made = case.but(primals={**case.primals, name: changed}, cotangents=case.cotangents if same else None)
    return made if legal(layer, made) else None
