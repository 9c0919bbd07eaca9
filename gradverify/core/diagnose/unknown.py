"""What is said where nothing fits: the facts, and that nothing fits."""

from __future__ import annotations

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.judge.facts import best_ratio
from gradverify.core.nouns import Diagnosis, Fit


@add("facts", "UNKNOWN", ANYWHERE)
def facts(evidence: Evidence) -> Diagnosis | None:
    """Ratio, what is left after scaling, and where the wrong entries lie, on plain cases."""
    if evidence.finding.kind == "crash" and evidence.finding.facts.get("stage") == "forward":
        return None  # the message says it all, and no case can be told from another by its gradient
    if evidence.finding.kind == "crash":
        text = f"backward breaks down{evidence.given or ' on plain cases as well'}"
        return Diagnosis("facts", "SHAPE", text, Fit.FACTS)
    if evidence.finding.kind == "shape" and evidence.situation.failing:
        shapes = {
            (np.asarray(p.raw.get(evidence.primal)).shape, p.shape(evidence.primal)) for p in evidence.situation.failing
        }
        if all(got == () for got, _ in shapes):
            axes = ", ".join(evidence.situation.failing[0].labels(evidence.primal))
            text = f"backward returns one number for the gradient of {evidence.primal}, which has the axes {axes}"
            return Diagnosis("facts", "SHAPE", text, Fit.FACTS)
        said = ", ".join(f"{got} for {wanted}" for got, wanted in sorted(shapes))
        return Diagnosis("facts", "SHAPE", f"the gradient of {evidence.primal} has the shape {said}", Fit.FACTS)
    if not evidence.probes:
        return None
    probe = evidence.probes[0]
    a, n = evidence.pair(probe)
    wrong = probe.wrong(evidence.primal)
    if not wrong.any():
        return None
    if not np.isfinite(a).all():
        count = int((~np.isfinite(a)).sum())
        text = f"the gradient of {evidence.primal} is NaN or infinite{evidence.given} in {count} of {a.size} entries"
        return Diagnosis("facts", "UNKNOWN", text, Fit.FACTS, {"wrong": int(wrong.sum())})
    known = np.isfinite(a) & np.isfinite(n)
    ratio, rest = best_ratio(a[known], n[known])
    with np.errstate(all="ignore"):
        spread = (a / n)[wrong & known & (n != 0)]
    text = (
        f"the gradient of {evidence.primal} is wrong{evidence.given or ' on plain cases'} in "
        f"{int(wrong.sum())} of {wrong.size} entries; "
    )
    if spread.size and np.isfinite(ratio):
        text += f"the ratio goes from {spread.min():.3g} to {spread.max():.3g}, and {rest:.2g} of it is left after the "
        text += f"best factor {ratio:.4g}"
    else:
        text += "the numerical one is 0 there"
    return Diagnosis(
        "facts", "UNKNOWN", text, Fit.FACTS, {"ratio": ratio, "remainder": rest, "wrong": int(wrong.sum())}
    )
