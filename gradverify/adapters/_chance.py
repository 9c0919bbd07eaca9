"""Random numbers of a forward, made the same at each evaluation.

Dropout that draws its mask anew has no derivative; with the same draw at each call it has one. The
global generators are seeded anew and put back afterwards; generators that a module keeps for itself
(which no seeding of NumPy reaches) are set back to where they were found.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gradverify.core.declare.authored import contents
from gradverify.core.declare.held import Path, attributes, fetch, show, store

_SEED = 20240229
_TRIALS = 4  # evaluations in one configuration that draw nothing, after which nothing is put back any more
_DEEP = 6  # attributes of attributes of ...
_PLAIN = (str, bytes, int, float, complex, type(None), np.ndarray, np.generic)
_KINDS = (np.random.Generator, np.random.RandomState, random.Random)


class Chance:
    """The generators that some functions can reach.

    Attributes
    ----------
    drawn : names of the generators from which something was drawn so far
    """

    def __init__(self, *functions: Callable[..., Any] | None) -> None:
        self._private = {name: (g, _state(g)) for f in functions for name, g in _reached(f)}
        self.drawn: set[str] = set()
        self._calls = 0
        self._steady = False
        self._known: dict[Any, tuple[int, frozenset[str]]] = {}  # evaluations by configuration, and what they used

    def reach(self, *functions: Callable[..., Any] | None) -> None:
        """Look after the generators of more functions or classes."""
        for function in functions:
            for name, generator in _reached(function):
                self._private.setdefault(name, (generator, _state(generator)))

    @contextmanager
    def fixed(self, key: Any = None, note: bool = True) -> Iterator[None]:
        """Inside, each generator starts from the same state.

        Parameters
        ----------
        key : of the configuration; after some evaluations in it only the generators that they used are looked after
        note : remember which generators were used
        """
        key = (repr(key), note)
        count, used = self._known.get(key, (0, frozenset()))
        names = used if count >= _TRIALS else frozenset((_NUMPY, _PYTHON, *self._private))
        if not names:
            yield
            return
        private = {name: self._private[name] for name in names if name in self._private}
        shared = {name: _SHARED[name] for name in (_NUMPY, _PYTHON) if name in names}
        before = {name: read() for name, (read, _) in shared.items()}
        restore(private)
        for name, (_, write) in shared.items():
            write(_seeded()[name])
        try:
            yield
        finally:
            now = {name for name, (read, _) in shared.items() if not _equal(read(), _seeded()[name])} | moved(private)
            self._known[key] = count + 1, used | now
            if note:
                self.drawn |= now
            for name, (_, write) in shared.items():
                write(before[name])

    def forgotten(self, key: Any = None) -> bool:
        """Whether anything was drawn in a configuration, which is no longer held against it."""
        _, used = self._known.pop((repr(key), True), (0, frozenset[str]()))
        self.drawn -= used
        return bool(used)

    @contextmanager
    def anew(self, key: Any = None) -> Iterator[None]:
        """Inside a backward, the shared generators start from a state of its own, another one at each call.

        Were it that of the forward, a mask that is drawn again would be the same mask; were it the same at
        each call, nobody would notice that anything is drawn. Private generators go on where they are.
        """
        key = (repr(key), "backward")
        count, used = self._known.get(key, (0, frozenset()))
        if count >= _TRIALS and not used:
            yield
            return
        before = {name: read() for name, (read, _) in _SHARED.items()}
        self._calls += not self._steady
        if self._steady:
            restore(self._private)
        np.random.seed(_SEED + self._calls)
        random.seed(_SEED + self._calls)
        began = {name: read() for name, (read, _) in _SHARED.items()}
        try:
            yield
        finally:
            now = {name for name, (read, _) in _SHARED.items() if not _equal(read(), began[name])}
            self._known[key] = count + 1, used | now
            for name, (_, write) in _SHARED.items():
                write(before[name])

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Inside, each backward starts from the same state, private generators too: what it draws changes nothing."""
        self._steady = True
        try:
            yield
        finally:
            self._steady = False

    def line(self) -> str:
        """What a report should say of it; empty if nothing was drawn."""
        names = ", ".join(sorted(self.drawn))
        return f"random numbers: {names} start(s) from one seed at each forward" if names else ""


