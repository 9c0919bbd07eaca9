"""Second order: the backward of the backward agrees with differences of the analytic gradient.

Tried at ordinary points, and as a property of its own at zeros, ties and in the tails, where a second
derivative is most often forgotten, divides by zero or overflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradverify import evaluate, exact
from gradverify.differences import ladder
from gradverify.evaluate import LayerFailure
from gradverify.exact import Gradients
from gradverify.layer import Layer
from gradverify.properties import Property, Regime, add
from gradverify.properties.gradient import working_dtype
from gradverify.types import Array, Case, Finding, Outcome

NAME = "second_order"
SPECIAL = "second_special"
_BESIDE = 1e-6  # distance of neighbours, of the primals' own size
_NEIGHBOURS = 8


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
    first = exact.gradients(layer, case)
    if not all(np.isfinite(g).all() for g in first.values()):
        return Outcome(name, skipped="the gradient is not finite at the point: it has no derivative")
    rng = case.rng(10)
    weights = {n: rng.choice([-1.0, 1.0], g.shape) * rng.uniform(0.5, 1.5, g.shape) for n, g in first.items()}
    raw = _second(layer, case, weights)
    findings = []
    for primal in layer.differentiable:
        d = rng.choice([-1.0, 1.0], np.shape(case.primals[primal.name])) * rng.uniform(1.0, 2.0)
        claimed = _along(raw, primal.name, d)
        slope = _slope(layer, case, primal.name, d, weights)
        if slope.smooth and not slope.allows(claimed):
            rounding = _rounding(layer, case, weights)
            slope = _slope(layer, case, primal.name, d, weights, rounding)
            slack = 4 * rounding / _unit(case, primal.name) + _spread(layer, case, primal.name, d, weights, claimed)
            doubtful = not slope.smooth or slope.allows(claimed, slack)
            if not doubtful and not _kink(layer, case, primal.name, d, weights, abs(claimed - slope.value), claimed):
                findings.append(_finding(name, case, primal.name, claimed, slope, not raw))
    return Outcome(name, tuple(findings), entries=len(layer.differentiable))


def _second(layer: Layer, case: Case, weights: Gradients) -> Mapping[str, Any]:
    """The gradient of <weights, gradient> by the declared second backward."""
    assert layer.hooks.second is not None
    arguments = evaluate.copies(case.primals), exact.copied(case.cotangents or ()), dict(weights)
    raw: Mapping[str, Any] = evaluate.guarded("second backward", layer.hooks.second, *arguments, **case.options)
    return raw


def _along(raw: Mapping[str, Any], primal: str, d: Array) -> float:
    """What the second backward says along a direction; nothing said is zero."""
    got = raw.get(primal)
    if got is not None and np.shape(got) != d.shape:
        raise LayerFailure(
            "shape",
            "second backward",
            f"the second gradient of {primal} has shape {np.shape(got)}, {primal} has {d.shape}",
            primal,
        )
    return 0.0 if got is None else float(np.sum(np.asarray(got) * d))


def _rounding(layer: Layer, case: Case, weights: Gradients) -> float:
    """Rounding of <weights, gradient>: measured, and of terms as large as |v y|, or |v|, over |x|: they may cancel."""
    spreads = (exact.rounding(layer, case), exact.rounding_saved(layer, case))
    measured = max(sum(float(np.sum(np.abs(w) * s[n])) for n, w in weights.items() if n in s) for s in spreads)
    loud = sum(float(np.sum(np.abs(v))) for v in case.cotangents or ())
    terms = sum(
        float(np.sum(np.abs(w))) * max(exact.natural_size(layer, case, n), loud / _unit(case, n))
        for n, w in weights.items()
    )
    return measured + 4 * np.finfo(float).eps * terms


def _spread(layer: Layer, case: Case, primal: str, d: Array, weights: Gradients, claimed: float) -> float:
    """Measured rounding of the second backward itself."""
    rng, found = case.rng(11), 0.0
    for _ in range(4):
        moved = case.but(primals={n: exact.nudge(a, rng) for n, a in case.primals.items()})
        found = max(found, abs(_along(_second(layer, moved, weights), primal, d) - claimed))
    return 8 * found if np.isfinite(found) else 0.0


def _kink(layer: Layer, case: Case, primal: str, d: Array, weights: Gradients, gap: float, claimed: float) -> bool:
    """Whether the first backward has a kink at the point, and the second gives a slope of a neighbour.

    Slopes at neighbours differ by more than the disagreement's twentieth, and as much at nearer ones: those of a
    smooth gradient do not.
    """
    if not np.isfinite(claimed):
        return False
    far, near = (_slopes_beside(layer, case, primal, d, weights, reach) for reach in (_BESIDE, _BESIDE / 8))
    told = np.concatenate([far, near])
    if not np.isfinite(told).all() or min(np.ptp(far), np.ptp(near)) <= 0.05 * gap:
        return False
    return bool(told.min() - 0.02 * gap <= claimed <= told.max() + 0.02 * gap)


def _unit(case: Case, primal: str) -> float:
    """Root mean square of a primal, 1 where that is 0: the size of a step."""
    array = case.primals[primal]
    return (float(np.sqrt(np.mean(np.abs(array) ** 2))) if array.size else 0.0) or 1.0


def _slopes_beside(layer: Layer, case: Case, primal: str, d: Array, weights: Gradients, reach: float) -> Array:
    """Slopes of <weights, gradient> along d at neighbours, by one central difference each."""
    rng, found = case.rng(12), []
    names = [p.name for p in layer.differentiable]
    for _ in range(_NEIGHBOURS):
        moved = dict(case.primals)
        for n in names:
            size = np.maximum(
                np.abs(moved[n]), float(np.sqrt(np.mean(np.abs(moved[n]) ** 2))) if moved[n].size else 0.0
            )
            away = rng.choice([-1.0, 1.0], np.shape(moved[n])) * rng.uniform(0.5, 1.5, np.shape(moved[n]))
            moved[n] = moved[n] + reach * away * np.where(size > 0, size, 1.0)
        h = 0.01 * reach
        ends = (exact.gradients(layer, case.but(primals={**moved, primal: moved[primal] + s * h * d})) for s in (1, -1))
        plus, minus = (sum(float(np.sum(weights[n] * g[n])) for n in g) for g in ends)
        found.append((plus - minus) / (2 * h))
    return np.array(found)


def _finding(name: str, case: Case, primal: str, claimed: float, slope: _Slope, nothing: bool) -> Finding:
    message = (
        f"the second derivative along {primal} is {claimed:.8g}, differences of the first backward "
        f"give {slope.value:.8g} ± {slope.bound:.1g}"
    )
    distance = abs(claimed - slope.value)
    severity = distance / slope.bound if slope.bound and np.isfinite(distance) else float("inf")
    facts = {
        "ratio": claimed / slope.value if slope.value else None,
        "nothing": nothing,
        "finite": bool(np.isfinite(claimed)),
    }
    return Finding(name, "wrong", primal, message, case, severity=severity, facts=facts)


@dataclass(frozen=True, slots=True)
class _Slope:
    """Derivative of the weighted gradient along a direction, with its bound, and whether both sides have it."""

    value: float
    bound: float
    smooth: bool

    def allows(self, claimed: float, slack: float = 0.0) -> bool:
        """Whether a claimed value is this one, but for the bound and what it may be rounded by itself."""
        return abs(claimed - self.value) <= self.bound + slack + 1e-6 * abs(self.value)


def _slope(layer: Layer, case: Case, name: str, d: Array, weights: Gradients, rounding: float = 0.0) -> _Slope:
    steps = ladder.rungs(np.finfo(float).eps, 0.25) * _unit(case, name)
    sizes: list[float] = []

    def at(h: float) -> float:
        try:
            g = exact.gradients(layer, case.but(primals={**case.primals, name: case.primals[name] + h * d}))
        except LayerFailure:  # as a large step out of the domain may
            return np.nan
        sizes.append(sum(float(np.sum(np.abs(weights[n] * g[n]))) for n in g))
        return sum(float(np.sum(weights[n] * g[n])) for n in g)

    right, left, here = np.array([at(h) for h in steps]), np.array([at(-h) for h in steps]), at(0.0)
    noise = (16 * np.finfo(float).eps * max(sizes) + 4 * rounding) / (2 * steps)
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
