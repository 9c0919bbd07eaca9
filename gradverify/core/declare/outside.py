"""What the author's functions take from outside: modules, closures, defaults, `functools.partial`, bound objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from gradverify.core.declare.authored import FOREIGN, MOST, behind, contents, foreign, functions, lineage, ours
from gradverify.core.declare.held import Path, arrays_of, show

_WITHIN = ("__wrapped__", "fun", "fwd", "bwd", "jvp")  # of what a library makes of the author's functions
_DEEP = 6  # functions that call functions, objects that hold objects
Put = Callable[[Any], None]


class Reachable(dict[str, Any]):
    """Values by name; another value that is put under a name stands where the author's code takes it from."""

    def __init__(self) -> None:
        self.places: dict[str, list[Put]] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        for put in self.places.get(name, ()):
            put(value)
        super().__setitem__(name, value)


def reachable(*targets: Any) -> Reachable:
    """What functions can reach by name besides their arguments, as the author writes it: "W", "config.W", "net".

    Followed are the author's functions that they name, and what stands between a layer and these. Objects that an
    adapter runs on copies are left out, with all that they hold: the adapter tells of their arrays.
    """
    return _Reach(targets).values


def outside_names(*targets: Any) -> set[str]:
    """Every name by which arrays from outside, or what holds them, can be told."""
    return {name for path in arrays_of(reachable(*targets), tensors=True) for name in names_of(path)}


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
        self.values = Reachable()
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
            named = {f"argument {k}": given for k, given in enumerate(value.args)} | value.keywords
            self._name({name: (given, _nowhere) for name, given in named.items()}, deep)
            self._visit(value.func, deep)
            return
        if ours(value):
            held = getattr(getattr(value, "__self__", value), "runs_copies_of", ())
            # an adapter looks at the arrays of what it copies, and of its classes
            for part in (*behind(value), getattr(value, "__wrapped__", None)):
                if not any(part is one for one in held):
                    self._visit(part, deep)
                    continue
                self._copied |= set(lineage(part))
                self._code(part, deep)
            return
        if foreign(value) or isinstance(value, ModuleType):
            for part in (getattr(value, name, None) for name in _WITHIN):
                self._visit(part, deep - 1)
            return
        if isinstance(value, MethodType) and not inspect.isclass(value.__self__):
            self._add("self", value.__self__, _nowhere)
        elif not isinstance(value, (FunctionType, MethodType)) and not inspect.isclass(value):
            self._add(type(value).__name__, value, _nowhere)
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
        named, taken = set(_names(code)), function.__globals__
        found: dict[str, tuple[Any, Put]] = {n: (taken[n], partial(taken.__setitem__, n)) for n in named & taken.keys()}
        cells = zip(code.co_freevars, function.__closure__ or ())
        found |= {name: (contents(cell), partial(setattr, cell, "cell_contents")) for name, cell in cells}
        for name, (value, _) in list(found.items()):
            if inspect.isclass(value) and value in self._copied:
                continue
            parts = ((part, inner) for part, inner in _parts(value) if part in named)
            found |= {f"{name}.{part}": (inner, partial(setattr, value, part)) for part, inner in parts}
        defaults = function.__defaults__ or ()
        for k, name in enumerate(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]):
            found[name] = defaults[k], partial(_put_default, function, k)
        only = function.__kwdefaults__ or {}
        self._name(found | {name: (value, partial(only.__setitem__, name)) for name, value in only.items()}, deep)

    def _name(self, found: dict[str, tuple[Any, Put]], deep: int) -> None:
        for name, (value, put) in found.items():
            if isinstance(value, (FunctionType, MethodType, partial, type)):
                self._visit(value, deep - 1)
            elif not isinstance(value, ModuleType):
                self._add(name, value, put)
                for part in _within(value):
                    self._visit(part, deep - 1)

    def _add(self, name: str, value: Any, put: Put) -> None:
        free = (f"{name}{'' if k == 1 else f' ({k})'}" for k in range(1, 1000))
        known = next((n for n, other in self.values.items() if other is value), None)
        name = next(n for n in free if n not in self.values) if known is None else known
        self.values.setdefault(name, value)
        self.values.places.setdefault(name, []).append(put)


def _put_default(function: FunctionType, k: int, value: Any) -> None:
    """Another default in place of the k-th."""
    held = function.__defaults__ or ()
    function.__defaults__ = (*held[:k], value, *held[k + 1 :])


def _nowhere(value: Any) -> None:
    raise TypeError("there is no place that another value could be put in")


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
