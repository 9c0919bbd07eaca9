"""Wants: the gradient of one primal does not depend on which others are asked for."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from gradverify.core import evaluate
from gradverify.core.declare.functions import accepted, taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding, Outcome
from gradverify.core.properties import Property, add
from gradverify.core.properties.fresh import poisoned

NAME = "wants"
KEYWORD = "wants"


def applies(layer: Layer) -> str | None:
    if layer.hooks.wants is None and KEYWORD not in accepted(layer.backward, (KEYWORD,)):
        return f"backward takes no argument {KEYWORD!r} that names the primals which want a gradient"
    return "there is only one primal" if len(layer.differentiable) < 2 else None


@exact.where_finite(NAME)
def holds(layer: Layer, case: Case) -> Outcome:
    """Every subset of wanted primals (all of size 1, all but one, some between) gives the same gradients."""
    names = tuple(p.name for p in layer.differentiable)
    expected = exact.expected(layer, case)
    sizes = sorted({1, len(names) - 1, (len(names) + 1) // 2})
    pairs = []
    for wanted in (subset for size in sizes for subset in combinations(names, size)):
        got, lacking = _pull(layer, case, wanted)
        if got is None:
            return Outcome(NAME, skipped="backward is not told which gradients are wanted")
        if lacking is not None:
            # what an author of the hook may have missed
            hint = "; wants= gets a tuple of cotangents, also where there is one" if layer.hooks.wants else ""
            told = f"when only {', '.join(wanted)} want gradients: {lacking}{hint}"
            return Outcome(NAME, findings=(Finding(NAME, lacking.kind, lacking.primal, told, case),))
        pairs.append((f"when only {', '.join(wanted)} want gradients", got, {n: expected[n] for n in got}))
    return exact.outcome(layer, case, NAME, pairs, sides=("asked for some", "asked for all"))


def _pull(
    layer: Layer, case: Case, wanted: tuple[str, ...]
) -> tuple[dict[str, Array] | None, evaluate.LayerFailure | None]:
    """The wanted gradients, None where backward is not told of them; and what is wrong with the first of no use."""
    evaluation = evaluate.run(layer, evaluate.copies(case.primals), case.options)
    cotangents = exact.copied(case.cotangents or ())
    with poisoned():
        raw: Any
        if layer.hooks.wants is not None:
            raw = evaluate.guarded("backward", layer.hooks.wants, cotangents, evaluation.saved, wanted)
            if raw is None:
                return None, None
        else:
            single = cotangents if len(evaluation.outputs) > 1 else cotangents[0]
            options = taken_by(layer.backward, case.options)
            raw = evaluate.guarded("backward", layer.backward, single, evaluation.saved, **options, wants=wanted)
    named = evaluate.by_name(layer, raw)
    good, bad = evaluate.usable(layer, case, named)
    lacking = next((failure for failure in bad if failure.primal in wanted), None)
    return {n: good[n] for n in wanted if n in good}, lacking


add(Property(NAME, "a gradient does not depend on which others are wanted", holds, applies, share=0.3))
