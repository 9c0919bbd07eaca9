"""Signatures of products x @ W: one wrong gradient of it behind those of both, or a transpose that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import permutations

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Diagnosis, Fit


@add("product", "TERM")
def product(evidence: Evidence) -> Diagnosis | None:
    """The errors of two primals are d @ W.T and x.T @ d with one d: what comes before their product is right."""
    if not evidence.about_gradient or not evidence.probes or evidence.situation.needs == "values":
        return None
    for x, W, turned in _pairs(evidence):
        if evidence.everywhere(partial(_one_gradient, x, W, turned)):
            said = f"{x} @ {W}.T" if turned else f"{x} @ {W}"
            text = f"the gradients of {x} and {W} are both what one wrong gradient of {said} makes of them"
            text += f"{evidence.given}: the mistake lies between {said} and the output"
            return Diagnosis("product", "TERM", text, Fit.PART, {"cases": len(evidence.probes)})
    return None


@add("untransposed", "INDEX")
def untransposed(evidence: Evidence) -> Diagnosis | None:
    """The gradient of x is d @ W, where d @ W.T is right; a square W lets it pass."""
    if not evidence.about_gradient or not evidence.probes:
        return None
    for x, W, turned in _pairs(evidence):
        square = len({axis.text for axis in evidence.layer.primal(W).dims.axes}) == 1
        if evidence.primal == x and square and evidence.everywhere(partial(_other_side, x, W, turned)):
            wrong, right = (f"{W}.T", W) if turned else (W, f"{W}.T")
            text = (
                f"the gradient of {x} is d @ {wrong} where it must be d @ {right}{evidence.given}: a transpose is "
                f"{'too much' if turned else 'missing'}, which a square {W} lets pass"
            )
            return Diagnosis("untransposed", "INDEX", text, Fit.LAW, {"cases": len(evidence.probes)})
    return None


def _pairs(evidence: Evidence) -> Iterator[tuple[str, str, bool]]:
    """Primals that may be multiplied, the finding's own among them, in the author's order; whether with W.T."""
    for x, W in permutations(evidence.layer.differentiable, 2):
        if evidence.primal in (x.name, W.name) and x.dims.axes and len(W.dims.axes) == 2:
            for turned, axis in enumerate(W.dims.axes):
                if axis.text == x.dims.axes[-1].text:
                    yield x.name, W.name, bool(turned)


def _one_gradient(x: str, W: str, turned: bool, probe: Probe) -> bool:
    """Whether one d, shape (N, H), gives both errors: E_x = d W^T, shape (N, D), and E_W = x^T d, shape (D, H).

    What the first leaves open of d is orthogonal to the rows of W; the second must do without the rest.
    """
    complex_ = any(probe.shape(name) != np.shape(probe.case.primals[name]) for name in (x, W))
    if complex_ or not all(probe.wrong(name).any() for name in (x, W)):
        return False
    left, right = (np.asarray(probe.case.primals[name], float) for name in (x, W))
    errors = [probe.analytic[name] - probe.numerical(name) for name in (x, W)]
    right, wanted = (right.T, errors[1].T) if turned else (right, errors[1])
    if left.ndim < 1 or left.shape[-1] != right.shape[0]:
        return False
    rows, behind = left.reshape(-1, right.shape[0]), errors[0].reshape(-1, right.shape[0])
    back = np.linalg.pinv(right.T)
    d = behind @ back
    rest = wanted - rows.T @ d
    reached = rows.T @ np.linalg.pinv(rows.T) @ rest @ (np.eye(right.shape[1]) - right.T @ back)
    return close(d @ right.T, behind) and close(rows.T @ d + reached, wanted)


def _other_side(x: str, W: str, turned: bool, probe: Probe) -> bool:
    """Whether the d of the right gradient d W^T, shape (N, D), makes d W of the one that came, W being square."""
    if any(np.iscomplexobj(probe.case.primals[name]) for name in (x, W)):
        return False
    right = np.asarray(probe.case.primals[W], float)
    right = right.T if turned else right
    wrong, true = probe.analytic[x], probe.numerical(x)
    if np.array_equal(right, right.T) or wrong.shape[-1:] != right.shape[:1]:
        return False
    d = np.linalg.lstsq(right, true.reshape(-1, len(right)).T, rcond=None)[0].T
    return close(d @ right, wrong.reshape(-1, len(right))) and close(d @ right.T, true.reshape(-1, len(right)))
