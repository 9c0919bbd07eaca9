"""Calling conventions: each file here turns one of them into a Layer.

An adapter is an object with `name`, `priority`, `recognises(target) -> bool`,
`adapt(target, **declaration) -> Layer` and `hint`, the two lines of user code that declare it.
Other packages add theirs through the entry-point group ``gradverify.adapters``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import Registry, import_submodules
from gradverify.core.errors import DeclarationError


@dataclass(frozen=True, slots=True)
class Adapter:
    """One calling convention.

    Attributes
    ----------
    name : short identifier
    recognises : whether a target is written in this convention; must be cheap and free of side effects
    adapt : ``(target, **declaration) -> Layer``
    hint : the lines of user code that would declare a target in this convention
    priority : tried from high to low
    """

    name: str
    recognises: Callable[[Any], bool]
    adapt: Callable[..., Layer]
    hint: str
    priority: int = 0


adapters: Registry[Adapter] = Registry("adapter", "gradverify.adapters")


def add(adapter: Adapter) -> Adapter:
    """Register an adapter under its name."""
    return adapters.add(adapter.name, adapter)


def as_layer(target: Any, /, *, name: str | None = None, **declaration: Any) -> Layer:
    """Turn a target into a Layer by the first adapter that recognises it.

    Raises
    ------
    DeclarationError
        If none does, with what was tried and the lines that would declare it.
    """
    known = sorted((adapters.get(n) for n in adapters.names()), key=lambda a: -a.priority)
    for adapter in known:
        if adapter.recognises(target):
            return adapter.adapt(target, **({"name": name} if name else {}), **declaration)
    raise unrecognised(target)


def unrecognised(target: Any, why: str = "") -> DeclarationError:
    """The error for a target that no adapter can take: what it looks like, what was tried, how to declare each."""
    known = sorted((adapters.get(n) for n in adapters.names()), key=lambda a: -a.priority)
    tried = "\n".join(f"  {adapter.name + ':':<13}{adapter.hint}" for adapter in known)
    return DeclarationError(
        f"cannot tell how {_described(target)} computes its gradient{f': {why}' if why else ''}. "
        f"Conventions tried, and how to declare each:\n{tried}\n"
        "Any other is two functions in the normal form:\n"
        "  def forward(x, W): return y, saved\n"
        "  def backward(dy, saved): return dx, dW"
    )


def _described(target: Any) -> str:
    """A target in a few words, with the public methods of objects, among which a backward may hide."""
    if inspect.isroutine(target):
        return f"the function {getattr(target, '__name__', target)!r}"
    cls = target if inspect.isclass(target) else type(target)
    methods = [n for n in dir(cls) if not n.startswith("_") and callable(getattr(cls, n, None))]
    listed = f" (methods: {', '.join(methods[:8])}{', ...' if len(methods) > 8 else ''})" if methods else ""
    return f"{'the class' if inspect.isclass(target) else 'an object of type'} {cls.__name__!r}{listed}"


import_submodules(__name__, __path__)
