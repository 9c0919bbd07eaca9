"""What forward and backward return, read: outputs as plain arrays, gradients by the name of their primal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate.failures import LayerFailure, guarded
from gradverify.core.evaluate.foreign import MOST, array, described
from gradverify.core.nouns import Array, Case
from gradverify.core.texts import line

Gradients = dict[str, Any]  # by primal name: a plain array, None, or a LayerFailure that says why it is neither


def forwarded(layer: Layer, result: Any) -> tuple[tuple[Array, ...], Any]:
    """The outputs as plain arrays, and what backward needs, from what forward returned.

    Raises LayerFailure if it is not (outputs, saved).
    """
    raw, saved = result if type(result) is tuple and len(result) == 2 else guarded("forward", _two, layer, result)
    return outputs_of(layer, raw), saved


def _two(layer: Layer, result: Any) -> tuple[Any, Any]:
    if not (isinstance(result, tuple) and len(result) == 2):
        several = isinstance(result, tuple) and len(result) > 2  # as in `return h, c, cache`
        raise LayerFailure(
            "outputs",
            "forward",
            f"forward of {layer.name!r} must return (outputs, saved), a tuple of two; it returned {described(result)}"
            + (
                "; where the last is what backward needs, write adapt.cached(forward, backward, ...)" if several else ""
            ),
        )
    return tuple(result)


def outputs_of(layer: Layer, raw: Any) -> tuple[Array, ...]:
    """The outputs as a tuple of plain arrays; raises LayerFailure if they are not numbers, or too few."""
    parts = raw if type(raw) is tuple else (raw,)
    if len(parts) == (len(layer.returns) or len(parts)) and parts and all(map(_plain, parts)):
        return parts  # as nearly always
    found: tuple[Array, ...] = _outputs(layer, raw) if _known(raw) else guarded("forward", _outputs, layer, raw)
    return found


def _plain(part: Any) -> bool:
    return type(part) is np.ndarray and part.dtype.kind == "f" and part.size <= MOST


def _known(raw: Any) -> bool:
    """Whether nothing but NumPy's own code runs where a value is read: then no guard is needed."""
    return type(raw) in _OWN or (type(raw) in (tuple, list) and all(type(part) in _OWN for part in raw))


_OWN = (np.ndarray, np.float64, np.float32, float)


def _outputs(layer: Layer, raw: Any) -> tuple[Array, ...]:
    parts = tuple(raw) if isinstance(raw, (tuple, list)) else (raw,)
    label = "the output" if len(parts) == 1 else "output {}"
    arrays = tuple(
        part
        if type(part) is np.ndarray and part.size <= MOST
        else array(part, f"{label.format(k)} of {layer.name!r}", "forward", "outputs")
        for k, part in enumerate(parts)
    )
    if not arrays or any(a.dtype.kind not in "fciub" for a in arrays):
        raise LayerFailure(
            "outputs",
            "forward",
            f"forward of {layer.name!r} returned no array of numbers but {_typed(raw)}"
            + ("; return a tuple of them, and name them by returns={...}" if isinstance(raw, Mapping) else ""),
        )
    if layer.differentiable and all(a.dtype.kind in "iub" for a in arrays):
        raise LayerFailure(
            "outputs",
            "forward",
            f"forward of {layer.name!r} returned {described(raw)} of type {arrays[0].dtype}: "
            "integers and booleans have no derivative",
        )
    if layer.returns and len(arrays) != len(layer.returns):
        raise LayerFailure(
            "outputs",
            "forward",
            f"forward of {layer.name!r} returned {len(arrays)} output(s), "
            f"declared are {len(layer.returns)}: {', '.join(layer.returns)}",
        )
    return arrays


def _typed(raw: Any) -> str:
    return f"{described(raw)} of type {raw.dtype}" if type(raw) is np.ndarray else described(raw)


def by_name(layer: Layer, raw: Any, stage: str = "backward") -> Gradients:
    """Gradients by primal name, from a dict or from a tuple in forward's order.

    Each is a plain array, None, or the LayerFailure that says why it cannot be read; see `usable`. Raises LayerFailure
    if there are too few or too many, or the code of the object that holds them raises.
    """
    if type(raw) is tuple and len(raw) == len(layer.differentiable) and all(map(_readable, raw)):
        return dict(zip((p.name for p in layer.differentiable), raw))  # as nearly always
    named = _named(layer, raw) if _known(raw) else guarded(stage, _named, layer, raw)
    return {name: _read(name, value, stage) for name, value in named.items()}


