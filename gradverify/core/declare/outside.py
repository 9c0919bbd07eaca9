"""What the author's functions take from outside: modules, closures, defaults, `functools.partial`, bound objects."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from gradverify.core.declare.authored import FOREIGN, MOST, behind, contents, foreign, functions, lineage, ours
from gradverify.core.declare.held import Path, arrays_of, show

_DEEP = 6  # functions that call functions, objects that hold objects


def reachable(*targets: Any) -> dict[str, Any]:
    """What functions can reach by name besides their arguments, as the author writes it: "W", "config.W", "net".

    Followed are the author's functions that they name, and what stands between a layer and these. Objects that an
    adapter runs on copies are left out, with all that they hold: the adapter tells of their arrays.
    """
    return _Reach(targets).values


def outside_names(*targets: Any) -> set[str]:
    """Every name by which arrays from outside, or what holds them, can be told."""
    return {name for path in arrays_of(reachable(*targets)) for name in names_of(path)}


def shown(path: Path) -> str:
    """An array from outside as its author writes it: ``W``, ``params['W']``, ``net.layers[0].W``."""
    (_, name), *rest = path
    return f"{name}{'.' if rest and rest[0][0] == 'attr' else ''}{show(tuple(rest))}"


def names_of(path: Path) -> tuple[str, ...]:
    """The name of an array from outside, and those of what holds it."""
    return tuple(shown(path[:k]) for k in range(1, len(path) + 1))


class _Reach:
    """One walk through what functions name."""

    def __init__(self, targets: tuple[Any, ...]) -> None:
        self.values: dict[str, Any] = {}
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # alive, so that an id stays what it is
        self._copied: set[type] = set()
        for target in targets:
            self._visit(target, _DEEP)

    def _visit(self, value: Any, deep: int) -> None:
        """A function, method, class or object whose code may run."""
        if deep == 0 or value is None or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, partial):
            self._name({f"argument {k}": given for k, given in enumerate(value.args)} | value.keywords, deep)
            self._visit(value.func, deep)
            return
        if ours(value):
            held = getattr(getattr(value, "__self__", value), "runs_copies_of", ())
            for part in behind(value):  # an adapter looks at the arrays of what it copies, and of its classes
                if not any(part is one for one in held):
                    self._visit(part, deep)
                    continue
                self._copied |= set(lineage(part))
                self._code(part, deep)
            return
        if foreign(value) or isinstance(value, ModuleType):
            return
        if isinstance(value, MethodType) and not inspect.isclass(value.__self__):
            self._add("self", value.__self__)
        elif not isinstance(value, (FunctionType, MethodType)) and not inspect.isclass(value):
            self._add(type(value).__name__, value)
        self._code(value, deep)

    def _code(self, value: Any, deep: int) -> None:
        """What the functions of something name."""
        inner = inspect.unwrap(value) if callable(value) else value
        if inner is not value:
            self._visit(inner, deep)
        for function in functions(value):
            if not foreign(function):
                self._function(function, deep)

    def _function(self, function: FunctionType, deep: int) -> None:
        if ours(function):
            return
        code = function.__code__
        named = set(_names(code))
        cells = zip(code.co_freevars, map(contents, function.__closure__ or ()))
        found = {name: function.__globals__[name] for name in named if name in function.__globals__} | dict(cells)
        for name, value in list(found.items()):
            if inspect.isclass(value) and value in self._copied:
                continue
            found |= {f"{name}.{part}": inner for part, inner in _parts(value) if part in named}
        defaults = function.__defaults__ or ()
        found |= dict(zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults))
        self._name(found | (function.__kwdefaults__ or {}), deep)

    def _name(self, found: dict[str, Any], deep: int) -> None:
        for name, value in found.items():
            if isinstance(value, (FunctionType, MethodType, partial, type)):
                self._visit(value, deep - 1)
            elif not isinstance(value, ModuleType):
                self._add(name, value)
                for part in _within(value):
                    self._visit(part, deep - 1)

    def _add(self, name: str, value: Any) -> None:
        if any(value is known for known in self.values.values()):
            return
        free = (f"{name}{'' if k == 1 else f' ({k})'}" for k in range(1, 1000))
        self.values[next(n for n in free if n not in self.values)] = value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What stands in a module, a class or a function of the author's under a name."""
    if isinstance(value, ModuleType):
        package = value.__name__.partition(".")[0]
        return [] if package in {*FOREIGN, "gradverify"} else list(vars(value).items())
    if inspect.isclass(value) or isinstance(value, FunctionType):
        return [] if foreign(value) else list(vars(value).items())
    return []


def _within(value: Any) -> list[Any]:
    """The functions and objects among a value, or the parts of a container: code of theirs may run."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    return [part for part in parts[:MOST] if callable(part) or (hasattr(part, "__dict__") and not foreign(part))]
