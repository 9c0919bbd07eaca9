"""Accumulation: gradients are added into buffers that already hold something.

An object may replace its gradients at each backward, or add to them; one that does this here and that
there is wrong wherever it is used twice before an update. Where it is declared that it adds, micro-batches
in any order must leave their sum.
"""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Outcome
from gradverify.core.properties import Property, add

NAME = "accumulates"
_HELD = 1.5  # in the buffers before: neither 0 nor 1, and exact in every type
SIDES = ("left in the buffer", "meant")


def applies(layer: Layer) -> str | None:
    if layer.hooks.accumulate is not None or layer.hooks.again is not None:
        return None
    return "the layer returns its gradients; it accumulates into no buffers"


@exact.where_finite(NAME)
def holds(layer: Layer, case: Case) -> Outcome:
    """Buffers pre-filled with a constant end at that constant plus the gradient; twice is twice."""
    expected = exact.expected(layer, case)
    if layer.hooks.accumulate is None:
        return _on_an_object(layer, case, expected)
    filled = {n: np.full(g.shape, _HELD, g.dtype) for n, g in expected.items()}
    for _ in range(2):
        evaluation = evaluate.run(layer, evaluate.copies(case.primals), case.options)
        cotangents = exact.copied(case.cotangents or ())
        evaluate.guarded("backward", layer.hooks.accumulate, cotangents, evaluation.saved, filled)
    wanted = {n: _HELD + 2 * g for n, g in expected.items()}
    return exact.outcome(
        layer, case, NAME, [(f"added twice into a buffer that held {_HELD}", filled, wanted)], sides=SIDES
    )


def _on_an_object(layer: Layer, case: Case, expected: dict[str, Array]) -> Outcome:
    """What is declared to add up is asked for sums of different batches, anything else for what equal ones tell."""
    left = _left(layer, [case, case])
    once = {n: expected[n] for n in left}
    if once and layer.hooks.added:
        return _in_every_order(layer, case, once)
    if len(once) < 2:
        return Outcome(NAME, skipped="fewer than two gradients are kept on the object: none can differ from the others")
    return _alike(layer, case, once, left)


def _alike(layer: Layer, case: Case, once: dict[str, Array], left: dict[str, Array]) -> Outcome:
    """Every gradient is added up over two and three rounds on one batch, or every one is as after the first.

    Another batch would tell more, and too much: some objects take one only after they were flushed, and keep what
    forward saw until then.
    """
    rounds = {2: left, 3: _left(layer, [case] * 3)}
    votes = [np.abs(left[n] - 2 * g).sum() < np.abs(left[n] - g).sum() for n, g in once.items() if np.any(g)]
    adds = 2 * sum(votes) >= max(1, len(votes))
    pairs = [
        (
            f"after {k} backward passes on the same batch (others are {'added up' if adds else 'replaced'})",
            {n: got[n] for n in once},
            {n: (k if adds else 1) * g for n, g in once.items()},
        )
        for k, got in rounds.items()
    ]
    return exact.outcome(layer, case, NAME, pairs, sides=SIDES)


def _in_every_order(layer: Layer, case: Case, once: dict[str, Array]) -> Outcome:
    """Two and three micro-batches, nobody clearing between, leave their sum."""
    other = _other(layer, case, once)
    at_other = exact.gradients(layer, other)
    pairs = []
    for order in ("aa", "ab", "ba", "aba", "bab", "aab"):
        left = _left(layer, [case if which == "a" else other for which in order])
        parts = [once if which == "a" else at_other for which in order]
        what = f"after {len(order)} backward passes without zeroing (batches {', '.join(order)}; meant is the sum)"
        pairs.append((what, {n: left[n] for n in once}, {n: sum(part[n] for part in parts) for n in once}))
    terms = {n: 3 * (np.abs(g) + np.abs(at_other[n])) for n, g in once.items()}
    return exact.outcome(layer, case, NAME, pairs, terms=terms, sides=SIDES)


def _left(layer: Layer, cases: list[Case]) -> dict[str, Array]:
    """Gradients that are kept on one object after a forward and a backward for each case."""
    rounds = [(evaluate.copies(c.primals), exact.copied(c.cotangents or ())) for c in cases]
    left = evaluate.guarded("backward", layer.hooks.again or dict, rounds, cases[0].options)
    kept, _ = evaluate.usable(layer, cases[0], left)
    return kept


def _other(layer: Layer, case: Case, kept: dict[str, Array]) -> Case:
    """Another micro-batch for the same parameters: inputs in the opposite order, and another upstream gradient."""
    turned = {
        n: a if n in kept or not np.ndim(a) else np.ascontiguousarray(np.flip(a, 0)) for n, a in case.primals.items()
    }
    other, _ = evaluate.completed(layer, case.but(primals=turned, cotangents=None, seed=case.seed + 3))
    return other


add(Property(NAME, "gradients are added to what their buffers hold", holds, applies, share=0.3))
