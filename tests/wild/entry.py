"""One row of the field test: a layer of somebody else's package, and our judgement of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradverify.core.declare.layer import Layer


@dataclass(frozen=True)
class Entry:
    """A layer to be checked.

    Attributes
    ----------
    name : as users of the package call it
    make : builds the Layer; one or two lines with an adapter
    judgement : "right", "bug", "convention" or "precision", by reading the code
    note : why, in a few words
    """

    name: str
    make: Callable[[], Layer]
    judgement: str = "right"
    note: str = ""
    examples: int = 5
    properties: tuple[str, ...] | None = None
