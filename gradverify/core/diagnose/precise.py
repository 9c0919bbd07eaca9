"""Signatures of number types: sums in low precision, a type that is narrower than it must be, a conjugate."""

from __future__ import annotations

from functools import partial

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.indexed import as_if
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

# How far a number that was summed in a type may be from the right one: some tens of its roundings.
_TYPES = (("float16", np.float16, 2e-2), ("float32", np.float32, 1e-5))


@add("precision", "PRECISION")
def precision(evidence: Evidence) -> Diagnosis | None:
    """Values that a narrower type can hold, near the right ones; or digits lost in low precision."""
    finding = evidence.finding
    if finding.kind == "precision":
        return Diagnosis("precision", "PRECISION", finding.message, Fit.LAW, dict(finding.facts))
    if finding.property == "complete" and finding.kind == "dtype":
        return Diagnosis("precision", "PRECISION", finding.message, Fit.LAW)
    if not evidence.about_gradient or not evidence.probes:
        return None
    for name, kind, tolerance in _TYPES:
        if evidence.everywhere(partial(_narrow, evidence, kind, tolerance)):
            text = (
                f"every entry of the gradient of {evidence.primal} is a {name} number near the right one: it is summed "
                f"or kept in {name}"
            )
            return Diagnosis("precision", "PRECISION", text, Fit.LAW, {"dtype": name})
    return None


def _narrow(evidence: Evidence, kind: type, tolerance: float, probe: Probe) -> bool:
    """Whether the analytic gradient is exact in a narrow type, and the numerical one is not."""
    a, n = evidence.pair(probe)
    return bool(np.array_equal(a, a.astype(kind)) and not np.array_equal(n, n.astype(kind)) and close(a, n, tolerance))


@add("conjugate", "COMPLEX", ANYWHERE, probes=True)
def conjugate(evidence: Evidence) -> Diagnosis | None:
    """The conjugate of the right gradient."""
    if evidence.probes[0].labels(evidence.primal)[-1:] != ("re/im",):
        return None
    if evidence.everywhere(lambda p: _conjugated(*evidence.pair(p))):
        hint = "if that is the convention, declare conjugate=False"
        text = f"the gradient of {evidence.primal} is the conjugate of the right one; {hint}"
        return Diagnosis("conjugate", "COMPLEX", text, Fit.SEEN)
    for other in evidence.layer.primals:
        if other.domain.kind == "complex" and evidence.everywhere(partial(as_if, evidence, other.name, np.conj)):
            text = f"the gradient of {evidence.primal} is the one that would be right if {other.name} were conjugated"
            return Diagnosis("conjugate", "COMPLEX", text + evidence.given, Fit.LAW)
    for other in evidence.layer.primals:
        if other.domain.kind == "complex" and other.name != evidence.primal and _right_where_real(evidence, other.name):
            text = (
                f"the gradient of {evidence.primal} is right where {other.name} is real{evidence.given}, and wrong "
                f"elsewhere: {other.name}, or what is made of it, stands somewhere in backward where its conjugate "
                "belongs, or the other way round"
            )
            return Diagnosis("conjugate", "COMPLEX", text, Fit.PLACES, {"cases": len(evidence.probes)})
    if evidence.everywhere(partial(_right_for_real, evidence)):
        text = (
            f"the gradient of {evidence.primal} is right for a real upstream gradient, and wrong for a complex one"
            f"{evidence.given}: a term takes dy where its conjugate belongs, or the other way round"
        )
        return Diagnosis("conjugate", "COMPLEX", text, Fit.LAW)
    return None


def _right_where_real(evidence: Evidence, name: str) -> bool:
    """Whether each case that fails is right once the imaginary parts of another primal are dropped."""
    return evidence.holds(*(variants.but(evidence.layer, p.case, name, np.real) for p in evidence.probes))


def _right_for_real(evidence: Evidence, probe: Probe) -> bool:
    """Whether backward is right where the imaginary parts of the cotangents are dropped, and wrong as they are."""
    a, n = evidence.pair(probe)
    got = evidence.with_cotangents(probe, np.real).get(evidence.primal)
    masks = [np.tile([1.0, 0.0], y.size) if y.dtype.kind == "c" else np.ones(y.size) for y in probe.outputs]
    right = probe.under(evidence.primal, probe.point.weights * np.concatenate(masks))
    return got is not None and bool(np.any(right)) and close(got, right) and not close(a, n)


def _conjugated(a: Array, n: Array) -> bool:
    return close(a[..., 0], n[..., 0]) and close(a[..., 1], -n[..., 1]) and not close(a, n)
