"""The author's own functions, classes and objects behind a layer: through adapters, and without libraries."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from gradverify.core.declare.declaration import Declaration

FOREIGN = {"numpy", "scipy", "torch", "jax", "jaxlib", "builtins", "hypothesis", "math", "functools", "operator"}
MOST = 64  # parts of one container that are looked at
_BETWEEN = {"compose", "unrolled", "recurrent"}  # rooms that stand before an author's code, with the adapters
_DEPTH = 4  # steps through what stands between a layer and the author's code


def roots(layer: Declaration) -> list[FunctionType]:
    """The author's Python functions that forward and backward lead to, methods of classes and objects included."""
    found: dict[int, FunctionType] = {}
    seen: set[int] = set()

    def visit(value: Any, depth: int) -> None:
        if value is None or id(value) in seen or depth == 0:
            return
        seen.add(id(value))
        if ours(value):
            for part in behind(value):
                visit(part, depth - 1)
        for function in functions(value):
            if not foreign(function) and not ours(function):
                found[id(function)] = function
        target = inspect.unwrap(value) if callable(value) else value
        if target is not value:
            visit(target, depth)
        for rule in ("fwd", "bwd", "jvp") if foreign(value) else ():  # of jax.custom_vjp and jax.custom_jvp
            visit(getattr(value, rule, None), depth - 1)

    visit(layer.forward, _DEPTH)
    visit(layer.backward, _DEPTH)
    return list(found.values())


def module_of(value: Any) -> str:
    """Of the code of a function, a method, a class, or the class of an object."""
    coded = inspect.isclass(value) or isinstance(value, (FunctionType, MethodType))
    return getattr(value if coded else type(value), "__module__", None) or ""


def foreign(value: Any) -> bool:
    """Whether it belongs to a numerical library or to Python itself."""
    return module_of(value).split(".")[0] in FOREIGN


def ours(value: Any) -> bool:
    """Whether it stands between a layer and the author's code."""
    package, _, room = module_of(value).partition(".")
    return package == "gradverify" and (room in _BETWEEN or room.startswith(("adapters.", "core.declare.")))


def behind(value: Any) -> Iterator[Any]:
    """What a function or an object of ours holds of the author's: functions, classes and objects with code."""
    if inspect.isclass(value):
        return
    if isinstance(value, Declaration):
        yield from (value.forward, value.backward)
        return
    if isinstance(value, MethodType):
        value = value.__self__
    held: list[Any] = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, FunctionType):
        held = [contents(cell) for cell in value.__closure__ or ()]
    while held:
        part = held.pop()
        if isinstance(part, (tuple, list)):
            held.extend(part[:MOST])
        elif isinstance(part, dict):
            held.extend(list(part.values())[:MOST])
        elif callable(part) or hasattr(part, "__dict__"):
            yield part


def functions(value: Any) -> list[FunctionType]:
    """The Python functions of a function, a method, a class or an object."""
    value = inspect.unwrap(value) if callable(value) else value
    value = value.func if isinstance(value, partial) else value
    value = value.__func__ if isinstance(value, MethodType) else value
    if isinstance(value, FunctionType):
        return [value]
    if isinstance(value, ModuleType):
        return []
    members = [getattr(member, "__func__", member) for cls in lineage(value) for member in vars(cls).values()]
    return [inspect.unwrap(member) for member in members if isinstance(member, FunctionType)]


def lineage(value: Any) -> list[type]:
    """A class, or that of an object, with the classes it inherits from, as far as they are the author's."""
    cls = value if inspect.isclass(value) else type(value)
    return [c for c in cls.__mro__ if c is not object and not foreign(c)]


def contents(cell: Any) -> Any:
    """What a closure's cell holds; None where it holds nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
