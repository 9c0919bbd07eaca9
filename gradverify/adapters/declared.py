"""Layers that declare themselves: a Layer object, a pair of functions, or a class of static functions.

A class names its primals as attributes, forward directly above backward:

    @gradverify.register
    class dense:
        x, W, b = "N D", "D H", "H"
        def forward(x, W, b): return x @ W + b, (x, W)
        def backward(dy, saved): x, W = saved; return dy @ W.T, x.T @ dy, dy.sum(0)
"""

from __future__ import annotations

import inspect
from functools import wraps
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._arranged import KEPT, told
from gradverify.adapters._chance import Chance, mentions
from gradverify.adapters._nested import is_nested, nested_pair
from gradverify.adapters._normal import annotated, constants, finished, required, split
from gradverify.adapters._pair import is_loss, normal, ungiven
from gradverify.adapters.losses import loss
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.held import arrays_of
from gradverify.core.declare.layer import KEYWORDS, Layer, Loss
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import time_limit

_TRIAL = 3.0  # seconds of computing in which a pair is looked at; one that takes longer is taken as it is declared


def _is_pair(target: Any) -> bool:
    return isinstance(target, tuple) and len(target) == 2 and all(callable(part) for part in target)


def _is_static_class(target: Any) -> bool:
    if not inspect.isclass(target):
        return False
    functions = [inspect.getattr_static(target, role, None) for role in ("forward", "backward")]
    return all(f is not None for f in functions) and bool(dimension_strings(target))


def dimension_strings(cls: type) -> dict[str, Any]:
    """Class attributes that are arguments of forward and hold dimension strings."""
    forward = inspect.getattr_static(cls, "forward")
    forward = getattr(forward, "__func__", forward)
    parameters = [p.name for p in arguments(forward) or ()]
    if parameters[:1] == ["self"]:
        return {}
    return {n: getattr(cls, n) for n in parameters if isinstance(getattr(cls, n, None), (str, tuple))}


@convention('gradverify.check(forward, backward, x="N D", W="D H")', _is_pair, name="pair", priority=90)
def from_pair(target: tuple[Any, Any], /, **declaration: Any) -> Layer:
    owner = _owner(*target)
    if owner is not None:
        from gradverify.adapters.stateful import stateful

        return stateful(owner, methods=tuple(method.__name__ for method in target), **declaration)
    kind = Loss if declaration.pop("loss", False) else Layer
    primals, settings = split(declaration)
    if any(is_nested(primals.get(p.name)) for p in arguments(target[0]) or ()):
        return nested_pair(kind, *target, primals, settings)
    layer = kind(*target, **declaration)
    try:
        with time_limit(_TRIAL):
            if is_loss(layer):
                return loss(*target, **declaration)
            usual = _as_called(layer)
            targets = ungiven(usual)
            if targets:
                usual = _as_called(kind(*target, **{**declaration, "constants": constants(settings, *targets)}))
            layer = usual
            return _seeded(layer) if mentions(layer.forward) else layer
    except LayerFailure:  # it does not return: the check itself finds that
        return layer


def _as_called(layer: Layer) -> Layer:
    """The layer with its functions called as their arguments tell."""
    forward, backward, line = normal((layer.forward, layer.backward), layer)
    return annotated(layer.derive(forward=forward, backward=backward), line) if line else layer


def _owner(forward: Any, backward: Any) -> Any:
    """The object with arrays of its own that both functions are methods of; None if there is none."""
    owner = getattr(forward, "__self__", None)
    if owner is None or owner is not getattr(backward, "__self__", None) or not inspect.ismethod(forward):
        return None
    return owner if any(map(np.ndim, arrays_of(owner).values())) and not inspect.isclass(owner) else None


def _seeded(layer: Layer) -> Layer:
    """The layer with the same random numbers at each forward, if it draws any: else it has no derivative."""
    chance = Chance(layer.forward, layer.backward)

    @wraps(layer.forward)
    def forward(*arrays: Any, **options: Any) -> Any:
        with chance.fixed(options):
            return layer.forward(*arrays, **options)

    @wraps(layer.backward)
    def backward(*arguments: Any, **options: Any) -> Any:
        with chance.anew(options):
            return layer.backward(*arguments, **options)

    seeded = finished(layer.derive(forward=forward, backward=backward), chance=chance)
    return seeded if chance.drawn else layer


@convention(
    'class dense: x, W = "N D", "D H"; forward and backward as static functions',
    _is_static_class,
    name="class",
    priority=80,
)
def _from_class(target: type, /, **declaration: Any) -> Layer:
    found = {k: v for k, v in vars(target).items() if k in KEYWORDS and not k.startswith("__")}
    found |= {"primals": dimension_strings(target), "doc": inspect.getdoc(target) or ""}
    found = {k: getattr(v, "__func__", v) for k, v in found.items()}
    forward, backward = (
        getattr(f, "__func__", f) for f in (inspect.getattr_static(target, r) for r in ("forward", "backward"))
    )
    build = Loss if declaration.pop("loss", False) or getattr(target, "loss", False) else Layer
    layer = build(forward, backward, **{"name": target.__name__, **found, **declaration})
    names = [n for n in required(backward) or () if n not in layer.options]
    if len(names) <= 2 and told(names[0] if names else "") != KEPT:  # as documented: nothing runs where it is imported
        return layer
    try:
        with time_limit(_TRIAL):
            return _as_called(layer)
    except LayerFailure:  # it does not return: the check itself finds that
        return layer


@convention(
    'gradverify.Layer(forward, backward, x="N D", W="D H")',
    lambda target: isinstance(target, Layer),
    name="layer",
    priority=100,
)
def _derive(layer: Layer, /, *, name: str | None = None, **declaration: Any) -> Layer:
    if declaration:
        raise DeclarationError(
            f"layer {layer.name!r} is declared already; {', '.join(declaration)} cannot be given again "
            "(use layer.derive(...) to change a field)"
        )
    return layer if name is None else layer.derive(name=name)
