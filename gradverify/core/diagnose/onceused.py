"""The signature of a parameter that is used several times and gets the gradient of one use: it lies in a span."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.gates import time_axis
from gradverify.core.diagnose.probe import Probe
from gradverify.core.diagnose.slope import tends
from gradverify.core.diagnose.terms import span
from gradverify.core.nouns import Array, Case, Diagnosis, Fit

_FEW = 10  # length of the shared axis, more than there are rows
# What may be multiplied in place of the primal itself, as it came through an activation.
_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh({})": np.tanh,
    "sigmoid({})": lambda x: 1 / (1 + np.exp(-x)),
    "silu({})": lambda x: x / (1 + np.exp(-x)),
    "relu({})": lambda x: np.maximum(x, 0),
    "exp({})": np.exp,
    "sin({})": np.sin,
    "|{}|": np.abs,
    "{}^2": np.square,
}
_WIDTHS = (2, 3, 3)  # of all others: at 2, all but the first is the last


@add("one_use", "OVERWRITE", ("nothing", "options"))
def one_use(evidence: Evidence) -> Diagnosis | None:
    """A parameter used several times has the contribution of one use: in the span of what it multiplies."""
    for name, axis, words, take in _uses(evidence):
        probes = [
            p for p in (evidence.probe(_narrow(evidence, name, axis, k)) for k in range(len(_WIDTHS))) if p is not None
        ]
        if any(p.wrong(name).any() for p in probes):
            continue  # then it is not this parameter alone
        if len(probes) == len(_WIDTHS) and evidence.everywhere(partial(_in_span, evidence, name, axis, take), probes):
            if tends(evidence) is not None or span.fits(evidence) is not None:
                return None  # a slope that is missing leaves the gradient in that span as well, and so does a term
            d = f"the gradient of {evidence.primal} lies in the span of {words}"
            for said, function in _FUNCTIONS.items():
                if take is None and evidence.everywhere(partial(_lies, evidence, name, axis, function), probes):
                    text = f"{d}, and the right one in that of {said.format(name)}: the one is taken for the other"
                    return Diagnosis("one_use", "TERM", text, Fit.PLACES, {"cases": len(probes)})
            text = (
                f"{d}, the right one does not: what else "
                f"{evidence.primal} is multiplied with, in another use or after a factor, is not counted"
            )
            token = evidence.layer.primal(name).dims.axes[take[0]].text if take is not None else None
            first = take is not None and take[1] == 0 and token != time_axis(evidence)  # steps are walked backwards
            bug_class = "TERM" if take is None else "UNBROADCAST" if first else "OVERWRITE"
            return Diagnosis("one_use", bug_class, text, Fit.SOME, {"cases": len(probes)})
    return None


def _uses(evidence: Evidence) -> Iterator[tuple[str, str, str, tuple[int, int] | None]]:
    """Primals that share an axis with this one: name, shared axis, words, and the place (axis, index) that is taken."""
    layer, primal = evidence.layer, evidence.layer.primal(evidence.primal)
    own = [axis.text for axis in primal.dims.axes if axis.kind == "name"]
    for other in layer.differentiable:
        tokens = [axis.text for axis in other.dims.axes]
        if other.name == primal.name or len(tokens) < 2 or any(a.kind == "many" for a in other.dims.axes):
            continue
        if "complex" in (primal.domain.kind, other.domain.kind):
            continue  # a gradient of these is two real ones, which no real span holds
        for shared in (t for t in dict.fromkeys(own) if t in tokens):
            for k, token in enumerate(tokens):
                if token != shared and token not in own:
                    yield other.name, shared, f"{other.name}[{_index(k, -1)}] ({token} last)", (k, -1)
                    yield other.name, shared, f"{other.name}[{_index(k, 0)}] ({token} first)", (k, 0)
            if any(token not in own for token in tokens):
                yield other.name, shared, other.name, None


def _index(axis: int, place: int) -> str:
    return ", ".join([*([":"] * axis), str(place)])


def _narrow(evidence: Evidence, name: str, axis: str, draw: int) -> Case | None:
    """A case where the shared axis is long and all others of that primal are short, so that a span says something."""
    others = [t.text for t in evidence.layer.primal(name).dims.axes if t.kind == "name" and t.text != axis]
    sizes = {n: _WIDTHS[draw] for n in others if n not in evidence.layer.options}
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
    own = _axis(evidence, shared)
    if basis.shape[1] >= basis.shape[0]:
        return False
    return _residual(basis, a, own) < 1e-7 and _residual(basis, n, own) > 1e-3


def _lies(evidence: Evidence, name: str, shared: str, function: Callable[[Array], Array], probe: Probe) -> bool:
    """Whether the right gradient lies in the span of a function of what another primal holds."""
    axis = [axis.text for axis in evidence.layer.primal(name).dims.axes].index(shared)
    x = np.moveaxis(function(np.asarray(probe.case.primals[name], float)), axis, 0)
    return _residual(x.reshape(len(x), -1), evidence.pair(probe)[1], _axis(evidence, shared)) < 1e-6


def _axis(evidence: Evidence, shared: str) -> int:
    return [axis.text for axis in evidence.layer.primal(evidence.primal).dims.axes].index(shared)


def _residual(basis: Array, gradient: Array, axis: int) -> float:
    flat = np.moveaxis(gradient, axis, 0).reshape(gradient.shape[axis], -1)
    if not np.any(flat) or not np.isfinite(flat).all():
        return 1.0
    fitted = basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]
    return float(np.linalg.norm(flat - fitted) / np.linalg.norm(flat))
