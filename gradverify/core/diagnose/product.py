"""Signatures of products x @ W: one wrong gradient of it behind those of both, or a transpose inside that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import PLAIN, Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Case, Diagnosis, Fit


@add("product", "TERM", PLAIN, probes=True)
def product(evidence: Evidence) -> Diagnosis | None:
    """The errors of two primals are d @ W.T and x.T @ d with one d: what comes before their product is right."""
    for x, W, turned in _pairs(evidence):
        if evidence.everywhere(partial(_one_gradient, x, W, turned)):
            said = f"{x} @ {W}.T" if turned else f"{x} @ {W}"
            text = f"the gradients of {x} and {W} are both what one wrong gradient of {said} makes of them"
            text += f"{evidence.given}: the mistake lies between {said} and the output"
            return Diagnosis("product", "TERM", text, Fit.PART, {"cases": len(evidence.probes)})
    return None


@add("inside", "INDEX", PLAIN)
def inside(evidence: Evidence) -> Diagnosis | None:
    """Of a product x @ W, one gradient takes d.T where d belongs, d being that of the product: the other tells it."""
    for x, W, turned in _pairs(evidence, deep=True):
        own, other = (W, x) if evidence.primal == W else (x, W)
        probes = [p for p in (evidence.probe(c) for c in _long_within(evidence, x, W, turned)) if p is not None]
        if not evidence.everywhere(partial(_takes_transposed, x, W, turned, own), probes):
            continue
        said = f"{x} @ {W}.T" if turned else f"{x} @ {W}"
        d, right = ("d", "d.T") if turned and own == W else ("d.T", "d")
        left, behind = (f"{other}.T @ ", "") if own == W and not turned else ("", f" @ {other}{'' if turned else '.T'}")
        text = (
            f"the gradient of {evidence.primal} is {left}{d}{behind} where it must be {left}{right}{behind}, with d "
            f"the gradient of {said}{evidence.given}: a transpose is {'missing' if d == 'd' else 'too much'}"
        )
        return Diagnosis("inside", "INDEX", text, Fit.LAW, {"cases": len(probes)})
    return None


def _long_within(evidence: Evidence, x: str, W: str, turned: bool) -> Iterator[Case | None]:
    """Cases where the axis that is summed over is long, so that its gradients tell d, and all others are equal."""
    axes = evidence.layer.primal(x).dims.axes
    free = variants.axis_names(evidence.layer)
    names = {n for name in (x, W) for axis in evidence.layer.primal(name).dims.axes[-2:] for n in axis.names}
    for draw in range(2):
        sizes: dict[str, Any] = {n: 2 + draw for n in names if n in free}
        yield evidence.plain(draw, sizes=variants.grouped({**sizes, axes[-1].text: 5 + draw}))


def _takes_transposed(x: str, W: str, turned: bool, own: str, probe: Probe) -> bool:
    left, right = (np.asarray(probe.case.primals[name]) for name in (x, W))
    dx, dW, a = probe.numerical(x), probe.numerical(W), probe.analytic[own]
    real = (left.shape, right.shape) == (dx.shape, dW.shape)
    if not real or left.ndim != right.ndim or left.shape[:-2] != right.shape[:-2]:
        return False
    if turned:
        right, dW = (np.swapaxes(g, -1, -2) for g in (right, dW))
    over, back = np.swapaxes(left, -1, -2), np.swapaxes(right, -1, -2)
    d = dx @ np.linalg.pinv(back) if own == W else np.linalg.pinv(over) @ dW
    e = np.swapaxes(d, -1, -2)
    if d.shape != e.shape or close(d, e) or not (close(d @ back, dx) and close(over @ d, dW)):
        return False
    wrong = over @ e if own == W else e @ back
    return close(a, np.swapaxes(wrong, -1, -2) if turned and own == W else wrong)


def _pairs(evidence: Evidence, deep: bool = False) -> Iterator[tuple[str, str, bool]]:
    """Primals that may be multiplied, the finding's own among them, in the author's order; whether with W.T.

    `deep` are products of stacks of matrices as well, and of no single row.
    """
    for x, W in permutations(evidence.layer.differentiable, 2):
        fits = min(len(x.dims.axes), len(W.dims.axes)) > 1 if deep else x.dims.axes and len(W.dims.axes) == 2
        if evidence.primal in (x.name, W.name) and fits:
            for turned, axis in enumerate(W.dims.axes[-2:]):
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
