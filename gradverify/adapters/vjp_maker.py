"""Pullbacks: returned beside the outputs, or made by `lambda ans, x, ...: lambda g: ...`, one for each argument, as in
autograd's `defvjp`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradverify.adapters import convention
from gradverify.adapters._chance import Chance
from gradverify.adapters._normal import called, finished, split
from gradverify.core.declare.functions import taken_by
from gradverify.core.declare.layer import Layer, as_names
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Array


@dataclass
class Makers:
    """A function and the makers of its pullbacks, in the normal form."""

    function: Callable[..., Any]
    makers: tuple[Callable[..., Any] | None, ...]
    names: tuple[str, ...]
    chance: Chance

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """The answer; the pullbacks are made of it and of the arguments."""
        with self.chance.fixed(options):
            answer = called("forward", self.function, *arrays, **options)
        return answer, (answer, arrays, options)

    def backward(self, cotangent: Any, saved: Any) -> dict[str, Any]:
        """What each pullback gives."""
        answer, arrays, options = saved
        gradients = {}
        for name, maker in zip(self.names, self.makers):
            if maker is not None:
                taken = taken_by(maker, options)
                pullback = called("backward", maker, answer, *arrays, **taken)
                gradients[name] = called("backward", pullback, cotangent)
        return gradients


# a function and its makers come as several arguments
@convention('gradverify.adapt.vjp_maker(np.sin, lambda ans, x: lambda g: g * np.cos(x), x="N")')
def vjp_maker(
    function: Callable[..., Any], /, *makers: Callable[..., Any] | None, name: str | None = None, **declaration: Any
) -> Layer:
    """A Layer from a function and makers of its pullbacks.

    Parameters
    ----------
    function : ``function(*arrays, **options) -> answer``
    makers : ``maker(answer, *arrays, **options) -> (g -> gradient)`` for each array in order; None
        for one whose gradient is zero
    **declaration : primals in the order of the arguments, and settings

    Raises
    ------
    DeclarationError
        If there are more makers than primals.
    """
    primals, settings = split(declaration)
    label = name or getattr(function, "__name__", "function")
    if len(makers) > len(primals):
        raise DeclarationError(
            f'{label}: {len(makers)} makers for {len(primals)} arrays; name each array, e.g. x="N D"'
        )
    silent = tuple(n for n, maker in zip(primals, makers) if maker is None)
    if silent:
        settings["zero"] = tuple(dict.fromkeys([*silent, *as_names(settings.get("zero", ()))]))
    inner = Makers(function, makers, tuple(primals), Chance(function, *makers))
    layer = Layer(inner.forward, inner.backward, name=label, primals=primals, **settings)
    return finished(layer, chance=inner.chance)


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
