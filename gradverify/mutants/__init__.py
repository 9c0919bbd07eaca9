"""Known wrong backward passes: each a one-line change to a right one, with the class of its bug.

A verifier is worth what it catches. The shelf is gradverify's proof of itself, modelled on bugs that
projects released; `gradverify.mutants.generic` does the same to a layer of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gradverify.core.declare.layer import Layer

_FAMILIES = ("mlp", "recurrent", "conv", "pooling", "norms", "losses", "indexing", "attention", "pointwise", "shapes")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A wrong backward planted into a right layer.

    Attributes
    ----------
    number : what it is called by
    layer : the layer it is planted into, in words
    bug_class : the class of its bug, e.g. "UNBROADCAST"
    text : the change, in one line
    right, build : give the right layer, and the same layer with the wrong backward
    needs : the condition without which it cannot be seen
    copies : the released bug it is modelled on, if there is one: project#issue
    """

    number: int
    layer: str
    bug_class: str
    text: str
    right: Callable[[], Layer]
    build: Callable[[], Layer]
    needs: str = ""
    copies: str = ""


_shelf: dict[int, Mutant] = {}


def plant(
    number: int,
    layer: str,
    bug_class: str,
    *,
    of: Callable[[], Layer],
    into: Callable[[Layer, Any], Layer] = lambda right, wrong: right.derive(backward=wrong),
    finish: Callable[[Layer], Layer] = lambda layer: layer,
    needs: str = "",
    copies: str = "",
) -> Callable[[Any], Any]:
    """Put a wrong backward on the shelf: a decorator. The docstring of what it decorates says in a line what is wrong.

    Parameters
    ----------
    of : gives the right layer that gets the backward
    into : how it gets it, where what is decorated is not the backward itself
    finish : what is done to both layers before they are checked, e.g. repeating a cell over time
    """

    def decorate(wrong: Any) -> Any:
        if number in _shelf:
            raise ValueError(f"there are two mutants {number}")

        def build() -> Layer:
            return finish(into(of(), wrong)).derive(name=f"mutant_{number}", origin=None)

        text = wrong.__doc__ or wrong.__name__  # without docstrings under `python -OO`
        _shelf[number] = Mutant(number, layer, bug_class, text, lambda: finish(of()), build, needs, copies)
        return wrong

    return decorate


def shelf() -> tuple[Mutant, ...]:
    """Every mutant, by number."""
    for family in _FAMILIES:
        import_module(f"{__name__}.{family}")
    return tuple(_shelf[number] for number in sorted(_shelf))


def catalogue(name: str) -> Callable[[], Layer]:
    """Gives a layer of the catalogue by its name, when it is asked for."""

    def find() -> Layer:
        from gradverify.core.declare.registry import layers

        return layers.get(name)

    return find


def remembering(name: str) -> Callable[[], Layer]:
    """A layer of the catalogue whose forward also saves its primals: saved becomes (saved, primals)."""

    def find() -> Layer:
        right = catalogue(name)()

        def forward(*primals: Any, **options: Any) -> tuple[Any, Any]:
            output, saved = right.forward(*primals, **options)
            return output, (saved, primals)

        def backward(cotangent: Any, saved: Any, **options: Any) -> Any:
            from gradverify.core.declare.functions import taken_by

            taken = taken_by(right.backward, options)
            return right.backward(cotangent, saved[0], **taken)

        return right.derive(forward=forward, backward=backward)

    return find


def declared(target: Any) -> Callable[[], Layer]:
    """A class with static forward and backward as a layer, without putting it into the registry."""

    def find() -> Layer:
        from gradverify.adapters import as_layer

        return as_layer(target)

    return find
