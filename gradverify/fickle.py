"""Code that answers differently when it is asked again: its derivative is not defined."""

from __future__ import annotations

import numpy as np

from gradverify import evaluate, exact
from gradverify.evaluate import LayerFailure
from gradverify.layer import Layer
from gradverify.types import Case, Finding


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
    """The first primal whose gradient changes from call to call."""
    completed, _ = evaluate.completed(layer, case)
    first, second = (
        evaluate.gradients(layer, completed.primals, completed.options, completed.cotangents or ()) for _ in range(2)
    )
    for name, gradient in first.items():
        if gradient is not None and not _equal(gradient, second.get(name)):
            return name
    return None


def _equal(a: object, b: object) -> bool:
    one, other = np.asarray(a), np.asarray(b)
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc" and other.dtype.kind in "fc")
