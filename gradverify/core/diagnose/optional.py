"""Signatures of options: the smallest set that fails, a mode; of primals that are left out, or lead the error in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from gradverify.core.declare.declaration import Primal
from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, PLAIN, Evidence
from gradverify.core.diagnose.indexed import Move, moves
from gradverify.core.diagnose.probe import APART, CLOSE, Probe, close
from gradverify.core.diagnose.terms import SMALL, relative
from gradverify.core.diagnose.valued import by_size
from gradverify.core.judge.facts import best_ratio
from gradverify.core.nouns import Array, Case, Diagnosis, Fit

_MODES = ("mode", "train", "training", "is_training", "eval")
_OF_MODES = ("train", "training", "test", "testing", "eval", "evaluation", "inference", "predict", "valid")
_TRIED = 4  # pairs of unequal values
_NONE = 1e-6  # share of a way that counts as none
Change = Callable[[Array], Array]
_MASKS = ("ignore", "mask", "padding_idx", "pad_id", "pad_token")


@add("options", "OPTION", ANYWHERE)
def options(evidence: Evidence) -> Diagnosis | None:
    """Right at the defaults, wrong with some options changed."""
    needed = evidence.situation.options
    if not needed or by_size(evidence):
        return None
    tried = len(evidence.situation.failing)
    d = f"{evidence.fault}{evidence.with_options}, and {evidence.sound}"
    defaults = ", ".join(f"{n}={evidence.defaults[n]!r}" for n in needed)
    facts = {"options": dict(needed), "cases": tried}
    if any(n in _MODES and (isinstance(v, bool) or str(v).lower() in _OF_MODES) for n, v in needed.items()):
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
    return evidence.holds(*cases)


def _mixed_groups(evidence: Evidence, name: str) -> str | None:
    """The axis beside an option in "groups*C" that, at size 1, makes it right: the order of the two is mistaken."""
    tokens = {axis for p in evidence.layer.primals for axis in p.dims.axes if axis.kind == "sum" and name in axis.names}
    for other in dict.fromkeys(n for axis in tokens for n in axis.names if n not in evidence.layer.options):
        cases = [evidence.plain(draw, sizes={other: 1}) for draw in range(2)]
        if evidence.holds(*cases):
            return other
    return None


@add("option_for_another", "OPTION", PLAIN)
def option_for_another(evidence: Evidence) -> Diagnosis | None:
    """Right where two numbers that are options are equal, wrong where they differ."""
    choices = {n: spec for n, spec in evidence.layer.options.items() if isinstance(spec, (list, range))}
    for one, two in combinations(choices, 2):
        shared = [v for v in choices[one] if v in choices[two] and isinstance(v, (int, float)) and v != 0]
        apart = [{one: v, two: w} for v in choices[one] for w in choices[two] if v != w][:_TRIED]
        if not shared or isinstance(shared[0], bool) or evidence.options[one] == evidence.options[two]:
            continue
        alike = [evidence.plain(draw, {**evidence.options, one: v, two: v}) for v in shared[:2] for draw in range(2)]
        others = [evidence.plain(0, {**evidence.options, **chosen}) for chosen in apart]
        right = evidence.holds(*alike)
        if right and all(map(evidence.fails, others)):
            text = (
                f"the gradient of {evidence.primal} is right where {one} = {two}, and wrong where they differ: one is "
                "taken for the other"
            )
            return Diagnosis("option_for_another", "OPTION", text, Fit.LAW, {"cases": len(alike) + len(others)})
    return None


@add("constant_left_out", "OPTION", PLAIN, probes=True)
def constant_left_out(evidence: Evidence) -> Diagnosis | None:
    """Right where another primal (class weights, a scale) is all ones: backward leaves it out."""
    for primal, ones in _right_where_all_are(evidence, np.ones_like):
        if primal.name == evidence.primal or primal.domain.discrete:
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


def _right_where_all_are(evidence: Evidence, value: Change) -> Iterator[tuple[Primal, list[Case]]]:
    """Primals that make the gradient right, and not zero, where all of their entries are one number; those cases."""
    for primal in evidence.layer.primals:
        if primal.domain.kind == "real" and (primal.domain.name == "mask" or not primal.domain.discrete):
            made = [variants.but(evidence.layer, p.case, primal.name, value) for p in evidence.probes]
            cases = [case for case in made if evidence.holds(case)]
            if len(cases) == len(made):
                yield primal, [case for case in cases if case is not None]


@add("path", "TERM", PLAIN)
def path(evidence: Evidence) -> Diagnosis | None:
    """Right where another primal is all zeros: the error comes in with it, and may be a factor of what does."""
    if not any(relative(evidence, probe) > SMALL for probe in evidence.probes):
        return None
    names = (p.name for p, _ in _right_where_all_are(evidence, np.zeros_like) if p.name != evidence.primal)
    found = {name: _share(evidence, name) for name in names}
    if not found:
        return None
    whole = {n: n if np.ndim(evidence.case.primals[n]) == 0 else f"all of {n}" for n in found}
    d, facts = f"the gradient of {evidence.primal} is right where", {"right where 0": list(found)}
    name, share = next(((n, share) for n, share in found.items() if share is not None), ("", None))
    if share is not None:
        negated = abs(share + 1) < CLOSE
        how = "negated" if negated else f"{share:.6g} times the right one" if abs(share) > _NONE else "left out"
        text = f"{d} {whole[name]} is 0{evidence.given}, and what comes in with {name} is {how}"
        return Diagnosis(
            "path", "SIGN" if negated else "FACTOR" if abs(share) > _NONE else "TERM", text, Fit.SOME, facts
        )
    for name in found:
        for words, move in moves(evidence.probes[0].labels(evidence.primal), evidence.probes[0].shape(evidence.primal)):
            if all(_moved(evidence, probe, name, move) for probe in evidence.probes):
                text = (
                    f"{d} {whole[name]} is 0{evidence.given}, and what comes in with {name} is the right part {words}"
                )
                return Diagnosis("path", "INDEX", text, Fit.SOME, facts)
    text = (
        f"{d} {' or '.join(whole.values())} is 0{evidence.given}, and wrong otherwise: the error is in what "
        f"{' and '.join(found)} {'have' if len(found) > 1 else 'has'} a part in"
    )
    return Diagnosis("path", "TERM", text, Fit.PART, facts)


def _beyond(evidence: Evidence, probe: Probe, name: str) -> tuple[Array, Array] | None:
    """What both gradients have more than the right one where a primal is 0."""
    zero = variants.but(evidence.layer, probe.case, name, np.zeros_like)
    other, (a, n) = evidence.probe(zero), evidence.pair(probe)
    if other is None or other.shape(evidence.primal) != n.shape:
        return None
    without = other.numerical(evidence.primal)
    return a - without, n - without


def _moved(evidence: Evidence, probe: Probe, name: str, move: Move) -> bool:
    found = _beyond(evidence, probe, name)
    return found is not None and close(found[0], move(found[1])) and not close(*found)


def _share(evidence: Evidence, name: str) -> float | None:
    """What is multiplied to all that the gradient has more than where a primal is 0; None if it is no number."""
    found = []
    for probe in evidence.probes:
        beyond, n = _beyond(evidence, probe, name), probe.numerical(evidence.primal)
        if beyond is None:
            return None
        more, right = beyond
        ratio, _ = best_ratio(more.ravel(), right.ravel())
        if (
            np.count_nonzero(right) < 2
            or not np.isfinite(ratio)
            or not close(n - right + more, n - right + ratio * right)
        ):
            return None
        found.append(ratio)
    same = len(found) > 1 and max(found) - min(found) < CLOSE
    return found[0] if same and abs(found[0] - 1) > APART else None


def _as_if_ones(evidence: Evidence, probe: Probe, ones: Case | None) -> bool:
    """Whether the analytic gradient is what would be right if that primal were all ones."""
    other = evidence.probe(ones)
    a, n = evidence.pair(probe)
    return other is not None and close(a, other.numerical(evidence.primal)) and not close(a, n)
