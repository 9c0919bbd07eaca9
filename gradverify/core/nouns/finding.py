"""What one property said of one Case: an Outcome, its Findings, and a Diagnosis of what each looks like."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from gradverify.core.nouns.case import Case
from gradverify.core.nouns.comparison import Comparison
from gradverify.core.nouns.forms import form
from gradverify.core.nouns.ledger import Weighted


class Fit(IntEnum):
    """What a sentence about a wrong gradient rests on, the weakest first: of several that fit, the strongest is told.

    Each level claims what those below do not, so that a guess is never told before what was tried.
    """

    FACTS = 0  # nothing fits: ratios and places, as measured
    VAGUE = 1  # it holds of most wrong gradients
    PART = 2  # it holds on part of the cases, at special values, or for a number that was fitted
    FORM = 3  # the form is told, and no law that gives the entries
    SOME = 4  # a law gives what is wrong in some entries, or one of two causes that look alike
    PLACES = 5  # a law gives every entry, once places or values are chosen that it depends on
    LAW = 6  # a law gives every entry on every case; it is one of many that were tried
    EXACT = 7  # it gives every entry on every case, and nothing in it was chosen
    SEEN = 8  # the cause was seen at work: a write, a race, memory that was never written


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A signature that fits a finding, in words and with the evidence that was tried.

    Attributes
    ----------
    name : short identifier, e.g. "factor"
    bug_class : class of mutants it belongs to, e.g. "FACTOR"
    text : one sentence in the author's names
    fit : what it rests on; of several the strongest is told first
    evidence : numbers and facts behind the sentence, plain Python values
    """

    name: str
    bug_class: str
    text: str
    fit: Fit
    evidence: Mapping[str, Any] = field(default_factory=dict)


WORST_SEEN = "worst seen"  # name of a fact of findings


@dataclass(frozen=True, eq=False)
class Finding:
    """A property that does not hold, where and by how much.

    Attributes
    ----------
    property, kind : what was asked, and how it failed ("wrong", "missing", "shape", "nan", "crash", ...)
    primal : which gradient, None if it concerns no single primal
    message : one sentence in the author's names
    case : the Case that shows it
    comparison : the full matrices, where two gradients were compared
    severity : error in units of its bound (inf where there is no bound)
    facts : plain numbers for diagnosis and reports
    worst : the Case with the largest severity seen, when it is not `case`; that severity is among the facts
    telling : the same finding on a Case that shows it, where `case` is too small to show more than that it is wrong
    follows : fingerprint of another finding that looks the same, or that explains this one: one mistake, told once
    """

    property: str
    kind: str
    primal: str | None
    message: str
    case: Case
    comparison: Comparison | None = None
    severity: float = float("inf")
    facts: Mapping[str, Any] = field(default_factory=dict)
    diagnoses: tuple[Diagnosis, ...] = ()
    worst: Case | None = None
    telling: Finding | None = None
    follows: tuple[str, str, str] | None = None

    def but(self, **changes: Any) -> Finding:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    @builtins.property  # a field of this class is called property
    def shown(self) -> Finding:
        """The finding as a reader is shown it."""
        return self.telling or self

    @builtins.property
    def fingerprint(self) -> tuple[str, str, str]:
        """What makes two findings the same: property, kind and primal."""
        return (self.property, self.kind, self.primal or "")

    def _repr_html_(self) -> str:
        return str(form("finding_html")(self))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one property said of one Case.

    Attributes
    ----------
    compared : comparisons made, by primal (may be empty for exact properties)
    entries : number of numbers compared
    skipped : the reason, if the property was not tried on this Case
    outputs : what cotangents weighed, by output, where gradients were compared with numerical ones
    notes : what a reader of the report is told, though nothing is wrong
    """

    property: str
    findings: tuple[Finding, ...] = ()
    compared: tuple[Comparison, ...] = ()
    entries: int = 0
    skipped: str | None = None
    outputs: Mapping[str, Weighted] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
