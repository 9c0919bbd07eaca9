"""Shorter axes: an index of a named axis is taken out of every array that has the name.

Axes of arithmetic follow: of ``4*H`` one place goes from each of the four blocks, of ``D+H`` from the
part that belongs to the name. Labels and indices into a shortened axis are renumbered, and the
cotangents lose the same places.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.dims import Axis, Dims, tree
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Array, Case
from gradverify.core.shrink.search import Shrinker

Key = Union[str, tuple[str, int]]  # a name, or one axis of a group: ("*batch", 0)
Kept = Mapping[Key, Sequence[int]]  # places that stay; none for an axis of a group means that the axis goes


def shorten(search: Shrinker) -> None:
    """All axes at once, then axes of the same size together, then each alone."""
    leap(search)
    for key in _lengths(search):
        if isinstance(key, tuple) and key in _lengths(search):
            search.attempt(cut(search, {key: ()}))
    for group in _groups(_lengths(search)):
        _shorten(search, group)


def leap(search: Shrinker) -> None:
    """All axes to 1 or to 2 at once."""
    for most in (1, 2):
        longer = [key for key, n in _lengths(search).items() if n > most]
        if longer:
            search.attempt(cut(search, dict.fromkeys(longer, range(most))))


def _groups(lengths: Mapping[Key, int]) -> Iterator[tuple[Key, ...]]:
    """Names of one size, then single names, the longest first."""
    by_size: dict[int, list[Key]] = {}
    for key, length in sorted(lengths.items(), key=lambda item: -item[1]):
        by_size.setdefault(length, []).append(key)
    yield from (tuple(keys) for length, keys in by_size.items() if length > 1 and len(keys) > 1)
    yield from ((key,) for length, keys in by_size.items() if length > 1 for key in keys)


def _shorten(search: Shrinker, group: tuple[Key, ...]) -> None:
    length = _length(search, group)
    for few in (range(1), range(length - 1, length), range(2), range(length - 2, length)):
        if 0 < len(few) < length and search.attempt(cut(search, dict.fromkeys(group, few))):
            break
    length = _length(search, group)
    chunk, shortest = length // 2, max(1, length // 32)  # a long axis is not tried place by place
    while chunk >= shortest:
        start = 0
        while start < (length := _length(search, group)) > chunk:
            rest = [k for k in range(length) if not start <= k < start + chunk]
            if not search.attempt(cut(search, dict.fromkeys(group, rest))):
                start += chunk
        chunk //= 2


def _length(search: Shrinker, group: tuple[Key, ...]) -> int:
    """The common length of the axes of a group; 0 where they have none any more."""
    lengths = _lengths(search)
    found = {lengths.get(key, 0) for key in group}
    return found.pop() if len(found) == 1 else 0


def _lengths(search: Shrinker) -> dict[Key, int]:
    """Lengths of all axes that have a name of their own, options apart."""
    lengths: dict[Key, int] = {}
    names = dict.fromkeys(n for primal in search.layer.primals for n in primal.dims.names)
    sizes = search.sizes() or {}
    for name in names:
        if name in search.best.options or name not in sizes:
            continue
        if isinstance(sizes[name], tuple):
            lengths |= {(name, k): n for k, n in enumerate(sizes[name])}
        else:
            lengths[name] = sizes[name]
    return lengths


def cut(search: Shrinker, kept: Kept, options: Mapping[str, Any] | None = None) -> Case | None:
    """The best case with only the kept places of the axes named, and perhaps other options.

    Axes that are not named stay whole. None if the arrays cannot be cut so, or leave their domains.
    """
    case, layer, sizes = search.best, search.layer, search.sizes()
    options = case.options if options is None else options
    if sizes is None:
        return case.but(options=options) if not kept else None
    try:
        primals = {p.name: _take(case.primals[p.name], p.dims, kept, sizes) for p in layer.primals}
    except (DeclarationError, IndexError, KeyError):
        return None
    after = layer.named_sizes(primals, options)
    if after is None:
        return None
    for primal in layer.primals:
        array, domain = primals[primal.name], primal.domain
        if domain.name in ("labels", "indices"):
            array = _renumbered(array, kept.get(domain.arguments[0]), after.get(domain.arguments[0]))
        elif domain.name in ("lengths", "offsets") and domain.arguments[0] in kept:
            array = np.searchsorted(np.asarray(kept[domain.arguments[0]]), array).astype(array.dtype)  # places before
        if domain.strategy is None and not domain.contains(array, after):
            if domain.discrete or array.dtype.kind == "c":
                return None
            array = np.asarray(domain.project(array, after), dtype=array.dtype)
            if not domain.contains(array, after):
                return None
        primals[primal.name] = array
    return _with_cotangents(search, case.but(primals=primals, options=options), kept, sizes)


def _take(array: Array, dims: Dims, kept: Kept, sizes: Mapping[str, Any]) -> Array:
    """The kept places of every axis, as a fresh array."""
    array = np.asarray(array)
    gone: list[int] = []
    for position, (axis, key) in enumerate(_axes(dims, array.ndim, sizes)):
        places = _places_of(axis, key, array.shape[position], kept, sizes)
        if places is None:
            continue
        if not len(places):
            gone.append(position)
            places = (0,)
        array = np.take(array, places, axis=position)
    return np.array(array[tuple(0 if k in gone else slice(None) for k in range(array.ndim))], order="C")


def _axes(dims: Dims, rank: int, sizes: Mapping[str, Any]) -> Iterator[tuple[Axis, Key]]:
    """One pair for each axis of an array: its token, and the key of its size."""
    for axis in dims.axes:
        if axis.kind != "many":
            yield axis, axis.text.rstrip("?")
            continue
        count = rank - (len(dims.axes) - 1)
        known = sizes.get(axis.names[0], ())
        whole = len(known) if isinstance(known, tuple) else 1
        yield from ((axis, (axis.names[0], whole - count + k)) for k in range(count))


def _places_of(axis: Axis, key: Key, extent: int, kept: Kept, sizes: Mapping[str, Any]) -> Sequence[int] | None:
    """Places of one axis that stay; None for all."""
    if axis.kind == "fixed":
        return None
    if axis.kind in ("many", "name"):
        places = kept.get(key)
        return None if places is None or (axis.optional and extent == 1 and len(places)) else places
    if not any(name in kept for name in axis.names) or (axis.optional and extent == 1):
        return None
    size, places = _arithmetic(tree(axis.text.rstrip("?")), kept, sizes)
    if size != extent:
        raise DeclarationError(f"axis {axis.text!r} has {extent} places, not {size}")
    return places


def _arithmetic(node: ast.expr, kept: Kept, sizes: Mapping[str, Any]) -> tuple[int, Sequence[int]]:
    """Size of an expression, and the places that stay: products are blocks of blocks, sums are parts in a row."""
    if isinstance(node, ast.Name):
        size = int(sizes[node.id])
        return size, kept.get(node.id, range(size))
    if isinstance(node, ast.Constant):
        return int(str(node.value)), range(int(str(node.value)))
    assert isinstance(node, ast.BinOp)
    (left, outer), (right, inner) = _arithmetic(node.left, kept, sizes), _arithmetic(node.right, kept, sizes)
    if isinstance(node.op, ast.Mult):
        return left * right, [i * right + j for i in outer for j in inner]
    if isinstance(node.op, ast.Add):
        return left + right, [*outer, *(left + j for j in inner)]
    if isinstance(node.op, ast.Sub):
        return left - right, range(len(outer) - len(inner))
    return left // right, range(len(outer) // max(len(inner), 1))


def _renumbered(array: Array, kept: Sequence[int] | None, count: int | None) -> Array:
    """Indices into an axis of which only some places stay; those to lost places go to the last one."""
    if kept is None or not count:
        return array
    order = np.full(max(int(array.max(initial=0)), max(kept, default=0)) + 1, count - 1)
    order[list(kept)] = np.arange(count)
    return np.where(array >= 0, order[np.maximum(array, 0)], array).astype(array.dtype)


def _with_cotangents(search: Shrinker, case: Case, kept: Kept, sizes: Mapping[str, Any]) -> Case | None:
    """The case with cotangents that fit its outputs: the kept places of the old ones where that is possible."""
    if case.cotangents is None:
        return case
    layer = search.layer
    try:
        outputs = evaluate.run(layer, evaluate.copies(case.primals), case.options).outputs
    except evaluate.LayerFailure:
        return None
    fresh = evaluate.draw_cotangents(case, outputs)
    declared: list[Dims | None] = [*layer.returns.values(), *[None] * len(outputs)]
    found = []
    for k, output in enumerate(outputs):
        old = case.cotangents[k] if k < len(case.cotangents) else fresh[k]
        value = _cotangent(old, output.shape, declared[k], kept, sizes)
        found.append(fresh[k] if value is None else value)
    return case.but(cotangents=tuple(found) if any(v.any() for v in found) else fresh)


def _cotangent(
    old: Array, shape: tuple[int, ...], dims: Dims | None, kept: Kept, sizes: Mapping[str, Any]
) -> Array | None:
    if dims is not None:
        try:
            value = _take(old, dims, kept, sizes)
            if value.shape == shape:
                return value
        except (DeclarationError, IndexError, KeyError):
            pass
    if old.ndim != len(shape) or any(new > n for new, n in zip(shape, old.shape)):
        return None
    for axis, (n, new) in enumerate(zip(old.shape, shape)):
        if n != new:
            same = (p for key, p in kept.items() if len(p) == new and isinstance(key, str) and sizes.get(key) == n)
            old = np.take(old, next(same, range(new)), axis=axis)
    return np.array(old, order="C")
