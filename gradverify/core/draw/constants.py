"""Numbers that a layer mentions: option values, bounds of domains, constants in its own code.

A branch on a number is only tested by drawing that number: ``x > 20`` is met by no normal draw, and
``abs(x - 7.25) < 1e-3`` by hardly any. The code of forward and backward is read, with the functions
and the module constants that it names; through an adapter, the author's code behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from gradverify.core.declare.authored import FOREIGN, MOST, behind, contents, foreign, functions, lineage, ours
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.validation import number

_FULL = {"int8": 128.0, "uint8": 256.0}  # what a narrow type cannot count
_DEPTH = 4  # functions that call one another: a helper of a helper of the layer
_MASKED = -1e4  # what stands for minus infinity in float16; elsewhere it is less
LARGEST = 1e60  # beyond, a product of five leaves the range of a double


def constants(layer: Layer) -> tuple[float, ...]:
    """Finite numbers other than 0, 1 and -1, sorted by magnitude; at most 64."""
    found: set[float] = set()
    for spec in layer.options.values():
        found.update(_numbers(spec))
    for primal in layer.primals:
        found.update(_numbers([number(a) for a in primal.domain.arguments]))
    seen: set[int] = set()
    for function in (layer.forward, layer.backward, layer.assume, layer.declared.surrogate):
        found.update(_mentioned(function, seen, _DEPTH))
    useful = {abs(c) for c in found if 1e-6 < abs(c) <= LARGEST and abs(c) != 1}
    return tuple(sorted(useful))[:MOST]


def _numbers(value: Any, depth: int = _DEPTH) -> Iterator[float]:
    """The numbers of a value: itself, or those of a container, of containers in it, and of an array."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        if math.isfinite(value):
            yield float(value)
    elif isinstance(value, (list, tuple, range, set, frozenset)):
        for part in list(value)[:MOST] if depth else ():
            yield from _numbers(part, depth - 1)
    elif isinstance(value, Mapping):
        yield from _numbers(list(value.values()) + list(value), depth)  # {5: rule} is a branch on 5
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size <= MOST:
        yield from _numbers(value.ravel().tolist(), depth)


def _branching(value: Any) -> Iterator[float]:
    """The numbers but for those that stand for minus infinity, as -1e9 for scores that are masked.

    Scores below it let what is masked win, and are none that a layer is made for.
    """
    return (number for number in _numbers(value) if number > _MASKED)


def _mentioned(value: Any, seen: set[int], depth: int) -> Iterator[float]:
    """Numbers in the code of a function, a method, a class or an object, and in what that code names."""
    if value is None or id(value) in seen or depth == 0:
        return
    seen.add(id(value))
    if ours(value):
        for part in behind(value):
            yield from _mentioned(part, seen, depth)
        return
    owner = getattr(value, "__self__", None) if isinstance(value, MethodType) else value
    if owner is not None and not isinstance(owner, (FunctionType, ModuleType)) and not foreign(owner):
        for holder in (owner, *lineage(owner)):
            for item in tuple(getattr(holder, "__dict__", {}).values()):
                yield from _branching(item)
    for function in functions(value):
        if foreign(function):
            continue
        cells = [contents(cell) for cell in function.__closure__ or ()]
        named = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        yield from _in_code(function.__code__, function.__globals__, named)
        for item in named:
            yield from _branching(item)
            if callable(item) or hasattr(item, "__dict__"):
                yield from _mentioned(item, seen, depth - 1)


def _in_code(code: CodeType, namespace: dict[str, Any], named: list[Any]) -> Iterator[float]:
    """Numbers written in the code; what it names is appended to `named`."""
    modules = []
    for name in code.co_names:
        if name in _FULL:
            yield _FULL[name]
        value = namespace.get(name)
        if isinstance(value, ModuleType):
            modules.append(value)
        elif value is not None:
            named.append(value)
    for module in modules:
        if module.__name__.split(".")[0] not in FOREIGN:
            named.extend(vars(module)[name] for name in code.co_names if name in vars(module))
    for constant in code.co_consts:
        yield from _branching(constant)
        if isinstance(constant, CodeType):
            yield from _in_code(constant, namespace, named)
