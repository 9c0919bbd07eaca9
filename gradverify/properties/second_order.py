"""Second order: the backward of the backward agrees with differences of the analytic gradient.

Tried at ordinary points, and as a property of its own at zeros, ties and in the tails, where a second
derivative is most often forgotten, divides by zero or overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradverify import evaluate, exact
from gradverify.differences import ladder
from gradverify.evaluate import LayerFailure
from gradverify.layer import Layer
from gradverify.properties import Property, Regime, add
from gradverify.properties.gradient import working_dtype
from gradverify.types import Array, Case, Finding, Outcome

NAME = "second_order"
SPECIAL = "second_special"


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.second is not None else "no second backward is declared (second=...)"


def holds(layer: Layer, case: Case, name: str = NAME) -> Outcome:
    """The second backward against central differences of the first, along a random direction of each primal.

    With g(x) the gradient for fixed cotangent v, and weights u on g, the second backward gives
    d<u, g(x)>/dx; it is compared with (<u, g(x + hd)> - <u, g(x - hd)>) / 2h over a ladder of h. Where
    g has a kink along d, which shows in its one-sided slopes, nothing is said.
    """
    case, reason = exact.ready(layer, case)
    second = layer.hooks.second
    if reason is not None or second is None:
        return Outcome(name, skipped=reason)
    wide = working_dtype(case)
    if wide is not None:  # differences of gradients in a lower type say nothing
        case = case.but(primals=evaluate.cast(case.primals, wide))
    rng = case.rng(10)
    first = exact.gradients(layer, case)
    if not all(np.isfinite(g).all() for g in first.values()):
        return Outcome(name, skipped="the gradient is not finite at the point: it has no derivative")
    weights = {n: rng.choice([-1.0, 1.0], g.shape) * rng.uniform(0.5, 1.5, g.shape) for n, g in first.items()}
    arguments = evaluate.copies(case.primals), exact.copied(case.cotangents or ()), weights
    raw: dict[str, Any] = evaluate.guarded("second backward", second, *arguments, **case.options)
    findings = []
    for primal in layer.differentiable:
        d = rng.choice([-1.0, 1.0], np.shape(case.primals[primal.name])) * rng.uniform(1.0, 2.0)
        got = raw.get(primal.name)
        if got is not None and np.shape(got) != d.shape:
            raise LayerFailure(
                "shape",
                "second backward",
                f"the second gradient of {primal.name} has shape {np.shape(got)}, {primal.name} has {d.shape}",
                primal.name,
            )
        claimed = 0.0 if got is None else float(np.sum(np.asarray(got) * d))
        slope = _slope(layer, case, primal.name, d, weights)
        if slope.smooth and not abs(claimed - slope.value) <= slope.bound + 1e-6 * abs(slope.value):
            findings.append(_finding(name, case, primal.name, claimed, slope, not raw))
    return Outcome(name, tuple(findings), entries=len(layer.differentiable))


def _finding(name: str, case: Case, primal: str, claimed: float, slope: _Slope, nothing: bool) -> Finding:
    message = (
        f"the second derivative along {primal} is {claimed:.8g}, differences of the first backward "
        f"give {slope.value:.8g} ± {slope.bound:.1g}"
    )
    distance = abs(claimed - slope.value)
    severity = distance / slope.bound if slope.bound and np.isfinite(distance) else float("inf")
    facts = {"ratio": claimed / slope.value if slope.value else None, "nothing": nothing}
    return Finding(name, "wrong", primal, message, case, severity=severity, facts=facts)


@dataclass(frozen=True, slots=True)
class _Slope:
    """Derivative of the weighted gradient along a direction, with its bound, and whether both sides have it."""

    value: float
    bound: float
    smooth: bool


def _slope(layer: Layer, case: Case, name: str, d: Array, weights: dict[str, Any]) -> _Slope:
    unit = float(np.sqrt(np.mean(np.abs(case.primals[name]) ** 2))) if d.size else 1.0
    steps = ladder.rungs(np.finfo(float).eps, 0.25) * (unit or 1.0)
    sizes: list[float] = []

    def at(h: float) -> float:
        g = exact.gradients(layer, case.but(primals={**case.primals, name: case.primals[name] + h * d}))
        sizes.append(sum(float(np.sum(np.abs(weights[n] * g[n]))) for n in g))
        return sum(float(np.sum(weights[n] * g[n])) for n in g)

    right, left, here = np.array([at(h) for h in steps]), np.array([at(-h) for h in steps]), at(0.0)
    noise = 16 * np.finfo(float).eps * max(sizes) / (2 * steps)
    both = ladder.select(((right - left) / (2 * steps))[None], noise[None], (2, 4, 6))
    value, bound = float(both.value[0]), float(both.bound[0])
    sides = [ladder.select((rise / steps)[None], 2 * noise[None], (1, 2, 3)) for rise in (right - here, here - left)]
    slack = sum(float(side.bound[0]) for side in sides) + bound
    apart = max(abs(float(side.value[0]) - value) for side in sides)
    return _Slope(value, bound, bool(np.isfinite(value + slack) and apart <= slack + 1e-6 * abs(value)))


def _add(name: str, says: str, special: bool, implied_by: tuple[str, ...]) -> None:
    regime = Regime(special=special, small=True)
    add(Property(name, says, partial(holds, name=name), applies, regime=regime, share=0.3, implied_by=implied_by))


_add(NAME, "the second backward agrees with differences of the first", False, ())
_add(SPECIAL, "so it does at zeros, ties and in the tails", True, (NAME,))
