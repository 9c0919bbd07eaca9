"""Signatures of an upstream gradient that is ignored, or used in another way than as a factor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.effects import explained
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

# What backward may have made of a cotangent, as functions of the flat weights of all outputs.
_USES: dict[str, Callable[[Array], Array]] = {
    "1": np.ones_like,
    "the first entry of the upstream gradient": lambda w: np.full_like(w, w[0]),
    "the sum of the upstream gradient": lambda w: np.full_like(w, w.sum()),
    "the mean of the upstream gradient": lambda w: np.full_like(w, w.mean()),
    "the square of the upstream gradient": lambda w: w * w,
    "1 over the upstream gradient": lambda w: 1 / w,
    "the magnitude of the upstream gradient": np.abs,
    "the sign of the upstream gradient": np.sign,
    "minus 1": lambda w: -np.ones_like(w),
}


@add("upstream", "UPSTREAM", ANYWHERE, probes=True)
def upstream(evidence: Evidence) -> Diagnosis | None:
    """The gradient for another cotangent: ones, its first entry, its inverse."""
    d = f"the gradient of {evidence.primal}"
    for words, use in _USES.items():
        if evidence.everywhere(partial(_is_used, evidence, use)) and not _is_a_factor(evidence, use):
            ignored = words in ("1", "minus 1")
            said = "ignores the upstream gradient" if ignored else f"takes {words} for the upstream gradient"
            text = f"{d} {said}: it is the right one for dy = {words}" if ignored else f"{d} {said}"
            zero = not any(np.any(p.analytic[evidence.primal]) for p in evidence.probes)
            fit = Fit.SOME if zero else Fit.EXACT  # zero may be right for such a cotangent, and is simpler
            return Diagnosis("upstream", "UPSTREAM", text + evidence.given, fit, {"cases": len(evidence.probes)})
    along = _along_an_axis(evidence)
    if along:
        text = f"{d} takes the {along} for the upstream gradient of each{evidence.given}"
        return Diagnosis("upstream", "UPSTREAM", text, Fit.LAW, {"cases": len(evidence.probes)})
    answers = [answer(probe, evidence.primal) for probe in evidence.probes]
    if len(set(answers)) == 1 and answers[0] in _SAID and answers[0] != "nan":
        text = f"{d}{evidence.given} {_SAID[answers[0]][1]}"
        return Diagnosis("upstream", _SAID[answers[0]][0], text, Fit.LAW, {"cases": len(answers)})
    if evidence.everywhere(partial(_nonlinear, evidence)) and not explained(evidence):
        text = f"{d} is not linear in the upstream gradient{evidence.given}: twice that does not give twice this"
        return Diagnosis("upstream", "UPSTREAM", text, Fit.PART, {"cases": len(evidence.probes)})
    return None


def _is_a_factor(evidence: Evidence, use: Callable[[Array], Array]) -> bool:
    """Whether it is the same factor of all weights that count, in each case: minus 1, of weights below 0 alone."""
    factors: set[float] = set()
    for probe in evidence.probes:
        w, counts = probe.point.weights, probe.jacobian(evidence.primal).any(axis=1)
        with np.errstate(all="ignore"):
            factors |= {round(float(f), 9) for f in (use(w) / w)[counts & (w != 0)]}
    return len(factors) == 1


_REDUCED: dict[str, Callable[..., Array]] = {"mean": np.mean, "sum": np.sum}


def _along_an_axis(evidence: Evidence) -> str:
    """The mean or the sum over one axis of the output, if that is what backward takes at all its places."""
    outputs = evidence.probes[0].outputs
    if len(outputs) != 1 or outputs[0].dtype.kind != "f":
        return ""
    for axis in range(outputs[0].ndim):
        for words, reduce in _REDUCED.items():
            if evidence.everywhere(partial(_is_reduced, evidence, axis, reduce)):
                return f"{words} of the upstream gradients over {evidence.labels_of(0, outputs[0].ndim)[axis]}"
    return ""


def _is_reduced(evidence: Evidence, axis: int, reduce: Callable[..., Array], probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    weights = probe.point.weights.reshape(probe.outputs[0].shape)
    if weights.ndim <= axis or weights.shape[axis] < 2:
        return False
    taken = np.broadcast_to(reduce(weights, axis=axis, keepdims=True), weights.shape)
    return close(a, probe.under(evidence.primal, taken.ravel())) and not close(a, n)


def _nonlinear(evidence: Evidence, probe: Probe) -> bool:
    a, _ = evidence.pair(probe)
    once, twice = (evidence.with_cotangents(probe, partial(np.multiply, c)).get(evidence.primal) for c in (1, 2))
    same = once is not None and np.array_equal(once, a)  # else two calls differ, which is another matter
    return same and twice is not None and bool(np.isfinite(twice).all()) and not close(twice, 2 * a)


def _is_used(evidence: Evidence, use: Callable[[Array], Array], probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    weights = probe.point.weights
    if close(a, n):
        return False
    right = probe.under(evidence.primal, use(weights))
    if np.any(a):
        return close(a, right)
    return float(np.abs(right).max(initial=0.0)) < 1e-8 * float(np.abs(n).max(initial=0.0))


# What other sizes of the cotangent show: class, and the rest of the sentence.
_SAID = {
    "clipped": (
        "UPSTREAM",
        "is clipped: it is right for a small upstream gradient, and stays the same for large ones however large; if "
        "clipping is meant, it belongs outside backward, or declare a surrogate",
    ),
    "ignored": (
        "UPSTREAM",
        "does not depend on the size of the upstream gradient: it is ignored or normalised, or only its sign is used",
    ),
    "added": (
        "TERM",
        "is not zero for an upstream gradient of zero: a term is added to it that does not depend on the upstream "
        "gradient, as of weight decay",
    ),
    "signed": (
        "UPSTREAM",
        "depends on the sign of the upstream gradient: minus that does not give minus this, as where a mask looks at "
        "dy and not at what forward computed",
    ),
    "squared": ("UPSTREAM", "is right in the limit of a small upstream gradient, and the error goes as its square"),
    "updated": (
        "MUTATE",
        "is right in the limit of a small upstream gradient, and the error goes as its square: backward uses what it "
        "has changed by then, as weights that are updated before",
    ),
    "nan": ("SINGULAR", "is NaN or infinite for an upstream gradient of zero: it is multiplied by what is infinite"),
}


def answer(probe: Probe, name: str) -> str:
    """How a gradient answers to cotangents of other sizes: a key of `_SAID`, "linear", or "" for anything else."""
    cotangents, n = probe.case.cotangents or (), probe.numerical(name)
    factors = (0.0, 1e-9, 1.0, 2.0, 1e6, 1e8)
    found = [probe.pulled(tuple(np.asarray(c * v, v.dtype) for v in cotangents)).get(name) for c in factors]
    if any(g is None for g in found):
        return ""
    zero, small, once, twice, big, bigger = (np.asarray(g) for g in found)
    if not np.isfinite(zero).all():
        return "nan"
    if not all(np.isfinite(g).all() for g in (small, once, twice, big, bigger)):
        return ""
    if np.any(big) and close(big, bigger):
        right = np.any(small) and np.any(n) and close(small * 1e9, n, 1e-4)
        return "clipped" if right else "ignored" if np.any(n) and close(once, big) else ""
    if np.any(zero) and close(twice - zero, 2 * (once - zero)):
        return "added"
    if not close(twice, 2 * once):
        keeps = "updated" if probe.layer.declared.stateful else "squared"
        return keeps if _squared(probe, name, once, twice) else ""
    minus = probe.pulled(tuple(np.asarray(-v, v.dtype) for v in cotangents)).get(name)
    bent = minus is not None and np.isfinite(minus).all() and not close(minus, -once)
    return "signed" if bent else "linear"


def _squared(probe: Probe, name: str, once: Array, twice: Array) -> bool:
    """Whether the error goes as the square of the cotangent, however large it is beside the right gradient."""
    n = probe.numerical(name)
    size, top = (float(np.abs(g).max(initial=0.0)) for g in (once, n))
    if not top or not close(twice / 2 - n, 2 * (once - n), 1e-4):
        return False
    part = 1e-3 * min(1.0, top / size)  # of the cotangent, which leaves a thousandth of the error
    small = probe.pulled(tuple(np.asarray(part * v, v.dtype) for v in probe.case.cotangents or ())).get(name)
    return small is not None and close(small / part, n, 1e-2)


@add("nonlinear", "UPSTREAM")
def nonlinear(evidence: Evidence) -> Diagnosis | None:
    """Linear in the cotangent only up to a bound: clipping; or not at all."""
    finding = evidence.finding
    if finding.property != "linear" or finding.kind != "nonlinear" or explained(evidence):
        return None
    if evidence.own is None or not evidence.own.analytic:
        return None
    d, plain = f"the gradient of {evidence.primal}", [evidence.probe(evidence.plain(draw)) for draw in range(2)]
    answers = [answer(p, evidence.primal) for p in (evidence.own, *plain) if p is not None]
    for said in ("nan", "clipped", "added", "signed", "squared", "updated"):
        if said in answers:
            return Diagnosis("nonlinear", _SAID[said][0], f"{d} {_SAID[said][1]}", Fit.PLACES, {"cases": len(answers)})
    if set(answers) == {"ignored"}:
        return Diagnosis("nonlinear", "UPSTREAM", f"{d} {_SAID['ignored'][1]}", Fit.LAW, {"cases": len(answers)})
    return Diagnosis("nonlinear", "UPSTREAM", f"{d} is not linear in the upstream gradient", Fit.FORM)
