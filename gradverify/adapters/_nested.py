"""Primals in dicts, lists and tuples: named by their path, put back for forward, found in what backward returns.

gradverify.check(forward, backward, params={"W1": "D H", "b1": "H"}, x="N D")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from gradverify.adapters._normal import annotated, flat
from gradverify.adapters._pair import normal
from gradverify.core.declare.domains import words
from gradverify.core.declare.functions import arguments, taken_by
from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.validation import parameters, takes
from gradverify.core.errors import DeclarationError

Rebuild = Callable[[Mapping[str, Any]], dict[str, Any]]


def is_nested(spec: Any) -> bool:
    """Whether a declaration is a dict, list or tuple of declarations: not ("N", domain), nor choices of an option."""
    if isinstance(spec, (list, tuple)) and not any(isinstance(part, (str, Mapping, list, tuple)) for part in spec):
        return False
    return isinstance(spec, (Mapping, list)) or (isinstance(spec, tuple) and not _is_pair(spec))


def flattened(label: str, nested: Mapping[str, Any]) -> tuple[dict[str, Any], Rebuild]:
    """Primals by path, and the function that puts arrays back into the declared nesting.

    Raises DeclarationError if two primals get the same name.
    """
    names = _named(nested)
    found: dict[str, Any] = {}
    for path, spec in _leaves(names, nested):
        if path in found:
            raise DeclarationError(f"layer {label!r}: two primals would be called {path!r}")
        found[path] = spec
    return found, lambda arrays: {key: _filled(part, arrays) for key, part in names.items()}


def listed(label: str, primals: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Primals, those of lists one by one, and the arguments that hold them as lists: ``xs=["N D", "N E"]``."""
    lists = {n: spec for n, spec in primals.items() if isinstance(spec, (list, tuple)) and is_nested(spec)}
    if not lists:
        return dict(primals), {}
    found, rebuild = flattened(label, primals)
    names = rebuild({path: path for path in found})
    return found, {n: list(names[n]) for n in lists}


