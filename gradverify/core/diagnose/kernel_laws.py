"""Signatures of arithmetic that a kernel should not do: the law by which it fails is measured on cases made for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import add
from gradverify.core.diagnose.accumulated import errors_of, made, sizes_of
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array, Case, Diagnosis, Fit

_COLUMNS, _OTHERS = 4096, (4, 6, 12)  # squares of short numbers add up exactly in short rows; groups divide the others
_LEVEL, _STEP = 47.0, 2.0**-7  # nearly constant rows: one part in 128 is a number in every type
_SHARES = tuple(2.0**-k for k in range(2, 12))  # of the entries of a row that are a step higher
_ROWS = (*((2.0**-k, 0.25) for k in range(-2, 7)), *((_STEP, share) for share in _SHARES))  # mean / spread 1 to 6000
_FAR = 0.5  # of the largest output, by which one is no longer right
# Relative error from which on all digits are gone: what is left is bounded by other terms of the gradient, and a line
# through it would have a smaller slope than the law by which the digits went.
_ROUGH = 1.0
_SQUARED = 1.5  # exponent from which on it is that of a difference of squares, and not of the mean itself
_SEEN = 4.0  # roundings of the result below which an error shows no law
_LIMITS = (math.log(3.4e38), math.log(65504.0))  # arguments at which exp overflows in float32 and in float16
_NEAR = 0.07
_STEPS = 10  # of a bisection, and doublings before it


@add("moments", "PRECISION")
def moments(evidence: Evidence) -> Diagnosis | None:
    """A variance as the mean of squares less the square of the mean: the error grows with the square of mean/spread."""
    finding, layer = evidence.finding, evidence.layer
    if not _of_kernel(evidence):
        return None
    for primal in _wide(layer):
        judged = finding.primal or primal
        ratios: list[float] = []
        sizes: list[float] = []
        for row in _ROWS:
            case = _made(layer, finding.case, primal, lambda shape, rng, row=row: _nearly(shape, rng, *row))
            error, must, size = (math.nan,) * 3 if case is None else errors_of(layer, case, judged, 0)
            if case is None or not error <= _ROUGH * size:  # or no number
                break
            if error > _SEEN * must > 0:
                rows = layer.hooks.reference.at(case.primals)[primal]  # type: ignore[union-attr]
                rows = rows.reshape(len(rows), -1)
                ratio = float(np.mean(rows.mean(1) / rows.std(1)))
                if 0 < ratio < math.inf:  # the domain of the primal may make rows constant
                    ratios.append(ratio)
                    sizes.append(error / size)
        if len(ratios) < 3:
            continue
        exponent = float(np.polyfit(np.log(ratios), np.log(sizes), 1)[0])
        if exponent >= _SQUARED:
            text = (
                f"the error of the gradient of {judged} grows like (mean / spread)^{exponent:.1f} of rows of {primal}: "
                "a spread is taken as the difference of two moments; deviations from the mean lose no such digits"
            )
            return Diagnosis("moments", "PRECISION", text, Fit.LAW, {"exponent": exponent, "primal": primal})
    return None


@add("overflow", "PRECISION")
def overflow(evidence: Evidence) -> Diagnosis | None:
    """A softmax without its maximum: all is well until the largest score passes the logarithm of the largest number."""
    if not _of_kernel(evidence) or not hasattr(evidence.layer.hooks.reference, "peak"):
        return None
    layer, reference = evidence.layer, evidence.layer.hooks.reference
    for primal in _wide(layer):
        case = _made(layer, evidence.finding.case, primal, lambda shape, rng: rng.standard_normal(shape))
        edge = None if case is None else _edge(layer, case, primal)
        if case is None or edge is None:
            continue
        peak = reference.peak(*(_scaled(case, primal, edge)[p.name] for p in layer.primals), **case.options)  # type: ignore[union-attr]
        for limit in _LIMITS:
            if abs(peak - limit) < _NEAR * limit:
                text = (
                    f"all is finite until the largest argument of exp passes {peak:.1f}, the logarithm of the largest "
                    f"number: a softmax over {primal} without its maximum taken out"
                )
                return Diagnosis("overflow", "PRECISION", text, Fit.EXACT, {"peak": peak})
    return None


def _of_kernel(evidence: Evidence) -> bool:
    known = hasattr(evidence.layer.hooks.reference, "sample")
    return known and evidence.finding.property in ("reference", "complete") and evidence.finding.kind != "doubtful"


def _wide(layer: Layer) -> Iterator[str]:
    """Primals with rows."""
    yield from (p.name for p in layer.differentiable if len(p.dims.names) > 1 and p.domain.strategy is None)


def _made(layer: Layer, case: Case, name: str, values: Callable[..., Array]) -> Case | None:
    """A case in which one primal has long rows of these values, and the others are normal."""
    rng, last = np.random.default_rng([case.seed, 41]), layer.primal(name).dims.names[-1]
    sizes = sizes_of(layer, case)
    lengths = []
    for others in _OTHERS:
        sized = {n: _COLUMNS if n == last else others for n in sizes}
        lengths.append({n: size if isinstance(sizes[n], int) else (size,) for n, size in sized.items()})
    return made(
        layer, case, lengths, lambda n, shape: values(shape, rng) if n == name else rng.standard_normal(shape), rng
    )


def _nearly(shape: tuple[int, ...], rng: np.random.Generator, step: float, share: float) -> Array:
    """Rows, all axes but the first, that are constant but for a share of their entries."""
    higher = np.zeros(shape)
    higher[..., : max(1, round(share * shape[-1]))] = step
    levels = _LEVEL + rng.integers(0, 16, shape[0])
    return levels.reshape(-1, *(1,) * (len(shape) - 1)) * (1 + rng.permuted(higher, axis=-1))


def _edge(layer: Layer, case: Case, name: str) -> float | None:
    """The factor of a primal up to which the kernel is right, roughly; None if none is too large."""
    if not _sound(layer, case, name, 1.0):
        return None
    low = next((2.0**k for k in range(_STEPS) if not _sound(layer, case, name, 2.0 ** (k + 1))), None)
    if low is None:
        return None
    high = 2 * low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _sound(layer, case, name, middle) else (low, middle)
    return low


def _sound(layer: Layer, case: Case, name: str, factor: float) -> bool:
    reference: Any = layer.hooks.reference
    case, outputs = evaluate.completed(layer, case.but(primals=reference.at(_scaled(case, name, factor))))
    raw = reference(*(case.primals[p.name] for p in layer.primals), **case.options)
    for y, t in zip(outputs, evaluate.outputs_of(layer, raw)):
        if not np.abs(np.asarray(y, float) - t).max(initial=0.0) <= _FAR * np.abs(t).max(initial=0.0):  # or no number
            return False
    try:
        found = evaluate.gradients(layer, case.primals, case.options, case.cotangents or ())
    except LayerFailure:
        return False
    return all(np.isfinite(np.asarray(g, float)).all() for g in found.values() if g is not None)


def _scaled(case: Case, name: str, factor: float) -> dict[str, Array]:
    return {**case.primals, name: case.primals[name] * factor}
