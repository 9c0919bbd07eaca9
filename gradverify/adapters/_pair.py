"""How a pair of functions is called: told by the names of its arguments, and by trying it on small arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np

from gradverify.adapters._normal import (
    TARGETS,
    annotated,
    called,
    examples,
    flat,
    parted,
    positional,
    required,
)
from gradverify.core.declare.functions import arguments, taken_by
from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.results import keyed

_UPSTREAM_AND_SAVED = re.compile(r"\w+ (saved|cache|ctx|res|residuals?|_)|")
_UPSTREAM = ("dy", "dout", "g", "grad", "grad_output", "upstream", "cotangent", "ct", "v")
_OUTPUT, _SHAPE = ("y", "out", "output", "result", "ans", "z", "s", "p", "h"), "_shape"
# arguments of a backward that name no primal and no option
_DY, _Y, _SAVED = "the upstream gradient", "the output", "what forward saved"


def reordered(forward: Any, backward: Any) -> tuple[Any, Any] | None:
    """The pair with a backward that takes (dy, saved), where it takes these in another place or beside arguments of
    forward, ``backward(params, cache, dout)``: told by their names. None where it does not.
    """
    taken, names = [p.name for p in arguments(forward) or ()], [*(required(backward) or [])]
    names += [p.name for p in positional(backward) or () if p.default is not p.empty and p.name in _UPSTREAM]
    others = [n for n in names if n not in taken and n.removesuffix(_SHAPE) not in taken]
    upstream = [n for n in others if n in _UPSTREAM]
    kept = [n for n in others if n not in upstream]
    if len(upstream) != 1 or len(kept) != 1 or names[:2] == [*upstream, *kept]:
        return None
    if any(kept[0] in names_of_gradients(n) for n in taken):
        return None  # an array to fill, or the gradient of a state
    roles = [_DY if n in upstream else _SAVED if n in kept else n for n in names]
    return _by_roles(forward, backward, taken, roles)


def _by_roles(forward: Any, backward: Any, taken: Iterable[str], roles: list[str]) -> tuple[Any, Any]:
    """The pair as forward -> (y, known) and backward(dy, known), which hands on what each argument is.

    Parameters
    ----------
    taken : arguments of forward
    roles : of each argument of backward: one of `taken`, the shape of one, _DY, _Y or _SAVED; where none is _DY, it is
        a derivative, elementwise, or a gradient for an upstream one of 1
    """

    @wraps(forward)
    def run(*primals: Any, **options: Any) -> Any:
        made = forward(*primals, **options)
        y, saved = made if isinstance(made, tuple) and len(made) == 2 else (made, made)
        known = {**dict(zip(taken, primals)), **options}
        return y, {**{n + _SHAPE: getattr(v, "shape", ()) for n, v in known.items()}, **known, _Y: y, _SAVED: saved}

    @wraps(backward)
    def pull(dy: Any, *others: Any, **options: Any) -> Any:
        known = {**others[-1], _DY: dy}
        rest = taken_by(backward, {n: v for n, v in options.items() if n not in roles}, len(roles))
        raw = backward(*(known[role] for role in roles), **rest)
        return raw if _DY in roles else _times(raw, dy)

    return run, pull


def usual(forward: Callable[..., Any], backward: Callable[..., Any]) -> tuple[Any, Any]:
    """The pair as forward -> (outputs, saved) and backward(dy, ..., saved), told by names and by what forward returns.

    Raises DeclarationError if the names tell nothing: nothing is tried.
    """
    told = reordered(forward, backward)
    if told:
        return told
    taken, names = [p.name for p in arguments(forward) or ()], required(backward) or []
    roles = _roles(taken, (), names) if {n.removesuffix(_SHAPE) for n in names} & set(taken) else None
    if roles is not None:  # there is no place for a cache
        return _by_roles(forward, backward, taken, roles)

    @wraps(forward)
    def run(*primals: Any, **options: Any) -> Any:
        made = forward(*primals, **options)
        if not isinstance(made, tuple) or len(made) < 2:
            name = getattr(forward, "__name__", "forward")
            raise DeclarationError(
                f"{name!r} returns no (outputs, saved), and backward takes ({', '.join(names)}): name what is "
                f"forward's as forward does ({', '.join(taken)}), and the upstream gradient dy"
            )
        return _in_two(made)

    @wraps(backward)
    def pull(*given: Any, **options: Any) -> Any:
        *cotangents, saved = given
        whole = len(cotangents) > 1 and len(names) == 2
        return backward(*((tuple(cotangents),) if whole else cotangents), saved, **options)

    return run, pull


def _in_two(made: Any) -> tuple[Any, Any]:
    """Outputs, and what backward needs, of a forward that may return its outputs one by one before that."""
    *outputs, saved = made
    return (outputs[0] if len(outputs) == 1 else tuple(outputs)), saved


def _times(raw: Any, dy: Any) -> list[Any]:
    """Gradients for an upstream gradient of 1, times the one that there is."""
    return [None if g is None else g * dy for g in flat(raw)]


def in_order(raw: Any, names: Iterable[str], moving: Iterable[str]) -> list[Any]:
    """A gradient or None for each name, from what backward returned: by name, for each, or for those that move."""
    names, moving = tuple(names), tuple(moving)
    known, values = keyed(raw, names), flat(raw)
    if known is None or not set(known) <= set(names):
        known = dict(zip(moving if len(values) == len(moving) else names, values))
    return [known.get(n) for n in names]


def is_loss(layer: Layer) -> bool:
    """Whether it is a loss and its gradient, which takes the same arguments and no upstream gradient."""
    takes = required(layer.forward) or []
    if len(takes) < 2 or set(takes) != set(layer.primal_names) or takes != required(layer.backward):
        return False
    value, _ = first_result(layer)
    return isinstance(value, (np.ndarray, np.number, float)) and np.size(value) == 1


def ungiven(layer: Layer) -> list[str]:
    """Targets of a loss, by their names, of which backward returns no gradient and of the others it does."""
    names = [p.name for p in layer.differentiable if p.name.lower() in TARGETS]
    rest = [p.name for p in layer.differentiable if p.name not in names]
    result, options = first_result(layer) if names and rest else (None, {})
    if not isinstance(result, tuple) or len(result) != 2 or np.size(result[0]) != 1:
        return []
    given = np.ones(np.shape(result[0])), result[1]
    try:
        taken = taken_by(layer.backward, options, len(given))
        values, named = parted(called("backward", layer.backward, *given, **taken))
    except LayerFailure:
        return []
    found = {n for n in names for key, g in named.items() if g is not None and key in (n, f"d{n}")}
    return [] if found or (not named and len(values) != len(rest)) else names


def first_result(layer: Layer) -> tuple[Any, Any]:
    """What forward returns on small arrays, None if it raises; and options."""
    arrays = next((arrays for arrays, _ in examples(layer)), None)
    if arrays is None:
        return None, {}
    try:
        return called("forward", layer.forward, *arrays.values(), **layer.default_options), layer.default_options
    except LayerFailure as failure:
        if isinstance(failure.__cause__, DeclarationError):  # ours, of how the pair is called
            raise failure.__cause__ from None
        return None, {}


def as_called(layer: Layer) -> Layer | None:
    """The layer of a function and its gradient, f(x) and f_grad(x) or f_grad(x, dy), or of a backward that takes what
    forward saved one by one; None if it is the usual pair.

    Told by the arguments of the gradient where forward returns an array and no cache, see `_roles`; raises
    DeclarationError if they do not tell what they are.
    """
    names = required(layer.backward) or []
    usual = [n for n in names if n not in _UPSTREAM] == list(layer.primal_names)
    if not usual and _UPSTREAM_AND_SAVED.fullmatch(" ".join(names)):
        return None
    value, _ = first_result(layer)
    if value is None:
        return None
    if isinstance(value, tuple) and len(value) == len(names) > 2:
        return _one_by_one(layer)
    if not isinstance(value, (np.ndarray, np.number, float)):
        if len(positional(layer.backward) or ()) == 1 and np.shape(flat(value)[0]) == ():
            return _without_upstream(layer)
        one_by_one = _unpacking(layer, names, value)
        if one_by_one is None:
            _takes_two(layer, names, value)
        return one_by_one
    roles = _roles(layer.primal_names, layer.options, names)
    if roles is None:
        raise DeclarationError(_unclear(layer, names))
    forward, backward = _by_roles(layer.forward, layer.backward, layer.primal_names, roles)
    said = [role for role in roles if not role.endswith(_SHAPE) and role not in layer.options]
    line = f"backward: a function of {', '.join(said) or 'shapes'}"
    return annotated(layer.derive(forward=forward, backward=backward), line)


def _one_by_one(layer: Layer) -> Layer:
    """The layer of a forward that returns its outputs one by one, and what backward needs behind them."""

    def forward(*primals: Any, **options: Any) -> Any:
        return _in_two(layer.forward(*primals, **options))

    return annotated(layer.derive(forward=forward), "forward returns what backward needs behind its outputs")


def _roles(primals: Sequence[str], options: Iterable[str], names: list[str]) -> list[str] | None:
    """What each argument of a gradient is: a primal or an option by its name, a shape, _DY or _Y; None if unclear.

    The upstream gradient may have any name beside all primals, and the output one that says so, as `exp_x`.
    """
    known = {*primals, *options, *(n + _SHAPE for n in primals)}
    others = [n for n in names if n not in known]
    upstream = [n for n in others if n in _UPSTREAM]
    if len(others) == 1 and not upstream and set(primals) <= set(names):
        upstream = others
    rest = [n for n in others if n not in upstream]
    told = all(n in _OUTPUT or any(n.endswith(f"_{primal}") for primal in primals) for n in rest)
    if len(upstream) > 1 or len(rest) > 1 or (rest and not upstream) or not told:
        return None
    return [n if n in known else _DY if n in upstream else _Y for n in names]


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


def _without_upstream(layer: Layer) -> Layer:
    """The layer of a loss whose backward takes what forward saved alone: its upstream gradient is 1."""

    def backward(dy: Any, saved: Any) -> Any:
        raw = layer.backward(saved)
        return dict(zip(raw, _times([*raw.values()], dy))) if isinstance(raw, Mapping) else _times(raw, dy)

    line = "backward takes what forward saved alone, as of a loss whose upstream gradient is 1"
    return annotated(layer.derive(backward=backward), line)


def _takes_two(layer: Layer, names: list[str], result: Any) -> None:
    """Refuse a backward that cannot be called with the upstream gradient, or one for each output, and what was saved.

    Raises DeclarationError with what it takes, and what it is given.
    """
    pair = isinstance(result, tuple) and len(result) == 2
    if pair and len([n for n in names if n not in layer.options]) > 1 + len(flat(result[0])):
        raise DeclarationError(
            f"{layer.name!r}: backward takes ({', '.join(names)}), and is called as backward(dy, saved). Name what is "
            f"forward's as forward does ({', '.join(layer.primal_names)}), and the upstream gradient dy"
        )


def _unclear(layer: Layer, names: list[str]) -> str:
    primals = ", ".join(layer.primal_names)
    one = len(names) == 1 and len(layer.primal_names) == 1
    chain = " Of the output instead of the input: gradverify.adapt.elementwise(f, g, of='output')." if one else ""
    return (
        f"{layer.name!r} returns an array and no cache, and backward takes ({', '.join(names)}): name its arguments as "
        f"those of forward, ({primals}) or ({primals}, dy).{chain} Or let forward return (output, saved), and backward "
        "take (dy, saved)"
    )
