"""What an extension is written with: a property, a signature of a diagnosis, a rule, a calling convention.

Each kind has a class, a function that registers one, and a registry in which it is found by its name.
"""

from gradverify.adapters import Adapter, adapters, as_layer
from gradverify.adapters import add as add_adapter
from gradverify.core.declare.regime import Regime
from gradverify.core.declare.registry import layers
from gradverify.core.diagnose import Signature, diagnose, signatures
from gradverify.core.diagnose import add as add_signature
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add as add_rule
from gradverify.core.judge.table import rules
from gradverify.core.nouns import Comparison, Diagnosis, Estimate, Fit, Outcome
from gradverify.core.properties import Property, properties
from gradverify.core.properties import add as add_property
from gradverify.core.verify import examine

__all__ = [
    "Adapter",
    "Answer",
    "Comparison",
    "Diagnosis",
    "Dispute",
    "Estimate",
    "Evidence",
    "Fit",
    "Outcome",
    "Property",
    "Regime",
    "Signature",
    "adapters",
    "add_adapter",
    "add_property",
    "add_rule",
    "add_signature",
    "answer",
    "as_layer",
    "diagnose",
    "examine",
    "layers",
    "properties",
    "rules",
    "signatures",
]
