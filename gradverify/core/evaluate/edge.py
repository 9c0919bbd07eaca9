"""Forwards that do not return beyond their domain: differences step over its edge, and nobody promised a value there.

A loop `while abs(x - a / x) > tolerance` runs for ever where a is negative. Where a limit of time has ended a call with
such primals, that is no fault of the layer; later calls of its forward there raise at once, as a logarithm does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from gradverify.core.declare.declaration import Declaration
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate.failures import LayerFailure
from gradverify.core.nouns import Array

Given = tuple[Declaration, Mapping[str, Array], Mapping[str, Any]]

_hanging: WeakSet[Any] = WeakSet()  # forwards that did not return beyond the domain of their primals
_last: list[Given] = []  # what a forward was given last; one, or none


def entered(layer: Declaration, primals: Mapping[str, Array], options: Mapping[str, Any]) -> None:
    """Note what a forward is about to get.

    Raises LayerFailure if it has not returned beyond its domain before, and these primals lie there.
    """
    _last[:] = [(layer, primals, options)]
    if hangs(layer) and _beyond(layer, primals, options):
        raise LayerFailure("crash", "forward", f"forward of {layer.name!r} does not return beyond its domain")


def hangs(layer: Declaration) -> bool:
    """Whether a forward is known not to return beyond its domain."""
    return bool(_hanging) and layer.forward in _hanging


def expired() -> bool:
    """Whether the call whose time was up lay beyond the domain; its forward is remembered."""
    if not _last or hangs(_last[0][0]) or not _beyond(*_last[0]):
        return False
    _hanging.add(_last[0][0].forward)
    return True


def _beyond(layer: Declaration, primals: Mapping[str, Array], options: Mapping[str, Any]) -> bool:
    """Whether any entry, of one copy or of a stack of them, lies outside the domain that is declared."""
    bounded = [
        p for p in layer.differentiable if p.domain.strategy is None and p.domain.name not in ("real", "complex")
    ]
    try:
        sizes = layer.sizes_of(primals, options)
    except DeclarationError:  # a stack
        sizes = dict(options)
    try:
        return any(not p.domain.contains(primals[p.name], sizes) for p in bounded)
    except (DeclarationError, KeyError):
        return False
