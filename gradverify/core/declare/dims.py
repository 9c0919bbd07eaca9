"""Dimension strings: "N D" to concrete shapes, and shapes back to the author's names.

A dimension string lists the axes of one array, separated by spaces:

- ``N``: an axis; the same name is the same size everywhere in the layer
- ``3``: a fixed size
- ``4*H``, ``T+1``, ``C//2``: arithmetic on names, for packed gates and the like
- ``N?``: either N or 1, for operands that broadcast
- ``*batch``: any number of leading axes, the same ones wherever the name stands
- ``*batch?``: an operand that broadcasts against ``*batch`` (trailing part of it, any axis 1)

The empty string is a scalar.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Union

from gradverify.core.errors import DeclarationError

Sizes = Mapping[str, Union[int, tuple[int, ...]]]

_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


@dataclass(frozen=True, slots=True)
class Axis:
    """One token of a dimension string."""

    text: str
    kind: str  # "name", "fixed", "sum" (arithmetic) or "many" (*batch)
    names: tuple[str, ...]
    optional: bool = False

    def size(self, sizes: Sizes) -> int:
        """Size of a single axis, given the sizes of the names in it."""
        if self.kind == "name":
            known = sizes[self.names[0]]
            value = known if isinstance(known, int) else int(known[0])
        else:
            value = _evaluate(tree(self.text.rstrip("?")), sizes)
        if value < 0:
            raise DeclarationError(f"axis {self.text!r} has the negative size {value} for {dict(sizes)}")
        return value


@dataclass(frozen=True, slots=True)
class Dims:
    """A parsed dimension string."""

    text: str
    axes: tuple[Axis, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in order of appearance; a group of leading axes keeps its star."""
        return tuple(dict.fromkeys(name for axis in self.axes for name in axis.names))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape for given sizes; optional axes are taken at their full size.

        Raises KeyError if a name has no size yet.
        """
        shape: list[int] = []
        for axis in self.axes:
            if axis.kind == "many":
                many = sizes[axis.names[0]]
                shape.extend(many if isinstance(many, tuple) else (many,))
            else:
                shape.append(axis.size(sizes))
        return tuple(shape)

    def labels(self, rank: int) -> tuple[str, ...]:
        """One readable name for each axis of an array of that rank."""
        labels: list[str] = []
        for axis in self.axes:
            if axis.kind == "many":
                count = rank - (len(self.axes) - 1)
                stem = axis.names[0][1:]
                labels.extend(f"{stem}[{k}]" for k in range(count)) if count != 1 else labels.append(stem)
            else:
                labels.append(axis.text.rstrip("?"))
        return tuple(labels) if len(labels) == rank else tuple(f"axis {k}" for k in range(rank))

    def bind(self, shape: tuple[int, ...], sizes: Sizes) -> dict[str, int | tuple[int, ...]]:
        """Sizes, extended by what `shape` says of the names that had none.

        Raises DeclarationError if the shape contradicts the string or the sizes given.
        """
        found = dict(sizes)
        for axis, extent in self._pair(shape):
            if axis.kind == "many":
                self._bind_many(axis, extent, found, shape)
            elif not (axis.optional and extent[0] == 1):
                name = axis.names[0] if axis.kind == "name" else None
                if name is not None and name not in found:
                    found[name] = extent[0]
                found.update(_solved(axis, found, extent[0]))
                if all(n in found for n in axis.names) and axis.size(found) != extent[0]:
                    raise DeclarationError(
                        f"shape {shape} does not fit {self.text!r}: axis {axis.text!r} should be {axis.size(found)}"
                    )
        return found

    def _pair(self, shape: tuple[int, ...]) -> Iterator[tuple[Axis, tuple[int, ...]]]:
        many = [k for k, axis in enumerate(self.axes) if axis.kind == "many"]
        fixed = len(self.axes) - len(many)
        if len(shape) < fixed or (not many and len(shape) != fixed):
            raise DeclarationError(f"shape {shape} does not fit {self.text!r}")
        position = 0
        for axis in self.axes:
            width = len(shape) - fixed if axis.kind == "many" else 1
            yield axis, shape[position : position + width]
            position += width

    def _bind_many(
        self, axis: Axis, extent: tuple[int, ...], found: dict[str, int | tuple[int, ...]], shape: tuple[int, ...]
    ) -> None:
        name = axis.names[0]
        known = found.get(name)
        if known is None:
            if not axis.optional:
                found[name] = extent
            return
        known = known if isinstance(known, tuple) else (known,)
        if axis.optional:
            tail = known[len(known) - len(extent) :] if len(extent) <= len(known) else None
            fits = tail is not None and all(e in (1, t) for e, t in zip(extent, tail))
        else:
            fits = known == extent
        if not fits:
            raise DeclarationError(f"shape {shape} does not fit {self.text!r} with {name} = {known}")


def parse(text: str) -> Dims:
    """Read a dimension string.

    Raises DeclarationError if a token cannot be read, or more than one token is a group of leading axes.
    """
    axes = tuple(_axis(token, text) for token in text.split())
    if sum(axis.kind == "many" for axis in axes) > 1:
        raise DeclarationError(f"dimension string {text!r} has more than one starred group; one is the most")
    return Dims(text, axes)


def _axis(token: str, text: str) -> Axis:
    body, optional = token.rstrip("?"), token.endswith("?")
    if body.startswith("*") and _NAME.match(body[1:]):
        return Axis(token, "many", (body,), optional)
    if body.isdigit():
        return Axis(token, "fixed", (), optional)
    if _NAME.match(body):
        return Axis(token, "name", (body,), optional)
    try:
        tree = ast.parse(body, mode="eval").body
        names = tuple(dict.fromkeys(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)))
        _evaluate(tree, dict.fromkeys(names, 7))
    except (SyntaxError, DeclarationError, ZeroDivisionError):
        raise DeclarationError(
            f"cannot read {token!r} in the dimension string {text!r}: "
            "write names, sizes, N?, *batch, or arithmetic such as 4*H, separated by spaces"
        ) from None
    return Axis(token, "sum", names, optional)


@lru_cache(maxsize=1024)
def tree(text: str) -> ast.expr:
    """The expression of an arithmetic axis."""
    return ast.parse(text, mode="eval").body


def sizes_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a dimension may name: whole numbers, by name."""
    return {name: value for name, value in options.items() if isinstance(value, int) and not isinstance(value, bool)}


