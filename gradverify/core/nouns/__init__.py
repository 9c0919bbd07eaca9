"""The frozen nouns that flow through the house; `ledger` is what was verified, and what was not."""

from gradverify.core.nouns.case import Array, Case
from gradverify.core.nouns.comparison import AGREES, DISAGREES, KINK, UNRESOLVED, Comparison, Estimate, Verdict
from gradverify.core.nouns.finding import WORST_SEEN, Diagnosis, Finding, Fit, Outcome
from gradverify.core.nouns.streams import Stream

__all__ = [
    "AGREES",
    "DISAGREES",
    "KINK",
    "UNRESOLVED",
    "WORST_SEEN",
    "Array",
    "Case",
    "Comparison",
    "Diagnosis",
    "Estimate",
    "Finding",
    "Fit",
    "Outcome",
    "Stream",
    "Verdict",
]
