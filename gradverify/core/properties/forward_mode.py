"""Forward mode: a JVP rule agrees with central differences and with the pullback, <u, Jv> = <J^T u, v>."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.foreign import array
from gradverify.core.judge import backward_noise, exact
from gradverify.core.nouns import Array, Case, Finding, Outcome, Stream
from gradverify.core.properties import Property, add, gradient

NAME = "forward_mode"
_DIGITS = 1e6  # roundings, by hand, within which both agree without more ado: ten digits of float64
_CAP = 1e-6  # of the terms, by hand: what is measured as rounding, and is more, is none
_ROUNDINGS = 64  # of the outputs along a direction; sums of a few thousand terms stay below
_DRAWS, _UNSEEN = 4, 8  # the largest of four normal numbers is below an eighth once in ten thousand


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.jvp is not None else "no forward-mode rule is declared (jvp=...)"


def holds(layer: Layer, case: Case) -> Outcome:
    """Contract the JVP with the cotangent, and compare with the ladder and with the pullback.

    At a kink a rule may give any slope between those of the two sides. Where it gives what the pullback gives,
    the property gradient judges both; where it is right, and the pullback is not, that is told by it as well.
    """
    case, reason = exact.ready(layer, case)
    if reason is not None or layer.hooks.jvp is None:
        return Outcome(NAME, skipped=reason)
    point = Point(layer, case)
    rng = case.rng(Stream.TANGENT)
    direction = point.scale * rng.choice([-1.0, 1.0], point.size) * rng.uniform(1.0, 2.0, point.size)
    forward, reverse = _pushed(layer, case, point, direction), _pulled(layer, case, point, direction)
    try:
        estimate = ladder.directional(point, direction)
    except LayerFailure:
        return Outcome(NAME, skipped="no step along the direction comes through: a domain ends at the point")
    slack = float(estimate.bound[0]) + 1e4 * point.eps * max(abs(forward), point.loudness)
    numerical = float(estimate.value[0])
    right = not abs(forward - numerical) > slack
    same = abs(forward - reverse) <= _rounding(layer, case, point, direction, forward, reverse)
    if not same and not _smooth(point, direction):
        return Outcome(NAME, skipped="along the direction there is a kink, at which rules may differ")
    if same and right:
        return Outcome(NAME, entries=1)
    if same or right:
        found_there = bool(gradient.holds(layer, case).findings)
        if found_there == right:  # a wrong pullback, or a slope that differences cannot tell
            return Outcome(NAME, entries=1)
    what = ("<u, Jv>", "<J^T u, v>") if right else ("the forward-mode rule", "the numerical derivative")
    found = _finding(case, what, (forward, reverse if right else numerical), slack, right)
    return Outcome(NAME, (found,), entries=1)


def _pushed(layer: Layer, case: Case, point: Point, direction: Array) -> float:
    """<v, J direction> by the forward-mode rule."""
    assert layer.hooks.jvp is not None
    raw = evaluate.guarded(
        "jvp", layer.hooks.jvp, evaluate.copies(case.primals), _tangents(point, direction), **case.options
    )
    parts = raw if isinstance(raw, (tuple, list)) else (raw,)
    pushed = [evaluate.guarded("jvp", array, part, "a tangent that jvp returned", "jvp", "outputs") for part in parts]
    return float(sum(np.real(np.vdot(v, t)) for v, t in zip(case.cotangents or (), pushed)))


def _pulled(layer: Layer, case: Case, point: Point, direction: Array) -> float:
    """The same by the pullback."""
    return float(np.nansum(point.vector(exact.gradients(layer, case)) * direction))


def _rounding(layer: Layer, case: Case, point: Point, direction: Array, forward: float, reverse: float) -> float:
    """How far both may be apart by rounding; measured, on primals moved by a unit in the last place, only if they are
    further apart than a few digits.
    """
    bound = _DIGITS * point.eps * max(abs(forward), abs(reverse), point.loudness * point.eps)
    if abs(forward - reverse) <= bound:
        return bound
    rng, spread = case.rng(Stream.TANGENT_ROUNDING), 0.0
    for _ in range(_DRAWS):
        moved = case.but(primals={n: backward_noise.nudge(a, rng) for n, a in case.primals.items()})
        pair = _pushed(layer, moved, point, direction), _pulled(layer, moved, point, direction)
        spread = max(spread, abs(pair[0] - pair[1]), abs(pair[0] - forward), abs(pair[1] - reverse))
    loud = sum(float(np.sum(np.abs(v))) for v in case.cotangents or ())
    cap = _CAP * max(abs(forward), abs(reverse), loud)  # of terms that may cancel
    return bound + _ROUNDINGS * point.eps * point.loudness + min(_UNSEEN * spread, cap)


def _smooth(point: Point, direction: Array) -> bool:
    """Whether both sides are seen to have one slope."""
    right, left = (ladder.directional(point, direction, side=side) for side in (+1, -1))
    slack = float(right.bound[0] + left.bound[0])
    return bool(np.isfinite(slack)) and abs(float(right.value[0] - left.value[0])) <= slack


def _tangents(point: Point, direction: Array) -> dict[str, Any]:
    tangents = {}
    for slot in point.slots:
        part = direction[slot.start : slot.stop].reshape(slot.shape)
        tangents[slot.name] = part[..., 0] + 1j * part[..., 1] if slot.complex else part
    return tangents


def _finding(case: Case, what: tuple[str, str], values: tuple[float, float], slack: float, right: bool) -> Finding:
    a, b = values
    message = f"along a random direction {what[0]} gives {a:.8g}, {what[1]} {b:.8g}"
    severity = abs(a - b) / slack if slack else float("inf")
    facts = {"ratio": a / b if b else None, "right": right}
    return Finding(NAME, "wrong", None, message, case, severity=severity, facts=facts)


add(Property(NAME, "forward mode agrees with differences and with the pullback", holds, applies, share=0.5))
