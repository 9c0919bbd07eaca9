"""The signature of a mask that is drawn again in backward: the right factors in other places."""

from __future__ import annotations

from functools import partial

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

_CHANGES = (-1.0, 2.0**-6, 2.0**6)  # of all values: beside a clamp, forward keeps other places then


@add("redrawn", "RNG")
def redrawn(evidence: Evidence) -> Diagnosis | None:
    """Forward and backward multiply by 0 or one number, in other places, and those of forward do not go with values."""
    if not evidence.about_gradient or not evidence.probes or evidence.situation.needs != "nothing":
        return None
    if any(p.domain.name in ("mask", "bool") for p in evidence.layer.primals):
        return None  # a mask that is given is not drawn
    if not evidence.everywhere(partial(_other_places, evidence)):
        return None
    if not evidence.everywhere(partial(_whatever_the_values, evidence)):
        return None
    text = (
        f"forward keeps some places of {evidence.primal}, whatever their values, and backward others, by the same "
        "factor: the mask is drawn again in backward, where that of forward must be kept"
    )
    return Diagnosis("redrawn", "RNG", text, Fit.LAW, {"cases": len(evidence.probes)})


def _factors(evidence: Evidence, probe: Probe) -> tuple[Array, Array] | None:
    """What backward and forward multiply with in each place, if an output goes with each entry of the primal."""
    a, n = evidence.pair(probe)
    dy = (probe.case.cotangents or (np.zeros(()),))[0]
    if len(probe.outputs) != 1 or np.shape(dy) != a.shape or a.size < 4:
        return None
    return a / dy, n / dy


def _other_places(evidence: Evidence, probe: Probe) -> bool:
    found = _factors(evidence, probe)
    if found is None:
        return False
    ours, theirs = found
    top = float(np.abs(theirs).max(initial=0.0))
    clean = all(bool(np.all((np.abs(f) < 1e-6 * top) | (np.abs(f - top) < 1e-6 * top))) for f in found)
    return clean and top > 0 and bool(np.any(np.abs(ours) > 0)) and not close(ours, theirs)


def _whatever_the_values(evidence: Evidence, probe: Probe) -> bool:
    """Whether forward keeps the same places where all values have the other sign, and where they are small or large."""
    x, found = probe.case.primals[evidence.primal], _factors(evidence, probe)
    for change in _CHANGES:
        other = evidence.probe(probe.case.but(primals={**probe.case.primals, evidence.primal: change * x}))
        changed = None if other is None else _factors(evidence, other)
        if found is None or changed is None or not close(found[1], changed[1]):
            return False
    return True