def _readable(value: Any) -> bool:
    return type(value) is np.ndarray and value.size <= MOST


def _read(name: str, value: Any, stage: str = "backward") -> Any:
    if value is None or isinstance(value, LayerFailure) or _readable(value):
        return value
    try:
        return guarded(stage, array, value, f"the gradient of {name}", stage, "dtype", name)
    except LayerFailure as failure:
        if failure.kind not in ("dtype", "crash"):  # a time limit
            raise
        return failure


def _named(layer: Layer, raw: Any) -> dict[str, Any]:
    names, wanted = layer.primal_names, tuple(p.name for p in layer.differentiable)
    renamed = keyed(raw, names)
    if renamed is not None:
        surplus = [key for key in renamed if key not in names]
        if surplus:
            raise LayerFailure(
                "surplus",
                "backward",
                f"backward of {layer.name!r} returned a gradient for {line(repr(surplus[0]), 80)}, which is no primal "
                f"(primals: {', '.join(names)})",
            )
        return renamed
    values = tuple(raw) if isinstance(raw, (tuple, list)) else (raw,)
    for order in (wanted, names):
        if len(values) == len(order):
            return dict(zip(order, values))
    raise LayerFailure(
        "missing" if len(values) < len(wanted) else "surplus",
        "backward",
        f"backward of {layer.name!r} must return a gradient for each of {', '.join(wanted)}; "
        f"it returned {described(raw)}",
        wanted[len(values)] if len(values) < len(wanted) else None,
    )


def keyed(raw: Any, names: tuple[str, ...]) -> dict[Any, Any] | None:
    """What a dict holds by primal, or a record whose fields name primals, as a NamedTuple or a dataclass; else None.

    Other fields of a record are none of ours, but where a NamedTuple may as well be read in order.
    """
    if isinstance(raw, Mapping):
        return {_primal_of(key, names): value for key, value in raw.items()}
    renamed = {_primal_of(key, names): value for key, value in _fields(raw).items() if value is not None}  # left out
    found = {name: value for name, value in renamed.items() if name in names}
    ordered = isinstance(raw, tuple) and len(raw) <= len(names)
    return found if found and (len(found) == len(renamed) or not ordered) else None


def _fields(raw: Any) -> Mapping[str, Any]:
    if hasattr(raw, "_asdict"):
        fields: Mapping[str, Any] = raw._asdict()
        return fields
    slots = (name for cls in type(raw).__mro__ for name in vars(cls).get("__slots__", ()))
    return {**{n: getattr(raw, n) for n in slots if hasattr(raw, n)}, **getattr(raw, "__dict__", {})}


def _primal_of(key: Any, names: tuple[str, ...]) -> Any:
    """Gradients may be keyed by the primal's name, or by one that says whose gradient it is, as `dx` and `grad_x`."""
    if key in names or not isinstance(key, str):
        return key
    return next((name for name in names if key in names_of_gradients(name)), key)


def usable(layer: Layer, case: Case, raw: Mapping[str, Any]) -> tuple[dict[str, Array], list[LayerFailure]]:
    """Split raw gradients into those that can be compared, and what is wrong with the others.

    A gradient that is None counts as zero when the primal is declared `zero`, as missing otherwise.
    """
    good: dict[str, Array] = {}
    bad: list[LayerFailure] = []
    for primal in layer.differentiable:
        name, shape = primal.name, np.shape(case.primals[primal.name])
        gradient = _read(name, raw.get(name))
        if isinstance(gradient, LayerFailure):
            bad.append(gradient)
        elif gradient is None:
            if name in layer.declared.zero:
                good[name] = np.zeros(shape)
            else:
                bad.append(LayerFailure("missing", "backward", f"backward gives no gradient for {name} (None)", name))
        elif gradient.dtype.kind not in "fciub":
            bad.append(LayerFailure("dtype", "backward", f"the gradient of {name} has dtype {gradient.dtype}", name))
        elif gradient.shape != shape:
            message = f"the gradient of {name} has shape {gradient.shape}, {name} has {shape}"
            bad.append(LayerFailure("shape", "backward", message, name))
        elif gradient.dtype.kind == "c" and np.asarray(case.primals[name]).dtype.kind != "c":
            bad.append(LayerFailure("dtype", "backward", f"the gradient of the real primal {name} is complex", name))
        else:
            good[name] = gradient
    return good, bad
