"""Calling conventions: each file here turns one of them into a Layer, by a function under `@convention(...)`.

Other packages add theirs, as an `Adapter`, through the entry-point group ``gradverify.adapters``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec

from gradverify.adapters._trial import tried
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import Registry, import_submodules, layers
from gradverify.core.declare.validation import named
from gradverify.core.errors import DeclarationError, UsageError

P = ParamSpec("P")


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
    keywords : that no other convention takes; one of them tells it, where the target is recognised by nothing but a
        convention of negative priority
    """

    name: str
    recognises: Callable[[Any], bool]
    adapt: Callable[..., Layer]
    hint: str
    priority: int = 0
    keywords: frozenset[str] = frozenset()


adapters: Registry[Adapter] = Registry("adapter", "gradverify.adapters")


def add(adapter: Adapter) -> Adapter:
    """Register an adapter under its name."""
    return adapters.add(adapter.name, adapter)


def _never(target: Any) -> bool:
    """Recognises nothing: what is written so looks like something else, and is handed to the function by name."""
    return False


def convention(
    hint: str,
    recognises: Callable[[Any], bool] = _never,
    *,
    name: str | None = None,
    priority: int = 0,
    keywords: Iterable[str] = (),
) -> Callable[[Callable[P, Layer]], Callable[P, Layer]]:
    """Register what makes layers of a convention: a decorator; each call of the author's code inside has a time limit.

    Parameters
    ----------
    name : of the adapter; by default that of the function
    hint, recognises, priority, keywords : see `Adapter`
    """

    def register(adapt: Callable[P, Layer]) -> Callable[P, Layer]:
        limited = tried(adapt)
        add(Adapter(name or adapt.__name__, recognises, limited, hint, priority, frozenset(keywords)))
        return limited

    return register


def as_layer(target: Any, /, *, name: str | None = None, **declaration: Any) -> Layer:
    """Turn a target into a Layer by the first adapter that recognises it.

    Raises
    ------
    DeclarationError
        If none does, with the line that fixes it.
    """
    known = _by_priority()
    seen = next((adapter for adapter in known if adapter.recognises(target)), None)
    if seen is None or seen.priority < 0:
        seen = next((a for a in known if a.keywords & declaration.keys()), seen)
    if seen is None:
        raise unrecognised(target)
    return tried(seen.adapt)(target, **({"name": name} if name else {}), **declaration)


def layer_of(target: Any, backward: Callable[..., Any] | None = None, /, **declaration: Any) -> Layer:
    """The layer of a registered name, of a forward and its backward, or of anything that an adapter takes.

    Raises TargetError, UsageError or DeclarationError if there is no layer of that name, it is given a backward or a
    declaration, or no adapter takes the target.
    """
    if not isinstance(target, str):
        return as_layer(target if backward is None else (target, backward), **declaration)
    if backward is not None or declaration:
        raise UsageError(f"{target!r} is a registered layer; it takes no backward and no declaration")
    return layers.get(target)


def recognised(target: Any) -> bool:
    """Whether an adapter takes a target, so that only its shapes are to be declared."""
    return any(adapter.priority >= 0 and adapter.recognises(target) for adapter in _by_priority())


def _by_priority() -> list[Adapter]:
    return sorted((adapters.get(n) for n in adapters.names()), key=lambda a: -a.priority)


def register(target: Any = None, /, *, name: str | None = None, **declaration: Any) -> Any:
    """Put a layer into the registry; returns its argument, so it is also a decorator.

    Parameters
    ----------
    target : a Layer or Loss, or anything an adapter recognises (a class with forward and backward, ...)
    name : overrides the layer's own name
    **declaration : passed on to the adapter

    Raises
    ------
    DeclarationError
        If the target cannot be turned into a layer, or its name is taken.
    """
    if target is None:
        return lambda inner: register(inner, name=name, **declaration)
    layer = _as_layer(target, name, declaration)
    origin = layer.origin or (f"{layers.source_now}:{layer.name}" if layers.source_now else None)
    layers.add(layer.name, layer if origin == layer.origin else layer.derive(origin=origin))
    return target


def _as_layer(target: Any, name: str | None, declaration: dict[str, Any]) -> Layer:
    if isinstance(target, Layer) and not declaration:
        return target if name is None else target.derive(name=named(name))
    return as_layer(target, name=name, **declaration)


def unrecognised(target: Any, why: str = "") -> DeclarationError:
    """The error for a target that no adapter can take: what it is, and the line that fixes it."""
    from gradverify.adapters._advice import advice

    return DeclarationError(
        f"cannot tell how {_described(target)} computes its gradient{f': {why}' if why else ''}\n"
        f"{advice(target)}\n"
        "(`gradverify list adapters` shows every convention with the line that declares it)"
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
