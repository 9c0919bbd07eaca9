"""What the conventions share: declarations taken apart, one example to call once, and what was inferred.

An adapter may call a target once, on a small example, to see what it returns. What it concludes
becomes a line of the report, so that a wrong guess is seen and can be corrected.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters._chance import Chance
from gradverify.adapters._trial import limited
from gradverify.core.declare.declaration import Declared
from gradverify.core.declare.dims import sizes_in
from gradverify.core.declare.functions import arguments
from gradverify.core.declare.layer import KEYWORDS, Layer, as_names
from gradverify.core.evaluate import LayerFailure, guarded, run
from gradverify.core.nouns import Array

TARGETS = (  # names of arguments of a loss that get no gradient unless told
    *("y", "t", "target", "targets", "y_true", "ytrue", "label", "labels", "truth", "actual", "y_actual", "expected"),
)
_PRIMES = ((2, 3, 5, 7, 11, 13, 17), (3, 5, 7, 2, 13, 11, 19), (7, 5, 3, 2, 4, 6, 8))
_FOURS = ((4, 8, 12, 16, 20, 24, 28), (8, 4, 16, 12, 24, 20, 32), (12, 16, 8, 4, 24, 28, 20))  # split among heads
_SIZES = (*_PRIMES, *_FOURS, (4,), (1,))


@dataclass(frozen=True, slots=True)
class Annotated(Declared):
    """Declarations, and what an adapter inferred beside them."""

    inferred: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """One line for each declaration, and for each conclusion of the adapter."""
        return (*self.inferred, *Declared.lines(self))


def annotated(layer: Layer, *lines: str) -> Layer:
    """The layer, with lines that its reports will print."""
    known = {f.name: getattr(layer.declared, f.name) for f in dataclasses.fields(Declared)}
    before = getattr(layer.declared, "inferred", ())
    return layer.derive(declared=Annotated(**known, inferred=(*before, *(line for line in lines if line))))


def on_data(layer: Layer) -> Layer:
    """The layer, of which all that its functions take from outside is data: it is differentiated by its primals alone.

    So it is with what is handed to an optimiser, which calls it with one vector.
    """
    return layer.derive(declared=dataclasses.replace(layer.declared, data_outside=True))


def sketch(primals: Mapping[str, Any], settings: Mapping[str, Any], kind: type[Layer] = Layer, **named: Any) -> Layer:
    """A layer that computes nothing: what its primals are is known before its functions are."""
    known = tuple(n for n in constants(settings) if n in primals)  # others are of the functions
    given = {**settings, "constants": known, **named}
    return kind(lambda *a, **o: (0.0, None), lambda dy, saved: (), primals=dict(primals), **given)


def split(declaration: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Primals (dimension strings by name) and settings of a declaration."""
    settings = {k: v for k, v in declaration.items() if k in KEYWORDS and k != "primals"}
    primals = {k: v for k, v in declaration.items() if k not in KEYWORDS}
    return {**primals, **(declaration.get("primals") or {})}, settings


def constants(settings: Mapping[str, Any], *more: str) -> tuple[str, ...]:
    """The names declared constant, and some more."""
    return tuple(dict.fromkeys([*as_names(settings.get("constants", ())), *more]))


def examples(
    layer: Layer, more: tuple[str, ...] = ()
) -> Iterator[tuple[dict[str, Array], dict[str, int | tuple[int, ...]]]]:
    """Small arrays for the primals, and the sizes they were made with; axes have unequal sizes first.

    `more` are names of sizes that no primal has. Where `assume` refuses all of them, all are given nevertheless: an
    object can be built, and says what it holds.
    """
    names = list(dict.fromkeys([*(n for p in layer.primals for n in p.dims.names), *more]))
    if any(p.domain.strategy is not None for p in layer.primals):
        return
    options = layer.default_options
    numbers = sizes_in(options)
    refused = []
    for k, extents in enumerate(_SIZES):
        sizes: dict[str, Any] = {n: extents[i % len(extents)] for i, n in enumerate(names)}
        sizes = {n: (s,) if n.startswith("*") else s for n, s in sizes.items()} | numbers
        rng = np.random.default_rng(k)
        arrays = {p.name: _array(p, sizes, rng) for p in layer.primals}
        if layer.allows(arrays, options):
            yield arrays, sizes
        else:
            refused.append((arrays, sizes))
    if len(refused) == len(_SIZES):
        yield from refused


