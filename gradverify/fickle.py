"""Code that answers differently when it is asked again: its derivative is not defined."""

from __future__ import annotations

import numpy as np

from gradverify import evaluate, exact
from gradverify.evaluate import LayerFailure
from gradverify.layer import Layer
from gradverify.types import Array, Case, Finding


def chance(layer: Layer, case: Case) -> Finding | None:
    """A finding of `repeatable` if forward or backward gives something else at the next call."""
    nearby = case.but(primals={name: exact.shifted(a) for name, a in case.primals.items()})
    if not (_same_outputs(layer, case) and _same_outputs(layer, nearby)):  # what is random may vanish at zeros
        message = "forward gives different outputs for the same inputs, so its derivative is not defined"
        return Finding("repeatable", "random", None, message, case)
    name = _random_gradient(layer, case)
    if name is None:
        return None
    message = f"backward gives different gradients of {name} for the same inputs and cotangents"
    return Finding("repeatable", "random", name, message, case)


def _same_outputs(layer: Layer, case: Case) -> bool:
    try:
        first, second = (evaluate.run(layer, evaluate.copies(case.primals), case.options).outputs for _ in range(2))
    except LayerFailure:
        return True
    return all(_equal(a, b) for a, b in zip(first, second))


def _random_gradient(layer: Layer, case: Case) -> str | None:
    """The first primal whose gradient changes from call to call, other than by growing as in a buffer never cleared."""
    completed, _ = evaluate.completed(layer, case)
    calls = [
        evaluate.gradients(layer, completed.primals, completed.options, completed.cotangents or ()) for _ in range(3)
    ]
    for name in calls[0]:
        first, second, third = (call.get(name) for call in calls)
        steady = _equal(first, second) and _equal(second, third)
        if first is not None and not steady and not _grows(first, second, third):
            return name
    return None


def _grows(first: Array, second: Array, third: Array) -> bool:
    if not np.shape(first) == np.shape(second) == np.shape(third):
        return False
    with np.errstate(all="ignore"):
        return np.allclose(np.subtract(third, second), np.subtract(second, first), rtol=1e-6, atol=0.0)


def _equal(a: object, b: object) -> bool:
    one, other = np.asarray(a), np.asarray(b)
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc" and other.dtype.kind in "fc")
