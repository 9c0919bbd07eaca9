"""Signatures of an upstream gradient, or that of one output, that is ignored or used otherwise than as a factor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.effects import explained
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import CLOSE, Probe, close
from gradverify.core.judge.facts import best_ratio
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
            if zero:
                text = f"{d} is zero, as is right for dy = {words}: the upstream gradient may be ignored"
            fit = Fit.SOME if zero else Fit.EXACT  # zero may be right for such a cotangent, and is simpler
            return Diagnosis("upstream", "UPSTREAM", text + evidence.given, fit, {"cases": len(evidence.probes)})
    alone = _ignored_alone(evidence, evidence.probes)
    if alone:
        return Diagnosis("upstream", "UPSTREAM", alone + evidence.given, Fit.EXACT, {"cases": len(evidence.probes)})
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


def _several_outputs(probes: Sequence[Probe]) -> list[str]:
    """A name for each output, where there is more than one."""
    count = len(probes[0].outputs) if probes else 0
    return list(probes[0].layer.returns) or [f"output {k}" for k in range(count)] if count > 1 else []


def _ignored_alone(evidence: Evidence, probes: Sequence[Probe]) -> str:
    """What is said where the upstream gradient of one output, of several, is taken for 1; empty where none is."""
    for output, name in enumerate(_several_outputs(probes)):
        if evidence.everywhere(partial(_taken_for_1, evidence, output), probes):
            said = f"ignores the upstream gradient of {name}: it is the one that is right where that is 1"
            return f"the gradient of {evidence.primal} {said}"
    return ""


def _taken_for_1(evidence: Evidence, output: int, probe: Probe) -> bool:
    """Whether the analytic gradient is right for an upstream gradient of one output that is 1, the others as given."""
    a, n = evidence.pair(probe)
    weights = np.array(probe.point.weights)
    weights[probe.spans[output]] = 1.0
    real = probe.outputs[output].dtype.kind == "f"
    return real and not close(a, n) and bool(np.any(a)) and close(a, probe.under(evidence.primal, weights))


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
    alone = _ignored_alone(evidence, [p for p in plain if p is not None])
    if alone:
        return Diagnosis("nonlinear", "UPSTREAM", alone, Fit.PLACES)
    answers = [answer(p, evidence.primal) for p in (evidence.own, *plain) if p is not None]
    for said in ("nan", "clipped", "added", "signed", "squared", "updated"):
        if said in answers:
            return Diagnosis("nonlinear", _SAID[said][0], f"{d} {_SAID[said][1]}", Fit.PLACES, {"cases": len(answers)})
    if set(answers) == {"ignored"}:
        return Diagnosis("nonlinear", "UPSTREAM", f"{d} {_SAID['ignored'][1]}", Fit.LAW, {"cases": len(answers)})
    return Diagnosis("nonlinear", "UPSTREAM", f"{d} is not linear in the upstream gradient", Fit.FORM)


_NEGATED = "has the wrong sign"


@dataclass(frozen=True, slots=True)
class Share:
    """What the upstream gradient of one output makes of the finding's gradient: that of backward, and the right one."""

    analytic: Array
    numerical: Array

    @property
    def factor(self) -> float | None:
        """Of analytic over numerical, where it is one number for all entries; 1 where both are zero."""
        if close(self.analytic, self.numerical):
            return 1.0
        ratio, _ = best_ratio(self.analytic.ravel(), self.numerical.ravel())
        clean = np.isfinite(ratio) and close(self.analytic, ratio * self.numerical)
        return float(ratio) if clean and np.any(self.numerical) else None


@add("one_output", "UPSTREAM", ANYWHERE, probes=True)
def one_output(evidence: Evidence) -> Diagnosis | None:
    """The upstream gradient of one output does not reach the primal as it should, and those of the others do."""
    if len(evidence.probes[0].outputs) < 2:
        return None
    cases = [_shares(evidence, probe) for probe in evidence.probes]
    if not all(cases):
        return None
    names = _several_outputs(evidence.probes)
    of_output = [[shares[k].factor for shares in cases] for k in range(len(names))]
    wrong = [k for k, factors in enumerate(of_output) if any(f is None or abs(f - 1) > CLOSE for f in factors)]
    ignored = [k for k in wrong if all(not np.any(shares[k].analytic) for shares in cases)]
    told = ignored or wrong
    reach = {k for shares in cases for k, share in enumerate(shares) if np.any(share.numerical)}
    if not told or not reach - set(told):  # of what reaches the primal nothing else is right
        return None
    said, facts = " and ".join(names[k] for k in told), {"outputs": [names[k] for k in told]}
    if ignored:
        text = f"backward ignores the upstream gradient of {said}: changing it changes no gradient of {evidence.primal}"
        return Diagnosis("one_output", "UPSTREAM", text, Fit.SEEN if ignored == wrong else Fit.PART, facts)
    factors = [f for k in told for f in of_output[k]]
    rest = " and ".join(names[k] for k in range(len(names)) if k not in told)
    d = f"what {said} sends back to {evidence.primal}"
    text = f"{d} {_words(factors)}{evidence.given}, and what {rest} sends back is right"
    bug_class = "SIGN" if _words(factors) == _NEGATED else "TERM"
    return Diagnosis("one_output", bug_class, text, Fit.SOME if None in factors else Fit.LAW, facts)


def _words(factors: list[float | None]) -> str:
    known = [f for f in factors if f is not None]
    if len(known) < len(factors) or np.ptp(known) > CLOSE * abs(known[0]):
        return "is wrong"
    return _NEGATED if abs(known[0] + 1) < CLOSE else f"is {known[0]:.6g} times the right one"


def _shares(evidence: Evidence, probe: Probe) -> list[Share]:
    """What each output sends back alone; empty where these do not add up to the gradient."""
    cotangents, found = probe.case.cotangents or (), []
    for k, span in enumerate(probe.spans):
        alone = probe.pulled(tuple(v if j == k else np.zeros_like(v) for j, v in enumerate(cotangents)))
        if evidence.primal not in alone or not np.isfinite(alone[evidence.primal]).all():
            return []
        weights = np.zeros_like(probe.point.weights)
        weights[span] = probe.point.weights[span]
        found.append(Share(alone[evidence.primal], probe.under(evidence.primal, weights)))
    total = sum(share.analytic for share in found)
    return found if close(np.asarray(total), probe.analytic[evidence.primal]) else []
