"""Simpler options: each replaced by the earlier choices of its list, the simplest first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradverify.core.shrink.axes import cut
from gradverify.core.shrink.search import Shrinker

_MOST = 8  # choices tried for one option


def simplify(search: Shrinker) -> None:
    """Try earlier choices, one option at a time, and the checker's own step."""
    for name, spec in search.layer.options.items():
        if name not in search.best.options:
            continue
        for value in _simpler(spec, search.best.options[name]):
            if search.attempt(_with(search, name, value)):
                break
    if search.best.step is not None:
        search.attempt(search.best.but(step=None))


def _simpler(spec: Any, value: Any) -> Iterator[Any]:
    if isinstance(spec, tuple) and isinstance(value, tuple) and len(spec) == len(value):
        choices = [list(_simpler(part, v)) for part, v in zip(spec, value)]
        if all(c for c in choices):
            yield tuple(c[0] for c in choices)
        for k, part in enumerate(choices):
            yield from ((*value[:k], simpler, *value[k + 1 :]) for simpler in part)
    elif isinstance(spec, (list, range)):
        for choice in spec[:_MOST]:
            if choice == value and type(choice) is type(value):
                return
            yield choice


def _with(search: Shrinker, name: str, value: Any) -> Any:
    """The best case with one option changed; where the option is a size, arrays are cut to it."""
    options = {**search.best.options, name: value}
    if not any(name in primal.dims.names for primal in search.layer.primals):
        return cut(search, {}, options)
    old = search.best.options[name]
    return cut(search, {name: range(value)}, options) if isinstance(value, int) and value < old else None
