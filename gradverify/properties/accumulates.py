"""Accumulation: gradients are added into buffers that already hold something."""

from __future__ import annotations

import numpy as np

from gradverify import evaluate, exact
from gradverify.layer import Layer
from gradverify.properties import Property, add
from gradverify.types import Case, Outcome

NAME = "accumulates"


def applies(layer: Layer) -> str | None:
    return (
        None
        if layer.hooks.accumulate is not None
        else "the layer returns its gradients; it accumulates into no buffers"
    )


def holds(layer: Layer, case: Case) -> Outcome:
    """Buffers pre-filled with a constant end at that constant plus the gradient; twice is twice."""
    case, reason = exact.ready(layer, case)
    if reason is not None or layer.hooks.accumulate is None:
        return Outcome(NAME, skipped=reason)
    expected = exact.gradients(layer, case)
    filled = {n: np.full(g.shape, 1.5, g.dtype) for n, g in expected.items()}
    for _ in range(2):
        evaluation = evaluate.run(layer, evaluate.copies(case.primals), case.options)
        cotangents = exact.copied(case.cotangents or ())
        evaluate.guarded("backward", layer.hooks.accumulate, cotangents, evaluation.saved, filled)
    wanted = {n: 1.5 + 2 * g for n, g in expected.items()}
    return exact.outcome(layer, case, NAME, [("added twice into a buffer that held 1.5", filled, wanted)])


add(Property(NAME, "gradients are added to what their buffers hold", holds, applies, share=0.3))
