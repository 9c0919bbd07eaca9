"""What must hold of a backward pass: one file for each property, found by the registry.

A property says which layers it applies to, what it asks of the drawn cases, and what must hold of
one Case. Other packages add theirs through the entry-point group ``gradverify.properties``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.declare.registry import Registry, import_submodules
from gradverify.core.nouns import Case, Outcome

FIRST, SECOND, LATER = range(3)  # turns of properties


@dataclass(frozen=True, slots=True)
class Property:
    """One thing that must hold of a backward pass.

    Attributes
    ----------
    name : what users type and reports print
    says : the property in one sentence
    holds : ``(layer, case) -> Outcome``; pure: the same Case gives the same Outcome
    applies : ``(layer) -> reason it does not apply, or None``
    regime : what it asks of the drawn cases
    turn : when it is tried, and its findings are told: what it needs of a layer's code first, then what explains most
    share : fraction of the examples of a check that it wants (costly properties ask for less)
    default : whether it is tried unless others are named
    seconds : that a case of it may take, where that is more than the usual limit
    shrinking : seconds of work that a smaller case for a finding is looked for
    implied_by : properties whose finding on a primal explains this one's, which is then not reported again
    joint : kinds of its findings that concern several primals: a finding of `implied_by` on any of them explains those
    explains : ``(fingerprint of its finding, of another one) -> whether the first explains the second``
    moot : ``(layer, case, outcome) -> Outcome`` in place of another property's outcome that has a finding, where this
        property says that the finding means nothing; None where it does not
    """

    name: str
    says: str
    holds: Callable[[Layer, Case], Outcome]
    applies: Callable[[Layer], str | None] = lambda layer: None
    regime: Regime = field(default_factory=Regime)
    turn: int = LATER
    share: float = 1.0
    implied_by: tuple[str, ...] = ()
    joint: tuple[str, ...] = ()
    explains: Callable[[Fingerprint, Fingerprint], bool] = lambda mine, other: False
    moot: Callable[[Layer, Case, Outcome], Outcome | None] | None = None
    default: bool = True
    seconds: float = 0.0
    shrinking: float = 2.0


T = TypeVar("T")
Fingerprint = tuple[str, str, str]  # property, kind, primal or ""

properties: Registry[Property] = Registry("property", "gradverify.properties")


def explained(finding: Fingerprint, found: Iterable[Fingerprint]) -> bool:
    """Whether others of the findings explain one, as their properties declare."""
    name, kind, primal = finding
    others = [other for other in found if other != finding]
    if any(properties.get(other[0]).explains(other, finding) for other in others if other[0] in properties):
        return True
    mine = properties.get(name) if name in properties else None
    implied = {other[2] for other in others if mine is not None and other[0] in mine.implied_by}
    return bool(implied) if mine is not None and kind in mine.joint else primal in implied


def unexplained(found: Mapping[Fingerprint, T]) -> list[T]:
    """What is known of the findings that no other one explains; all of them where they explain one another."""
    return [item for key, item in found.items() if not explained(key, found)] or list(found.values())


def add(prop: Property) -> Property:
    """Register a property under its name."""
    return properties.add(prop.name, prop)


import_submodules(__name__, __path__)
