"""Repeatability: the same Case gives the same outputs and gradients, call after call."""

from __future__ import annotations

import numpy as np

from gradverify import evaluate, exact
from gradverify.layer import Layer
from gradverify.properties import Property, add
from gradverify.types import Case, Finding, Outcome

NAME = "repeatable"
_TIMES = 3


def holds(layer: Layer, case: Case) -> Outcome:
    """Two forwards agree; the backward of one forward, and of fresh ones, gives the same again.

    Up to rounding: where memory lies, and which thread adds first, changes the order of sums.
    """
    case, reason = exact.ready(layer, case)
    first = evaluate.run(layer, evaluate.copies(case.primals), case.options)
    given = exact.copied(first.outputs)  # forward may write into what it returned
    for _ in range(_TIMES - 1):
        again = evaluate.run(layer, evaluate.copies(case.primals), case.options)
        for a, b in zip(given, again.outputs):
            if not exact.alike(a, b):
                message = "forward gives different outputs for the same inputs, so its derivative is not defined"
                return Outcome(NAME, (Finding(NAME, "random", None, message, case),), entries=a.size)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    v = case.cotangents or ()
    once = exact.pulled(layer, case, first, lambda: exact.copied(v))
    once = {n: np.array(g) for n, g in once.items()}
    pairs = [("in a second forward and backward", exact.gradients(layer, case), once) for _ in range(_TIMES)]
    if not layer.declared.stateful:
        second = exact.pulled(layer, case, first, lambda: exact.copied(v))
        pairs.insert(0, ("when backward is called twice", second, once))
    return exact.outcome(layer, case, NAME, pairs, same=True)


add(Property(NAME, "the same case gives the same outputs and gradients again", holds, share=0.3))
