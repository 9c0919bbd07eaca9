"""Completeness: the code runs, and gives a finite gradient of the right shape for every primal."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import once
from gradverify.core.evaluate.failures import COMPLETE, failed
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding, Outcome
from gradverify.core.properties import FIRST, Property, add


def holds(layer: Layer, case: Case) -> Outcome:
    """Forward and backward run; a key for each primal; shapes and types fit; no NaN from finite values."""
    known, gradients = once.evaluated(layer, case)
    case, outputs = known.case, known.outputs
    good, bad = gradients()
    findings = [failed(case, failure) for failure in bad]
    finite = all(np.isfinite(y).all() for y in outputs if y.dtype.kind in "fc")
    undefined = _undefined(layer, case, good) if finite else set()
    for name, gradient in good.items():
        found = not_a_number(name, gradient, case) if name in undefined else None
        found = found or _low(layer, name, gradient, case, outputs)
        if found is not None:
            findings.append(found)
    return Outcome(COMPLETE, tuple(findings), entries=len(layer.differentiable))


def _undefined(layer: Layer, case: Case, good: dict[str, Array]) -> set[str]:
    """Names of gradients that are NaN, and not only because of a narrow range: the property precision tells those."""
    names = {name for name, gradient in good.items() if np.isnan(gradient).any()}
    if names and _beyond(layer, case):
        return set()
    if not names or not exact.narrow(layer, case):
        return names
    wide = case.but(primals=evaluate.cast(case.primals, np.float64))
    try:
        raw = evaluate.gradients(layer, wide.primals, case.options, case.cotangents or ())
    except evaluate.LayerFailure:
        return names
    there = evaluate.usable(layer, wide, raw)[0]
    return {name for name in names if name in there and np.isnan(there[name]).any()}


def _beyond(layer: Layer, case: Case) -> bool:
    """Whether a good kernel of the type may give what is not finite: the property reference tells those, too."""
    reference: Any = layer.hooks.reference
    if not hasattr(reference, "beyond"):
        return False
    stored = reference.at(case.primals)
    arrays = tuple(stored[p.name] for p in layer.primals)
    try:
        _, truth = evaluate.guarded("reference", reference.forward, *arrays, **case.options)
        return bool(evaluate.guarded("reference", reference.beyond, case.cotangents or (), truth))
    except evaluate.LayerFailure:
        return False


def not_a_number(name: str, gradient: Array, case: Case) -> Finding | None:
    """NaN is no gradient; infinities are left to the comparison, which can see a vertical slope."""
    nan = np.isnan(gradient)
    if not nan.any():
        return None
    where = [int(k) for k in np.argwhere(nan)[0]]
    message = (
        f"the gradient of {name} is NaN at {name}{where if where else ''} "
        f"({int(nan.sum())} of {gradient.size} entries), although all outputs are finite there"
    )
    facts = {"index": where, "value": float(np.real(case.primals[name][tuple(where)]))}
    return Finding(COMPLETE, "nan", name, message, case, facts=facts)


def _low(layer: Layer, name: str, gradient: Array, case: Case, outputs: tuple[Array, ...]) -> Finding | None:
    """A gradient in a lower precision than its primal and the outputs loses digits for nothing.

    A kernel gets its primals in its own type, whatever they come in, and a loss may leave it in a wider one.
    """
    primal = np.asarray(case.primals[name])
    floats = [y.dtype for y in outputs if y.dtype.kind in "fc"]
    if gradient.dtype.kind not in "fc":
        return Finding(COMPLETE, "dtype", name, f"the gradient of {name} has the type {gradient.dtype}", case)
    width = np.finfo(gradient.dtype).bits
    own = gradient.dtype.name == getattr(layer.hooks.reference, "type", None)
    if floats and not own and width < min(np.finfo(primal.dtype).bits, *(np.finfo(t).bits for t in floats)):
        message = (
            f"the gradient of {name} is {gradient.dtype}, while {name} is {primal.dtype} and the output {floats[0]}"
        )
        return Finding(COMPLETE, "dtype", name, message, case)
    return None


SAYS = "the code runs and gives a finite gradient of the right shape for every primal"
add(Property(COMPLETE, SAYS, holds, turn=FIRST))
