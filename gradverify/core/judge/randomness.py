"""Code that answers differently when it is asked again: its derivative is not defined."""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding

_STEADY = 1e-6  # by which two steps of a gradient that grows from call to call may differ: rounding, and no draw


def randomness(layer: Layer, case: Case) -> Finding | None:
    """A finding of `repeatable` if forward or backward gives something else at the next call."""
    nearby = case.but(primals={name: exact.shifted(a) for name, a in case.primals.items()})
    if not (_same_outputs(layer, case) and _same_outputs(layer, nearby)):  # what is random may vanish at zeros
        message = "forward gives different outputs for the same inputs, so its derivative is not defined"
        return Finding("repeatable", "random", None, message, case)
    name = _random_gradient(layer, case)
    return None if name is None else random_gradient(case, name)


def random_gradient(case: Case, name: str) -> Finding:
    """The finding that backward answers by chance."""
    message = f"backward gives different gradients of {name} for the same inputs and cotangents"
    return Finding("repeatable", "random", name, message, case)


def _same_outputs(layer: Layer, case: Case) -> bool:
    try:
        first, second = (
            [np.array(y) for y in evaluate.run(layer, evaluate.copies(case.primals), case.options).outputs]
            for _ in range(2)
        )
    except LayerFailure:
        return True
    return all(_equal(a, b) for a, b in zip(first, second))


def _random_gradient(layer: Layer, case: Case) -> str | None:
    """The first primal whose gradient changes from call to call, other than by growing as in a buffer never cleared."""
    completed, _ = evaluate.completed(layer, case)
    calls = [_copied_gradients(layer, completed) for _ in range(3)]
    for name in calls[0].keys() & calls[1].keys() & calls[2].keys():
        first, second, third = (call[name] for call in calls)
        steady = _equal(first, second) and _equal(second, third)
        if not steady and not _grows(first, second, third):
            return name
    return None


def _copied_gradients(layer: Layer, case: Case) -> dict[str, Array]:
    """Those that can be compared, as they are before another call may write into them."""
    raw = evaluate.gradients(layer, case.primals, case.options, case.cotangents or ())
    return {name: np.array(gradient) for name, gradient in evaluate.usable(layer, case, raw)[0].items()}


def _grows(first: Array, second: Array, third: Array) -> bool:
    if not np.shape(first) == np.shape(second) == np.shape(third):
        return False
    with np.errstate(all="ignore"):
        return np.allclose(np.subtract(third, second), np.subtract(second, first), rtol=_STEADY, atol=0.0)


def _equal(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc")
