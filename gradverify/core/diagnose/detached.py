"""Which gradients have lost their dependency on a primal: each is asked alone of the second backward."""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Stream

_STEP = 1e-5  # of the primal's size, for a central difference of the gradient
_GONE, _THERE = 1e-9, 1e-4  # shares of the gradient's change that are none, and that are one for certain


def lost_flows(layer: Layer, case: Case, primal: str) -> tuple[str, ...]:
    """Primals whose gradient changes with this primal, while the second backward says that it does not."""
    second = layer.hooks.second
    if second is None:
        return ()
    case, _ = evaluate.completed(layer, case)
    try:
        first = exact.gradients(layer, case)
        changes = _changes(layer, case, primal)
        top = max((float(np.abs(c).max(initial=0.0)) for c in changes.values()), default=0.0)
        lost = []
        for name, change in changes.items():
            if not np.isfinite(change).all() or float(np.abs(change).max(initial=0.0)) <= _THERE * top:
                continue
            weights = {n: np.ones_like(g) if n == name else np.zeros_like(g) for n, g in first.items()}
            arguments = evaluate.copies(case.primals), exact.copied(case.cotangents or ()), weights
            got = evaluate.guarded("second backward", second, *arguments, **case.options).get(primal)
            if got is None or float(np.abs(got).max(initial=0.0)) <= _GONE * top:
                lost.append(name)
    except LayerFailure:
        return ()
    return tuple(lost)


def _changes(layer: Layer, case: Case, primal: str) -> dict[str, Array]:
    """Derivative of every gradient along a direction of a primal, by one central difference."""
    x = case.primals[primal]
    h = _STEP * exact.size(x)
    rng = case.rng(Stream.DETACHED)
    direction = rng.uniform(0.5, 1.5, np.shape(x)) * rng.choice([-1.0, 1.0], np.shape(x))
    up, down = (
        exact.gradients(layer, case.but(primals={**case.primals, primal: x + sign * h * direction})) for sign in (1, -1)
    )
    return {n: (up[n] - down[n]) / (2 * h) for n in up}
