"""Reuse: one array used in several places gets the sum of their gradients, each right on its own."""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Outcome
from gradverify.core.properties import Property, add

NAME = "reuse"


@exact.where_finite(NAME)
def holds(layer: Layer, case: Case) -> Outcome:
    """f(x) + f(x) with both tapes open at once; and one array object passed for two primals of one shape."""
    expected = exact.expected(layer, case)
    pairs = []
    if not layer.declared.stateful:
        primals = evaluate.copies(case.primals)
        tapes = [evaluate.run(layer, primals, case.options) for _ in range(2)]
        parts = [exact.pulled(layer, case, tape) for tape in tapes]
        summed = {n: parts[0][n] + parts[1][n] for n in expected}
        pairs.append(("when it is used twice in one graph", summed, {n: 2 * g for n, g in expected.items()}))
    joined = _on_one_tape(layer, case)
    if joined is not None:
        pairs.append(("when it is used twice in one graph", joined, {n: 2 * g for n, g in expected.items()}))
    outcome = exact.outcome(layer, case, NAME, pairs, sides=exact.EXPECTED)
    tied = _tied(layer, case)
    return Outcome(NAME, outcome.findings or tied.findings, entries=outcome.entries + tied.entries)


def _on_one_tape(layer: Layer, case: Case) -> dict[str, Array] | None:
    """Gradients of two uses that the layer itself adds up, where it can."""
    if layer.hooks.twice is None:
        return None
    primals, cotangents = evaluate.copies(case.primals), exact.copied(case.cotangents or ())
    raw = evaluate.guarded("backward", layer.hooks.twice, primals, cotangents, case.options)
    return None if raw is None else exact.usable(layer, case, raw)


def _tied(layer: Layer, case: Case) -> Outcome:
    """Two primals of one shape and domain given the same object; identity must not matter."""
    twins = _twins(layer, case)
    if twins is None:
        return Outcome(NAME)
    first, second = twins
    equal = case.but(primals={**case.primals, second: np.array(case.primals[first])}, cotangents=None)
    equal, reason = exact.ready(layer, equal)
    if reason is not None:
        return Outcome(NAME)
    expected = exact.gradients(layer, equal)
    primals = evaluate.copies(equal.primals)
    primals[second] = primals[first]
    evaluation = evaluate.run(layer, primals, equal.options)
    got = exact.pulled(layer, equal, evaluation)
    return exact.outcome(
        layer, equal, NAME, [(f"when one array is passed for both {first} and {second}", got, expected)]
    )


def _twins(layer: Layer, case: Case) -> tuple[str, str] | None:
    shapes: dict[tuple[tuple[int, ...], str], str] = {}
    for primal in layer.differentiable:
        array: Array = np.asarray(case.primals[primal.name])
        key = (array.shape, primal.domain.name)
        if key in shapes:
            return shapes[key], primal.name
        shapes[key] = primal.name
    return None


add(Property(NAME, "an array used in several places gets the sum of its gradients", holds, share=0.3))
