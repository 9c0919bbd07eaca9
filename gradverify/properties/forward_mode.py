"""Forward mode: a JVP rule agrees with central differences and with the pullback, <u, Jv> = <J^T u, v>."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify import evaluate, exact
from gradverify.differences import ladder
from gradverify.differences.point import Point
from gradverify.layer import Layer
from gradverify.properties import Property, add
from gradverify.types import Array, Case, Finding, Outcome

NAME = "forward_mode"


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.jvp is not None else "no forward-mode rule is declared (jvp=...)"


def holds(layer: Layer, case: Case) -> Outcome:
    """Contract the JVP with the cotangent, and compare with the ladder and with the pullback."""
    case, reason = exact.ready(layer, case)
    if reason is not None or layer.hooks.jvp is None:
        return Outcome(NAME, skipped=reason)
    point = Point(layer, case)
    rng = case.rng(9)
    direction = point.scale * rng.choice([-1.0, 1.0], point.size) * rng.uniform(1.0, 2.0, point.size)
    tangents = _tangents(point, direction)
    raw = evaluate.guarded("jvp", layer.hooks.jvp, evaluate.copies(case.primals), tangents, **case.options)
    pushed = [np.asarray(t) for t in (raw if isinstance(raw, (tuple, list)) else (raw,))]
    forward = float(sum(np.real(np.vdot(v, t)) for v, t in zip(case.cotangents or (), pushed)))
    reverse = float(np.nansum(point.vector(exact.gradients(layer, case)) * direction))
    estimate = ladder.directional(point, direction)
    slack = float(estimate.bound[0]) + 1e4 * point.eps * max(abs(forward), point.loudness)
    numerical = float(estimate.value[0])
    findings: list[Finding] = []
    if abs(forward - numerical) > slack:
        findings.append(_finding(case, "the forward-mode rule", forward, "the numerical derivative", numerical, slack))
    elif abs(forward - reverse) > 1e6 * point.eps * max(abs(forward), abs(reverse), point.loudness * point.eps):
        findings.append(_finding(case, "<u, Jv>", forward, "<J^T u, v>", reverse, slack))
    return Outcome(NAME, tuple(findings), entries=1)


def _tangents(point: Point, direction: Array) -> dict[str, Any]:
    tangents = {}
    for slot in point.slots:
        part = direction[slot.start : slot.stop].reshape(slot.shape)
        tangents[slot.name] = part[..., 0] + 1j * part[..., 1] if slot.complex else part
    return tangents


def _finding(case: Case, what: str, a: float, other: str, b: float, slack: float) -> Finding:
    message = f"along a random direction {what} gives {a:.8g}, {other} {b:.8g}"
    severity = abs(a - b) / slack if slack else float("inf")
    return Finding(NAME, "wrong", None, message, case, severity=severity, facts={"ratio": a / b if b else None})


add(Property(NAME, "forward mode agrees with differences and with the pullback", holds, applies, share=0.5))
