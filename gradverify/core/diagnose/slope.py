"""The signature of an inner slope, of tanh or a sigmoid, that is missing: how the error goes with small values."""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.probe import Probe
from gradverify.core.diagnose.valued import changed
from gradverify.core.nouns import Array, Diagnosis, Fit

# Of all values; the slope of tanh, and of a sigmoid, differs from that at 0 by the square of what goes in: of a value
# such as a bias, or of a product of two, as in x W.
_SCALES = (0.1, 0.03)
_FALLS = (_SCALES[1] / _SCALES[0]) ** 2  # what is left of a square from the one scale to the other
_LIMITS = {  # of the ratio, and the side that it comes from
    (1.0, 1): "the slope of a tanh (1 at 0) is missing",
    (1.0, -1): "the slope of a tanh (1 at 0) is taken twice",
    (4.0, 1): "the slope of a sigmoid (1/4 at 0) is missing",
    (0.25, -1): "the slope of a sigmoid (1/4 at 0) is taken twice",
}


@add("slope", "TERM", ("nothing", "options"))
def slope(evidence: Evidence) -> Diagnosis | None:
    """The wrong entries are 1, 4 or 1/4 times the right ones near 0, but for a rest that goes as the square of values.

    Looked at for the upstream gradient of one output alone, so that paths do not cancel.
    """
    if not evidence.probes or evidence.finding.kind != "wrong":
        return None
    limit = tends(evidence)
    if limit is None:
        return None
    size = {1.0: "right", 4.0: "4 times the right one", 0.25: "a quarter of the right one"}[limit[0]]
    text = (
        f"the gradient of {evidence.primal} is {size} in the limit of small values{evidence.given}, and what is left "
        f"of the error falls with the square of what goes in: a factor or a term inside is wrong, as where "
        f"{_LIMITS[limit]}"
    )
    return Diagnosis("slope", "TERM", text, Fit.FORM, {"tends to": limit[0]})


def tends(evidence: Evidence) -> tuple[float, int] | None:
    """What the ratio of the wrong entries tends to on every case, as a key of the slopes that are known."""
    found = {_tends(evidence, probe) for probe in evidence.probes}
    limit = found.pop() if len(found) == 1 else None
    return limit if limit in _LIMITS else None


def _tends(evidence: Evidence, probe: Probe) -> tuple[float, int] | None:
    """What the ratio of the wrong entries tends to for small values, and from which side; None for anything else."""
    wrong = probe.wrong(evidence.primal)
    if not wrong.any():
        return None
    seen = [_ratios(evidence, probe, scale, wrong) for scale in _SCALES]
    if any(r is None or not r.size or not np.isfinite(r).all() for r in seen):
        return None
    first, second = (np.asarray(r) for r in seen)
    limit = next((k for k, _ in _LIMITS if np.all(np.abs(second - k) < 0.1 * k)), None)
    if limit is None:
        return None
    far, near = first / limit - 1, second / limit - 1
    top = float(np.abs(far).max())
    side = 1 if far.min() > -1e-2 * top else -1 if far.max() < 1e-2 * top else 0
    least = 0.5 * (_FALLS**2 if side > 0 else _FALLS)  # where too little is left, it is another function of values
    if top < 1e-5 or not least < float(np.abs(near).max()) / top < 2 * _FALLS:
        return None
    return limit, side


def _ratios(evidence: Evidence, probe: Probe, scale: float, wrong: Array) -> Array | None:
    """Analytic over numerical where all values are scaled down, in entries that were wrong, for single outputs."""
    case = changed(evidence, probe.case, lambda x: x * scale)
    small = evidence.probe(case)
    if small is None or small.failure is not None or small.shape(evidence.primal) != wrong.shape:
        return None
    matrix = small.jacobian(evidence.primal)
    found = []
    for k in sorted({0, len(matrix) // 2, len(matrix) - 1}):
        row = matrix[k].reshape(wrong.shape)
        got = small.pulled(evaluate.unit_cotangents(small.case.cotangents or (), k)).get(evidence.primal)
        if got is None:
            return None
        large = wrong & (np.abs(row) > 1e-2 * float(np.abs(row).max(initial=0.0)))
        found.append(got[large] / row[large])
    return np.concatenate(found)
