"""Arrays that a function takes from outside: from its module, a closure, defaults, or `functools.partial`.

They are no arguments, so no gradient of them is asked for. Whether the output depends on one is tried: it is changed
in place, and put back. Where backward leaves an array of its shape, whatever the sizes are, that may be its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from gradverify.adapters._arrays import arrays_of
from gradverify.adapters._normal import examples
from gradverify.adapters._pairs import Path
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure, run
from gradverify.core.nouns import Array
from gradverify.core.nouns.ledger import NotVerified

_DEEP = 3  # functions called by functions called by ...
_MANY = 64  # arrays that are tried
_LARGE = 1 << 20  # elements of an array that is data and no weight
_LOOKS = 2  # sets of sizes: what has the shape of a weight at both is none of the inputs'
_PLAIN = "taken from outside by forward, which has no argument for it: no gradient is asked for"
_LEFT = (
    "taken from outside by forward, and backward leaves what may be its gradient in {place}: give forward an argument "
    '{name}, and return its gradient; if it needs none: constants="{shown}"'
)


def captured(layer: Layer, forward: Any, backward: Any, constants: tuple[str, ...] = ()) -> tuple[NotVerified, ...]:
    """What the outputs of a layer depend on besides its primals.

    Parameters
    ----------
    forward, backward : the author's own functions
    constants : names of arrays that need no gradient
    """
    held = namespace(forward)
    every = {p: a for p, a in arrays_of(held).items() if isinstance(a, np.ndarray) and a.flags.writeable}
    arrays = dict(islice(((p, a) for p, a in every.items() if a.size <= _LARGE), _MANY))
    if not arrays:
        return ()
    beside = {**namespace(backward), **held}
    reached: set[Path] = set()
    left: list[dict[Path, Array]] = []  # at each look; none where forward or backward fails, which the check reports
    for primals, _ in islice(examples(layer), _LOOKS):
        with suppress(LayerFailure):
            reached |= _reached(layer, primals, arrays)
            left.append(_left(layer, primals, beside))
    found = []
    for path in sorted(reached, key=str):
        name, shape = _shown(path), arrays[path].shape
        places = [p for p in (left or [{}])[0] if p != path and all(p in at and at[p].shape == shape for at in left)]
        if name in constants:
            found.append(NotVerified(name, "declared constant"))
        elif places:
            told = _LEFT.format(place=_shown(places[0]), name=path[-1][1], shown=name)
            found.append(NotVerified(name, told, blocks=True))
        else:
            found.append(NotVerified(name, _PLAIN))
    return tuple(found)


def known_as(forward: Any, backward: Any) -> set[str]:
    """Names by which functions reach arrays outside."""
    return {_shown(path) for path in arrays_of({**namespace(backward), **namespace(forward)})}


def namespace(function: Any, deep: int = _DEEP) -> dict[str, Any]:
    """What a function can reach by name besides its arguments: values, and those of the functions among them."""
    if deep == 0:
        return {}
    if isinstance(function, partial):
        given = {f"argument {k}": value for k, value in enumerate(function.args)} | function.keywords
        return namespace(function.func, deep) | given
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return {}
    code, values = function.__code__, dict[str, Any]()
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        with suppress(ValueError):  # a cell that is empty yet
            values[name] = cell.cell_contents
    values |= {name: function.__globals__[name] for name in _named(code) if name in function.__globals__}
    defaults = function.__defaults__ or ()
    values |= dict(zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults))
    values |= function.__kwdefaults__ or {}
    inner = [namespace(value, deep - 1) for value in values.values() if isinstance(value, (FunctionType, partial))]
    plain = {n: v for n, v in values.items() if not isinstance(v, (ModuleType, FunctionType, type, partial))}
    for more in inner:
        plain = {**more, **plain}
    return plain


def _named(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _named(constant)


def _shown(path: Path) -> str:
    (_, name), *rest = path
    return str(name) + "".join(f".{key}" if kind == "attr" else f"[{key!r}]" for kind, key in rest)


@contextmanager
def _changed(arrays: Mapping[Path, Array]) -> Iterator[None]:
    """Other values in some arrays, for as long as the body runs."""
    kept = {path: array.copy() for path, array in arrays.items()}
    rng = np.random.default_rng(0)
    try:
        for array in arrays.values():
            size = np.abs(array).max(initial=0.0) or 1.0
            array += ((0.5 + rng.random(array.shape)) * size).astype(array.real.dtype)
        yield
    finally:
        for path, array in arrays.items():
            array[...] = kept[path]


def _reached(layer: Layer, primals: Mapping[str, Array], arrays: Mapping[Path, Array]) -> set[Path]:
    """Those of some arrays that the outputs depend on: all at once, and one by one where that changes anything."""
    plain, again = _outputs(layer, primals), _outputs(layer, primals)

    def moves(some: Mapping[Path, Array]) -> bool:
        with _changed(some):
            try:
                out = _outputs(layer, primals)
            except LayerFailure:
                return True
        return len(out) != len(plain) or not all(map(_same, out, plain))

    if not all(map(_same, plain, again)) or not moves(arrays):  # where it draws random numbers, nothing can be told
        return set()
    return {path for path, array in arrays.items() if moves({path: array})}


def _outputs(layer: Layer, primals: Mapping[str, Array]) -> list[Array]:
    given = {n: np.array(a) for n, a in primals.items()}
    return [np.array(y) for y in run(layer, given, layer.default_options).outputs]


def _left(layer: Layer, primals: Mapping[str, Array], held: Mapping[str, Any]) -> dict[Path, Array]:
    """Arrays among some values that backward writes, other than the gradients that it returns."""
    evaluation = run(layer, {n: np.array(a) for n, a in primals.items()}, layer.default_options)
    before = {p: np.array(a) for p, a in arrays_of(held).items()}
    rng = np.random.default_rng(1)
    returned = evaluation.pull(tuple(np.asarray(rng.normal(size=y.shape)).astype(y.dtype) for y in evaluation.outputs))
    given = [np.asarray(g) for g in returned.values() if isinstance(g, np.ndarray)]
    after = {p: np.array(a) for p, a in arrays_of(held).items()}
    return {
        p: a
        for p, a in after.items()
        if not (p in before and _same(before[p], a)) and not any(_same(a, g) for g in given)
    }


def _same(one: Array, other: Array) -> bool:
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc" and other.dtype.kind in "fc"))
