"""Signature of a sum that a kernel keeps in its low type: the law by which the error grows with the terms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Diagnosis, Fit, Stream

_TERMS = (256, 1024, 4096)  # N, 4N, 16N: fewer say little, and more take long
_ELEMENTS = 1 << 21  # of a case
_STEEPER = 0.2  # exponent by which the error outgrows what must be lost, where a sum is kept in the low type
_ROUGH = 0.3  # relative errors at N terms above this are no rounding
_DRAWS = 3


@add("accumulated", "PRECISION")
def accumulated(evidence: Evidence) -> Diagnosis | None:
    """The error of a sum outgrows the one rounding that is left where the sum is kept in float32."""
    finding, layer = evidence.finding, evidence.layer
    if finding.property != "reference" or finding.kind != "wrong" or finding.primal is None:
        return None
    if not hasattr(layer.hooks.reference, "sample"):
        return None
    fits = [law for axis in _summed(layer, finding.primal) if (law := measured(layer, finding, axis)) is not None]
    if not fits:
        return None
    law = max(fits, key=lambda law: law["lost"])
    kind, axis = layer.hooks.reference.type, law["axis"]  # type: ignore[union-attr]
    text = (
        f"the error of the gradient of {finding.primal} grows like {axis}^{law['exponent']:.1f}, and what must be lost "
        f"like {axis}^{law['unavoidable']:.1f}: its sum over {axis} is kept in {kind}; float32 would lose "
        f"{law['lost']:.1f} digits less at {axis} = {law['terms'][-1]}"
    )
    return Diagnosis("accumulated", "PRECISION", text, Fit.EXACT, law)


def _summed(layer: Layer, primal: str) -> list[str]:
    """Axes that the gradient of a primal is summed over: those of others that it has not itself."""
    own = set(layer.primal(primal).dims.names)
    names = dict.fromkeys(n for p in layer.primals for n in p.dims.names)
    return [n for n in names if n not in own and not n.startswith("*") and n not in layer.options]


def measured(layer: Layer, finding: Any, axis: str) -> dict[str, Any] | None:
    """Exponents of the error and of what must be lost, over N, 4N and 16N terms; None where they tell no sum."""
    case = finding.worst or finding.case
    errors: list[float] = []
    musts: list[float] = []
    relative: list[float] = []
    terms: list[int] = []
    for count in _TERMS:
        grown = _grown(layer, case, axis, count)
        if grown is None or grown.size > _ELEMENTS:
            break
        found = [errors_of(layer, grown.but(seed=case.seed + k), finding.primal, k) for k in range(_DRAWS)]
        error, must, size = (float(np.mean(part)) for part in zip(*found))
        if not all(map(math.isfinite, (error, must, size))) or min(error, must, size) <= 0:
            return None
        errors, musts, relative, terms = [*errors, error], [*musts, must], [*relative, error / size], [*terms, count]
    if len(terms) < 2 or relative[0] > _ROUGH:
        return None
    exponent, unavoidable = (float(np.polyfit(np.log(terms), np.log(part), 1)[0]) for part in (errors, musts))
    lost = math.log10(errors[-1] / musts[-1])
    if exponent - unavoidable < _STEEPER or lost < _STEEPER:
        return None
    return {"axis": axis, "exponent": exponent, "unavoidable": unavoidable, "lost": lost, "terms": terms}


def _grown(layer: Layer, case: Case, axis: str, count: int) -> Case | None:
    """The case with an axis of this length: normal values and ids that repeat, and the other axes at most 8."""
    rng = case.rng(Stream.GROWN, count)
    sizes: dict[str, Any] = {}
    for primal in layer.primals:
        sizes = {**primal.dims.bind(np.shape(case.primals[primal.name]), sizes)}
    sizes = {n: min(s, 8) if isinstance(s, int) else tuple(min(k, 8) for k in s) for n, s in sizes.items()}
    sizes[axis] = count
    made: dict[str, Array] = {}
    for primal in layer.primals:
        shape = primal.dims.shape(sizes)
        whole = primal.domain.discrete
        raw = 4.0 ** -rng.integers(0, 6, shape) * rng.random(shape) if whole else rng.standard_normal(shape)
        made[primal.name] = primal.domain.project(raw, sizes) if primal.domain.strategy is None else None
        if made[primal.name] is None:
            return None
    return case.but(primals=made, cotangents=None)


def errors_of(layer: Layer, case: Case, primal: str, k: int) -> tuple[float, float, float]:
    """Root mean squares of the error, of what must be lost (a rounding and float32's own), and of the gradient."""
    reference: Any = layer.hooks.reference
    case = case.but(primals={n: reference.stored(a) for n, a in case.primals.items()})
    case, outputs = evaluate.completed(layer, case)
    rng = case.rng(Stream.LAW_OF_A_SUM, k)
    v = tuple(reference.stored(rng.standard_normal(y.shape)) if y.dtype.kind == "f" else y * 0.0 for y in outputs)
    case = case.but(cotangents=v)
    arrays = tuple(case.primals[p.name] for p in layer.primals)
    _, tape = reference.forward(*arrays, **case.options)
    truth = reference.backward(v if len(v) > 1 else v[0], tape)[primal]
    judged = np.asarray(exact.gradients(layer, case)[primal], float)
    # float32 sums hardly show beside it: their bound is for the worst order, and no measure of what is lost
    must = 0.5 * reference.eps / 2 * np.abs(truth)
    return _rms(judged - truth), _rms(must), _rms(truth)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
