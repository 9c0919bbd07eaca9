"""Functions that return their own backward: ``y, pull = f(x, w)``, and then ``dx, dw = pull(dy)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradverify.adapters import convention
from gradverify.core.declare.layer import Layer


# looks like any function until it is called, as `adapters/function.py` does
@convention('gradverify.check(f, x="N D", w="D")  # returns (output, pullback)')
def pullback(target: Callable[..., Any], /, *, name: str | None = None, **declaration: Any) -> Layer:
    """A Layer from a function that returns its outputs and a function from upstream gradients to gradients.

    Parameters
    ----------
    target : ``(*arrays, **options) -> (outputs..., pull)``; ``pull`` takes one upstream gradient, or a tuple of them
        where there are several outputs, and returns a gradient for each primal, in order or by name
    **declaration : primals and settings, as for `gradverify.Layer`

    Raises
    ------
    DeclarationError
        As `gradverify.Layer`.
    """

    def forward(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        *outputs, pull = target(*arrays, **options)
        return (outputs[0] if len(outputs) == 1 else tuple(outputs)), pull

    def backward(dy: Any, pull: Callable[[Any], Any]) -> Any:
        return pull(dy)

    return Layer(forward, backward, name=name or getattr(target, "__name__", "layer"), **declaration)
