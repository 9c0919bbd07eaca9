"""Signatures of contributions that are overwritten or lost: the last, the first, or the mean in place of the sum."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from gradverify.diagnosis import add
from gradverify.diagnosis.evidence import Evidence
from gradverify.diagnosis.probe import Probe, close
from gradverify.types import Array, Case, Diagnosis

_FEW = 7


@add("overwritten", "OVERWRITE")
def overwritten(evidence: Evidence) -> Diagnosis | None:
    """Each entry holds what one output contributes, the last or the first one, where several must be added."""
    if not evidence.about_gradient or not evidence.probes:
        return None
    found = _along_an_axis(evidence)
    if found is not None:
        axis, which = found
        text = (
            f"the gradient of {evidence.primal} is not summed over the {_axis_words(evidence, axis)}: it equals the "
            f"numerical one of the {which} place alone{evidence.given}"
        )
        bug_class = "OVERWRITE" if which == "last" else "UNBROADCAST"
        return Diagnosis("overwritten", bug_class, text, 0.96, {"axis": axis, "cases": len(evidence.probes)})
    for which, places in (("last", -1), ("first", 0)):
        if evidence.everywhere(partial(by_entry, evidence, places)):
            text = (
                f"entries of {evidence.primal} that reach several outputs hold the contribution of the {which} of them "
                f"alone{evidence.given}: it is assigned where it must be added"
            )
            return Diagnosis("overwritten", "OVERWRITE", text, 0.94, {"cases": len(evidence.probes)})
    return None


def _axis_words(evidence: Evidence, axis: str) -> str:
    return f"batch axis {axis}" if axis == evidence.layer.batch else f"axis {axis}"


def _along_an_axis(evidence: Evidence) -> tuple[str, str] | None:
    """Axis of the outputs along which only one place contributes, and which place."""
    first = evidence.probes[0]
    for output, y in enumerate(first.outputs):
        for axis in range(y.ndim):
            for which, place in (("last", -1), ("first", 0)):
                if evidence.everywhere(partial(_one_place, evidence, output, axis, place)):
                    return _label(evidence, output, axis, y.ndim), which
    return None


def _label(evidence: Evidence, output: int, axis: int, rank: int) -> str:
    returns = list(evidence.layer.returns.values())
    if output < len(returns):
        return returns[output].labels(rank)[axis]
    return evidence.layer.batch if evidence.layer.batch and axis == 0 else f"{axis} of the output"


def _by_output(probe: Probe, name: str) -> list[Array]:
    """Contributions by output, each of shape (*output, *primal)."""
    flat, start, found = probe.contributions(name), 0, []
    for y in probe.outputs:
        width = y.size * (2 if y.dtype.kind == "c" else 1)
        part = flat[start : start + width]
        found.append(part.reshape(*y.shape, *part.shape[1:]) if width == y.size else part)
        start += width
    return found


def _one_place(evidence: Evidence, output: int, axis: int, place: int, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    parts = _by_output(probe, evidence.primal)
    shape = probe.outputs[output].shape
    if len(shape) <= axis or shape[axis] < 2 or close(a, n):
        return False
    rank = len(shape)
    taken = np.take(parts[output], [place], axis).sum(tuple(range(rank)))
    rest = sum(part.sum(tuple(range(part.ndim - a.ndim))) for k, part in enumerate(parts) if k != output)
    return close(a, taken + rest) and bool(np.any(a))


def by_entry(evidence: Evidence, which: int, probe: Probe) -> bool:
    """Whether entries that reach several outputs hold the first (0) or last (-1) contribution, others being right."""
    a, n = evidence.pair(probe)
    terms = probe.contributions(evidence.primal)
    top = float(np.abs(terms).max(initial=0.0))
    there = np.abs(terms) > 1e-7 * top
    several = there.sum(0) > 1
    if not several.any() or close(a, n) or not close(np.where(several, 0, a), np.where(several, 0, n)):
        return False
    order = np.argmax(there[:: 1 if which == 0 else -1], axis=0)
    index = order if which == 0 else len(terms) - 1 - order
    return close(a, np.take_along_axis(terms, index[None], 0)[0])


@add("one_use", "OVERWRITE")
def one_use(evidence: Evidence) -> Diagnosis | None:
    """A parameter used several times has the contribution of one use: in the span of what it multiplies."""
    if not evidence.about_gradient or evidence.situation.needs not in ("nothing", "options"):
        return None
    for name, axis, words, take in _uses(evidence):
        probes = [
            p for p in (evidence.probe(_narrow(evidence, name, axis, draw)) for draw in range(2)) if p is not None
        ]
        if len(probes) == 2 and evidence.everywhere(partial(_in_span, evidence, name, axis, take), probes):
            text = (
                f"the gradient of {evidence.primal} lies in the span of {words}, the numerical one does not: only that "
                f"use of {evidence.primal} is counted, others are overwritten"
            )
            return Diagnosis("one_use", "OVERWRITE", text, 0.9, {"cases": 2})
    return None


def _uses(evidence: Evidence) -> Iterator[tuple[str, str, str, tuple[int, int] | None]]:
    """Primals that share an axis with this one: name, shared axis, words, and the place (axis, index) that is taken."""
    layer, primal = evidence.layer, evidence.layer.primal(evidence.primal)
    own = [axis.text for axis in primal.dims.axes if axis.kind == "name"]
    for other in layer.differentiable:
        tokens = [axis.text for axis in other.dims.axes]
        if other.name == primal.name or len(tokens) < 2 or any(a.kind == "many" for a in other.dims.axes):
            continue
        for shared in (t for t in dict.fromkeys(own) if t in tokens):
            for k, token in enumerate(tokens):
                if token != shared and token not in own:
                    yield other.name, shared, f"{other.name}[{_index(k, -1)}] ({token} last)", (k, -1)
                    yield other.name, shared, f"{other.name}[{_index(k, 0)}] ({token} first)", (k, 0)
            yield other.name, shared, other.name, None


def _index(axis: int, place: int) -> str:
    return ", ".join([*([":"] * axis), str(place)])


def _narrow(evidence: Evidence, name: str, axis: str, draw: int) -> Case | None:
    """A case where the shared axis is long and all others of that primal are short, so that a span says something."""
    others = [t.text for t in evidence.layer.primal(name).dims.axes if t.kind == "name" and t.text != axis]
    sizes = {n: 2 for n in others if n not in evidence.layer.options}
    return evidence.plain(draw, sizes={**sizes, axis: _FEW})


def _in_span(evidence: Evidence, name: str, shared: str, take: tuple[int, int] | None, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    x = np.asarray(probe.case.primals[name], float)
    tokens = [axis.text for axis in evidence.layer.primal(name).dims.axes]
    position = tokens.index(shared)
    if take is not None:
        if x.shape[take[0]] < 2:
            return False
        x = np.take(x, [take[1]], take[0])
    basis = np.moveaxis(x, position, 0).reshape(x.shape[position], -1)
    own = [axis.text for axis in evidence.layer.primal(evidence.primal).dims.axes].index(shared)
    if basis.shape[1] >= basis.shape[0]:
        return False
    return _residual(basis, a, own) < 1e-7 and _residual(basis, n, own) > 1e-3


def _residual(basis: Array, gradient: Array, axis: int) -> float:
    flat = np.moveaxis(gradient, axis, 0).reshape(gradient.shape[axis], -1)
    if not np.any(flat) or not np.isfinite(flat).all():
        return 1.0
    fitted = basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]
    return float(np.linalg.norm(flat - fitted) / np.linalg.norm(flat))
