"""Signatures of a dependency that is dropped: gradients, or parts of them, that are exactly zero or absent."""

from __future__ import annotations

from functools import partial

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.probe import NOTHING, Probe
from gradverify.core.nouns import Array, Diagnosis, Fit


@add("dropped", "DROPPED")
def dropped(evidence: Evidence) -> Diagnosis | None:
    """Exactly zero where it should not be: the whole gradient, or some places of an axis; or no gradient at all."""
    d = f"the gradient of {evidence.primal}"
    if evidence.finding.kind == "missing":
        hint = (
            f'if it is zero on purpose, declare zero="{evidence.primal}"; if it is data, constants="{evidence.primal}"'
        )
        return Diagnosis("dropped", "DROPPED", f"backward gives no gradient for {evidence.primal}; {hint}", Fit.EXACT)
    if not evidence.about_gradient or not evidence.probes:
        return None
    cases = {"cases": len(evidence.probes)}
    if evidence.everywhere(lambda p: _all_zero(*evidence.pair(p))):
        exact = evidence.everywhere(lambda p: not np.any(evidence.pair(p)[0]))
        text = f"{d} is {'exactly zero' if exact else 'zero, but for rounding'}{evidence.given}, the right one is not"
        if evidence.situation.needs == "values":  # where all that is known of it is that it is wrong
            return Diagnosis("dropped", "DROPPED", text, Fit.VAGUE, cases)
        if not exact:
            why = "what is added up cancels, as where a factor that differs from place to place is left out"
            return Diagnosis("dropped", "TERM", f"{text}: {why}", Fit.LAW, cases)
        return Diagnosis("dropped", "DROPPED", f"{text}: the dependency is dropped", Fit.EXACT, cases)
    if not evidence.everywhere(partial(_wrong_are_zero, evidence)):
        return None
    place = _place(evidence)
    if place is None:
        text = f"{d} is exactly zero in every entry that is wrong{evidence.given}, and right in the others"
        return Diagnosis("dropped", "DROPPED", text, Fit.PART, cases)
    why = ", as where a loop, a block or an index ends one too early" if "last" in place else ""
    text = f"{d} is exactly zero at {place}{evidence.given}, and right elsewhere{why}"
    return Diagnosis("dropped", "DROPPED", text, Fit.FORM, {**cases, "place": place})


def _all_zero(a: Array, n: Array) -> bool:
    return bool(np.abs(a).max(initial=0.0) <= NOTHING * np.abs(n).max(initial=0.0)) and bool(np.any(n))


def _wrong_are_zero(evidence: Evidence, probe: Probe) -> bool:
    a, _ = evidence.pair(probe)
    wrong = probe.wrong(evidence.primal)
    return bool(wrong.any()) and not np.any(a[wrong]) and not wrong.all()


def _place(evidence: Evidence) -> str | None:
    """Where all zeros are, whatever the values: the last, the first or other places of an axis, or the last entry."""
    if evidence.situation.needs == "values":
        return None
    labels = evidence.probes[0].labels(evidence.primal)
    for axis, label in enumerate(labels):
        found = [_slabs(evidence, axis, p) for p in evidence.probes]
        if any(hits is None or hits != _of_other_values(evidence, axis, p) for hits, p in zip(found, evidence.probes)):
            continue
        hits = [(h, p.shape(evidence.primal)[axis]) for h, p in zip(found, evidence.probes) if h is not None]
        if all(h == [n - 1] and n > 1 for h, n in hits):
            return f"the last place of {label}"
        if all(h == [0] and n > 1 for h, n in hits) and len(hits) > 1:
            return f"the first place of {label}"
        if all(0 < len(h) < n for h, n in hits):
            return f"some places of {label} ({', '.join(map(str, hits[0][0][:8]))} of {hits[0][1]})"
    wrong = [probe.wrong(evidence.primal).ravel() for probe in evidence.probes]
    return "its very last entry" if all(w.sum() == 1 and w[-1] for w in wrong) else None


def _of_other_values(evidence: Evidence, axis: int, probe: Probe) -> list[int] | None:
    """The same for other values in arrays of the same shapes; None also where it is right then."""
    case = variants.plain(evidence.layer, evidence.case, evidence.options, 40, like=probe.case)
    other = evidence.probe(case)
    usable = other is not None and evidence.primal in other.analytic
    return _slabs(evidence, axis, other) if other is not None and usable else None


def _slabs(evidence: Evidence, axis: int, probe: Probe) -> list[int] | None:
    """Places of an axis that hold zeros alone and all entries that are wrong; None if some lie elsewhere in part."""
    a, _ = evidence.pair(probe)
    others = tuple(k for k in range(a.ndim) if k != axis)
    wrong = probe.wrong(evidence.primal).any(others)
    return [int(k) for k in np.flatnonzero(wrong)] if not np.abs(a).sum(others)[wrong].any() else None
