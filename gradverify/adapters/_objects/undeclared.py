"""Weights that nobody declared: those whose gradients are found become primals, the others are told as unverified."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from gradverify.adapters._normal import examples, redrawn
from gradverify.adapters._objects.names import steps_of, unmangled
from gradverify.adapters._objects.pairs import Pair, Weight
from gradverify.adapters._objects.stateful import Stateful
from gradverify.adapters._objects.weights import Survey, covered, survey
from gradverify.core.declare.held import Path, arrays_of, show
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns.ledger import NotVerified

_LOOKS = 3  # sets of sizes, so that 4*N and D+H are told apart
_CHOICES = 8  # of an option, at which something else may be reached
_STATE = "state of the object that follows its inputs from call to call, and has no gradient"
_SETTING = "single numbers of the object, taken as settings"
_NO_GRADIENT = "the output depends on this, and no gradient was found"
CHANGED = "backward changes them and keeps no gradient: gradverify.adapt.optimiser(...) checks such updates"
_UNTRIED = "float arrays that could not be tried, as forward took none of a few examples: pairs= or constants= say more"
_HOLDERS = ("data", "value", "val", "array")
_NAMELESS = re.compile(r"(?:param|parameter|weight)s?", re.IGNORECASE)


@dataclass
class Undeclared(Survey):
    """What several looks at an object showed of its arrays, together.

    Attributes
    ----------
    shapes : sizes and the shapes that the weights had there, by primal name
    names : of the weights, as primals
    """

    inner: Stateful = field(kw_only=True)
    names: dict[Path, str] = field(default_factory=dict)
    shapes: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = field(default_factory=list)

    def look(self, layer: Layer) -> None:
        """At a few sets of sizes with the default options, and at the first also with the others."""
        plain = layer.default_options
        self.inner.modes = bool(layer.options)
        for arrays, sizes in islice(examples(layer, self.inner.maker.sizes()), _LOOKS):
            self.inner.assumed = sizes
            more = [] if self.shapes else _others(layer)
            for options in (plain, *more):
                with suppress(LayerFailure, DeclarationError):
                    self._add(survey(self.inner, arrays, redrawn(layer, sizes), options), sizes)
            if not self.weights:
                break
        self.inner.assumed = {}
        for path in [p for p in self.weights if p in self.state | self.moving]:
            self.state.add(path)
            del self.weights[path]
        self.settings -= self.weights.keys()

    def _add(self, found: Survey, sizes: dict[str, Any]) -> None:
        self.state |= found.state
        self.moving |= found.moving
        self.settings |= found.settings
        self.order = self.order or found.order
        for path, weight in found.weights.items():
            known = self.weights.setdefault(path, weight)
            known.gradient = known.gradient or weight.gradient
            known.returned = known.returned if known.returned is not None else weight.returned
            known.likely = known.likely or weight.likely
            known.changed |= weight.changed
            if path not in self.names:
                self.names[path] = named(path, (*self.inner.names, *self.names.values()))
        self.shapes.append((sizes, {self.names[p]: w.shape for p, w in found.weights.items()}))

    def take(self, path: Path, text: str, primals: dict[str, Any]) -> str:
        """Make a weight a primal of given dimensions; its name."""
        weight, name = self.weights.pop(path), self.names[path]
        self.inner.seen |= {weight.dtype} if weight.dtype.kind == "f" else set()
        primals[name] = text
        if isinstance(weight.returned, str):
            self.inner.keys[weight.returned] = name
        gradient = (weight.gradient,) if weight.gradient is not None else ()
        self.inner.pairs[name] = self.inner.found(Pair(name, (path,), gradient))
        return name


def undeclared(
    inner: Stateful,
    layer: Layer,
    primals: dict[str, Any],
    constants: tuple[str, ...],
    dimensions: Callable[[str, Any], str | None],
    made: Any,
) -> tuple[tuple[str, ...], tuple[NotVerified, ...]]:
    """Make primals of the weights whose gradients are found; lines that say so, and what stays unverified.

    Raises DeclarationError if the object has none of that name among its arrays.

    Parameters
    ----------
    constants : names or paths of attributes that need no gradient
    dimensions : (name, shapes at several sizes) -> dimension string, or None
    made : an object, to look for constants in
    """
    runs, found = inner.runs, Undeclared(inner=inner)
    found.look(layer)
    inner.runs = runs
    _known(constants, made, (*found.weights, *found.state, *found.settings))
    fixed = {p for p in (*found.weights, *found.state, *found.settings) if _among(p, constants)}
    for path in fixed:
        found.weights.pop(path, None)
    taken = {}
    for path, weight in list(found.weights.items()):
        text = dimensions(found.names[path], found.shapes)
        if text is not None and inner.tells(weight):
            taken[path] = found.take(path, text, primals)
    if found.order is not None and set(taken) >= {k for k in found.order if isinstance(k, tuple)}:
        inner.gives = tuple(k if isinstance(k, str) else taken[k] for k in found.order)
    held = inner.maker.target if made is None and inner.maker.is_object else made
    arrays = {} if found.shapes or held is None else arrays_of(held)  # what forward took of no example, nobody knows
    untried = [p for p, a in arrays.items() if isinstance(a, np.ndarray) and not covered(inner, held, p)]
    missing = [
        *(NotVerified(named(p, inner.names), _UNTRIED, blocks=True) for p in untried if not _among(p, constants)),
        *(_missing(found.names[p], w) for p, w in found.weights.items()),
        *(NotVerified(show(p), _STATE) for p in sorted(found.state - fixed, key=show)),
        *(NotVerified(show(p), _SETTING) for p in sorted(found.settings - fixed, key=show)),
        *(NotVerified(show(p), "declared constant") for p in sorted(fixed, key=show)),
    ]
    line = ", ".join(f'{name} "{primals[name]}"' for name in taken.values())
    return ((f"dimensions: {line} (from the object's arrays)",) if line else ()), tuple(missing)


def named(path: Path, taken: Iterable[str]) -> str:
    """A name for the primal: of the attribute, or of the whole way to it where that is needed."""
    keys = [unmangled(str(key)) for key in steps_of(path)]
    while len(keys) > 1 and keys[-1] in _HOLDERS:
        keys.pop()
    if len(keys) > 1 and _NAMELESS.fullmatch(keys[0].strip("_")) and not keys[1].isdigit():
        keys = keys[1:]
    word = re.sub(r"\W", "_", "_".join(keys)).strip("_") or "p"
    word = word if not word[0].isdigit() else f"p{word}"
    used = set(taken)
    return next(n for n in (word, *(f"{word}_{k}" for k in range(2, 99))) if n not in used)


def _known(constants: Iterable[str], made: Any, seen: Iterable[Path]) -> None:
    """Refuse constants that name neither an array that was seen, nor anything else of the object."""
    held = {*seen, *arrays_of(made)}
    for name in constants:
        if not any(_among(path, (name,)) for path in held):
            listed = ", ".join(sorted({show(path) for path in held})[:8]) or "none"
            raise DeclarationError(f"constants: {name!r} is neither a primal nor an array of the object (has {listed})")


def _among(path: Path, constants: tuple[str, ...]) -> bool:
    """Whether an array, or what holds it, is named."""
    ways = {show(path[:k]) for k in range(1, len(path) + 1)} | {named(path, ())}
    return not ways.isdisjoint(constants)


def _missing(name: str, weight: Weight) -> NotVerified:
    if weight.changed:
        return NotVerified(name, CHANGED, blocks=True)
    gradient = show(weight.likely) if weight.likely is not None else f"d{name}"
    place = show(weight.path)
    spec = f'"{gradient}"' if place == name else f'("{place}", "{gradient}")'
    return NotVerified(name, _NO_GRADIENT, f'"{name}": {spec}', blocks=True)


def _others(layer: Layer) -> list[Mapping[str, Any]]:
    """The default options with one of them at each of its other choices."""
    return [
        {**layer.default_options, name: value}
        for name, choices in layer.options.items()
        if isinstance(choices, (list, range))
        for value in choices[1:_CHOICES]
    ]
