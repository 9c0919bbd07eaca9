"""Code that answers differently when it is asked again: its derivative is not defined."""

from __future__ import annotations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.foreign import same
from gradverify.core.judge import backward_noise
from gradverify.core.nouns import Array, Case, Finding

_LOUD = 1024  # times the upstream gradient, as few calls are as many by: exact in every type
KEPT = "kept"  # kind of a finding: a gradient begins with what other calls left


def steady(finding: Finding) -> bool:
    """Whether a case that shows the finding shows it at every call; what comes by chance, or adds up, may not."""
    return finding.kind not in ("random", KEPT)


def randomness(layer: Layer, case: Case) -> tuple[Finding, ...]:
    """Findings of `repeatable` if forward or backward gives something else at the next call.

    What other calls of a kernel left in a buffer that is never cleared is one of its own; of other layers it may be
    meant, as in `grad += ...`, and properties of their own ask.
    """
    nearby = case.but(primals={name: backward_noise.shifted(a) for name, a in case.primals.items()})
    if not (_same_outputs(layer, case) and _same_outputs(layer, nearby)):  # what is random may vanish at zeros
        message = "forward gives different outputs for the same inputs, so its derivative is not defined"
        return (Finding("repeatable", "random", None, message, case),)
    completed, _ = evaluate.completed(layer, case)
    first, *others = [_copied_gradients(layer, completed) for _ in range(3)]
    kernel = layer.hooks.reference is not None
    if kernel:  # what is kept may be so large that one call more changes nothing in its type
        _copied_gradients(layer, completed.but(cotangents=tuple(_LOUD * v for v in completed.cotangents or ())))
        others.append(_copied_gradients(layer, completed))
    changing = [n for n in first if any(n in g and not same(first[n], g[n]) for g in others)]
    left = _left(layer, completed) if changing else frozenset()
    for name in (n for n in changing if n not in left):
        return (random_gradient(case, name),)
    message = (
        "the gradient of {} changes from call to call, and is not zero where the upstream gradient is: it is added to "
        "what other calls left in a buffer"
    )
    return tuple(Finding("repeatable", KEPT, n, message.format(n), case) for n in changing if kernel)


def random_gradient(case: Case, name: str) -> Finding:
    """The finding that backward answers by chance."""
    message = f"backward gives different gradients of {name} for the same inputs and cotangents"
    return Finding("repeatable", "random", name, message, case)


def _left(layer: Layer, case: Case) -> frozenset[str]:
    """Primals that get a gradient where the upstream gradient is zero, the same one at each call.

    Where it changes at others, it is what calls leave behind: a race or random numbers give zeros, or now this and now
    that.
    """
    nothing = case.but(cotangents=tuple(v * 0 for v in case.cotangents or ()))
    first, second = (_copied_gradients(layer, nothing) for _ in range(2))
    return frozenset(n for n in first if n in second and same(first[n], second[n]) and np.any(first[n]))


def _same_outputs(layer: Layer, case: Case) -> bool:
    try:
        first, second = (
            [np.array(y) for y in evaluate.run(layer, evaluate.copies(case.primals), case.options).outputs]
            for _ in range(2)
        )
    except LayerFailure:
        return True
    return all(map(same, first, second))


def _copied_gradients(layer: Layer, case: Case) -> dict[str, Array]:
    """Those that can be compared, as they are before another call may write into them."""
    raw = evaluate.gradients(layer, case.primals, case.options, case.cotangents or ())
    return {name: np.array(gradient) for name, gradient in evaluate.usable(layer, case, raw)[0].items()}
