"""Arguments of the author's functions that nobody declares: they keep one value in every case."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

from gradverify.core.declare.authored import behind, contents, foreign, ours
from gradverify.core.declare.layer import Layer
from gradverify.core.lines.places import source_of
from gradverify.core.summarise.lines_ran import Fixed

_DEEP = 4  # steps through what stands between a layer and the author's code


def fixed(layer: Layer) -> tuple[Fixed, ...]:
    """Arguments of forward and backward that are neither primals nor options, and have a value nevertheless.

    Nothing is known of other values, and no line tells it: what is multiplied by 0 runs all the same.
    """
    given = {*layer.primal_names, *layer.options}
    found: dict[Fixed, None] = {}
    for role in ("forward", "backward"):
        for function, bound in _called(getattr(layer, role), _DEEP):
            for name, value in {**_defaults(function), **bound}.items():
                lines = _uses(function, name)
                if name not in given and lines and isinstance(value, (bool, int, float, str, type(None))):
                    found[Fixed(role, function.__code__.co_filename, lines, name, repr(value))] = None
    return tuple(found)


def _called(value: Any, deep: int) -> Iterator[tuple[FunctionType, Mapping[str, Any]]]:
    """The author's functions that are called with the arrays, and what `partial` gives them besides."""
    if isinstance(value, partial):
        for function, bound in _called(value.func, deep):
            yield function, {**bound, **value.keywords}  # those that it does not read have no lines
    elif deep and ours(value):
        for part in behind(value):
            if isinstance(part, (FunctionType, partial)) or ours(part):
                yield from _called(part, deep - 1)
    elif isinstance(value, FunctionType) and not foreign(value):
        yield value, {}
        inner = inspect.unwrap(value)
        within = [inner] if inner is not value else [contents(cell) for cell in value.__closure__ or ()]
        for part in within if deep and _hands_on(value) else ():
            if isinstance(part, (FunctionType, partial)) or ours(part):
                yield from _called(part, deep - 1)


def _hands_on(function: FunctionType) -> bool:
    """Whether it takes arguments of any name, as decorators do."""
    return bool(function.__code__.co_flags & inspect.CO_VARKEYWORDS)


def _defaults(function: FunctionType) -> dict[str, Any]:
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _uses(function: FunctionType, name: str) -> tuple[int, ...]:
    """The lines of a function that read an argument."""
    source = source_of(function.__code__.co_filename)
    first, last = function.__code__.co_firstlineno, max((n for *_, n in function.__code__.co_lines() if n), default=0)
    names = (n for n in source.names if first <= n.lineno <= last and n.id == name)
    return tuple(sorted({source.starts.get(n.lineno, n.lineno) for n in names if isinstance(n.ctx, ast.Load)}))
