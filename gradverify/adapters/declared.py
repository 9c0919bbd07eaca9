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
import re
from functools import wraps
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._chance import Chance, mentions
from gradverify.adapters._nested import is_nested, nested_pair
from gradverify.adapters._normal import (
    TARGETS,
    annotated,
    called,
    constants,
    examples,
    finished,
    flat,
    parted,
    required,
    split,
)
from gradverify.adapters.losses import loss
from gradverify.core.declare.functions import arguments, taken_by
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
    return all(f is not None for f in functions) and bool(_dimension_strings(target))


def _dimension_strings(cls: type) -> dict[str, Any]:
    """Class attributes that are arguments of forward and hold dimension strings."""
    forward = inspect.getattr_static(cls, "forward")
    forward = getattr(forward, "__func__", forward)
    parameters = [p.name for p in arguments(forward) or ()]
    if parameters[:1] == ["self"]:
        return {}
    return {n: getattr(cls, n) for n in parameters if isinstance(getattr(cls, n, None), (str, tuple))}


_UPSTREAM_AND_SAVED = re.compile(r"\w+ (saved|cache|ctx|res|residuals?|_)|")
_UPSTREAM = ("dy", "dout", "g", "grad", "grad_output", "upstream", "cotangent", "ct", "v")
_OUTPUT, _SHAPE = ("y", "out", "output", "result", "ans", "z", "s", "p", "h"), "_shape"
_DY, _Y = "the upstream gradient", "the output"  # arguments of a backward that name no primal and no option


@convention('gradverify.check(forward, backward, x="N D", W="D H")', _is_pair, name="pair", priority=90)
def _from_pair(target: tuple[Any, Any], /, **declaration: Any) -> Layer:
    owner = _owner(*target)
    if owner is not None:
        return _of_object(owner, *target, **declaration)
    kind = Loss if declaration.pop("loss", False) else Layer
    primals, settings = split(declaration)
    if any(is_nested(primals.get(p.name)) for p in arguments(target[0]) or ()):
        return nested_pair(kind, *target, primals, settings)
    layer = kind(*target, **declaration)
    try:
        with time_limit(_TRIAL):
            if _is_loss(layer):
                return loss(*target, **declaration)
            ungiven = _ungiven(layer)
            if ungiven:
                layer = kind(*target, **{**declaration, "constants": constants(settings, *ungiven)})
            layer = _as_called(layer) or layer
            return _seeded(layer) if mentions(layer.forward) else layer
    except LayerFailure:  # it does not return: the check itself finds that
        return layer


def _is_loss(layer: Layer) -> bool:
    """Whether it is a loss and its gradient, which takes the same arguments and no upstream gradient."""
    takes = required(layer.forward) or []
    if len(takes) < 2 or set(takes) != set(layer.primal_names) or takes != required(layer.backward):
        return False
    value, _ = _tried(layer)
    return isinstance(value, (np.ndarray, np.number, float)) and np.size(value) == 1


def _ungiven(layer: Layer) -> list[str]:
    """Targets of a loss, by their names, of which backward returns no gradient and of the others it does."""
    names = [p.name for p in layer.differentiable if p.name.lower() in TARGETS]
    rest = [p.name for p in layer.differentiable if p.name not in names]
    result, options = _tried(layer) if names and rest else (None, {})
    if not isinstance(result, tuple) or len(result) != 2 or np.size(result[0]) != 1:
        return []
    given = np.ones(np.shape(result[0])), result[1]
    try:
        taken = taken_by(layer.backward, options, len(given))
        values, named = parted(called("backward", layer.backward, *given, **taken))
    except LayerFailure:
        return []
    found = {n for n in names for key in named if key in (n, f"d{n}")}
    return [] if found or (not named and len(values) != len(rest)) else names


def _tried(layer: Layer) -> tuple[Any, Any]:
    """What forward returns on small arrays, None if it raises; and options."""
    arrays = next((arrays for arrays, _ in examples(layer)), None)
    if arrays is None:
        return None, {}
    try:
        return called("forward", layer.forward, *arrays.values(), **layer.default_options), layer.default_options
    except LayerFailure:
        return None, {}


def _owner(forward: Any, backward: Any) -> Any:
    """The object with arrays of its own that both functions are methods of; None if there is none."""
    owner = getattr(forward, "__self__", None)
    if owner is None or owner is not getattr(backward, "__self__", None) or not inspect.ismethod(forward):
        return None
    return owner if any(map(np.ndim, arrays_of(owner).values())) and not inspect.isclass(owner) else None


def _of_object(owner: Any, forward: Any, backward: Any, **declaration: Any) -> Layer:
    """Two methods of an object that return and take a cache, or keep on the object what backward needs."""
    from gradverify.adapters.stateful import stateful

    return stateful(owner, methods=(forward.__name__, backward.__name__), **declaration)


