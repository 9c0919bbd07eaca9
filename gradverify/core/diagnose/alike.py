"""Signatures of a value that is taken for another's: right where both are the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import combinations

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import PLAIN, Evidence
from gradverify.core.nouns import Array, Diagnosis, Fit


@add("constant_along", "INDEX", PLAIN, probes=True)
def constant_along(evidence: Evidence) -> Diagnosis | None:
    """Right where another primal is the same at all places of one axis: the place whose value is taken is another.

    Not where the primal itself is: a softmax, or a variance, of what is constant has lost its own terms.
    """
    for name in (n for n in _real(evidence) if n != evidence.primal):
        for axis, label in enumerate(evidence.layer.primal(name).dims.labels(np.ndim(evidence.case.primals[name]))):
            cases = [variants.but(evidence.layer, p.case, name, partial(_first, axis)) for p in evidence.probes]
            several = all(np.shape(p.case.primals[name])[axis] > 1 for p in evidence.probes)
            if several and evidence.holds(*cases):
                along = f"axis {axis}" if label.isdigit() else label
                text = (
                    f"the gradient of {evidence.primal} is right where {name} is the same at all places along {along}"
                    f"{evidence.given}, and wrong elsewhere: the value of one place is taken for that of another, or "
                    "what comes of their difference is wrong"
                )
                return Diagnosis("constant_along", "INDEX", text, Fit.FORM, {"cases": len(cases)})
    return None


@add("one_for_another", "INDEX", PLAIN, probes=True)
def one_for_another(evidence: Evidence) -> Diagnosis | None:
    """Right where two primals of one shape are equal: one is taken for the other."""
    for one, other in _pairs(evidence):
        cases = [variants.with_arrays(evidence.layer, p.case, {other: p.case.primals[one]}) for p in evidence.probes]
        if evidence.holds(*cases):
            text = (
                f"the gradient of {evidence.primal} is right where {one} and {other} are the same{evidence.given}, and "
                f"wrong elsewhere: one of them, or what is made of it, is taken for the other"
            )
            return Diagnosis("one_for_another", "INDEX", text, Fit.SOME, {"cases": len(cases)})
    return None


def _real(evidence: Evidence) -> list[str]:
    return [p.name for p in evidence.layer.primals if p.domain.kind == "real" and not p.domain.discrete]


def _pairs(evidence: Evidence) -> Iterator[tuple[str, str]]:
    kinds = {
        p.name: ([axis.text for axis in p.dims.axes], p.domain.kind, p.domain.discrete and p.domain)
        for p in evidence.layer.primals
    }
    return ((one, other) for one, other in combinations(kinds, 2) if kinds[one] == kinds[other])


def _first(axis: int, array: Array) -> Array:
    return np.broadcast_to(np.take(array, [0], axis), array.shape)
