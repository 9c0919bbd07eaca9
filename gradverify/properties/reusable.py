"""Reusability: what one call leaves behind does not reach the next, in any order of calls."""

from __future__ import annotations

import numpy as np

from gradverify import evaluate, exact
from gradverify.layer import Layer
from gradverify.properties import Property, add
from gradverify.types import Array, Case, Outcome

NAME = "reusable"


def holds(layer: Layer, case: Case) -> Outcome:
    """Forward a, backward a, forward b, backward b; without state also forward a, forward b, backward a."""
    case, reason = exact.ready(layer, case)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    other = _other(layer, case)
    pair = layer.hooks.session() if layer.hooks.session else None
    expected = {n: np.array(g) for n, g in exact.gradients(layer, case).items()}
    expected_other = {n: np.array(g) for n, g in exact.gradients(layer, other).items()}

    def forward(which: Case) -> evaluate.Evaluation:
        return evaluate.run(layer, evaluate.copies(which.primals), which.options, pair)

    def backward(which: Case, evaluation: evaluate.Evaluation) -> dict[str, Array]:
        return exact.pulled(layer, which, evaluation, lambda: exact.copied(which.cotangents or ()))

    first = backward(case, forward(case))
    second = backward(other, forward(other))
    pairs = [("in the first of two calls", first, expected)]
    if not layer.declared.stateful:
        one, two = forward(case), forward(other)
        pairs.append(("after another forward ran in between", backward(case, one), expected))
        pairs.append(("after its forward ran first", backward(case, forward(case)), expected))
        second_late = backward(other, two)
        outcome_other = exact.outcome(
            layer, other, NAME, [("after the other backward ran", second_late, expected_other)]
        )
    else:
        outcome_other = Outcome(NAME)
    outcome = exact.outcome(layer, case, NAME, pairs)
    late = exact.outcome(layer, other, NAME, [("in a second call with other values", second, expected_other)])
    findings = {f.primal: f for f in (*late.findings, *outcome_other.findings, *outcome.findings)}
    ours = tuple(f.but(case=case) for f in findings.values())
    return Outcome(NAME, ours, entries=outcome.entries + late.entries + outcome_other.entries)


def _other(layer: Layer, case: Case) -> Case:
    """Another legal case: the batch reversed and cut by one where there is more than one, values moved."""
    rng = case.rng(5)
    primals = {}
    for primal in layer.primals:
        array = np.array(case.primals[primal.name])
        if layer.batch is not None and layer.batch in primal.dims.names:
            axis = primal.dims.labels(array.ndim).index(layer.batch)
            array = np.flip(array, axis)
            array = np.take(array, range(max(1, array.shape[axis] - 1)), axis) if array.shape[axis] > 1 else array
        if primal.differentiable and primal.domain.name == "real":
            array = (array * rng.choice([0.5, 0.75, 1.25], array.shape)).astype(array.dtype)
        primals[primal.name] = np.ascontiguousarray(array) if array.ndim else array
    moved = case.but(primals=primals, cotangents=None, seed=case.seed + 7)
    completed, reason = exact.ready(layer, moved)
    return case if reason is not None else completed


add(Property(NAME, "one call leaves nothing behind that reaches the next", holds, share=0.5))