def numbers_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a domain may name as a bound or a condition, or arithmetic use: numbers and flags, by name."""
    return {n: v for n, v in options.items() if isinstance(v, (int, float))}


def _solved(axis: Axis, sizes: Sizes, extent: int) -> dict[str, int]:
    """The size of the only unknown name in an arithmetic axis, e.g. H from 4*H = 12; empty unless it is unique."""
    if axis.kind != "sum":
        return {}
    unknown = [name for name in axis.names if name not in sizes]
    if len(unknown) != 1:
        return {}
    known = tuple((name, sizes[name]) for name in axis.names if name in sizes)
    size = _solution(axis, unknown[0], known, extent)
    return {} if size is None else {unknown[0]: size}


@lru_cache(maxsize=4096)  # every case of a layer asks this of few sizes
def _solution(axis: Axis, unknown: str, known: tuple[tuple[str, Any], ...], extent: int) -> int | None:
    """The only size of the unknown name with which the axis has this extent."""
    fitting = []
    for size in range(extent + 65):
        try:
            if axis.size({**dict(known), unknown: size}) == extent:
                fitting.append(size)
        except (DeclarationError, ZeroDivisionError):
            continue
    return fitting[0] if len(fitting) == 1 else None


def _evaluate(node: ast.expr, sizes: Sizes) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        value = sizes[node.id]
        if isinstance(value, int):
            return value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        result: int = _OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
        return result
    raise DeclarationError(f"cannot evaluate {ast.unparse(node)!r} as a size")
