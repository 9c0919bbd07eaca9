"""Accumulation: gradients are added into buffers that already hold something.

An object may replace its gradients at each backward, or add to them; one that does this here and that
there is wrong wherever it is used twice before an update.
"""

from __future__ import annotations

import numpy as np

from gradverify import evaluate, exact
from gradverify.layer import Layer
from gradverify.properties import Property, add
from gradverify.types import Array, Case, Outcome

NAME = "accumulates"


def applies(layer: Layer) -> str | None:
    if layer.hooks.accumulate is not None or layer.hooks.again is not None:
        return None
    return "the layer returns its gradients; it accumulates into no buffers"


def holds(layer: Layer, case: Case) -> Outcome:
    """Buffers pre-filled with a constant end at that constant plus the gradient; twice is twice."""
    case, reason = exact.ready(layer, case)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    expected = exact.gradients(layer, case)
    if layer.hooks.accumulate is None:
        return _on_an_object(layer, case, expected)
    filled = {n: np.full(g.shape, 1.5, g.dtype) for n, g in expected.items()}
    for _ in range(2):
        evaluation = evaluate.run(layer, evaluate.copies(case.primals), case.options)
        cotangents = exact.copied(case.cotangents or ())
        evaluate.guarded("backward", layer.hooks.accumulate, cotangents, evaluation.saved, filled)
    wanted = {n: 1.5 + 2 * g for n, g in expected.items()}
    return exact.outcome(layer, case, NAME, [("added twice into a buffer that held 1.5", filled, wanted)])


def _on_an_object(layer: Layer, case: Case, expected: dict[str, Array]) -> Outcome:
    """After two rounds either every gradient is doubled or every gradient is as after one."""
    primals, cotangents = evaluate.copies(case.primals), exact.copied(case.cotangents or ())
    raw = evaluate.guarded("backward", layer.hooks.again or dict, primals, cotangents, case.options)
    left, _ = evaluate.usable(layer, case, raw)
    once = {n: expected[n] for n in left if n in expected and np.shape(left[n]) == np.shape(expected[n])}
    if len(once) < 2:
        return Outcome(NAME, skipped="fewer than two gradients are kept on the object: none can differ from the others")
    got = {n: left[n] for n in once}
    twice = {n: 2 * g for n, g in once.items()}
    added = exact.outcome(layer, case, NAME, [("after two backward passes (others are added up)", got, twice)])
    replaced = exact.outcome(layer, case, NAME, [("after two backward passes (others are replaced)", got, once)])
    return min(added, replaced, key=lambda outcome: len(outcome.findings))


add(Property(NAME, "gradients are added to what their buffers hold", holds, applies, share=0.3))
