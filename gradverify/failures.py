"""Findings for code that failed outright: it raised, timed out, or returned what cannot be used."""

from __future__ import annotations

from gradverify.evaluate import LayerFailure
from gradverify.types import Case, Finding

COMPLETE = "complete"  # the property that a layer breaks when its code fails outright


def failed(case: Case, failure: LayerFailure) -> Finding:
    """The finding for a layer whose code failed outright."""
    return Finding(COMPLETE, failure.kind, failure.primal, str(failure), case, facts={"stage": failure.stage})
