"""Repeatability: the same Case gives the same outputs and gradients, call after call."""

from __future__ import annotations

import time

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.judge.randomness import randomness
from gradverify.core.nouns import Case, Finding, Outcome
from gradverify.core.properties import Fingerprint, Property, add, fresh
from gradverify.core.properties._runs import RUNS

NAME = "repeatable"
_TIMES = 3
_MOST, _SECONDS = 40, 1e-3  # forwards that are asked again, and the time for it: what fails one call of many shows


def holds(layer: Layer, case: Case) -> Outcome:
    """Two forwards agree; the backward of one forward, and of fresh ones, gives the same again.

    Up to rounding: where memory lies, and which thread adds first, changes the order of sums.
    """
    case, reason = exact.ready(layer, case)
    first = evaluate.run(layer, evaluate.copies(case.primals), case.options)
    given = exact.copied(first.outputs)  # forward may write into what it returned
    begun = time.perf_counter()
    for k in range(_MOST):
        if k >= _TIMES - 1 and time.perf_counter() - begun > _SECONDS:
            break
        again = evaluate.run(layer, evaluate.copies(case.primals), case.options)
        for a, b in zip(given, again.outputs):
            if not exact.alike(a, b):
                message = "forward gives different outputs for the same inputs, so its derivative is not defined"
                return Outcome(NAME, (Finding(NAME, "random", None, message, case),), entries=a.size)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    v = case.cotangents or ()
    once = exact.pulled(layer, case, first, lambda: exact.copied(v))
    once = {n: np.array(g) for n, g in once.items()}
    begun = time.perf_counter()
    pairs = []
    for k in range(_MOST):
        if k >= _TIMES and time.perf_counter() - begun > _SECONDS:
            break
        pairs.append(("in a second forward and backward", exact.gradients(layer, case), once))
    if not layer.declared.stateful:
        second = exact.pulled(layer, case, first, lambda: exact.copied(v))
        pairs.insert(0, ("when backward is called twice", second, once))
    outcome = exact.outcome(layer, case, NAME, pairs, same=True)
    # as many as are always compared: how many more there was time for is not the same at the next run
    entries = (_TIMES + (not layer.declared.stateful)) * sum(g.size for g in once.values())
    return Outcome(NAME, outcome.findings, entries=entries)


def explains(mine: Fingerprint, other: Fingerprint) -> bool:
    """Random numbers explain whatever else does not hold, but for code that fails."""
    return mine[1] == "random" and other[1] not in ("random", "crash")


def moot(layer: Layer, case: Case, outcome: Outcome) -> Outcome | None:
    """A disagreement means nothing if forward or backward gives something else at the next call: that is the finding.

    Unless it is what fresh memory happens to hold: that comes out every time, once the memory is told what to hold.
    """
    if all(RUNS in finding.facts for finding in outcome.findings):
        return None  # which was asked of several runs: bits that change are no fault of a kernel
    finding = randomness(layer, case)
    if finding is None:
        return None
    unwritten = tuple(filter(fresh.unwritten, fresh.holds(layer, case).findings))
    return Outcome(fresh.NAME, findings=unwritten) if unwritten else Outcome(outcome.property, findings=(finding,))


SAYS = "the same case gives the same outputs and gradients again"
add(Property(NAME, SAYS, holds, share=0.3, explains=explains, moot=moot))
