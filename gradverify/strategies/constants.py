"""Numbers that a layer mentions: option values, bounds of domains, constants in its own code.

A branch on a number is only tested by drawing that number: ``x > 20`` is met by no normal draw, and
``abs(x - 7.25) < 1e-3`` by hardly any. The code of forward and backward is read, with the functions
and the module constants that it names; through an adapter, the author's code behind it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from gradverify.layer import Layer

_FOREIGN = {"numpy", "scipy", "torch", "jax", "jaxlib", "builtins", "hypothesis", "math", "functools", "operator"}
_BETWEEN = {"layer", "compose", "unrolled", "recurrent", "dims", "domains"}  # rooms that stand before an author's code
_FULL = {"int8": 128.0, "uint8": 256.0}  # what a narrow type cannot count
_DEPTH = 4
_MOST = 64


def constants(layer: Layer) -> tuple[float, ...]:
    """Finite numbers other than 0, 1 and -1, sorted by magnitude; at most 64."""
    found: set[float] = set()
    for spec in layer.options.values():
        found.update(_numbers(spec))
    for primal in layer.primals:
        found.update(_numbers([_number(a) for a in primal.domain.arguments]))
    seen: set[int] = set()
    for function in (layer.forward, layer.backward, layer.assume, layer.declared.surrogate):
        found.update(_mentioned(function, seen, _DEPTH))
    useful = {abs(c) for c in found if 1e-6 < abs(c) <= 1e4 and abs(c) != 1}
    return tuple(sorted(useful))[:_MOST]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value):
            yield float(value)
    elif isinstance(value, (list, tuple, range, frozenset)):
        for part in list(value)[:_MOST]:
            yield from _numbers(part)


def _mentioned(value: Any, seen: set[int], depth: int) -> Iterator[float]:
    """Numbers in the code of a function, a method, a class or an object, and in what that code names."""
    if value is None or id(value) in seen or depth == 0:
        return
    seen.add(id(value))
    if _ours(value):
        for part in _behind(value):
            yield from _mentioned(part, seen, depth)
        return
    owner = getattr(value, "__self__", None) if isinstance(value, MethodType) else value
    if owner is not None and not isinstance(owner, (FunctionType, ModuleType)) and not _foreign(owner):
        for holder in (owner, *_lineage(owner)):
            for item in tuple(getattr(holder, "__dict__", {}).values()):
                yield from _numbers(item)
    for function in _functions(value):
        if _foreign(function):
            continue
        cells = [_contents(cell) for cell in function.__closure__ or ()]
        named = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        yield from _in_code(function.__code__, function.__globals__, named)
        for item in named:
            yield from _numbers(item)
            if callable(item) or hasattr(item, "__dict__"):
                yield from _mentioned(item, seen, depth - 1)


def _module(value: Any) -> str:
    """Of the code of a function, a method, a class, or the class of an object."""
    coded = inspect.isclass(value) or isinstance(value, (FunctionType, MethodType))
    return getattr(value if coded else type(value), "__module__", None) or ""


def _foreign(value: Any) -> bool:
    return _module(value).split(".")[0] in _FOREIGN


def _ours(value: Any) -> bool:
    package, _, room = _module(value).partition(".")
    return package == "gradverify" and (room in _BETWEEN or room.startswith("adapters."))


def _behind(value: Any) -> Iterator[Any]:
    """What a function or an object of ours holds of the author's: functions, classes and objects with code."""
    if inspect.isclass(value):
        return
    if isinstance(value, MethodType):
        value = value.__self__
    held: list[Any] = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, FunctionType):
        held = [_contents(cell) for cell in value.__closure__ or ()]
    while held:
        part = held.pop()
        if isinstance(part, (tuple, list)):
            held.extend(part[:_MOST])
        elif isinstance(part, dict):
            held.extend(list(part.values())[:_MOST])
        elif callable(part) or hasattr(part, "__dict__"):
            yield part


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
        if module.__name__.split(".")[0] not in _FOREIGN:
            named.extend(vars(module)[name] for name in code.co_names if name in vars(module))
    for constant in code.co_consts:
        yield from _numbers(constant)
        if isinstance(constant, CodeType):
            yield from _in_code(constant, namespace, named)


def _functions(value: Any) -> list[FunctionType]:
    value = inspect.unwrap(value) if callable(value) else value
    value = value.func if isinstance(value, partial) else value
    value = value.__func__ if isinstance(value, MethodType) else value
    if isinstance(value, FunctionType):
        return [value]
    if isinstance(value, ModuleType):
        return []
    members = [getattr(member, "__func__", member) for cls in _lineage(value) for member in vars(cls).values()]
    return [member for member in members if isinstance(member, FunctionType)]


def _lineage(value: Any) -> list[type]:
    """A class, or that of an object, with the classes it inherits from, as far as they are the author's."""
    cls = value if inspect.isclass(value) else type(value)
    return [c for c in cls.__mro__ if c is not object and not _foreign(c)]


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