def _as_called(layer: Layer) -> Layer | None:
    """The layer of a function and its gradient, f(x) and f_grad(x) or f_grad(x, dy), or of a backward that takes what
    forward saved one by one; None if it is the usual pair.

    Told by the arguments of the gradient where forward returns an array and no cache, see `_roles`; raises
    DeclarationError if they do not tell what they are.
    """
    names = required(layer.backward) or []
    usual = [n for n in names if n not in _UPSTREAM] == list(layer.primal_names)
    if not usual and _UPSTREAM_AND_SAVED.fullmatch(" ".join(names)):
        return None
    value, _ = _tried(layer)
    if value is None:
        return None
    if isinstance(value, tuple) and len(value) == len(names) > 2:
        return _one_by_one(layer)
    if not isinstance(value, (np.ndarray, np.number, float)):
        return _unpacking(layer, names, value)
    roles = _roles(layer, names)
    if roles is None:
        raise DeclarationError(_unclear(layer, names))
    whole = _DY in roles  # else a derivative, elementwise

    def forward(*primals: Any, **options: Any) -> Any:
        y = layer.forward(*primals, **options)
        return y, (primals, y, options)

    def backward(dy: Any, saved: Any) -> Any:
        primals, y, options = saved
        known = {**options, **dict(zip(layer.primal_names, primals)), _DY: dy, _Y: y}
        shapes = {n + _SHAPE: np.shape(a) for n, a in zip(layer.primal_names, primals)}
        given = [(shapes | known)[role] for role in roles]
        taken = taken_by(layer.backward, options, len(given))
        found = flat(layer.backward(*given, **taken))
        return tuple(found if whole else [None if g is None else g * dy for g in found])

    said = [role for role in roles if not role.endswith(_SHAPE) and role not in layer.options]
    line = f"backward: a function of {', '.join(said) or 'shapes'}"
    return annotated(layer.derive(forward=forward, backward=backward), line)


def _one_by_one(layer: Layer) -> Layer:
    """The layer of a forward that returns its outputs one by one, and what backward needs behind them."""

    def forward(*primals: Any, **options: Any) -> Any:
        *outputs, saved = layer.forward(*primals, **options)
        return tuple(outputs), saved

    return annotated(layer.derive(forward=forward), "forward returns what backward needs behind its outputs")


def _roles(layer: Layer, names: list[str]) -> list[str] | None:
    """What each argument of a gradient is: a primal or an option by its name, a shape, _DY or _Y; None if unclear.

    The upstream gradient may have any name beside all primals, and the output one that says so, as `exp_x`.
    """
    known = {*layer.primal_names, *layer.options, *(n + _SHAPE for n in layer.primal_names)}
    others = [n for n in names if n not in known]
    upstream = [n for n in others if n in _UPSTREAM]
    if len(others) == 1 and not upstream and set(layer.primal_names) <= set(names):
        upstream = others
    rest = [n for n in others if n not in upstream]
    if len(upstream) > 1 or len(rest) > 1 or (rest and not upstream) or not all(_is_output(layer, n) for n in rest):
        return None
    return [n if n in known else _DY if n in upstream else _Y for n in names]


def _is_output(layer: Layer, name: str) -> bool:
    return name in _OUTPUT or any(name.endswith(f"_{n}") for n in layer.primal_names)


def _unpacking(layer: Layer, names: list[str], result: Any) -> Layer | None:
    """The layer of a backward that takes what forward saved one by one, ``backward(dy, x, W)``; None if it does not.

    Parameters
    ----------
    names : arguments of backward
    result : of a forward
    """
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple)) or len(names) < 3:
        return None
    count = len(flat(result[0]))
    by_name = set(names) & set(layer.options) and names[count] not in layer.primal_names  # (dy, saved, axis)
    if len(names) != count + len(result[1]) or by_name:
        return None

    def backward(dy: Any, saved: Any, **options: Any) -> Any:
        given = (*(dy if count > 1 else (dy,)), *saved)
        return layer.backward(*given, **taken_by(layer.backward, options, len(given)))

    line = f"backward takes {', '.join(names[count:])}, as forward saved them"
    return annotated(layer.derive(backward=backward), line)


def _unclear(layer: Layer, names: list[str]) -> str:
    primals = ", ".join(layer.primal_names)
    one = len(names) == 1 and len(layer.primal_names) == 1
    chain = " Of the output instead of the input: gradverify.adapt.elementwise(f, g, of='output')." if one else ""
    return (
        f"{layer.name!r} returns an array and no cache, and backward takes ({', '.join(names)}): name its arguments as "
        f"those of forward, ({primals}) or ({primals}, dy).{chain} Or let forward return (output, saved), and backward "
        "take (dy, saved)"
    )


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
    found |= {"primals": _dimension_strings(target), "doc": inspect.getdoc(target) or ""}
    found = {k: getattr(v, "__func__", v) for k, v in found.items()}
    forward, backward = (
        getattr(f, "__func__", f) for f in (inspect.getattr_static(target, r) for r in ("forward", "backward"))
    )
    build = Loss if declaration.pop("loss", False) or getattr(target, "loss", False) else Layer
    return build(forward, backward, **{"name": target.__name__, **found, **declaration})


def _is_layer(target: Any) -> bool:
    return isinstance(target, Layer)


@convention('gradverify.Layer(forward, backward, x="N D", W="D H")', _is_layer, name="layer", priority=100)
def _derive(layer: Layer, /, *, name: str | None = None, **declaration: Any) -> Layer:
    if declaration:
        raise DeclarationError(
            f"layer {layer.name!r} is declared already; {', '.join(declaration)} cannot be given again "
            "(use layer.derive(...) to change a field)"
        )
    return layer if name is None else layer.derive(name=name)
