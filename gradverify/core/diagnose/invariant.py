"""Signature of a term that is left out: forward does not change where something is added, and backward does.

A softmax does not see a number that is added to all of its scores, nor a norm one that is added to all it
norms. So the right gradient adds up to zero there, and gradients of other primals stay what they are; both
hold because one term takes away what another gives, and are lost with either of them.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from gradverify.core import evaluate
from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import PLAIN, Evidence
from gradverify.core.diagnose.probe import CLOSE, Probe, close
from gradverify.core.nouns import Array, Case, Diagnosis, Fit, Stream

_SAME = 1e-9  # relative change of outputs that counts as none


@add("invariant", "TERM", PLAIN, probes=True)
def invariant(evidence: Evidence) -> Diagnosis | None:
    """Adding one number along an axis changes no output, and yet the gradient tells of it."""
    for name in (evidence.primal, *(n for n in evidence.differentiable if n != evidence.primal)):
        for axis, label in enumerate(evidence.probes[0].labels(name)):
            if not evidence.everywhere(partial(_broken, evidence, name, axis)):
                continue
            own = name == evidence.primal
            right = f"adds up to 0 along {label}" if own else f"of {evidence.primal} stays the same"
            text = (
                f"adding one number to {name} at all places along {label} changes no output, so the right gradient "
                f"{right}; that of backward does not: a term is missing or wrong{evidence.given}"
            )
            return Diagnosis("invariant", "TERM", text, Fit.VAGUE, {"of": name, "along": label})
    return None


def _broken(evidence: Evidence, name: str, axis: int, probe: Probe) -> bool:
    """Whether outputs stay what they are when numbers are added along an axis, and the analytic gradient does not."""
    array = np.asarray(probe.case.primals[name])
    if array.dtype.kind != "f" or array.ndim <= axis or array.shape[axis] < 2:
        return False
    rng = probe.case.rng(Stream.LIFTED)
    shape = tuple(1 if k == axis else n for k, n in enumerate(array.shape))
    lifted = variants.but(probe.layer, probe.case, name, lambda a: a + rng.uniform(0.5, 1.0, shape))
    uneven = variants.but(probe.layer, probe.case, name, lambda a: a + rng.uniform(0.5, 1.0, a.shape))
    if lifted is None or uneven is None or not _same_outputs(probe, lifted) or _same_outputs(probe, uneven):
        return False
    analytic = probe.analytic[evidence.primal]
    if name == evidence.primal:
        sums, sizes = np.abs(analytic.sum(axis)), np.abs(analytic).sum(axis)
        return bool(np.max(sums) > 1e-3 * np.max(sizes)) and _adds_up(probe.numerical(name), axis)
    there = evidence.probe(lifted)
    return there is not None and not close(there.analytic[evidence.primal], analytic, 1e-3)


def _adds_up(gradient: Array, axis: int) -> bool:
    return bool(np.max(np.abs(gradient.sum(axis))) <= CLOSE * np.max(np.abs(gradient).sum(axis)))


def _same_outputs(probe: Probe, case: Case) -> bool:
    outputs = evaluate.run(probe.layer, evaluate.copies(case.primals), case.options).outputs
    return all(close(a, b, _SAME) for a, b in zip(outputs, probe.outputs))
