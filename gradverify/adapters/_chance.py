"""Random numbers of a forward, made the same at each evaluation.

Dropout that draws its mask anew has no derivative; with the same draw at each call it has one. The
global generators are seeded anew and put back afterwards; generators that a module keeps for itself
(which no seeding of NumPy reaches) are set back to where they were found.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_SEED = 20240229
_TRIALS = 4  # evaluations in one configuration that draw nothing, after which nothing is put back any more
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
        self._quiet: dict[Any, int] = {}
        self._calls = 0

    @contextmanager
    def fixed(self, key: Any = None, note: bool = True) -> Iterator[None]:
        """Inside, each generator starts from the same state.

        Parameters
        ----------
        key : of the configuration; once some evaluations have drawn nothing in it, this costs nothing
        note : remember which generators were used
        """
        key = (repr(key), note)
        if self._quiet.get(key, 0) >= _TRIALS:
            yield
            return
        before = np.random.get_state(legacy=False), random.getstate()
        np.random.seed(_SEED)
        random.seed(_SEED)
        restore(self._private)
        began = _position(), random.getstate()[1][-1]
        try:
            yield
        finally:
            used = self._used(began)
            self._quiet[key] = 0 if used else self._quiet.get(key, 0) + 1
            if note:
                self.drawn |= used
            np.random.set_state(before[0])
            random.setstate(before[1])

    @contextmanager
    def anew(self, key: Any = None) -> Iterator[None]:
        """Inside a backward, the global generators start from a state of its own, another one at each call.

        Were it that of the forward, a mask that is drawn again would be the same mask; were it the same at
        each call, nobody would notice that anything is drawn. Private generators go on where they are.
        """
        key = (repr(key), "backward")
        if self._quiet.get(key, 0) >= _TRIALS:
            yield
            return
        before = np.random.get_state(legacy=False), random.getstate()
        self._calls += 1
        np.random.seed(_SEED + self._calls)
        random.seed(_SEED + self._calls)
        began = _position(), random.getstate()[1][-1]
        try:
            yield
        finally:
            used = _position() != began[0] or random.getstate()[1][-1] != began[1]
            self._quiet[key] = 0 if used else self._quiet.get(key, 0) + 1
            np.random.set_state(before[0])
            random.setstate(before[1])

    def line(self) -> str:
        """What a report should say of it; empty if nothing was drawn."""
        names = ", ".join(sorted(self.drawn))
        return f"random numbers: {names} start(s) from one seed at each forward" if names else ""

    def _used(self, began: tuple[Any, Any]) -> set[str]:
        used = {"numpy.random"} if _position() != began[0] else set()
        used |= {"random"} if random.getstate()[1][-1] != began[1] else set()
        return used | moved(self._private)


def mentions(function: Any, depth: int = 3) -> bool:
    """Whether the code of a function, or of one that it names, mentions random numbers or a generator."""
    code, known = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    if code is None or depth == 0:
        return False
    inner = [c for c in code.co_consts if hasattr(c, "co_names")]
    names = {*code.co_names, *(n for c in inner for n in c.co_names)}
    values = [*(known[n] for n in names if n in known), *_cells(function)]
    drawing = any(isinstance(getattr(v, "__self__", v), _KINDS) for v in values)
    return "random" in names or drawing or any(mentions(v, depth - 1) for v in values if v is not function)


def held(instance: Any) -> dict[str, tuple[Any, Any]]:
    """Generators that an object keeps, by attribute, with the states they are in."""
    own = getattr(instance, "__dict__", {})
    return {f"self.{n}": (g, _state(g)) for n, g in own.items() if isinstance(g, _KINDS)}


def restore(generators: dict[str, tuple[Any, Any]]) -> None:
    """Put generators back into the states that came with them."""
    for generator, state in generators.values():
        _restore(generator, state)


def moved(generators: dict[str, tuple[Any, Any]]) -> set[str]:
    """Names of the generators that have drawn since."""
    return {name for name, (g, state) in generators.items() if str(_state(g)) != str(state)}


def _position() -> Any:
    state = np.random.get_state(legacy=False)
    return state["state"]["pos"], state["has_gauss"]


def _reached(function: Any) -> Iterator[tuple[str, Any]]:
    """Generators among the globals, the closure and the class attributes that a function or class sees."""
    function = getattr(function, "__func__", function)
    names = dict(getattr(function, "__globals__", {}))
    if isinstance(function, type):
        for method in vars(function).values():
            names.update(getattr(method, "__globals__", {}))
        names.update(vars(function))
    for name, cell in zip(getattr(getattr(function, "__code__", None), "co_freevars", ()), _cells(function)):
        names[name] = cell
    for name, value in names.items():
        if isinstance(value, _KINDS):
            yield name, value


def _cells(function: Any) -> list[Any]:
    found = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            found.append(None)
    return found


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    return copy.deepcopy(generator.getstate() if isinstance(generator, random.Random) else generator.get_state())


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
