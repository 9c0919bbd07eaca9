"""What a finding looks like: one file for each signature or small family of one idea, found by the registry.

A signature looks at the evidence and gives a Diagnosis if it fits. It asserts only what it tried: its
sentence held on every case on which the layer fails, and those are made for the purpose. Other
packages add theirs through the entry-point group ``gradverify.signatures``.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import Registry, import_submodules
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.steps import steps
from gradverify.core.evaluate.failures import LayerFailure, unpatched
from gradverify.core.evaluate.limits import time_limit
from gradverify.core.nouns import Comparison, Diagnosis, Finding, Fit
from gradverify.core.properties import properties
from gradverify.core.verify import examine

__all__ = ["Evidence", "Signature", "add", "diagnose", "diagnosed", "signatures"]

MOST = 4  # diagnoses that are kept
SECONDS, BRIEFLY = 2.0, 0.2  # of processor time, after which no further signature is asked
# These run the layer on many other cases: they are asked in this order, when the others have been, and nothing is sure.
DEAR = (
    "moments",
    "overflow",
    "constant_left_out",
    "path",
    "positive",
    "product",
    "order",
    "inside",
    "one_for_another",
    "constant_along",
    "flipped",
    "one_use",
    "slope",
    "another_value",
    "only_these_sizes",
    "sizes",
    "met",
    "jacobian",
    "first_call",
)
TOLD_BY_VALUES = ("flat", "tie", "singular", "tail", "mask", "repeats", "mutation", "uninitialised", "race", "upstream")
FICKLE = ("first_call", "race", "uninitialised")  # then one case gives now this and now that
SOMETIMES = "; on other plain cases it is right"  # what is added to a sentence that holds of those that are wrong
FACTS = "facts"  # the signature of what has none
Fits = Callable[[Evidence], Diagnosis | None]
NOTHING = "no known signature fits: "  # said where every one was asked


@dataclass(frozen=True, slots=True)
class Signature:
    """What one kind of bug looks like.

    Attributes
    ----------
    name : short identifier, e.g. "factor"
    bug_class : class of mutants that it tells, e.g. "FACTOR"
    fits : ``(evidence) -> Diagnosis, or None where it does not fit``
    """

    name: str
    bug_class: str
    fits: Fits


signatures: Registry[Signature] = Registry("signature", "gradverify.signatures")


def add(name: str, bug_class: str, needs: Sequence[str] = (), probes: bool = False) -> Callable[[Fits], Signature]:
    """Register a function as a signature: a decorator.

    Parameters
    ----------
    needs : situations of a wrong gradient in which it is asked; none where it looks at findings of any kind
    probes : whether it is asked only where backward ran on cases that fail
    """

    def added(fits: Fits) -> Signature:
        def asked(evidence: Evidence) -> Diagnosis | None:
            if needs and not evidence.concerns(needs, probes):
                return None
            if name not in evidence.answers:  # others ask it, too
                evidence.answers[name] = fits(evidence)
            return evidence.answers[name]

        return signatures.add(name, Signature(name, bug_class, asked))

    return added


def diagnose(layer: Layer, finding: Finding, seconds: float = SECONDS) -> tuple[Diagnosis, ...]:
    """What a finding looks like, the best supported first; never empty for a wrong gradient.

    No further signature is asked after `seconds` of processor time.

    A signature that fails is left out with a warning: a diagnosis is a help, not a verdict.
    """
    if finding.kind == "timeout":
        return ()
    evidence = Evidence(layer, finding)
    found: list[Diagnosis] = []
    deadline = time.thread_time() + seconds
    with suppress(LayerFailure), time_limit(2 * seconds):  # what was found until then is told
        for name in sorted(signatures.names(), key=_turn):
            if name in DEAR and any(d.fit >= Fit.LAW for d in found):  # the dear ones know nothing better
                break
            diagnosis = _asked(signatures.get(name), evidence)
            if diagnosis is not None:
                found.append(_weighed(evidence, diagnosis))
            if time.thread_time() > deadline:
                break
        else:
            found = [replace(d, text=f"{NOTHING}{d.text}") if _unknown(d) else d for d in found]
    ranked = sorted(found, key=lambda d: (-d.fit, d.name))
    if len(ranked) > 1:  # bare facts are for where nothing fits, and what fits nearly all for where nothing better does
        ranked = [d for d in ranked if d.name != FACTS and (d.fit > Fit.VAGUE or ranked[0].fit <= Fit.PART)]
    if ranked and ranked[0].name in FICKLE:  # what the other calls showed is not to be relied upon
        ranked = ranked[:1]
    return tuple(ranked[:MOST])


def _unknown(diagnosis: Diagnosis) -> bool:
    return diagnosis.name == FACTS and diagnosis.bug_class == "UNKNOWN"


def _turn(name: str) -> tuple[bool, int]:
    """Bare facts first, so that something is said when time is up; then what is cheap."""
    return name != FACTS, DEAR.index(name) + 1 if name in DEAR else 0


_SHARE = 0.5  # of an error, which roundings to the type may enlarge
_SUMMED = 1e-5  # of the largest entry: some tens of roundings of float32


def _asked(signature: Signature, evidence: Evidence) -> Diagnosis | None:
    try:
        with unpatched(), np.errstate(all="ignore"):
            return signature.fits(evidence)
    except LayerFailure:
        return None
    except Exception as error:  # noqa: BLE001  somebody's signature must not cost a report
        warnings.warn(f"the signature {signature.name!r} failed: {type(error).__name__}: {error}", stacklevel=3)
        return None


def diagnosed(layer: Layer, finding: Finding, lead: Finding | None = None) -> Finding:
    """The finding with its diagnoses, and with the error against the step among its facts.

    The facts are "ladder", a (step, quotient - analytic value, noise) for each step, and "ladder_shows",
    what they show in one sentence; both are left out where no gradients were compared.

    Parameters
    ----------
    lead : a finding that has been diagnosed and is told before this one, which then is told in brief. Its best
        signature is asked first; the others get little time where that one does not fit
    """
    if lead is not None:
        known = lead.diagnoses and lead.diagnoses[0].name != FACTS  # else every signature was asked, and in vain
        again = _again(layer, finding, lead) if known else ()
        again = again or diagnose(layer, finding, BRIEFLY if known else 0.0) or _of_formula(layer, finding, BRIEFLY)
        return finding.but(diagnoses=again, follows=lead.fingerprint)
    facts = dict(finding.facts)
    compared = finding.shown.comparison
    if compared is not None and finding.property in ("gradient", "special") and _finite(compared):
        with suppress(LayerFailure), unpatched(), np.errstate(all="ignore"):
            found = steps(layer, finding.shown.case, compared)
            facts |= {"ladder": found.rungs, "ladder_shows": found.says}
    diagnoses = diagnose(layer, finding)
    if finding.telling is not None and all(d.name == FACTS for d in diagnoses):  # the smallest case may hide the cause
        diagnoses = diagnose(layer, finding.telling) or diagnoses
    if not any(d.fit >= Fit.LAW for d in diagnoses):
        diagnoses = _of_formula(layer, finding) or diagnoses
    return finding.but(diagnoses=diagnoses, facts=facts)


def _of_formula(layer: Layer, finding: Finding, seconds: float = SECONDS) -> tuple[Diagnosis, ...]:
    """What is wrong with a kernel in float64, too, where nothing is rounded: there laws are plain."""
    reference: Any = layer.hooks.reference
    if finding.property != "reference" or finding.kind != "wrong" or not hasattr(reference, "formula"):
        return ()
    try:
        exact = reference.formula(layer)
        case = finding.case.but(primals=reference.at(finding.case.primals))
        outcome = examine(exact, case, properties.get("gradient"), SECONDS)
    except LayerFailure:
        return ()
    found = (
        diagnose(exact, f, seconds)
        for f in outcome.findings
        if f.property == "gradient" and f.primal == finding.primal and not _smaller(f, finding)
    )
    told = (d for d in next(found, ()) if d.name != FACTS and not _meant(d, reference.eps))
    return tuple(replace(d, text=f"{d.text}; so it is in float64, where nothing is rounded") for d in told)


def _smaller(formula: Finding, finding: Finding) -> bool:
    """Whether the error in float64 is not what is wrong in the kernel's type, as that of float32 in the code is not."""
    one, other = formula.comparison, finding.comparison
    if one is None or other is None:
        return False
    errors = [np.abs(c.analytic - c.numerical).max(initial=0.0) for c in (one, other)]
    return bool(errors[0] < _SHARE * errors[1] < np.inf)


