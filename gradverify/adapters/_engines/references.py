"""What a function refers to: whether its code names a package, found without calling or importing anything."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from gradverify.core.declare.authored import contents

_DEPTH = 4


def refers_to(target: Any, package: str) -> bool:
    """Whether a function, or a function that it names, uses something of a package.

    Names are looked up in the function's globals, closure, defaults and annotations; functions and
    classes that belong to other packages are not looked into.
    """
    return _refers(target, package, set(), _DEPTH)


def _refers(value: Any, package: str, seen: set[int], depth: int) -> bool:
    if id(value) in seen:
        return False
    seen.add(id(value))
    if _belongs(value, package):
        return True
    if depth == 0:
        return False
    return any(_refers(item, package, seen, depth - 1) for f in _functions(value) for item in _named(f))


def _belongs(value: Any, package: str) -> bool:
    if isinstance(value, ModuleType):
        return _root(value.__name__) == package
    if isinstance(value, str):  # an annotation that was not evaluated
        return value.startswith(f"{package}.") or (package == "torch" and value == "Tensor")
    owners = value.__mro__ if inspect.isclass(value) else (type(value), value)
    return any(_root(getattr(owner, "__module__", None)) == package for owner in owners)


def _root(module: Any) -> str:
    return module.partition(".")[0] if isinstance(module, str) else ""


def _functions(value: Any) -> Iterator[FunctionType]:
    if isinstance(value, functools.partial):
        value = value.func
    value = value.__func__ if isinstance(value, MethodType) else value
    if isinstance(value, FunctionType):
        yield value
        wrapped = getattr(value, "__wrapped__", None)
        if isinstance(wrapped, FunctionType):
            yield wrapped
    elif callable(value) and not inspect.isclass(value):
        call = inspect.getattr_static(type(value), "__call__", None)
        if isinstance(call, FunctionType):
            yield call


def _named(function: FunctionType) -> Iterator[Any]:
    """The objects that a function's code names, with its annotations."""
    for code in _codes(function.__code__):
        for name in code.co_names:
            if name in function.__globals__:
                yield function.__globals__[name]
    yield from map(contents, function.__closure__ or ())
    yield from function.__defaults__ or ()
    for annotation in function.__annotations__.values():
        if isinstance(annotation, str):
            found = function.__globals__.get(annotation.partition(".")[0])
            yield annotation if found is None else found
        else:
            yield annotation


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
