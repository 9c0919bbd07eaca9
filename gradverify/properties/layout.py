"""Layout: the same values in another memory layout give the same outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradverify import evaluate, exact
from gradverify.evaluate import LayerFailure
from gradverify.layer import Layer
from gradverify.properties import Property, add
from gradverify.types import Array, Case, Finding, Outcome

NAME = "layout"


def transposed(array: Array) -> Array:
    """Column-major."""
    return np.asfortranarray(array) if array.ndim > 1 else sliced(array)


def sliced(array: Array) -> Array:
    """Every second element of a larger buffer."""
    buffer = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan if array.dtype.kind in "fc" else 1, array.dtype)
    buffer[..., ::2] = array
    return buffer[..., ::2]


def reversed_(array: Array) -> Array:
    """Negative strides along every axis."""
    flipped = np.ascontiguousarray(np.flip(array))
    return np.flip(flipped)


def read_only(array: Array) -> Array:
    """Not writeable, as arrays from other libraries often are."""
    fixed = array.copy()
    fixed.flags.writeable = False
    return fixed


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "transposed in memory": transposed,
    "a slice of a larger array": sliced,
    "stored backwards (negative strides)": reversed_,
    "read-only": read_only,
}


def holds(layer: Layer, case: Case) -> Outcome:
    """Transposed, sliced, reversed and read-only primals and cotangents; constant cotangents with stride 0."""
    case, reason = exact.ready(layer, case)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    expected = exact.gradients(layer, case)
    plain = exact.copied(case.cotangents or ())
    pairs, crashes = [], []
    for what, change in LAYOUTS.items():
        for side in ("cotangent", "primals"):
            cotangents = tuple(_apply(change, v) for v in plain) if side == "cotangent" else plain
            primals = evaluate.copies(case.primals)
            if side == "primals":
                primals = {n: _apply(change, a) for n, a in primals.items()}
            try:
                got = _pull(layer, case, primals, cotangents)
            except LayerFailure as failure:
                crashes.append(_crash(case, f"with the {side} {what}", failure))
                continue
            pairs.append((f"with the {side} {what}", got, expected))
    try:
        pairs += _expanded(layer, case, plain)
    except LayerFailure as failure:
        crashes.append(_crash(case, "with the cotangent expanded from one value (stride 0)", failure))
    outcome = exact.outcome(layer, case, NAME, pairs)
    return Outcome(NAME, (*outcome.findings, *crashes[:1]), entries=outcome.entries)


def _apply(change: Callable[[Array], Array], array: Array) -> Array:
    return change(array) if array.ndim and array.size else array


def _pull(layer: Layer, case: Case, primals: dict[str, Array], cotangents: tuple[Array, ...]) -> dict[str, Array]:
    evaluation = evaluate.run(layer, primals, case.options)
    return exact.usable(layer, case, evaluation.pull(cotangents))


def _expanded(
    layer: Layer, case: Case, plain: tuple[Array, ...]
) -> list[tuple[str, dict[str, Array], dict[str, Array]]]:
    """One value for all entries, as the gradient of a sum arrives: strides are all 0."""
    constant = tuple(np.broadcast_to(np.asarray(0.7, v.dtype), v.shape) for v in plain)
    full = tuple(np.array(v) for v in constant)
    got = _pull(layer, case, evaluate.copies(case.primals), constant)
    return [("with the cotangent expanded from one value (stride 0)", got, exact.gradients(layer, case, full))]


def _crash(case: Case, what: str, failure: LayerFailure) -> Finding:
    return Finding(NAME, "crash", failure.primal, f"{what}: {failure}", case, facts={"what": what})


add(Property(NAME, "memory layout makes no difference", holds, share=0.3))
