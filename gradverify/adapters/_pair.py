"""Two functions in the normal form: called as their author calls them, and a loss told from another layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gradverify.adapters._arranged import arranged, chosen, ways
from gradverify.adapters._normal import TARGETS, called, examples, flat, parted, required
from gradverify.core.declare.functions import arguments, taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import SLOW
from gradverify.core.evaluate.results import keyed
from gradverify.core.nouns import Array


def normal(
    target: tuple[Any, Any],
    layer: Layer,
    *,
    rebuild: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    read: Callable[[Any], Mapping[str, Any]] | None = None,
    convert: Callable[[Array], Any] = np.array,
    ones: Callable[[Any], Any] = np.ones_like,
) -> tuple[Any, Any, str]:
    """The pair as forward -> (outputs, saved) and backward(dy, saved), and the line that says how it is called.

    It is the pair itself, and no line, where it is written so.

    Parameters
    ----------
    layer : with its primals and options; nothing of it is called
    rebuild : from primals by name, in order, to the arguments of forward
    read : gradients by primal, of what backward returned; by default they stand in order, or by name
    convert, ones : from an array to what forward takes; and to an upstream gradient, from an output

    Raises
    ------
    DeclarationError
        If the arguments of backward do not tell what they are.
    LayerFailure
        If it does not return in time.
    """
    forward, backward = target
    options = dict(layer.default_options)
    arrays, values, made = ran(forward, layer, rebuild, convert)
    named = list(rebuild({p.name: p for p in layer.primals}))
    taken = [p.name for p in arguments(forward) or ()]
    if values is None:  # forward tells nothing; names may
        known = dict.fromkeys([*taken, *named, *options])
        way = next(iter(ways((None, None), backward, known, tuple(options))), None)
    else:
        known = {**dict(zip(taken, values)), **dict(zip(named, values)), **options}
        shapes = {p.name: np.shape(arrays[p.name]) for p in layer.differentiable}
        moving = tuple(shapes)

        def fits(raw: Any) -> bool:
            found = by_primal(raw, layer.primal_names, moving) if read is None else read(raw)
            return found is not None and all(
                found.get(n) is None or tuple(getattr(found[n], "shape", ())) == shape for n, shape in shapes.items()
            )

        way = chosen(backward, made, known, tuple(options), ones, fits)
    if way is None:
        raise DeclarationError(_unclear(layer, required(backward) or [], made))
    two = values is None or (isinstance(made, tuple) and len(made) == 2)
    if two and way.usual and len(required(backward) or ()) in (0, len(way.roles)):
        return forward, backward, ""
    return *arranged(forward, backward, (taken, named), way), str(way)


def ran(
    forward: Any, layer: Layer, rebuild: Any = dict, convert: Any = np.array
) -> tuple[dict[str, Array], list[Any] | None, Any]:
    """Small arrays, the arguments of forward, and what it returned for them; None where it raises for all."""
    for arrays, _ in examples(layer):
        values = list(rebuild({n: convert(a) for n, a in arrays.items()}).values())
        try:
            return arrays, values, called("forward", forward, *values, **layer.default_options)
        except LayerFailure as failure:
            if failure.kind in ("timeout", SLOW):
                raise
    return {}, None, None


def by_primal(raw: Any, names: tuple[str, ...], moving: tuple[str, ...]) -> dict[str, Any] | None:
    """Gradients by name, from what backward returned: by name, for those that move, or for each; None of others."""
    known, values = keyed(raw, names), flat(raw)
    if known is not None:
        return known if set(known) <= set(names) else None
    return next((dict(zip(order, values)) for order in (moving, names) if len(values) == len(order)), None)


def in_order(raw: Any, names: Iterable[str], moving: Iterable[str]) -> list[Any]:
    """A gradient or None for each name, of whatever backward returned."""
    names, moving = tuple(names), tuple(moving)
    known, values = by_primal(raw, names, moving), flat(raw)
    if known is None:
        known = dict(zip(moving if len(values) == len(moving) else names, values))
    return [known.get(n) for n in names]


def is_loss(layer: Layer) -> bool:
    """Whether it is a loss and its gradient, which takes the same arguments and no upstream gradient."""
    takes = required(layer.forward) or []
    if len(takes) < 2 or set(takes) != set(layer.primal_names) or takes != required(layer.backward):
        return False
    value = ran(layer.forward, layer)[2]
    return isinstance(value, (np.ndarray, np.number, float)) and np.size(value) == 1


def ungiven(layer: Layer) -> list[str]:
    """Targets of a loss, by their names, of which backward returns no gradient and of the others it does."""
    names = [p.name for p in layer.differentiable if p.name.lower() in TARGETS]
    rest = [p.name for p in layer.differentiable if p.name not in names]
    result = ran(layer.forward, layer)[2] if names and rest else None
    if not isinstance(result, tuple) or len(result) != 2 or np.size(result[0]) != 1:
        return []
    given = np.ones(np.shape(result[0])), result[1]
    try:
        taken = taken_by(layer.backward, layer.default_options, len(given))
        values, named = parted(called("backward", layer.backward, *given, **taken))
    except LayerFailure:
        return []
    found = {n for n in names for key, g in named.items() if g is not None and key in (n, f"d{n}")}
    return [] if found or (not named and len(values) != len(rest)) else names


def _unclear(layer: Layer, names: list[str], made: Any) -> str:
    """What a pair is refused for: arguments of backward that tell nothing."""
    primals = ", ".join(layer.primal_names)
    takes = f"backward takes ({', '.join(names)})"
    if isinstance(made, (tuple, list)):
        return (
            f"{layer.name!r}: {takes}, and is called as backward(dy, saved). Name what is forward's as forward does "
            f"({primals}), and the upstream gradient dy"
        )
    one = len(names) == 1 and len(layer.primal_names) == 1
    chain = " Of the output instead of the input: gradverify.adapt.elementwise(f, g, of='output')." if one else ""
    return (
        f"{layer.name!r} returns an array and no cache, and {takes}: name its arguments as those of forward, "
        f"({primals}) or ({primals}, dy).{chain} Or let forward return (output, saved), and backward take (dy, saved)"
    )
