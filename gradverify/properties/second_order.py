"""Second order: the backward of the backward agrees with differences of the analytic gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify import evaluate, exact
from gradverify.differences import ladder
from gradverify.layer import Layer
from gradverify.properties import Property, Regime, add
from gradverify.properties.gradient import working_dtype
from gradverify.types import Case, Finding, Outcome

NAME = "second_order"


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.second is not None else "no second backward is declared (second=...)"


def holds(layer: Layer, case: Case) -> Outcome:
    """The second backward against central differences of the first, along a random direction of each primal.

    With g(x) the gradient for fixed cotangent v, and weights u on g, the second backward gives
    d<u, g(x)>/dx; it is compared with (<u, g(x + hd)> - <u, g(x - hd)>) / 2h over a ladder of h.
    """
    case, reason = exact.ready(layer, case)
    second = layer.hooks.second
    if reason is not None or second is None:
        return Outcome(NAME, skipped=reason)
    wide = working_dtype(case)
    if wide is not None:  # differences of gradients in a lower type say nothing
        case = case.but(primals=evaluate.cast(case.primals, wide))
    rng = case.rng(10)
    first = exact.gradients(layer, case)
    weights = {n: rng.choice([-1.0, 1.0], g.shape) * rng.uniform(0.5, 1.5, g.shape) for n, g in first.items()}
    arguments = evaluate.copies(case.primals), exact.copied(case.cotangents or ()), weights
    raw: dict[str, Any] = evaluate.guarded("second backward", second, *arguments, **case.options)
    findings = []
    for primal in layer.differentiable:
        d = rng.choice([-1.0, 1.0], np.shape(case.primals[primal.name])) * rng.uniform(1.0, 2.0)
        got = raw.get(primal.name)
        claimed = 0.0 if got is None else float(np.sum(np.asarray(got) * d))
        value, bound = _difference(layer, case, primal.name, d, weights)
        if abs(claimed - value) > bound + 1e-6 * abs(value):
            message = (
                f"the second derivative along {primal.name} is {claimed:.8g}, differences of the first backward "
                f"give {value:.8g} ± {bound:.1g}"
            )
            severity = abs(claimed - value) / bound if bound else float("inf")
            facts = {"ratio": claimed / value if value else None, "zero": got is None}
            findings.append(Finding(NAME, "wrong", primal.name, message, case, severity=severity, facts=facts))
    return Outcome(NAME, tuple(findings), entries=len(layer.differentiable))


def _difference(layer: Layer, case: Case, name: str, d: Any, weights: dict[str, Any]) -> tuple[float, float]:
    steps = ladder.rungs(np.finfo(float).eps, 0.25) * (float(np.sqrt(np.mean(case.primals[name] ** 2))) or 1.0)
    values, sizes = [], []
    for h in steps:
        ends = []
        for sign in (1.0, -1.0):
            moved = case.but(primals={**case.primals, name: case.primals[name] + sign * h * d})
            g = exact.gradients(layer, moved)
            ends.append(sum(float(np.sum(weights[n] * g[n])) for n in g))
            sizes.append(sum(float(np.sum(np.abs(weights[n] * g[n]))) for n in g))
        values.append((ends[0] - ends[1]) / (2 * h))
    noise = 16 * np.finfo(float).eps * max(sizes) / (2 * steps)
    estimate = ladder.select(np.array(values)[None], noise[None], (2, 4, 6))
    return float(estimate.value[0]), float(estimate.bound[0])


add(
    Property(
        NAME,
        "the second backward agrees with differences of the first",
        holds,
        applies,
        regime=Regime(small=True),
        share=0.3,
    )
)
