"""A function alone that returns (value, gradient), a pullback or an object: told by calling it, if no other fits."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from gradverify.adapters import convention, unrecognised
from gradverify.adapters._normal import examples, sketch, split
from gradverify.adapters._objects.instance import made_by
from gradverify.adapters.losses import loss
from gradverify.adapters.stateful import stateful
from gradverify.adapters.vjp_maker import pullback
from gradverify.core.declare.layer import Layer


@convention(
    'gradverify.check(forward, backward, x="N D"): a forward alone has no backward', inspect.isfunction, priority=-10
)
def function(target: Any, /, *, name: str | None = None, **declaration: Any) -> Layer:
    """A Loss from a function that returns a number and gradients; a Layer from one that returns its pullback, or builds
    an object.

    Raises
    ------
    DeclarationError
        If the function returns anything else, with the lines that would declare it.
    """
    primals, settings = split(declaration)
    if not primals:
        raise unrecognised(target, "its arrays are not named")
    planned = sketch(primals, settings)
    seen = "no call of it succeeded"
    if made_by(target, primals, {n for p in planned.primals for n in p.dims.names}):
        return stateful(target, name=name, **declaration)
    for arrays, _ in examples(planned):
        try:
            result = target(*arrays.values(), **planned.default_options)
        except Exception as error:  # noqa: BLE001  whatever the author's function raises
            seen = f"it raised {type(error).__name__}: {error}"
            continue
        if isinstance(result, tuple) and len(result) >= 2 and callable(result[-1]):
            return pullback(target, name=name, **declaration)
        ranks = [_rank(part) for part in result] if isinstance(result, (tuple, list)) else []
        if len(ranks) >= 2 and ranks[0] >= 0 and np.size(result[0]) == 1:
            return loss(target, name=name, **declaration)
        if len(ranks) == 2 and 0 < ranks[0] < ranks[1]:
            return loss(target, name=name, **declaration)  # a value for each row; of others it says what they are
        seen = f"it returned {_described(result)}, not a number and its gradient"
        break
    raise unrecognised(target, seen)


def _rank(part: Any) -> int:
    """Number of axes; -1 of what is no array."""
    try:
        return np.ndim(part)
    except ValueError:  # a tuple of arrays, such as what backward needs
        return -1


def _described(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"({', '.join(_described(part) for part in result)})"
    return f"an array of shape {np.shape(result)}" if isinstance(result, np.ndarray) else type(result).__name__