def redrawn(layer: Layer, sizes: Mapping[str, Any]) -> dict[str, Array]:
    """Other values for the primals, at the same sizes."""
    rng = np.random.default_rng(len(_SIZES))
    return {p.name: _array(p, sizes, rng) for p in layer.primals}


def _array(primal: Any, sizes: Mapping[str, Any], rng: np.random.Generator) -> Array:
    shape = primal.dims.shape(sizes)
    raw = rng.random(shape) if primal.domain.discrete else np.asarray(rng.normal(size=shape))
    return np.asarray(primal.domain.project(raw, sizes))


def _one_by_one(*_: Any) -> Any:
    raise ValueError("random numbers are drawn")


def attempt(
    layer: Layer, options: Mapping[str, Any] | None = None
) -> tuple[dict[str, Array], Any, LayerFailure | None]:
    """A forward on the first example that it accepts: primals, evaluation, and the last failure if none is."""
    failure: LayerFailure | None = None
    for arrays, _ in examples(layer):
        try:
            return (
                arrays,
                run(layer, {n: np.array(a) for n, a in arrays.items()}, {**layer.default_options, **(options or {})}),
                None,
            )
        except LayerFailure as error:
            failure = error
    return {}, None, failure


def remarks(layer: Layer) -> tuple[str, ...]:
    """What one forward shows that would otherwise look like a wrong gradient: a lower precision inside."""
    arrays, evaluation, _ = attempt(layer)
    floats = [a.dtype for a in arrays.values() if a.dtype.kind in "fc"]
    if evaluation is None or not floats:
        return ()
    wide = np.result_type(*floats)
    low = [y.dtype for y in evaluation.outputs if y.dtype.kind in "fc" and y.dtype.itemsize < wide.itemsize]
    return (f"output is {low[0]} for a {wide} input: judged in that precision",) if low else ()


def finished(layer: Layer, *lines: str, chance: Chance | None = None) -> Layer:
    """The layer with what was inferred, and with what one forward shows."""
    shown = remarks(layer)
    for name, choices in layer.options.items() if chance is not None else ():
        for value in choices[1:8] if isinstance(choices, (list, range)) else ():
            attempt(layer, {name: value})
    if chance is not None and chance.drawn:
        # A stack of copies would draw other numbers for each copy than one forward does.
        layer = layer.derive(hooks=dataclasses.replace(layer.hooks, batched=_one_by_one, steady=chance.steady))
    return annotated(layer, *lines, *shown, chance.line() if chance is not None else "")


def required(function: Callable[..., Any]) -> list[str] | None:
    """Names of the arguments that must be given; None if the signature cannot be read."""
    parameters = positional(function)
    return None if parameters is None else [p.name for p in parameters if p.default is p.empty]


def positional(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Arguments that can be given by position; None if unknown."""
    known = arguments(function)
    return None if known is None else [p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def nameable(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments of a function, less those that take any number."""
    return [p.name for p in arguments(function) or () if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def flat(value: Any) -> list[Any]:
    """A result as a list: of a tuple or list its parts, else the one value."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


def parted(raw: Any) -> tuple[list[Any], dict[Any, Any]]:
    """What backward returned: values in order, and those that stand in a dict, alone or beside others."""
    parts = list(_spread(raw))
    named = {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}
    return [part for part in parts if not isinstance(part, Mapping)], named


def _spread(raw: Any) -> Iterator[Any]:
    """The values of a result, those of lists within it one by one: `(dx, [dW0, dW1], [db0, db1])`."""
    for part in flat(raw):
        if isinstance(part, (tuple, list)) and any(isinstance(p, (np.ndarray, Mapping, tuple)) for p in part):
            yield from _spread(part)
        else:
            yield part  # a list of numbers is an array


def called(stage: str, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """Call the author's code; what it raises names the author's own line."""
    with limited(stage):
        return guarded(stage, function, *arguments, **keywords)
