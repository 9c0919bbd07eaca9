"""Purity: backward and forward leave their arguments alone, and no gradient is a primal itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate.foreign import arrays_in, same
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding, Outcome
from gradverify.core.properties import Property, add, layout

NAME = "pure"


def holds(layer: Layer, case: Case) -> Outcome:
    """Primals, cotangents, outputs and saved arrays are unchanged; no gradient shares memory with a primal."""
    case, _ = evaluate.completed(layer, case)
    primals = evaluate.copies(case.primals)
    cotangents = exact.copied(case.cotangents or ())
    evaluation = evaluate.run(layer, primals, case.options)
    cotangents = tuple(v.astype(y.dtype) if y.dtype.kind in "fc" else v for v, y in zip(cotangents, evaluation.outputs))
    findings = [_mutated("forward", f"its argument {n}", n, case) for n, a in _changed(primals, case.primals)]
    saved: dict[str, Array] = evaluate.guarded("forward", lambda: dict(arrays_in(evaluation.saved, "saved")))
    kept = {name: array.copy() for name, array in saved.items()}
    outputs = [y.copy() for y in evaluation.outputs]
    upstream = exact.copied(cotangents)
    held = layer.hooks.stored_parameters or (lambda saved: {})
    parameters = held(evaluation.saved)
    gradients = evaluation.pull(cotangents)
    now = held(evaluation.saved)
    findings += [
        _mutated("backward", f"the parameter {n} of the object", n, case)
        for n, a in parameters.items()
        if n in now and not same(now[n], a)
    ]
    findings += [_mutated("backward", f"the primal {n}", n, case) for n, a in _changed(primals, case.primals)]
    findings += [
        _mutated("backward", _cotangent(k, len(upstream)), None, case)
        for k, (now, before) in enumerate(zip(cotangents, upstream))
        if not same(now, before)
    ]
    findings += [
        _mutated("backward", f"the output {k}", None, case)
        for k, (now, before) in enumerate(zip(evaluation.outputs, outputs))
        if not same(now, before)
    ]
    if not findings and not layer.declared.stateful:
        findings += [_mutated("backward", f"{n}, which forward saved", None, case) for n, a in _changed(saved, kept)]
    findings += _aliases(gradients, primals, case)
    unique = {f.fingerprint: f for f in reversed(findings)}
    return Outcome(NAME, tuple(unique.values()), entries=sum(a.size for a in primals.values()))


def _moot(layer: Layer, case: Case, outcome: Outcome) -> Outcome | None:
    """What is left of the findings about memory layout once all arrays can be written into, where that is done.

    That code which changes its cotangent in place fails on one that is read-only, or expanded, is the same mistake.
    """
    if outcome.property != layout.NAME or not any(f.kind == "mutates" for f in holds(layer, case).findings):
        return None
    return layout.holds(layer, case, writable=True)


def _changed(now: dict[str, Array], before: Any) -> Iterator[tuple[str, Array]]:
    return ((name, array) for name, array in now.items() if not same(array, before[name]))


def _cotangent(k: int, count: int) -> str:
    return "the cotangent (upstream gradient)" if count == 1 else f"the cotangent of output {k}"


def _mutated(stage: str, what: str, primal: str | None, case: Case) -> Finding:
    message = f"{stage} changes {what} in place; whoever else uses that array gets wrong values"
    return Finding(NAME, "mutates", primal, message, case, facts={"stage": stage, "what": what})


def _aliases(gradients: dict[str, Any], primals: dict[str, Array], case: Case) -> list[Finding]:
    """A gradient that is a view of a primal: adding to it, as accumulation does, would change the primal.

    Views of the cotangent are what backward of a sum, a transpose or a reshape returns everywhere.
    """
    found = []
    for name, gradient in gradients.items():
        if not isinstance(gradient, np.ndarray) or not gradient.flags.writeable:
            continue
        for other, array in primals.items():
            if np.shares_memory(gradient, array):
                message = (
                    f"the gradient of {name} shares its memory with the primal {other}: adding to it changes {other}"
                )
                found.append(Finding(NAME, "aliases", name, message, case, facts={"what": f"the primal {other}"}))
                break
    return found


add(
    Property(
        NAME,
        "primals, cotangents and saved arrays are left unchanged, and no gradient is a primal itself",
        holds,
        share=0.5,
        moot=_moot,
    )
)
