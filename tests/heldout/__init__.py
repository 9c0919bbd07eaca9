"""Wrong layers that no signature was written for: what a diagnosis is worth is measured here.

Nobody looks at this set while signatures are written, so a figure of it says what a reader of an unknown layer gets.
Each layer has the class of its bug and the sentence that a good reading would say; the reading is right if it means
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from gradverify.adapters import as_layer
from gradverify.core.declare.layer import Layer

_STYLES = ("edits", "generated", "cached", "losses", "objects", "functions")


@dataclass(frozen=True)
class Wrong:
    """A layer with a wrong backward.

    Attributes
    ----------
    name : what it is called
    classes : the class of its bug; a second one where both are right names for it
    sentence : what a good reading says
    build : gives the layer, when it is asked for
    """

    name: str
    classes: tuple[str, ...]
    sentence: str
    build: Callable[[], Layer]


_shelf: dict[str, Wrong] = {}


def put(name: str, classes: str, sentence: str, build: Callable[[], Layer]) -> None:
    """Add a wrong layer; `classes` as "TERM" or "TERM OPTION"."""
    if name in _shelf:
        raise ValueError(f"there are two layers {name!r}")
    _shelf[name] = Wrong(name, tuple(classes.split()), sentence, build)


def wrong(classes: str, sentence: str, forward: Any = None, **declaration: Any) -> Callable[[Any], Any]:
    """Put what is decorated on the shelf: the backward of `forward`, or a class that speaks for itself."""

    def decorate(target: Any) -> Any:
        def build() -> Layer:
            if forward is not None:
                return Layer(forward, target, name=target.__name__, **declaration)
            return as_layer(target, name=target.__name__, **declaration)

        put(target.__name__, classes, sentence, build)
        return target

    return decorate


def shelf() -> tuple[Wrong, ...]:
    """Every wrong layer that can run here, by name."""
    for style in _STYLES:
        if style != "functions" or find_spec("torch") is not None:
            import_module(f"{__name__}.{style}")
    return tuple(_shelf[name] for name in sorted(_shelf))
