"""Modes: train and eval are each right, and a call in one does not reach a backward of the other."""

from __future__ import annotations

from typing import Any

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import Case, Finding, Outcome
from gradverify.core.properties import Property, add, gradient

NAME = "modes"
OPTIONS = ("mode", "train", "training", "is_training", "eval")


def _option(layer: Layer) -> str | None:
    return next((name for name in OPTIONS if name in layer.options), None)


def applies(layer: Layer) -> str | None:
    return None if _option(layer) else f"the layer has no option named {', '.join(OPTIONS[:-1])} or {OPTIONS[-1]}"


def holds(layer: Layer, case: Case) -> Outcome:
    """The gradient in each mode at one point; forward in one, forward in the other, backward of the first."""
    name = _option(layer) or ""
    choices: list[Any] = list(layer.options[name]) if isinstance(layer.options[name], (list, range)) else [False, True]
    findings: dict[str | None, Finding] = {}
    entries = 0
    compared = []
    for value in choices:
        here = case.but(options={**case.options, name: value}, cotangents=None)
        outcome = gradient.holds(layer, here)
        entries += outcome.entries
        compared += list(outcome.compared)
        for f in outcome.findings:
            findings.setdefault(f.primal, f.but(property=NAME, message=f"with {name}={value!r}, {f.message}"))
        late = _interrupted(layer, here, name, [other for other in choices if other != value])
        for f in late.findings:
            findings.setdefault(f.primal, f)
    return Outcome(NAME, tuple(findings.values()), tuple(compared), entries)


def _interrupted(layer: Layer, case: Case, name: str, others: list[Any]) -> Outcome:
    case, reason = exact.ready(layer, case)
    if reason is not None or layer.declared.stateful:
        return Outcome(NAME)
    expected = exact.expected(layer, case)
    tape = evaluate.run(layer, evaluate.copies(case.primals), case.options)
    for value in others:
        evaluate.run(layer, evaluate.copies(case.primals), {**case.options, name: value})
    got = exact.pulled(layer, case, tape)
    return exact.outcome(layer, case, NAME, [("after a forward in another mode", got, expected)])


add(
    Property(
        NAME,
        "each mode has the right gradient, and does not reach into the other",
        holds,
        applies,
        share=0.2,
        implied_by=("gradient",),
    )
)
