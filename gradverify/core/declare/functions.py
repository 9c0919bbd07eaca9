"""What can be read off a function: its arguments, and which names it takes."""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from gradverify.core.errors import DeclarationError

T = TypeVar("T")
_WRITABLE = (dict, list, set, np.ndarray, np.random.Generator, np.random.RandomState, random.Random)


def by_function(read: Callable[..., T]) -> Callable[..., T]:
    """Remember what is read off a function; an object that is called and has no hash, as a dataclass, is read anew."""
    remembered = lru_cache(maxsize=4096)(read)

    def found(function: Callable[..., Any], *more: Any) -> T:
        try:
            return remembered(function, *more)
        except TypeError:
            return read(function, *more)

    return found


def arguments(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...] | None:
    """The arguments of a function or a class; None where Python cannot tell."""
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


@by_function
def accepted(
    function: Callable[..., Any], names: tuple[str, ...], any_other: bool = True, filled: int = 0
) -> tuple[str, ...]:
    """The names among `names` that a function takes as keywords; by ``**``, too, unless told otherwise.

    Not by keyword goes what one of the first `filled` arguments is called, which are given by their places: what
    backward(dy, lam) calls lam is what forward saved, also where an option has that name.
    """
    parameters = arguments(function) or ()
    given = {p.name for p in parameters[:filled]}
    names = tuple(name for name in names if name not in given) if given else names
    if any_other and any(p.kind is p.VAR_KEYWORD for p in parameters):
        return tuple(names)
    taken = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return tuple(name for name in names if name in taken)


def predicate(text: str) -> Callable[..., bool]:
    """A condition that is written as a string, ``"C % G == 0"``, as a function of the names in it.

    Raises DeclarationError if it is no expression of Python.
    """
    try:
        names = [node.id for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Name)]
        taken = dict.fromkeys(n for n in names if n not in vars(builtins) and n != "np")
        made: Callable[..., bool] = eval(f"lambda {', '.join(taken)}: ({text.strip()})", {"np": np})
    except (SyntaxError, ValueError) as error:
        raise DeclarationError(f'assume: {text!r} is no condition ({error}); write e.g. "C % G == 0"') from None
    return made


def own(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options for one call, those that can be written into as copies: each call is the first.

    Forward may keep its running statistics in a dict of parameters (``bn_param["running_mean"] = ...``), or draw from a
    generator that it is handed.
    """
    return copy.deepcopy(dict(options)) if any(isinstance(v, _WRITABLE) for v in options.values()) else options


def taken_by(function: Callable[..., Any], values: Mapping[str, Any], filled: int = 0) -> dict[str, Any]:
    """Those of some values that a function takes as keywords, by name, beside `filled` arguments that have places."""
    return {name: values[name] for name in accepted(function, tuple(values), True, filled)}
