"""Linearity: the pullback is linear in the cotangent, which is exact and needs no differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import copies, draw_cotangents, run
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding, Outcome, Stream
from gradverify.core.properties import Property, add, reference

NAME = "linear"
_UNDONE = 0.05  # of the largest entry: a share that an iteration may leave undone
_LARGE = 2.0**30  # beside a cotangent so much larger, an absolute tolerance is so much smaller
_MORE = 8.0  # times, for cotangents 2^-40 times as large instead of 2^-10: an iteration that makes no step is all wrong
_STOPS = "backward is linear up to a small number that does not grow with the upstream gradient, as a tolerance"
_LEAST = 1e-9  # of the largest entry: series and iterations choose their length by the size of the cotangent, too


def holds(layer: Layer, case: Case) -> Outcome:
    """Linear as far as can be asked: what an iteration leaves undone at an absolute tolerance is no finding."""
    outcome = _holds(layer, case)
    if not outcome.findings or not all(map(_faint, outcome.findings)):
        return outcome
    given = exact.ready(layer, case)[0].cotangents or ()
    with np.errstate(over="ignore"):
        large = case.but(cotangents=tuple((_LARGE * v).astype(v.dtype) for v in given))
    if not _in_range(list(large.cotangents or ())) or not _grows(layer, case, given) or _holds(layer, large).findings:
        return outcome
    return replace(outcome, findings=(), notes=(_STOPS,))


def _grows(layer: Layer, case: Case, cotangents: tuple[Array, ...]) -> bool:
    """Whether what is not linear is more for smaller cotangents, as where it does not depend on their size at all."""
    once = exact.gradients(layer, case, cotangents)

    def off(factor: float) -> float:
        small = exact.gradients(layer, case, tuple((v * factor).astype(v.dtype) for v in cotangents))
        return max((float(np.abs(small[n] / factor - once[n]).max(initial=0.0)) for n in once), default=0.0)

    return off(2.0**-40) > _MORE * off(2.0**-10) > 0


def _faint(finding: Finding) -> bool:
    """Whether it is about little."""
    told = finding.comparison
    if told is None:
        return False
    with np.errstate(all="ignore"):
        return bool(np.abs(told.analytic - told.numerical).max() <= _UNDONE * np.abs(told.numerical).max() < np.inf)


@exact.where_finite(NAME)
def _holds(layer: Layer, case: Case) -> Outcome:
    """pull(0) = 0, pull(c v) = c pull(v) for small and large c, pull(v + w) = pull(v) + pull(w); half of w is 0."""
    v = case.cotangents or ()
    w = draw_cotangents(case.but(seed=case.seed + 1), run(layer, copies(case.primals), case.options).outputs)
    w = tuple(
        np.where(case.rng(Stream.SPARSE_COTANGENT, k).random(a.shape) < 0.5, 0, a).astype(a.dtype)
        for k, a in enumerate(w)
    )
    at_v, at_w = exact.expected(layer, case), exact.gradients(layer, case, w)
    with np.errstate(all="ignore"):  # infinite slopes, and 0 times them
        summed = {n: np.where(np.isfinite(g), g + at_w[n], np.nan) for n, g in at_v.items()}
    zero = exact.gradients(layer, case, tuple(np.zeros_like(a) for a in v))
    total = tuple(a + b for a, b in zip(v, w))
    both = {n: np.where(np.isfinite(at_v[n]), g, np.nan) for n, g in exact.gradients(layer, case, total).items()}
    pairs = [("for the sum of two cotangents", both, summed)]
    terms = {n: np.abs(at_v[n]) + np.abs(at_w[n]) for n in at_v}
    outcome = exact.outcome(
        layer,
        case,
        NAME,
        pairs,
        kind="nonlinear",
        terms=terms,
        at=case.but(cotangents=total),
        least=_LEAST,
        sides=exact.EXPECTED,
    )
    if outcome.findings and all(reference.within(layer, case.but(cotangents=part)) for part in (v, w, total)):
        outcome = replace(outcome, findings=())  # where terms cancel, what a good kernel may lose is more than it gives
    if not outcome.findings:
        outcome = _scaled(layer, case, at_v)
    grain = layer.hooks.gradient_rounding(case.primals) if layer.hooks.gradient_rounding else {}
    constant = [_constant(n, g, case) for n, g in zero.items() if np.any(np.abs(np.nan_to_num(g)) > grain.get(n, 0.0))]
    fresh = [f for f in constant if f.primal not in {g.primal for g in outcome.findings}]
    return Outcome(NAME, (*outcome.findings, *fresh), entries=outcome.entries)


def _scaled(layer: Layer, case: Case, once: dict[str, Array]) -> Outcome:
    """The cotangent times powers of two, which rounds nothing; what overflows or underflows says nothing.

    Compared, and its rounding measured, at the larger of the two: code that mixes the cotangent with other numbers
    rounds more of it there.
    """
    findings: dict[str | None, Finding] = {}
    entries = 0
    for factor, words in ((2.0, "doubled"), (1024.0, "1024 times as large"), (1 / 1024, "1024 times as small")):
        cotangents = tuple((factor * a).astype(a.dtype) for a in case.cotangents or ())
        with np.errstate(over="ignore", under="ignore"):
            wanted = {n: (factor * g).astype(g.dtype) for n, g in once.items()}
        if factor != 2.0 and not _in_range([*wanted.values(), *cotangents]):
            continue
        got, at = exact.gradients(layer, case, cotangents), case.but(cotangents=cotangents)
        if factor < 1:
            got, wanted, at = {n: (g / factor).astype(g.dtype) for n, g in got.items()}, once, case
        pair = f"with the cotangent {words}", got, wanted
        loose = max(factor, 1 / factor)
        told = exact.outcome(
            layer, case, NAME, [pair], kind="nonlinear", at=at, least=_LEAST, loose=loose, sides=exact.EXPECTED
        )
        entries += told.entries
        for finding in told.findings:
            findings.setdefault(finding.primal, finding)
    return Outcome(NAME, tuple(findings.values()), entries=entries)


_AWAY = 1e6  # from the ends of a type, so that 1024 times as much, in a product of two, stays within


def _in_range(arrays: list[Array]) -> bool:
    floats = [np.abs(a) for a in arrays if a.dtype.kind in "fc"]
    return all(
        bool((a < np.finfo(a.dtype).max / _AWAY).all() and ((a == 0) | (a > _AWAY * np.finfo(a.dtype).tiny)).all())
        for a in floats
    )


def _constant(name: str, gradient: Array, case: Case) -> Finding:
    message = f"for a cotangent of zero the gradient of {name} is not zero (largest entry {np.abs(gradient).max():.6g})"
    return Finding(NAME, "nonlinear", name, message, case, facts={"what": "zero"})


add(Property(NAME, "the pullback is linear in the cotangent", holds, share=0.5))
