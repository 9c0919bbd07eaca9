"""Parameters of an object and where their gradients stand: paths, and the naming rules that pair them.

Found are `W`/`dW`, `weights`/`d_weights`, `wg`/`wg_diff`, `k`/`k_grad`, objects that hold `data` and
`grad`, dicts `parameters`/`gradients` with equal keys, and lists `params`/`grads`, where an entry
that occurs twice is one primal with the sum of both gradients.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.core.declare.gradient_names import names_of_gradients
from gradverify.core.declare.held import Path, attributes, fetch, show
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Array

Gradient = tuple[Path, ...] | Callable[[Any], Any]  # summed over several places, or told as a function

_DICTS = ("parameters", "params", "weights", "_parameters", "_params")
GRADIENTS = ("gradients", "grads", "d_params", "dparams", "_gradients", "_grads", "derivatives")
_HOLDERS = (("data", "grad"), ("value", "grad"), ("data", "gradient"), ("value", "gradient"), ("val", "grad"))
_STEP = re.compile(r"\.?([A-Za-z_]\w*)|\[(?:'([^']*)'|\"([^\"]*)\"|(-?\d+))\]")


@dataclass(frozen=True, slots=True)
class Pair:
    """One parameter: its primal name, where its value stands (all places), and where its gradient does."""

    name: str
    values: tuple[Path, ...]
    gradient: Gradient

    def __str__(self) -> str:
        told = getattr(self.gradient, "__name__", "a function") if callable(self.gradient) else ""
        where = _joined(self.values)
        if not self.gradient:
            told = "returned by backward"
        named = "" if re.search(rf"\b{re.escape(self.name)}\b", where) else f"{self.name}: "
        return f"{named}{where}<->{told or _joined(self.gradient)}"  # type: ignore[arg-type]


@dataclass(slots=True)
class Weight:
    """A float array that the output depends on, and where its gradient was seen: a path, or a place in a result."""

    path: Path
    shape: tuple[int, ...]
    gradient: Path | None = None
    returned: int | str | None = None
    likely: Path | None = None  # an array of its shape that backward wrote, which may be meant
    changed: bool = False  # by backward
    number: bool = False  # a single one, which is a setting unless a gradient is named after it
    dtype: Any = None


def _joined(paths: Iterable[Path]) -> str:
    return "+".join(show(path) for path in paths)


def parse(text: str) -> Path:
    """Read a path such as "W", "cell.W", "params[0]" or "gradients['W']"."""
    steps: list[tuple[str, Any]] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise DeclarationError(f'cannot read the path {text!r}; write e.g. "W", "cell.W" or "grads[0]"')
        name, single, double, number = match.groups()
        key = int(number) if number is not None else single if single is not None else double
        steps.append(("attr", name) if name is not None else ("item", key))
        position = match.end()
    return tuple(steps)


def is_array(value: Any) -> bool:
    """Whether a value is an array, or a float, that could be a parameter."""
    return isinstance(value, (np.ndarray, np.floating, float)) and np.asarray(value).dtype.kind in "fc"


def discover(instance: Any, aliases: Mapping[str, Array] | None = None) -> dict[str, Pair]:
    """Parameters of an object whose gradients can be told by a naming rule.

    Parameters
    ----------
    aliases : primal names of arrays that the object was built from, to name entries of lists by
    """
    found = {**_dicts(instance), **_lists(instance, aliases or {})}
    taken = {id(fetch(instance, path)) for pair in found.values() for path in pair.values}
    for name, pair in _attributes(instance).items():
        if not any(id(fetch(instance, path)) in taken for path in pair.values):
            found.setdefault(name, pair)
    return found


def _dicts(instance: Any) -> dict[str, Pair]:
    for left in _DICTS:
        values = _mapping(instance, left)
        for right in GRADIENTS if values else ():
            gradients = _mapping(instance, right)
            if gradients is None:
                continue
            found = {}
            for key, value in values.items() if values else ():
                matching = next((k for k in (key, *names_of_gradients(str(key))) if k in gradients), None)
                if matching is not None and is_array(value):
                    gradient = (("attr", right), ("item", matching))
                    found[_identifier(str(key))] = Pair(
                        _identifier(str(key)), ((("attr", left), ("item", key)),), (gradient,)
                    )
            if found:
                return found
    return {}


def _mapping(instance: Any, name: str) -> Mapping[Any, Any] | None:
    value = getattr(instance, name, None)
    return value if isinstance(value, Mapping) else None


def _lists(instance: Any, aliases: Mapping[str, Array]) -> dict[str, Pair]:
    """Parallel lists; entries that are one object are one primal, named after the array it was built from."""
    for left in _DICTS:
        values = getattr(instance, left, None)
        for right in GRADIENTS if isinstance(values, (list, tuple)) and values else ():
            gradients = getattr(instance, right, None)
            if not isinstance(gradients, (list, tuple)) or len(gradients) not in (0, len(values)):  # type: ignore[arg-type]
                continue
            return _listed(instance, left, right, list(values or ()), aliases)
    return {}


def _listed(instance: Any, left: str, right: str, values: list[Any], aliases: Mapping[str, Array]) -> dict[str, Pair]:
    groups: dict[int, list[int]] = {}
    for k, value in enumerate(values):
        if is_array(value):
            groups.setdefault(id(value), []).append(k)
    known = {id(a): n for n, a in aliases.items()} | {
        id(v): n for n, v in attributes(instance).items() if isinstance(v, np.ndarray)
    }
    found = {}
    for key, places in groups.items():
        alias = known.get(key) or next((n for n, a in aliases.items() if a is values[places[0]]), None)
        name = _identifier(alias or f"{left.strip('_')}{places[0]}")
        found[name] = Pair(
            name,
            tuple((("attr", left), ("item", k)) for k in places),
            tuple((("attr", right), ("item", k)) for k in places),
        )
    return found


def _attributes(instance: Any) -> dict[str, Pair]:
    own = attributes(instance)
    found = {}
    for name, value in own.items():
        holder = next(((a, b) for a, b in _HOLDERS if is_array(getattr(value, a, None)) and hasattr(value, b)), None)
        if isinstance(value, np.ndarray) or holder is None:
            match = next((g for g in names_of_gradients(name) if g in own), None) if is_array(value) else None
            if match is not None:
                found[_identifier(name)] = Pair(_identifier(name), ((("attr", name),),), ((("attr", match),),))
        else:
            a, b = ((("attr", name), ("attr", part)) for part in holder)
            found[_identifier(name)] = Pair(_identifier(name), (a,), (b,))
    gradients = {path for p in found.values() if not callable(p.gradient) for path in p.gradient}
    return {n: p for n, p in found.items() if p.values[0] not in gradients}  # dW/ddW beside W/dW


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name).strip("_") or "p"


def declared_pair(name: str, spec: Any) -> Pair:
    """A pair as the author told it: {"W": "dW"}, {"W": ("weights", "d_weights")} or {"W": function}.

    Raises DeclarationError if it cannot be read.
    """
    value, gradient = spec if isinstance(spec, tuple) and len(spec) == 2 else (name, spec)
    if callable(gradient):
        return Pair(name, (parse(value),), gradient)
    if not isinstance(value, str) or not isinstance(gradient, str):
        raise DeclarationError(
            f'pairs: {name!r} is given {spec!r}; write {{"W": "dW"}}, or {{"W": ("weights", "d_weights")}} '
            "where the primal has another name than the attribute"
        )
    return Pair(name, (parse(value),), tuple(parse(part.strip()) for part in gradient.split("+")))
