"""How a noun is shown and kept, which the nouns leave to others: `gradverify/__init__.py` says who does it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import gradverify


def form(name: str) -> Callable[..., Any]:
    """The function that the package names for a form; its module is imported on first use."""
    module, _, function = gradverify.FORMS[name].partition(":")
    found: Callable[..., Any] = getattr(import_module(f"gradverify.{module}"), function)
    return found
