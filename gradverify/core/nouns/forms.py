"""How a noun is shown and kept, which the nouns leave to others: `gradverify/__init__.py` says who does it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

_PLACES: dict[str, str] = {}  # what is asked for -> "module:function"


def set_forms(**places: str) -> None:
    """Say by which functions nouns are shown and kept; their modules are imported on first use."""
    _PLACES.update(places)


def form(name: str) -> Callable[..., Any]:
    """The function that was named for a form."""
    module, _, function = _PLACES[name].partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