@dataclass(frozen=True, slots=True)
class Nesting:
    """Arguments of forward that hold several primals, and those that are one.

    Attributes
    ----------
    names : paths of primals, in their places
    primals : declarations by path
    """

    names: dict[str, Any]
    primals: dict[str, Any]

    def rebuild(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of forward, of arrays by path."""
        return {arg: _filled(place, arrays) for arg, place in self.names.items()}

    def read(self, raw: Any) -> dict[str, Any]:
        """Gradients by path: in the nesting of the arguments, or in dicts whose keys name a primal, in any place."""
        return _by_path(self.names, raw)

    def flat(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> tuple[Any, Any]:
        """The pair with an argument for each path, and gradients by path."""

        def forward_nested(*arrays: Any, **named: Any) -> Any:
            known = {**dict(zip(self.primals, arrays)), **named}
            options = {n: v for n, v in named.items() if n not in self.primals}
            return forward(*self.rebuild(known).values(), **options)

        @wraps(backward)
        def backward_nested(*given: Any, **options: Any) -> dict[str, Any]:
            return self.read(backward(*given, **taken_by(backward, options, len(given))))

        moving = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in self.primals]
        rest = [p.replace(kind=p.KEYWORD_ONLY) for p in arguments(forward) or () if p.name not in self.names]
        vars(forward_nested)["__signature__"] = inspect.Signature([*moving, *rest])
        forward_nested.__name__ = getattr(forward, "__name__", "layer")
        return forward_nested, backward_nested


def nesting(label: str, forward: Callable[..., Any], nested: Mapping[str, Any]) -> Nesting:
    """How the arguments of forward hold primals; raises DeclarationError if two primals get the same name."""
    order = [p.name for p in arguments(forward) or () if p.name in nested]
    nested = {n: nested[n] for n in order} if len(order) == len(nested) else nested
    primals, rebuild = flattened(label, nested)
    return Nesting(rebuild({path: path for path in primals}), primals)


def nested_pair(
    kind: type[Layer],
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    nested: Mapping[str, Any],
    settings: dict[str, Any],
) -> Layer:
    """A Layer of two functions of which an argument holds several primals.

    Parameters
    ----------
    kind : `Layer` or `Loss`
    nested, settings : as `split` gives them
    """
    label = str(settings.pop("name", None) or getattr(forward, "__name__", "layer"))
    takes(label, parameters(forward, True), nested, settings.get("options") or (), by_name=False)
    held = nesting(label, forward, nested)
    layer = kind(*held.flat(forward, backward), name=label, primals=held.primals, **settings)
    forward, backward, line = normal((forward, backward), layer, rebuild=held.rebuild, read=held.read)
    if not line:
        return layer
    forward, backward = held.flat(forward, backward)
    return annotated(layer.derive(forward=forward, backward=backward), line)


def _named(nested: Mapping[str, Any]) -> dict[str, Any]:
    """The nesting with the path of each primal in its place."""

    def named(path: str, spec: Any) -> Any:
        if not is_nested(spec):
            return path
        if isinstance(spec, Mapping):
            return {key: named(f"{path}_{key}", part) for key, part in spec.items()}
        return type(spec)([named(f"{path}_{k}", part) for k, part in enumerate(spec)])

    return {key: named(key, spec) for key, spec in nested.items()}


def _leaves(names: Any, values: Any) -> Iterator[tuple[str, Any]]:
    """Each path, and what stands in its place."""
    if isinstance(names, str):
        yield names, values
    elif isinstance(names, Mapping):
        for key, part in names.items():
            yield from _leaves(part, values[key])
    else:
        for part, value in zip(names, values, strict=True):
            yield from _leaves(part, value)


def _filled(names: Any, arrays: Mapping[str, Any]) -> Any:
    if isinstance(names, dict):
        return {key: _filled(part, arrays) for key, part in names.items()}
    if isinstance(names, (list, tuple)):
        return type(names)([_filled(part, arrays) for part in names])
    return arrays[names]


def _by_path(names: Mapping[str, Any], raw: Any) -> dict[str, Any]:
    """Gradients by path. Values stand for the arguments that no key of a dict names, in forward's order."""
    parts = flat(raw)
    fits = [isinstance(part, Mapping) == isinstance(place, Mapping) for part, place in zip(parts, names.values())]
    if len(parts) == len(names) and all(fits):
        return {path: g for (arg, place), part in zip(names.items(), parts) for path, g in _within(place, part, arg)}
    found = {path: g for part in parts if isinstance(part, Mapping) for path, g in _within(names, part, "")}
    values = [part for part in parts if not isinstance(part, Mapping)]
    rest = [arg for arg, place in names.items() if not any(path in found for path, _ in _leaves(place, place))]
    return found | dict(zip(rest, values))


def _within(names: Any, value: Any, label: str) -> Iterator[tuple[str, Any]]:
    """Each path within a nesting, and its gradient, as far as keys and places tell; the rest under its own key."""
    if isinstance(names, str):
        yield names, value
    elif isinstance(value, Mapping):
        known = dict(_keys(names))
        for key, part in value.items():
            own = next((k for k in known if key == k or str(key) in names_of_gradients(str(k))), None)
            yield from [(str(key), part)] if own is None else _within(known[own], part, str(key))
    elif isinstance(value, (list, tuple)) and len(value) == len(names):
        for place, part in zip(names.values() if isinstance(names, Mapping) else names, value):
            yield from _within(place, part, label)
    else:
        yield label, value


def _keys(names: Any) -> Iterator[tuple[Any, Any]]:
    """Every key of dicts within a nesting, the outer ones first, and what stands there."""
    places = list(names.items()) if isinstance(names, Mapping) else []
    yield from places
    for _, place in places:
        if not isinstance(place, str):
            yield from _keys(place)


def _is_pair(spec: tuple[Any, ...]) -> bool:
    """A dimension string with its domain: ("N", strategy) or ("N", "positive"), not two dimension strings."""
    if len(spec) != 2 or not isinstance(spec[0], str):
        return False
    second = spec[1]
    return hasattr(second, "example") or (
        isinstance(second, str) and second.split()[:1] != [] and second.split()[0] in words()
    )