_NUMPY, _PYTHON = "numpy.random", "random"
_SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    _NUMPY: (lambda: np.random.get_state(legacy=False), np.random.set_state),
    _PYTHON: (random.getstate, random.setstate),
}


@functools.cache
def _seeded() -> dict[str, Any]:
    """States of the shared generators from which each evaluation starts."""
    return {_NUMPY: np.random.RandomState(_SEED).get_state(legacy=False), _PYTHON: random.Random(_SEED).getstate()}


def mentions(function: Any, depth: int = 3) -> bool:
    """Whether the code of a function, or of one that it names, mentions random numbers or a generator."""
    code, known = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    if code is None or depth == 0:
        return False
    inner = [c for c in code.co_consts if hasattr(c, "co_names")]
    names = {*code.co_names, *(n for c in inner for n in c.co_names)}
    values = [*(known[n] for n in names if n in known), *map(contents, getattr(function, "__closure__", None) or ())]
    drawing = any(isinstance(getattr(v, "__self__", v), _KINDS) for v in values)
    return "random" in names or drawing or any(mentions(v, depth - 1) for v in values if v is not function)


def generators_of(instance: Any) -> dict[str, tuple[Any, Any]]:
    """Generators that an object keeps, itself or in its parts, by path, with the states they are in."""
    return {f"self.{show(path)}": (g, _state(g)) for path, g in _kept(instance, (), set())}


def forget(instance: Any, known: Iterable[str], before: Any) -> None:
    """Take away generators that came into being with a forward, so that the next one makes them anew.

    Parameters
    ----------
    known : paths of those that were there before it
    before : a copy of the object from then
    """
    for path, _ in list(_kept(instance, (), set())):
        if f"self.{show(path)}" in known:
            continue
        (kind, name), holder = path[-1], fetch(instance, path[:-1])
        earlier = fetch(before, path[:-1])
        if kind == "attr" and not hasattr(earlier, name):
            delattr(holder, name)
        elif kind == "attr" or isinstance(holder, (dict, list)):
            store(instance, path, fetch(before, path))


def _kept(holder: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Any]]:
    """Generators within an object, by path, each once."""
    if isinstance(holder, _PLAIN) or id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, _KINDS):
        yield path, holder
        return
    parts: dict[tuple[str, Any], Any] = {}
    if isinstance(holder, dict):
        parts = {("item", key): value for key, value in holder.items()}
    elif isinstance(holder, (list, tuple)):
        parts = {("item", k): value for k, value in enumerate(holder)}
    elif not isinstance(holder, type):
        parts = {("attr", name): value for name, value in attributes(holder).items()}
    for step, value in parts.items() if len(path) < _DEEP else ():
        yield from _kept(value, (*path, step), seen)


def restore(generators: dict[str, tuple[Any, Any]]) -> None:
    """Put generators back into the states that came with them."""
    for generator, state in generators.values():
        _restore(generator, state)


def moved(generators: dict[str, tuple[Any, Any]]) -> set[str]:
    """Names of the generators that have drawn since."""
    return {name for name, (g, state) in generators.items() if not _equal(_state(g), state)}


def _equal(one: Any, other: Any) -> bool:
    """Whether two states of a generator are the same; they hold arrays, some of them."""
    if isinstance(one, dict):
        return all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, tuple):
        return (
            len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other)) if _nested(one) else one == other
        )
    return bool(one == other)


def _nested(state: tuple[Any, ...]) -> bool:
    return any(isinstance(part, (np.ndarray, dict)) for part in state)


def _reached(function: Any) -> Iterator[tuple[str, Any]]:
    """Generators among the globals, the closure and the class attributes that a function or class sees."""
    function = getattr(function, "__func__", function)
    names = dict(getattr(function, "__globals__", {}))
    if isinstance(function, type):
        for method in vars(function).values():
            names.update(getattr(method, "__globals__", {}))
        names.update(vars(function))
    for name, cell in zip(
        getattr(getattr(function, "__code__", None), "co_freevars", ()), getattr(function, "__closure__", None) or ()
    ):
        names[name] = contents(cell)
    for name, value in names.items():
        if isinstance(value, _KINDS):
            yield name, value


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state  # a copy
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
