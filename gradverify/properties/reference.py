"""Reference: a low-precision kernel is no worse than plain code in its own type, against high precision.

The yardstick is what the type itself costs: how far the plain implementation, run in the kernel's
type at points that differ by its rounding, lies from the derivative of the reference in float64.
The kernel is allowed a small multiple of that, entry by entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify import evaluate, exact
from gradverify.differences import ladder
from gradverify.differences.point import Point
from gradverify.hooks import Hooks
from gradverify.layer import Layer
from gradverify.properties import Property, Regime, add
from gradverify.types import Array, Case, Comparison, Finding, Outcome, Verdict

NAME = "reference"
FACTOR = 8.0  # times what the plain implementation loses; another order of summation costs 2 or 3
_SAMPLES = 5
_MODERATE = 8.0  # values above leave no digits to judge, as in the precision property
_ENTRIES = 2048  # compared at most


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.reference is not None else "no high-precision forward is declared (reference=...)"


def holds(layer: Layer, case: Case) -> Outcome:
    """Outputs first, then the gradients of every primal."""
    reference = layer.hooks.reference
    largest = max(float(np.max(np.abs(a), initial=0.0)) for a in case.primals.values() if a.dtype.kind in "fc")
    if reference is None or largest > _MODERATE:
        return Outcome(NAME, skipped=f"values up to {largest:.2g}: products of them leave no digits to judge")
    eps = _eps(layer, case)
    case = case.but(primals={n: rounded(a, eps) for n, a in case.primals.items()})
    case, outputs = evaluate.completed(layer, case)
    case = case.but(cotangents=tuple(rounded(v, eps) for v in case.cotangents or ()))
    if not all(np.isfinite(y).all() for y in outputs if y.dtype.kind in "fc"):
        return Outcome(NAME, skipped="forward is not finite at the point")
    high = layer.derive(
        forward=lambda *arrays, **options: (reference(*arrays, **options), None),
        hooks=Hooks(batched=getattr(reference, "batched", None)),
    )
    wide = case.but(primals=evaluate.cast(case.primals, np.float64))
    truth = evaluate.run(high, wide.primals, case.options).outputs
    if [y.shape for y in truth] != [y.shape for y in outputs]:
        message = f"outputs have shapes {[y.shape for y in outputs]}, those of the reference {[y.shape for y in truth]}"
        return Outcome(NAME, (Finding(NAME, "shape", None, message, case),))
    samples = [_plain(layer, high, wide, eps, k) for k in range(_SAMPLES)]
    forward = _forward(case, outputs, truth, [y for y, _ in samples], eps)
    if forward is not None:
        return Outcome(NAME, (forward,), entries=sum(y.size for y in truth))
    return _gradients(layer, high, case, wide, [g for _, g in samples], eps)


def _gradients(
    layer: Layer, high: Layer, case: Case, wide: Case, samples: list[dict[str, Array]], eps: float
) -> Outcome:
    judged = exact.gradients(layer, case)
    point, exactly, known = derivatives(high, wide)
    findings, compared = [], []
    for slot in point.slots:
        part, shape = slice(slot.start, slot.stop), slot.shape
        if slot.complex or slot.name not in judged:
            continue
        comparison = _compare(
            layer,
            slot.name,
            judged[slot.name],
            exactly[part].reshape(shape),
            known[part].reshape(shape),
            [g[slot.name] for g in samples if slot.name in g] or _moved_truth(high, wide, eps, slot.name),
            eps,
        )
        compared.append(comparison)
        if comparison.wrong.any():
            findings.append(_finding(case, comparison))
    return Outcome(NAME, tuple(findings), tuple(compared), sum(c.bound.size for c in compared))


def derivatives(high: Layer, wide: Case) -> tuple[Point, Array, Array]:
    """The point, its numerical derivatives and their bounds, flat; bounds are infinite where none was taken."""
    point = Point(high, wide)
    entries = np.arange(point.size)
    if point.size > _ENTRIES:
        entries = np.sort(wide.rng(11).choice(point.size, _ENTRIES, replace=False))
    estimate = ladder.entrywise(point, entries)
    value, bound = np.zeros(point.size), np.full(point.size, np.inf)
    value[entries], bound[entries] = estimate.value, estimate.bound
    return point, value, bound


def _plain(layer: Layer, high: Layer, wide: Case, eps: float, k: int) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """Outputs and gradients of the plain implementation, where the reference has one, at a point moved by rounding.

    A reference that runs in high precision alone gives outputs at the moved point, and no gradients.
    """
    rng = wide.rng(12, k)
    primals = {n: rounded(_nudged(a, eps, rng), eps) for n, a in wide.primals.items()} if k else dict(wide.primals)
    plain = getattr(layer.hooks.reference, "plain", None)
    if plain is None:
        return evaluate.run(high, primals, wide.options).outputs, {}
    arrays = tuple(primals[p.name] for p in layer.primals)
    outputs, gradients = plain(arrays, tuple(np.array(v) for v in wide.cotangents or ()), wide.options)
    return evaluate.outputs_of(layer, outputs), {n: g for n, g in gradients.items() if g is not None}


def _moved_truth(high: Layer, wide: Case, eps: float, name: str) -> list[Array]:
    found = []
    for k in range(1, 3):
        rng = wide.rng(12, k)
        moved = wide.but(
            primals={n: _nudged(a, eps, rng) for n, a in wide.primals.items()},
            cotangents=tuple(_nudged(v, eps, rng) for v in wide.cotangents or ()),
        )
        point, value, _ = derivatives(high, moved)
        slot = next(s for s in point.slots if s.name == name)
        found.append(value[slot.start : slot.stop].reshape(slot.shape))
    return found


def _forward(
    case: Case, outputs: tuple[Array, ...], truth: tuple[Array, ...], samples: list[tuple[Array, ...]], eps: float
) -> Finding | None:
    for k, (y, t) in enumerate(zip(outputs, truth)):
        if y.dtype.kind != "f" or y.size == 0:
            continue
        bound = _allowed(t, [s[k] for s in samples], eps)
        error = np.abs(y - t)
        if (error > bound).any():
            where = np.unravel_index(int(np.argmax(error / bound)), y.shape)
            place = f"output {k}{[int(i) for i in where] if where else ''}"
            message = f"forward differs from its reference: {place} is {y[where]:.6g}, the reference {t[where]:.6g}"
            return Finding(NAME, "forward", None, message, case, severity=float(np.max(error / bound)))
    return None


def _allowed(truth: Array, samples: list[Array], eps: float) -> Array:
    """What each entry is allowed: its own worst sample or the typical one, a rounding, and the smallest number."""
    with np.errstate(all="ignore"):
        errors = np.max([np.abs(np.asarray(s, float) - truth) for s in samples], axis=0)
        typical = float(np.median(errors)) if errors.size else 0.0
        tiny = float(np.finfo(np.float16 if eps < 5e-3 else np.float32).tiny)
        return FACTOR * (np.maximum(errors, typical) + eps * np.abs(truth) + tiny)


def _compare(
    layer: Layer, name: str, judged: Array, truth: Array, known: Array, samples: list[Array], eps: float
) -> Comparison:
    judged = np.asarray(judged, float)
    with np.errstate(all="ignore"):
        bound = _allowed(truth, samples, eps) + known
        verdicts = np.where(np.abs(judged - truth) <= bound, Verdict.AGREES, Verdict.DISAGREES)
        verdicts = np.where(np.isfinite(bound), verdicts, Verdict.UNRESOLVED).astype(np.int8)
    top = float(np.max(np.abs(truth), initial=0.0))
    return Comparison(name, judged, truth, bound, verdicts, top, layer.primal(name).dims.labels(truth.ndim))


def _finding(case: Case, comparison: Comparison) -> Finding:
    where = comparison.worst
    place = f"{comparison.primal}{list(where) if where else ''}"
    count, total = int(comparison.wrong.sum()), comparison.wrong.size
    message = (
        f"the gradient of {comparison.primal} is wrong in {count} of {total} entries: at {place} the kernel gives "
        f"{comparison.analytic[where]:.6g}, the reference {comparison.numerical[where]:.6g}, and plain code in the "
        f"same type would be within {comparison.bound[where]:.1g}"
    )
    ratio = comparison.ratio[comparison.wrong]
    severity = float(np.max(np.where(np.isnan(ratio), np.inf, ratio)))
    return Finding(NAME, "wrong", comparison.primal, message, case, comparison, severity, {"wrong": count})


def _eps(layer: Layer, case: Case) -> float:
    """Of the kernel's type: told by the reference, else the coarsest type of the primals."""
    told: Any = getattr(layer.hooks.reference, "eps", None)
    if told is not None:
        return float(told)
    return max(float(np.finfo(a.dtype).eps) for a in case.primals.values() if a.dtype.kind in "fc")


def rounded(array: Array, eps: float) -> Array:
    """Rounded to a significand as long as that of a type with this `eps`; range is not limited."""
    if array.dtype.kind != "f":
        return array
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.rint(mantissa * (2 / eps)) * (eps / 2), exponent).astype(array.dtype)


def _nudged(array: Array, eps: float, rng: np.random.Generator) -> Array:
    return array * (1 + eps * rng.choice([-1.0, 0.0, 1.0], array.shape)) if array.dtype.kind == "f" else array


add(
    Property(
        NAME,
        "a low-precision kernel is no worse than plain code in its type, against its reference in float64",
        holds,
        applies,
        regime=Regime(small=True),
    )
)
