"""What a finding looks like: one file for each signature or small family of one idea, found by the registry.

A signature looks at the evidence and gives a Diagnosis if it fits. It asserts only what it tried: its
sentence held on every case on which the layer fails, and those are made for the purpose. Other
packages add theirs through the entry-point group ``gradverify.signatures``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gradverify.diagnosis.evidence import Evidence
from gradverify.evaluate import LayerFailure
from gradverify.layer import Layer
from gradverify.registry import Registry, import_submodules
from gradverify.types import Diagnosis, Finding

__all__ = ["Evidence", "Signature", "add", "diagnose", "signatures"]

MOST = 4  # diagnoses that are kept
LONE = 0.65
TOLD_BY_VALUES = ("tie", "singular", "tail", "mask", "repeats", "mutation", "uninitialised", "race")
FACTS = "facts"  # the signature of what has none


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
    fits: Callable[[Evidence], Diagnosis | None]


signatures: Registry[Signature] = Registry("signature", "gradverify.signatures")


def add(name: str, bug_class: str) -> Callable[[Callable[[Evidence], Diagnosis | None]], Signature]:
    """Register a function as a signature: a decorator."""
    return lambda fits: signatures.add(name, Signature(name, bug_class, fits))


def diagnose(layer: Layer, finding: Finding) -> tuple[Diagnosis, ...]:
    """What a finding looks like, the best supported first; never empty for a wrong gradient.

    A signature that fails is left out with a warning: a diagnosis is a help, not a verdict.
    """
    evidence = Evidence(layer, finding)
    found: list[Diagnosis] = []
    for name in signatures.names():
        signature = signatures.get(name)
        try:
            with np.errstate(all="ignore"):
                diagnosis = signature.fits(evidence)
        except LayerFailure:
            continue
        except Exception as error:  # noqa: BLE001  somebody's signature must not cost a report
            warnings.warn(f"the signature {name!r} failed: {type(error).__name__}: {error}", stacklevel=2)
            continue
        if diagnosis is not None:
            found.append(diagnosis)
    found = [_weighed(evidence, diagnosis) for diagnosis in found]
    ranked = sorted(found, key=lambda d: (-d.confidence, d.name))
    if len(ranked) > 1:  # bare facts are for where nothing fits
        ranked = [d for d in ranked if d.name != FACTS]
    return tuple(ranked[:MOST])


def _weighed(evidence: Evidence, diagnosis: Diagnosis) -> Diagnosis:
    """What was seen at special values only, on one case under several cotangents, counts for less."""
    if not evidence.about_gradient or diagnosis.name in TOLD_BY_VALUES or evidence.situation.needs != "values":
        return diagnosis
    return replace(diagnosis, confidence=LONE * diagnosis.confidence)


import_submodules(__name__, __path__)
