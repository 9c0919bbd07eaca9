"""Sizes of the named dimensions of a layer, and the shapes of its primals.

A transposed product is legal only where two sizes are equal, and 1/N is told from 1/K only where
they differ, so both are drawn on purpose. Sizes of 1 hide most bugs: two in three are 2 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Union

from gradverify.core.declare.dims import Axis, Dims
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.draw.knobs import Knobs

Shape = tuple[int, ...]
Sizes = dict[str, Union[int, Shape]]

# What is drawn, as often as it stands here: sizes of 1, small primes, which tell axes apart, and 4 and 6, which split.
_SIZES = (1, 2, 3, 2, 3, 4, 5, 7, 1, 6, 4, 5)
_SMALL = (1, 2, 3, 2)
_DISTINCT = (2, 3, 5, 4, 7, 1)
_LONG = (8, 9, 15, 16, 17, 32, 33, 8, 9, 17, 33, 65, 129)  # about the blocks in which kernels work
_LONGEST = 256  # number in the code that is taken for a block
_TILE = (9, 17, 8, 5)  # two axes that are long at once
_TILED = 300  # elements of both
_WIDE = (1, 3, 5, 7, 2, 4, 8, 6)  # for layers that know no axis by name
_RANKS = (1, 2, 1, 2, 0, 3)
_PATTERNS = ("free", "equal", "free", "distinct")
_CAPS = (64, 100, 200, 64)  # elements of a primal: the layer runs some hundred times on each case
_LONG_CAP = 600


@dataclass(frozen=True, slots=True)
class Names:
    """The names that a layer's shapes are made of.

    Attributes
    ----------
    single, many : names of axes, and of groups of leading axes ("*batch")
    spans : for each primal a function from sizes to its number of elements
    blocks : sizes next to numbers that the layer's code mentions
    """

    single: tuple[str, ...]
    many: tuple[str, ...]
    spans: tuple[Callable[[Mapping[str, Union[int, Shape]]], int], ...]
    blocks: tuple[int, ...] = ()

    @property
    def knobs(self) -> int:
        """Number of bytes that the sizes take."""
        optional = 12  # broadcast axes: one byte each
        listed = 4  # whether sizes come from the list of those that are allowed, and which
        return 7 + listed + 2 * len(self.single) + 5 * len(self.many) + optional


def names_of(layer: Layer, constants: tuple[float, ...]) -> Names:
    """Names to be drawn: every name in a dimension string that is not an option."""
    found = dict.fromkeys(n for p in layer.primals for n in p.dims.names if n not in layer.options)
    whole = [int(c) for c in constants if c == int(c) and 5 <= c <= _LONGEST]  # smaller ones are drawn anyway
    # a remainder of 1 shows most; a second block, and half of one, are other paths than a first
    near = [n for c in whole for n in (c + 1, c - 1, c, c + 1, c + 1, c + c // 2, 2 * c, 2 * c + 1)]
    return Names(
        tuple(n for n in found if not n.startswith("*")),
        tuple(n for n in found if n.startswith("*")),
        tuple(_span(primal.dims) for primal in layer.primals),
        tuple(sorted(n for n in near if n <= 2 * _LONGEST + 1)),
    )


def draw_sizes(knobs: Knobs, names: Names, fixed: Mapping[str, int], regime: Regime, empty: bool) -> Sizes:
    """Sizes of all names; `fixed` are those that options decide.

    The number of bytes read is the same whatever their values, so that one size can shrink alone.
    """
    table = _SMALL if regime.small or regime.special else _SIZES
    pattern, cap, rare = knobs.pick(_PATTERNS), knobs.pick(_CAPS), knobs.byte()
    first = knobs.pick(table)
    single = {name: knobs.pick(table) for name in names.single}
    wide = table if names.single or table is _SMALL else _WIDE
    many = {name: _leading(knobs, wide) for name in names.many}
    if pattern == "equal":
        single = dict.fromkeys(single, first)
    elif pattern == "distinct" and table is _SIZES:
        single = _distinct(single)
    kept: tuple[str, ...] = ()
    often = 200 if names.blocks else 240  # of 256: a block that the code mentions has a remainder somewhere
    if rare >= often and table is _SIZES and (single or many):
        single, many, kept = _lengthen(knobs, names, single, many)
        cap = _LONG_CAP
    sizes: Sizes = {**fixed, **_fitted(names, fixed, single, many, cap, kept)}
    if empty and 1 <= rare <= (40 if regime.special else 6) and (single or many):
        _empty(knobs, sizes, [*single, *many])
    return sizes


def draw_shape(knobs: Knobs, dims: Dims, sizes: Mapping[str, Union[int, Shape]]) -> Shape:
    """The shape of one primal; axes that may broadcast are 1 in about one case of three.

    Raises ValueError if the sizes make an axis negative.
    """
    shape: list[int] = []
    for axis in dims.axes:
        if axis.kind != "many":
            extent = extent_of(axis, sizes)
            shape.append(1 if axis.optional and knobs.chance(35) else extent)
            continue
        leading = _tuple(sizes[axis.names[0]])
        if axis.optional:
            lost = knobs.pick((0, 0, 1, 0, 2, 3))
            ones = knobs.byte()
            leading = tuple(1 if ones >= 128 and ones >> k & 1 else n for k, n in enumerate(leading))[lost:]
        shape.extend(leading)
    return tuple(shape)


def extent_of(axis: Axis, sizes: Mapping[str, Union[int, Shape]]) -> int:
    """The size of one axis; plain names and numbers, the usual ones, are not parsed again."""
    if axis.kind == "name":
        value = sizes[axis.names[0]]
        return value if isinstance(value, int) else prod(value)
    return axis.size(sizes)


def _span(dims: Dims) -> Callable[[Mapping[str, Union[int, Shape]]], int]:
    def span(sizes: Mapping[str, Union[int, Shape]]) -> int:
        try:
            return prod(prod(_tuple(sizes[a.names[0]])) if a.kind == "many" else extent_of(a, sizes) for a in dims.axes)
        except ValueError:  # negative for now; told by draw_shape
            return 0

    return span


def _tuple(value: Union[int, Shape]) -> Shape:
    return value if isinstance(value, tuple) else (value,)


def _leading(knobs: Knobs, table: tuple[int, ...]) -> Shape:
    rank = knobs.pick(_RANKS)
    extents = [knobs.pick(table) for _ in range(3)]
    return tuple(extents[:rank])


def _distinct(single: dict[str, int]) -> dict[str, int]:
    """The drawn sizes, each one that is taken replaced by one that is free."""
    used: list[int] = []
    for size in single.values():
        free = [size, *_DISTINCT, *range(8, 8 + len(single))]
        used.append(next(n for n in free if n not in used))
    return dict(zip(single, used))


def _lengthen(
    knobs: Knobs, names: Names, single: dict[str, int], many: dict[str, Shape]
) -> tuple[dict[str, int], dict[str, Shape], tuple[str, ...]]:
    """One or two axes about as long as a block of a kernel, the others at most 3.

    Tiles have remainders along two axes at once, so a second axis may be 9 or so. Their names come last.
    """
    single = {name: min(size, 3) for name, size in single.items()}
    many = {name: tuple(min(n, 3) for n in shape) for name, shape in many.items()}
    lengths = _LONG if not names.blocks or knobs.chance(30) else names.blocks
    among = [*single, *many]
    first, length = knobs.below(len(among)), knobs.pick(lengths)
    second, shorter = (first + 1 + knobs.below(max(1, len(among) - 1))) % len(among), knobs.pick(names.blocks or _TILE)
    tiled = knobs.chance(60) and length * shorter <= _TILED
    chosen = ((second, shorter), (first, length)) if tiled else ((first, length),)
    for k, extent in chosen:
        name = among[k]
        if name in single:
            single[name] = extent
        else:
            many[name] = (*many[name][:-1], extent)
    return single, many, tuple(among[k] for k, _ in chosen)


def _empty(knobs: Knobs, sizes: Sizes, free: list[str]) -> None:
    chosen = knobs.pick(free)
    old = sizes[chosen]
    sizes[chosen] = (*old[:-1], 0) if isinstance(old, tuple) else 0


def _fitted(
    names: Names,
    fixed: Mapping[str, int],
    single: dict[str, int],
    many: dict[str, Shape],
    cap: int,
    kept: tuple[str, ...] = (),
) -> Sizes:
    """The sizes, the largest of them lowered until all primals together have at most `cap` elements.

    Axes that are `kept` are lowered last: one that is long on purpose says nothing when it is shorter.
    """
    sizes: Sizes = {**fixed, **single, **many}
    while sum(span(sizes) for span in names.spans) > cap:
        for spared in (kept, ()):
            lowered: dict[str, Shape] = {n: (s,) for n, s in single.items() if n not in spared}
            lowered |= {n: shape for n, shape in many.items() if n not in spared}
            largest = max((extent for shape in lowered.values() for extent in shape), default=1)
            if largest > 1:
                break
        else:
            break
        less = largest - max(1, largest // 4)
        for name, shape in lowered.items():  # equal sizes stay equal
            shorter = tuple(n if n < largest else less for n in shape)
            if name in single:
                single[name] = shorter[0]
            else:
                many[name] = shorter
        sizes |= {**single, **many}
    return {**single, **many}