def _meant(diagnosis: Diagnosis, eps: float) -> bool:
    """Whether it is the type of a kernel, or float32, that is told: to those it rounds by itself, whatever it gets."""
    if diagnosis.name == "small_error":
        return bool(diagnosis.evidence["largest"] < _SUMMED)
    return diagnosis.name == "precision" and bool(np.finfo(diagnosis.evidence.get("dtype", float)).eps <= eps)


def _again(layer: Layer, finding: Finding, lead: Finding) -> tuple[Diagnosis, ...]:
    """What the signature that fits another finding best says of this one, if it fits as well; its words, if alike."""
    best, evidence = lead.diagnoses[0], Evidence(layer, finding)
    again = None
    with suppress(LayerFailure), time_limit(2 * SECONDS):
        again = _asked(signatures.get(best.name), evidence)
    if again is None or _weighed(evidence, again).fit < best.fit:
        return ()
    return (best if _of(again.text, finding) == _of(best.text, lead) else again,)


def _of(text: str, finding: Finding) -> str:
    """A sentence without the name of the primal that it is about, and without the number of cases tried."""
    text = re.sub(r"\b(all of )?\d+ cases?", "cases", text)
    return re.sub(rf"\b{re.escape(finding.primal)}\b", "", text, count=1) if finding.primal else text


def _finite(compared: Comparison) -> bool:
    """Whether the entry that disagrees most has an analytic value, from which an error can be told."""
    return bool(compared.wrong.any() and np.isfinite(compared.analytic[compared.worst]))


def _weighed(evidence: Evidence, diagnosis: Diagnosis) -> Diagnosis:
    """What was seen at special values only, on one case under several cotangents, counts for less.

    What holds of the cases that are wrong, others of their kind being right, says so.
    """
    if not evidence.about_gradient or diagnosis.name in TOLD_BY_VALUES:
        return diagnosis
    if evidence.situation.needs == "values":
        return replace(diagnosis, fit=min(diagnosis.fit, Fit.PART))
    if evidence.situation.some and diagnosis.name not in (FACTS, "region") and " right " not in diagnosis.text:
        return replace(diagnosis, text=f"{diagnosis.text}{SOMETIMES}")
    return diagnosis


import_submodules(__name__, __path__)
