"""No alias: every gradient has memory of its own, shared with no cotangent, primal or other gradient.

A strict reading of purity, tried only when it is asked for: many right backward passes return the
cotangent itself, which is harmless until somebody adds to a gradient in place.
"""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import Case, Finding, Outcome
from gradverify.core.properties import Property, add

NAME = "alias"


def holds(layer: Layer, case: Case) -> Outcome:
    """No writeable gradient shares memory with a cotangent, a primal or another gradient."""
    case, _ = evaluate.completed(layer, case)
    primals = evaluate.copies(case.primals)
    cotangents = exact.copied(case.cotangents or ())
    gradients = evaluate.run(layer, primals, case.options).pull(cotangents)
    others = [("the cotangent", v) for v in cotangents] + [(f"the primal {n}", a) for n, a in primals.items()]
    findings = []
    for name, gradient in gradients.items():
        if not isinstance(gradient, np.ndarray) or gradient.size == 0 or not gradient.flags.writeable:
            continue
        shared = next((what for what, other in others if np.shares_memory(gradient, other)), None)
        if shared is not None:
            message = f"the gradient of {name} shares its memory with {shared}: adding to one changes the other"
            findings.append(Finding(NAME, "aliases", name, message, case, facts={"what": shared}))
        others.append((f"the gradient of {name}", gradient))
    return Outcome(NAME, tuple(findings), entries=len(gradients))


add(Property(NAME, "no gradient shares memory with a cotangent, a primal or another gradient", holds, default=False))
