"""Repeatability: the same Case gives the same outputs and gradients, call after call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from gradverify.core import evaluate, tuning
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate.foreign import same
from gradverify.core.judge import exact
from gradverify.core.judge.randomness import KEPT, random_gradient, randomness
from gradverify.core.nouns import Array, Case, Finding, Outcome
from gradverify.core.properties import Fingerprint, Property, add, fresh
from gradverify.core.properties._runs import RUNS

NAME = "repeatable"
_TIMES = 3  # calls at the least: what two have by chance in common, a third seldom has
_MOST, _SECONDS = 40, 1e-3  # forwards that are asked again, and the time for it: what fails one call of many shows


def holds(layer: Layer, case: Case) -> Outcome:
    """Two forwards agree; the backward of one forward, and of fresh ones, gives the same again.

    Up to rounding: where memory lies, and which thread adds first, changes the order of sums.
    """
    case, reason = exact.ready(layer, case)
    first = evaluate.run(layer, evaluate.copies(case.primals), case.options)
    given = exact.copied(first.outputs)  # forward may write into what it returned
    begun = time.perf_counter()
    for k in range(_MOST if tuning.current().only is None else 0):  # a gradient in question is of one that agreed
        if k >= _TIMES - 1 and time.perf_counter() - begun > _SECONDS:
            break
        again = evaluate.run(layer, evaluate.copies(case.primals), case.options)
        for a, b in zip(given, again.outputs):
            if not exact.alike(a, b):
                message = "forward gives different outputs for the same inputs, so its derivative is not defined"
                return Outcome(NAME, (Finding(NAME, "random", None, message, case),), entries=a.size)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    once = exact.pulled(layer, case, first)
    begun = time.perf_counter()
    afresh: list[dict[str, Array]] = []
    while len(afresh) < _TIMES or (len(afresh) < _MOST and time.perf_counter() - begun < _SECONDS):
        afresh.append(exact.gradients(layer, case))
    pairs = [("in a second forward and backward", again, once) for again in afresh]
    if layer.hooks.reference is not None and any(not _same(once, again) for again in afresh):
        kept = tuple(finding for finding in randomness(layer, case) if finding.kind == KEPT)
        if kept:
            return Outcome(NAME, kept)
    if not layer.declared.stateful:
        second = exact.pulled(layer, case, first)
        pairs.insert(0, ("when backward is called twice", second, once))
    outcome = exact.outcome(layer, case, NAME, pairs, same=True)
    # as many as are always compared: how many more there was time for is not the same at the next run
    entries = (_TIMES + (not layer.declared.stateful)) * sum(g.size for g in once.values())
    chance = _comes_and_goes(case, outcome, afresh, once) or (randomness(layer, case) if outcome.findings else ())
    return replace(_by_chance(layer, case, chance) if chance else outcome, entries=entries)


def _comes_and_goes(
    case: Case, outcome: Outcome, afresh: Sequence[dict[str, Array]], once: dict[str, Array]
) -> tuple[Finding, ...]:
    """The finding of chance where some calls gave the same again and others did not: a state would stay."""
    for name in (finding.primal or "" for finding in outcome.findings):
        if 0 < sum(exact.alike(again[name], once[name]) for again in afresh) < len(afresh):
            return (random_gradient(case, name),)
    return ()


def _by_chance(layer: Layer, case: Case, findings: tuple[Finding, ...]) -> Outcome:
    """The findings that code answers by chance.

    Unless it is what fresh memory happens to hold: that comes out every time, once the memory is told what to hold.
    """
    unwritten = tuple(filter(fresh.unwritten, fresh.holds(layer, case).findings))
    return Outcome(fresh.NAME, unwritten) if unwritten else Outcome(NAME, findings)


def _same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return all(same(one[n], other[n]) for n in one)


def explains(mine: Fingerprint, other: Fingerprint) -> bool:
    """Random numbers explain whatever else does not hold, but for code that fails; what is kept explains that of its
    primal, but for memory that was never written, which explains what is kept.
    """
    if other[1] in ("random", KEPT, "crash"):
        return False
    return mine[1] == "random" or (mine[1] == KEPT and mine[2] == other[2] and other[1] != fresh.KIND)


def moot(layer: Layer, case: Case, outcome: Outcome) -> Outcome | None:
    """A disagreement means nothing where forward or backward answers by chance: that is the finding."""
    runs = all(RUNS in finding.facts for finding in outcome.findings)  # of a kernel, whose bits may change
    if runs and all(finding.kind != "random" for finding in outcome.findings):
        return None
    found = tuple(f for f in randomness(layer, case) if f.kind == KEPT or not runs)
    if not found and not runs:
        return None
    chance = _by_chance(layer, case, found)
    return chance if chance.findings else None


SAYS = "the same case gives the same outputs and gradients again"
add(Property(NAME, SAYS, holds, share=0.3, explains=explains, moot=moot))
