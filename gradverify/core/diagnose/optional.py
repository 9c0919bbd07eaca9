"""Signatures of options: the smallest set that fails, a mode, a weight that backward leaves out."""

from __future__ import annotations

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.diagnose.terms import matters
from gradverify.core.nouns import Case, Diagnosis, Fit

_MODES = ("mode", "train", "training", "is_training", "eval")
_MASKS = ("ignore", "mask", "padding_idx", "pad_id", "pad_token")


@add("options", "OPTION")
def options(evidence: Evidence) -> Diagnosis | None:
    """Right at the defaults, wrong with some options changed."""
    if not evidence.about_gradient:
        return None
    needed = evidence.situation.options
    if not needed:
        return None
    tried = len(evidence.situation.failing)
    d = f"the gradient of {evidence.primal} is wrong{evidence.with_options}, and right"
    defaults = ", ".join(f"{n}={evidence.defaults[n]!r}" for n in needed)
    facts = {"options": dict(needed), "cases": tried}
    if any(name in _MODES for name in needed):
        text = f"{d} with {defaults}: backward does not follow the mode of forward"
        return Diagnosis("options", "MODE", text, Fit.EXACT, facts)
    if any(word in name for name in needed for word in _MASKS):
        return Diagnosis(
            "options", "MASK", f"{d} with {defaults}: places that do not count are counted", Fit.PLACES, facts
        )
    for name in needed:
        other = _mixed_groups(evidence, name) if isinstance(needed[name], int) else None
        if other is not None:
            text = (
                f"{d} where {other} = 1: along {name}*{other}, places are taken for other {name} than they belong to, "
                f"place % {name} for place // {other}"
            )
            return Diagnosis("options", "INDEX", text, Fit.PLACES, facts)
    unequal = [n for n, v in needed.items() if isinstance(v, tuple) and len(set(v)) > 1]
    same = ""
    if unequal and evidence.situation.needs == "options" and all(_right_when_equal(evidence, n) for n in unequal):
        same = f"; with equal parts of {', '.join(unequal)} it is right: one part is taken for all"
    text = f"{d} with the default {defaults}{same}: backward does not follow forward there"
    return Diagnosis("options", "OPTION", text, Fit.SOME if evidence.situation.needs == "options" else Fit.FORM, facts)


def _right_when_equal(evidence: Evidence, name: str) -> bool:
    value = evidence.options[name]
    cases = [evidence.plain(0, {**evidence.options, name: (v,) * len(value)}) for v in dict.fromkeys(value)]
    return all(map(evidence.holds, cases))


def _mixed_groups(evidence: Evidence, name: str) -> str | None:
    """The axis beside an option in "groups*C" that, at size 1, makes it right: the order of the two is mistaken."""
    tokens = {axis for p in evidence.layer.primals for axis in p.dims.axes if axis.kind == "sum" and name in axis.names}
    for other in dict.fromkeys(n for axis in tokens for n in axis.names if n not in evidence.layer.options):
        cases = [evidence.plain(draw, sizes={other: 1}) for draw in range(2)]
        if all(map(evidence.holds, cases)):
            return other
    return None


@add("constant_left_out", "OPTION")
def constant_left_out(evidence: Evidence) -> Diagnosis | None:
    """Right where another primal (class weights, a scale) is all ones: backward leaves it out."""
    if not evidence.about_gradient or not evidence.probes or evidence.situation.needs == "values":
        return None
    for primal in evidence.layer.primals:
        if primal.name == evidence.primal or primal.domain.kind != "real" or primal.domain.discrete:
            continue
        ones = [variants.but(evidence.layer, p.case, primal.name, np.ones_like) for p in evidence.probes]
        if not all(evidence.holds(case) and matters(evidence, case) for case in ones):
            continue
        d, facts = (
            f"the gradient of {evidence.primal} is right where {primal.name} is all ones, and",
            {"cases": len(ones)},
        )
        if all(_as_if_ones(evidence, *pair) for pair in zip(evidence.probes, ones)):
            text = f"{d} the same where it is not{evidence.with_options}: backward leaves {primal.name} out"
            bug_class, fit = ("TERM", Fit.SOME) if primal.differentiable else ("OPTION", Fit.LAW)
            return Diagnosis("constant_left_out", bug_class, text, fit, facts)
        if not primal.differentiable:
            text = (
                f"{d} wrong otherwise{evidence.with_options}: backward takes {primal.name} into account in another way"
            )
            return Diagnosis("constant_left_out", "OPTION", text, Fit.LAW, facts)
    return None


def _as_if_ones(evidence: Evidence, probe: Probe, ones: Case | None) -> bool:
    """Whether the analytic gradient is what would be right if that primal were all ones."""
    other = evidence.probe(ones)
    a, n = evidence.pair(probe)
    return other is not None and close(a, other.numerical(evidence.primal)) and not close(a, n)
