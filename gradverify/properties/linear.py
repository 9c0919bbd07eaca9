"""Linearity: the pullback is linear in the cotangent, which is exact and needs no differences."""

from __future__ import annotations

import numpy as np

from gradverify import exact
from gradverify.evaluate import copies, draw_cotangents, run
from gradverify.layer import Layer
from gradverify.properties import Property, add
from gradverify.types import Array, Case, Finding, Outcome

NAME = "linear"


def holds(layer: Layer, case: Case) -> Outcome:
    """pull(0) = 0, pull(2v) = 2 pull(v), pull(v + w) = pull(v) + pull(w), pull(one-hot) adds up."""
    case, reason = exact.ready(layer, case)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    v = case.cotangents or ()
    w = draw_cotangents(case.but(seed=case.seed + 1), run(layer, copies(case.primals), case.options).outputs)
    at_v, at_w = exact.gradients(layer, case), exact.gradients(layer, case, w)
    scaled = {n: 2 * g for n, g in at_v.items()}
    summed = {n: at_v[n] + at_w[n] for n in at_v}
    zero = exact.gradients(layer, case, tuple(np.zeros_like(a) for a in v))
    twice = exact.gradients(layer, case, tuple(2 * a for a in v))
    total = tuple(a + b for a, b in zip(v, w))
    both = exact.gradients(layer, case, total)
    pairs = [("for the sum of two cotangents", both, summed)]
    terms = {n: np.abs(at_v[n]) + np.abs(at_w[n]) for n in at_v}
    outcome = exact.outcome(layer, case, NAME, pairs, kind="nonlinear", terms=terms, at=case.but(cotangents=total))
    if not outcome.findings:
        pairs = [("with the cotangent doubled", twice, scaled)]
        outcome = exact.outcome(layer, case, NAME, pairs, kind="nonlinear")
    constant = [_constant(n, g, case) for n, g in zero.items() if np.any(np.nan_to_num(g) != 0)]
    fresh = [f for f in constant if f.primal not in {g.primal for g in outcome.findings}]
    return Outcome(NAME, (*outcome.findings, *fresh), entries=outcome.entries)


def _constant(name: str, gradient: Array, case: Case) -> Finding:
    message = f"for a cotangent of zero the gradient of {name} is not zero (largest entry {np.abs(gradient).max():.6g})"
    return Finding(NAME, "nonlinear", name, message, case, facts={"what": "zero"})


add(Property(NAME, "the pullback is linear in the cotangent", holds, share=0.5))
