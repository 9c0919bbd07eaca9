"""Recurrent cells called step by step: forward over T steps, backward in reverse, gradients summed over time.

    h, c = cell.forward(x, h, c);  dx, dh, dc = cell.backward(dh, dc)

States become initial states among the primals, and outputs: `h0`, `c0` and `h`, `h_T`, `c_T`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from gradverify import recurrent  # whole: it registers cells through this package
from gradverify.adapters import as_layer, convention
from gradverify.adapters._normal import annotated
from gradverify.adapters.cached import cached
from gradverify.core.declare.layer import Layer


# a cell looks like any other layer
@convention('gradverify.adapt.stepwise(LSTMCell, states=("h", "c"), batch="N", x="N D", h="N H", c="N H")')
def stepwise(
    target: Any,
    /,
    backward: Callable[..., Any] | None = None,
    *,
    states: str | Sequence[str],
    inputs: str | Sequence[str] | None = None,
    truncate: int | None = None,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """The T-step layer of a cell that is written as one step.

    Parameters
    ----------
    target : an object or class with forward and backward, or a forward function with a cache
    backward : the backward function, where `target` is a function
    states : primals that carry the state, in the order in which forward returns them: ("h", "c")
    inputs : primals that are given anew at each step; default all with the batch axis
    truncate : steps after which the gradient does not flow on, as declared truncation
    **declaration : primals of one step and settings, and those of `stateful` or `cached`

    Raises
    ------
    DeclarationError
        If the cell cannot be used as one.
    """
    layer = cached(target, backward, **declaration) if backward is not None else as_layer(target, **declaration)
    lines = getattr(layer.declared, "inferred", ())
    # Each step runs on an object of its own, so that nothing of one step can reach another.
    free = layer.derive(
        declared=dataclasses.replace(layer.declared, stateful=False),
        hooks=dataclasses.replace(layer.hooks, session=None),
    )
    steps = recurrent.unroll(recurrent.as_cell(free, states=states, inputs=inputs), truncate=truncate, name=name)
    steps = steps.derive(unverified=layer.unverified)
    return annotated(steps, *lines, "a fresh object for each step, gradients summed over the steps")
