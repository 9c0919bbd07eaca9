"""Domains: which values a primal may take, as short words after the dimensions ("N D: positive").

A continuous domain maps raw real draws into itself (`project`), so that a shrunk raw value is a
shrunk value; a discrete one maps uniform numbers in [0, 1) to its elements. `contains` says
whether an array that was edited while shrinking is still legal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.core.declare.dims import Sizes
from gradverify.core.errors import DeclarationError
from gradverify.core.texts import meant

Array = Any  # numpy.ndarray of any dtype; the shape is in the docstrings
Project = Callable[..., Array]
Contains = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class Domain:
    """The set of values of one primal.

    Attributes
    ----------
    name : word, e.g. "positive"
    kind : "real", "complex", "int" or "bool"
    arguments : bounds or sizes after the word; names of dimensions are looked up in a case's sizes
    strategy : a Hypothesis strategy of single elements, when the author gave one
    option, holds : name of an option, and whether its being on is what makes the domain hold, or its being off; any
        real number is legal otherwise. None where the domain always holds
    """

    name: str
    kind: str
    arguments: tuple[str, ...] = ()
    strategy: Any = None
    option: str | None = None
    holds: bool = True

    @property
    def text(self) -> str:
        """The words that `parse` reads."""
        told = [] if self.option is None else ["if" if self.holds else "unless", self.option]
        return " ".join([self.name, *self.arguments, *told])

    def _free(self, sizes: Sizes) -> bool:
        """Whether the option that the domain hangs on leaves it out."""
        return self.option is not None and self.option in sizes and bool(sizes[self.option]) != self.holds

    @property
    def differentiable(self) -> bool:
        return self.kind in ("real", "complex") and not self.discrete

    @property
    def discrete(self) -> bool:
        return self.kind in ("int", "bool") or self.name in ("mask", "signs")

    def project(self, raw: Array, sizes: Sizes) -> Array:
        """Map raw draws (reals, or uniforms in [0, 1) for discrete domains) into the domain."""
        return raw if self._free(sizes) else _TABLE[self.name].project(raw, *self._numbers(sizes))

    def contains(self, array: Array, sizes: Sizes) -> bool:
        """Whether every element (every row, for domains of rows) is legal."""
        if self.strategy is not None:
            return False  # unknown: edits of single values are refused, dropping whole indices is not
        if self._free(sizes):
            return True
        return bool(array.size == 0 or _TABLE[self.name].contains(array, *self._numbers(sizes)))

    def _numbers(self, sizes: Sizes) -> tuple[float, ...]:
        return tuple(_number(argument, sizes) for argument in self.arguments)


@dataclass(frozen=True, slots=True)
class _Word:
    kind: str
    arity: tuple[int, ...]
    project: Project
    contains: Contains


_LABELLED = 0.8  # share of the labels that are not the ignored one


def _number(argument: str, sizes: Sizes) -> float:
    if argument in sizes:
        return float(np.prod(sizes[argument]))
    try:
        return float(argument)
    except ValueError:
        raise DeclarationError(f"{argument!r} is neither a number nor a named dimension of the layer") from None


def _fold(raw: Array, low: float, high: float) -> Array:
    """Reflect reals into [low, high]; values already inside stay as they are."""
    width = high - low
    inside = (raw >= low) & (raw <= high)
    phase = np.mod(raw - low, 2 * width)
    return np.where(inside, raw, low + np.where(phase > width, 2 * width - phase, phase))


def _positive(raw: Array) -> Array:
    magnitude = np.abs(raw)
    return np.where(magnitude > 0, magnitude, np.ones_like(magnitude))


def _nonzero(raw: Array) -> Array:
    return np.where(raw == 0, np.ones_like(raw), raw)


def _above(raw: Array, low: float) -> Array:
    """Reals above a bound, which is left out: values at and below it are reflected."""
    reflected = np.where(raw > low, raw, np.where(raw < low, 2 * low - raw, low + 1))
    return np.maximum(reflected, np.nextafter(low, np.inf))  # where the next number is far, these round to the bound


def _below(raw: Array, high: float) -> Array:
    return -_above(-raw, -high) + 0.0  # no negative zero


def _at_least(raw: Array, low: float) -> Array:
    """Reals from a bound on, which is one of them: values below it are reflected."""
    return np.where(raw >= low, raw, np.maximum(2 * low - raw, low))


def _at_most(raw: Array, high: float) -> Array:
    return -_at_least(-raw, -high) + 0.0


def _inside(raw: Array, low: float, high: float) -> Array:
    """Reals between two bounds, which are left out: what would fall on one falls on the middle."""
    folded = _fold(raw, low, high)
    return np.where((folded > low) & (folded < high), folded, low + (high - low) / 2)


def _probabilities(raw: Array) -> Array:
    weights = _positive(raw)
    shares = weights / weights.sum(-1, keepdims=True) if weights.size else weights
    return np.maximum(shares, np.finfo(shares.dtype).tiny)  # one far below the others is rounded to 0


def _distinct(raw: Array) -> Array:
    """Same order, gaps of at least a tenth: for layers that compare their inputs."""
    flat = raw.ravel()
    order = np.argsort(flat, kind="stable")
    spaced = flat[order] + 0.1 * np.arange(flat.size)
    result = np.empty_like(flat)
    result[order] = spaced
    return result.reshape(raw.shape)


def _integers(raw: Array, low: float, high: float) -> Array:
    return np.floor(low + raw * (high - low + 1)).astype(np.int64)


def _labels(raw: Array, count: float, ignored: float | None = None) -> Array:
    """Whole numbers in [0, count); about one in five is the ignored one, where there is one."""
    if ignored is None:
        return _integers(raw, 0, count - 1)
    return np.where(raw < _LABELLED, _integers(raw / _LABELLED, 0, count - 1), int(ignored))


def _is_label(array: Array, count: float, ignored: float | None = None) -> bool:
    legal = (array >= 0) & (array < count)
    return array.dtype.kind in "iu" and bool((legal if ignored is None else legal | (array == ignored)).all())


def _is_integer(array: Array, low: float, high: float) -> bool:
    return array.dtype.kind in "iu" and bool(array.min() >= low and array.max() <= high)


def _offsets(raw: Array, total: float) -> Array:
    """0, increasing starts, and the total, along the last axis; sequences are empty only where there are too many."""
    count, found = raw.shape[-1] - 1, np.zeros(raw.shape, dtype=np.int64)
    if count > 0:
        room = max(0.0, total - count)
        inner = np.floor(np.sort(raw[..., 1:count], axis=-1) * (room + 1)).astype(np.int64) + np.arange(1, count)
        found[..., 1:count] = np.minimum(inner, int(total))
        found[..., -1] = int(total)
    return found


def _are_offsets(array: Array, total: float) -> bool:
    rising = bool((np.diff(array, axis=-1) >= 0).all())
    return array.dtype.kind in "iu" and rising and bool((array[..., 0] == 0).all() and (array[..., -1] == total).all())


def _yes(array: Array, *_: float) -> bool:
    return bool(np.isfinite(array).all())


_TABLE: Mapping[str, _Word] = {
    "real": _Word("real", (0,), lambda raw: raw, _yes),
    "complex": _Word("complex", (0,), lambda raw: raw, _yes),
    "complex-nonzero": _Word("complex", (0,), _nonzero, lambda a: bool((a != 0).all())),
    "above": _Word("real", (1,), _above, lambda a, low: a.min() > low),
    "below": _Word("real", (1,), _below, lambda a, high: a.max() < high),
    "at-least": _Word("real", (1,), _at_least, lambda a, low: a.min() >= low),
    "at-most": _Word("real", (1,), _at_most, lambda a, high: a.max() <= high),
    "inside": _Word("real", (2,), _inside, lambda a, low, high: a.min() > low and a.max() < high),
    "positive": _Word("real", (0,), _positive, lambda a: a.min() > 0),
    "nonnegative": _Word("real", (0,), np.abs, lambda a: a.min() >= 0),
    "nonzero": _Word("real", (0,), _nonzero, lambda a: bool((a != 0).all())),
    "unit": _Word("real", (0,), lambda raw: _fold(raw, 0, 1), lambda a: a.min() >= 0 and a.max() <= 1),
    "between": _Word("real", (2,), _fold, lambda a, low, high: a.min() >= low and a.max() <= high),
    "probabilities": _Word(
        "real", (0,), _probabilities, lambda a: a.min() > 0 and np.allclose(a.sum(-1), 1, atol=1e-3)
    ),
    "distinct": _Word("real", (0,), _distinct, lambda a: bool(np.unique(a).size == a.size)),
    "mask": _Word("real", (0,), lambda raw: (raw < 0.6) * 1.0, lambda a: bool(np.isin(a, (0, 1)).all())),
    "signs": _Word("real", (0,), lambda raw: np.where(raw < 0.5, -1.0, 1.0), lambda a: bool(np.isin(a, (-1, 1)).all())),
    "bool": _Word("bool", (0,), lambda raw: raw < 0.6, lambda a: a.dtype.kind == "b"),
    "labels": _Word("int", (1, 2), _labels, _is_label),
    "indices": _Word(
        "int", (1,), lambda raw, count: _integers(raw, 0, count - 1), lambda a, count: _is_integer(a, 0, count - 1)
    ),
    "integers": _Word("int", (2,), _integers, _is_integer),
    "lengths": _Word(
        "int", (1,), lambda raw, longest: _integers(raw, 1, longest), lambda a, longest: _is_integer(a, 1, longest)
    ),
    "offsets": _Word("int", (1,), _offsets, _are_offsets),
}
_SYNONYMS = {
    "complex nonzero": "complex-nonzero",
    "nonzero complex": "complex-nonzero",
    "unit interval": "unit",
    "probability": "probabilities",
    "boolean": "bool",
    "any": "real",
    "open unit": "inside 0 1",
}
_BOUND = r"(-?[\w.+]+(?:e-?\d+)?)"
_PHRASES = tuple(  # other ways to write a domain, and the words that it has here
    (re.compile(pattern), words)
    for pattern, words in (
        (rf"(?:>=|at least|from) ?{_BOUND}", r"at-least \1"),
        (rf"(?:<=|at most|up to) ?{_BOUND}", r"at-most \1"),
        (rf"(?:>|greater than|more than|larger than) ?{_BOUND}", r"above \1"),
        (rf"(?:<|less than|smaller than) ?{_BOUND}", r"below \1"),
        (rf"(?:in ?)?\[{_BOUND}, ?{_BOUND}\]", r"between \1 \2"),
        (rf"(?:in ?)?\({_BOUND}, ?{_BOUND}\)", r"inside \1 \2"),
        (rf"between {_BOUND} and {_BOUND}", r"between \1 \2"),
        (rf"labels {_BOUND},? (?:or|ignore|ignoring) {_BOUND}", r"labels \1 \2"),
    )
)


def words() -> tuple[str, ...]:
    """Every domain word."""
    return tuple(_TABLE)


def parse(text: str) -> Domain:
    """Read a domain: a word and its arguments, e.g. ``"labels K"`` or ``"positive unless log_target"``.

    Raises DeclarationError if the word is unknown or has the wrong number of arguments.
    """
    text, option, holds = _conditional(text)
    name, *arguments = _spelled(text).split()
    word = _TABLE.get(name)
    if word is None:
        close = meant(name, (*_TABLE, *_SYNONYMS), 1)
        known = close or f"; known words: {', '.join(_TABLE)}"
        raise DeclarationError(f"unknown domain {text.strip()!r}{known}")
    if len(arguments) not in word.arity:
        takes = " or ".join(map(str, word.arity))
        raise DeclarationError(f"domain {name!r} takes {takes} argument(s), got {len(arguments)}: {text.strip()!r}")
    if option is not None and word.kind != "real":
        raise DeclarationError(f"domain {name!r}: only one of real numbers may hang on an option ({option!r})")
    return Domain(name, word.kind, tuple(arguments), option=option, holds=holds)


def _spelled(text: str) -> str:
    """A domain in the words of the table: ``"> 1"`` is ``"above 1"``."""
    text = " ".join(text.split())
    for pattern, words in _PHRASES:
        match = pattern.fullmatch(text)
        if match is not None:
            return match.expand(words)
    return _SYNONYMS.get(text, text or "real")


def _conditional(text: str) -> tuple[str, str | None, bool]:
    """A domain without "if option", "if not option" or "unless option" behind it; the option; whether it must be on."""
    parts = text.split()
    if len(parts) > 3 and parts[-3:-1] == ["if", "not"]:
        return " ".join(parts[:-3]), parts[-1], False
    if len(parts) > 2 and parts[-2] in ("if", "unless"):
        return " ".join(parts[:-2]), parts[-1], parts[-2] == "if"
    return text, None, True
