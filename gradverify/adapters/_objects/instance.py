"""Fresh objects of a stateful layer: how they are built, copied (views stay views), and given the primals of a case."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from gradverify.adapters._chance import Chance
from gradverify.adapters._normal import required
from gradverify.adapters._objects.pairs import Pair, is_array
from gradverify.adapters._trial import limited
from gradverify.core.declare import dims
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.held import arrays_of, attributes, fetch, own, show, store
from gradverify.core.errors import DeclarationError
from gradverify.core.judge import backward_noise
from gradverify.core.nouns import Array

_DEEP = 6  # attributes of attributes of ..., when an array is replaced wherever the object holds it
_KEPT = 64  # prototypes
SIZE = re.compile(r"[A-Z]\d?")


@dataclass
class Maker:
    """Builds an object from sizes, arrays and options, and copies it for each evaluation.

    Attributes
    ----------
    target : an object (copied as it is), or a class or function that gives one
    init : what it is called with: names of sizes, primals and options, or values; None matches its
        arguments by name
    declared : names of primals and options
    """

    target: Any
    init: tuple[Any, ...] | Mapping[str, Any] | None
    chance: Chance
    declared: frozenset[str] = frozenset()
    prototypes: dict[Any, Original] = field(default_factory=dict)
    sized: frozenset[str] | None = None  # names of axes that are names of arrays, too; None until one was tried

    def __post_init__(self) -> None:
        self._takes = [] if self.is_object else accepted_by(self.target)
        self._needs = [] if self.is_object else required(self.target) or []

    @property
    def runs_copies_of(self) -> tuple[Any, ...]:
        """What is never run itself; a prototype says so of its own."""
        return (self.target,)

    @cached_property
    def is_object(self) -> bool:
        """Whether the target is copied, and not called; asked at each forward."""
        return not builds(self.target)

    def sizes(self) -> tuple[str, ...]:
        """Names in `init` that look like sizes, one capital letter; else all arguments that nothing else names."""
        if self.init is None:
            return tuple(n for n in self._needs if n not in self.declared)
        return tuple(v for v in leaves(self.init) if SIZE.fullmatch(v))

    def texts(self, known: set[str]) -> str:
        """Says which words of `init` are given as they stand, since they name nothing."""
        words = [v for v in leaves(self.init) if v.isidentifier() and v not in known]
        if not words:
            return ""
        return f". {words[0]!r} is given as a text: a size that no primal has is written as one capital letter"

    def built_with(self) -> tuple[str, ...]:
        """Every name that may be a size the object is built with."""
        return tuple(self._takes) if self.init is None else tuple(leaves(self.init))

    def make(
        self,
        sizes: Mapping[str, Any],
        arrays: Mapping[str, Array],
        options: Mapping[str, Any],
        warm: Callable[[Any], None] | None = None,
        more: Any = None,
    ) -> tuple[Any, dict[str, Array]]:
        """A fresh object, and the arrays that it was built from by primal name.

        `warm` is run on the prototype, once for each `more`.
        """
        if self.is_object:
            arguments: tuple[list[Any], dict[str, Any]] = ([], {})
        else:
            arguments = self._built_by(sizes, arrays, options)
        given = [a for a in (*arguments[0], *arguments[1].values()) if isinstance(a, np.ndarray)]
        used = {n: a for n, a in arrays.items() if any(a is g for g in given)}
        if used:
            return self._made(arguments, options, warm), used
        key = (repr(arguments), repr(more))
        if key not in self.prototypes:
            if len(self.prototypes) >= _KEPT:
                self.prototypes.clear()
            self.prototypes[key] = Original(self._made(arguments, options, warm))
        try:
            return self.prototypes[key].copy(), {}
        except (TypeError, ValueError, AttributeError, RuntimeError):  # generators, locks, open files
            made = self.prototypes.pop(key).instance
            return made, {}

    def _made(
        self,
        arguments: tuple[Sequence[Any], Mapping[str, Any]],
        options: Mapping[str, Any],
        warm: Callable[[Any], None] | None,
    ) -> Any:
        """What is built, and warmed, with the same random numbers each time; copies of it draw none."""
        with self.chance.fixed(options, note=False):
            if self.is_object:
                made = Original(self.target).copy()
            else:
                with limited():
                    made = self.target(*arguments[0], **arguments[1])
            if warm is not None:
                warm(made)
        return made

    def _built_by(
        self, sizes: Mapping[str, Any], arrays: Mapping[str, Array], options: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Arguments to build an object with; a name that is an axis and an array is the array where that will do."""
        both = set(sizes) & set(arrays) & {*self._takes, *self.built_with()} if self.sized is None else set()
        if both:
            try:
                self._made(self._arguments(sizes, arrays, options), options, None)
                self.sized = frozenset()
            except (TypeError, ValueError, IndexError):
                self.sized = frozenset(both)
        known = {n: a for n, a in arrays.items() if n not in (self.sized or ())}
        return self._arguments(sizes, known, options)

    def _arguments(
        self, sizes: Mapping[str, Any], arrays: Mapping[str, Array], options: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        known = {**sizes, **options, **arrays}
        if isinstance(self.init, Mapping):
            return [], {name: resolved(value, known) for name, value in self.init.items()}
        if self.init is not None:
            return [resolved(value, known) for value in self.init], {}
        missing = [n for n in self._needs if n not in known]
        if missing:
            called = getattr(self.target, "__name__", "the class")
            raise DeclarationError(
                f"{called} needs {', '.join(missing)} when it is built, and no size, primal or option has that "
                f'name; say what to give: init=("D", "H") or init={{"{missing[0]}": "D"}}'
            )
        return [], {n: known[n] for n in self._takes if n in known}


def builds(target: Any) -> bool:
    """Whether a target is a class or a function that gives an object, and not the object itself."""
    return inspect.isclass(target) or inspect.isroutine(target) or isinstance(target, partial)


def made_by(target: Any, primals: Iterable[str], sizes: set[str]) -> bool:
    """Whether a function is one that builds an object: it takes sizes, or nothing."""
    takes, needs = accepted_by(target), required(target) or []
    return not set(takes) & set(primals) and (not takes or any(n in sizes or SIZE.fullmatch(n) for n in needs))


def leaves(value: Any) -> Iterator[str]:
    """Every name in what something is built with."""
    if isinstance(value, str):
        yield from re.split(r"[*+\-/]", value)
    elif isinstance(value, Mapping):
        yield from leaves(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves(part)


def accepted_by(target: Any) -> list[str]:
    """Names of the arguments that a class or function takes."""
    return [p.name for p in arguments(target) or ()]


def resolved(value: Any, known: Mapping[str, Any]) -> Any:
    """A name or arithmetic on names becomes its size, array or value; what is no name stays."""
    if isinstance(value, Mapping):
        return {key: resolved(part, known) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(resolved(part, known) for part in value)
    if not isinstance(value, str):
        return value
    if value in known:
        return known[value]
    try:
        return dims.parse(value).shape(known)[0] if any(c in value for c in "*+-/") else value
    except (DeclarationError, KeyError, IndexError):
        return value


def assign(instance: Any, pair: Pair, array: Array) -> None:
    """Give a parameter its value, wherever the object holds the array.

    In place where type and shape are those of the array that is there, which also reaches views;
    else every reference is replaced, so that the object's own precision does not round the value.
    """
    old = fetch(instance, pair.values[0])
    fits = isinstance(old, np.ndarray) and old.dtype == array.dtype and old.shape == array.shape
    if fits and old.flags.writeable and own(instance, pair.values[0]):
        np.copyto(old, array)
        for path in pair.values[1:]:
            if fetch(instance, path) is not old:
                store(instance, path, np.array(array))
        return
    new: Any = np.array(array)
    if isinstance(old, np.ndarray) and type(old) is not np.ndarray:  # which may hold its gradient itself
        new = new.view(type(old))
        new.__dict__.update(getattr(old, "__dict__", {}))
    if isinstance(old, float) and not isinstance(old, np.ndarray):
        new = array.dtype.type(array) if isinstance(old, np.floating) else float(array)
    elif isinstance(old, np.ndarray):
        _replace(instance, old, new, set(), _DEEP)
    for path in pair.values:
        if fetch(instance, path) is not new:
            try:
                store(instance, path, new)
            except (AttributeError, TypeError) as error:
                raise DeclarationError(f"{show(path)} cannot be set: {error}") from None


def _replace(holder: Any, old: Array, new: Array, seen: set[int], deep: int) -> None:
    if deep == 0 or id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, dict):
        items: list[tuple[Any, Any]] = list(holder.items())
    elif isinstance(holder, list):
        items = list(enumerate(holder))
    elif isinstance(holder, tuple):
        for value in holder:
            _replace(value, old, new, seen, deep - 1)
        return
    elif hasattr(holder, "__dict__") and not isinstance(holder, type):
        _replace(vars(holder), old, new, seen, deep)
        return
    else:
        return
    for key, value in items:
        if value is old:
            holder[key] = new
        elif isinstance(value, (dict, list, tuple)) or hasattr(value, "__dict__"):
            _replace(value, old, new, seen, deep - 1)


def summed(instance: Any, pair: Pair) -> Any:
    """The gradient of a parameter: a copy, because objects reuse their buffers; None if there is none."""
    if callable(pair.gradient):
        return _copied(pair.gradient(instance))
    parts = [fetch(instance, path) for path in pair.gradient]
    distinct = list({id(p): p for p in parts}.values())
    if not distinct or any(p is None for p in distinct):
        return None
    total = _copied(distinct[0])
    for part in distinct[1:]:
        total = total + part
    return total


def _copied(value: Any) -> Any:
    return np.array(value) if is_array(value) or isinstance(value, (np.ndarray, list, int)) else value


def float_arrays(instance: Any) -> dict[str, Array]:
    """Floating arrays among an object's attributes."""
    return {n: v for n, v in attributes(instance).items() if isinstance(v, np.ndarray) and v.dtype.kind in "fc"}


class Original:
    """An object that stays as it is while copies are made of it."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self._views = list(_views(instance))  # looked for once: that takes longer than a copy

    @property
    def runs_copies_of(self) -> tuple[Any, ...]:
        """What is never run itself, so that to change its arrays would show nothing."""
        return (self.instance,)

    def copy(self) -> Any:
        """A deep copy; arrays that are views of another one are views of its copy.

        Raises TypeError, ValueError, AttributeError or RuntimeError if something in it cannot be copied: generators,
        locks, open files.
        """
        memo: dict[int, Any] = {}
        for array, owner in self._views:
            whole = memo.setdefault(id(owner), owner.copy())
            offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            memo[id(array)] = np.ndarray(array.shape, array.dtype, whole, offset, array.strides)
        return copy.deepcopy(self.instance, memo)


def _views(instance: Any) -> Iterator[tuple[Array, Array]]:
    """Arrays within an object that lie in memory which another one lies in as well, with the owner of that memory."""
    arrays = [a for a in arrays_of(instance).values() if isinstance(a, np.ndarray)]
    for array in arrays:
        owner = array.base
        if type(array) is not np.ndarray or type(owner) is not np.ndarray or not owner.flags.c_contiguous:
            continue
        if any(a is not array and np.may_share_memory(a, owner) for a in arrays):
            yield array, owner


@dataclass(frozen=True, slots=True)
class Ran:
    """A forward that an object has run: what backward may be given besides the cotangents.

    Attributes
    ----------
    given : the inputs by name
    cache : what forward returned behind its outputs
    """

    instance: Any
    options: Mapping[str, Any]
    given: Mapping[str, Array]
    cache: Any = None

    def nudged(self, rng: np.random.Generator, part: float | None = None) -> Ran:
        """The same on a copy of the object, all of whose arrays have moved by as much as rounding moves them."""
        try:
            instance = Original(self.instance).copy()
        except (TypeError, ValueError, AttributeError, RuntimeError):  # generators, locks, open files
            return self
        for array in arrays_of(instance).values():
            if isinstance(array, np.ndarray) and array.flags.writeable:
                array[...] = backward_noise.nudge(array, rng, part)
        return replace(self, instance=instance, cache=backward_noise.moved(self.cache, rng, part))
