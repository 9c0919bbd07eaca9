"""Run the forward and the pullback of a Layer on a Case, on copies, and record what happened."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.core.declare.declaration import Backward, Forward
from gradverify.core.declare.dims import sizes_in
from gradverify.core.declare.functions import by_function, own, taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import edge
from gradverify.core.evaluate.failures import LayerFailure as LayerFailure
from gradverify.core.evaluate.failures import guarded as guarded
from gradverify.core.evaluate.failures import unpatched
from gradverify.core.evaluate.results import Gradients as Gradients
from gradverify.core.evaluate.results import by_name as by_name
from gradverify.core.evaluate.results import forwarded as forwarded
from gradverify.core.evaluate.results import outputs_of as outputs_of
from gradverify.core.evaluate.results import usable as usable
from gradverify.core.nouns import Array, Case, Stream


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Outputs of one forward, and its pullback.

    Attributes
    ----------
    outputs : arrays, one for each output
    saved : what backward needs, as the layer returned it
    pull : from cotangents to gradients by primal name, as `by_name` reads them
    """

    outputs: tuple[Array, ...]
    saved: Any
    pull: Callable[[tuple[Array, ...]], Gradients]


def run(
    layer: Layer, primals: Mapping[str, Array], options: Mapping[str, Any], pair: tuple[Forward, Backward] | None = None
) -> Evaluation:
    """One forward on the arrays as given (no copies are made), and its pullback.

    Raises LayerFailure if the layer raises, or does not return (outputs, saved).

    Parameters
    ----------
    pair : forward and backward to use in place of the layer's, e.g. from a session
    """
    forward, backward = pair or (layer.forward, layer.backward)
    edge.entered(layer, primals, options)
    options = own(options)
    result = guarded("forward", forward, *(primals[p.name] for p in layer.primals), **options)
    outputs, saved = forwarded(layer, result)

    def pull(cotangents: tuple[Array, ...]) -> Gradients:
        arguments = handed(backward, cotangents, saved)
        raw = guarded("backward", backward, *arguments, **taken_by(backward, options, len(arguments)))
        return by_name(layer, raw)

    return Evaluation(outputs, saved, pull)


def handed(backward: Backward, cotangents: tuple[Any, ...], saved: Any) -> tuple[Any, ...]:
    """Arguments for backward: cotangents, several one by one or as a tuple, as it takes them; and what was saved."""
    if len(cotangents) == 1 or spreads(backward, len(cotangents)):
        return (*cotangents, saved)
    return cotangents, saved


def spreads(backward: Backward, count: int) -> bool:
    """Whether backward takes its cotangents one by one: backward(dh, dc, saved)."""
    return _required(backward) == count + 1


@by_function
def _required(backward: Backward) -> int | None:
    """Number of arguments that must be given; None if the signature cannot be read."""
    try:
        parameters = inspect.signature(backward).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.default is p.empty and p.kind in positional for p in parameters)


def copies(primals: Mapping[str, Array]) -> dict[str, Array]:
    """Fresh C-ordered copies, so that nothing the layer does can reach the Case."""
    return {name: np.array(array, order="C", copy=True) for name, array in primals.items()}


def cast(primals: Mapping[str, Array], dtype: Any) -> dict[str, Array]:
    """Copies with every floating primal in `dtype` (complex ones in the matching complex type)."""
    complex_type = np.result_type(dtype, np.complex64)
    wanted = {"f": np.dtype(dtype), "c": complex_type}
    return {name: np.array(a, dtype=wanted.get(a.dtype.kind, a.dtype)) for name, a in primals.items()}


def draw_cotangents(case: Case, outputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """Signed cotangents with one decimal, none of them 0; zeros for outputs that are not real or complex.

    The mean is not zero, and no two draws are alike: all-ones cotangents hide the mean terms of norms.
    """
    drawn = []
    for k, output in enumerate(outputs):
        rng = case.rng(Stream.COTANGENT, k)
        if output.dtype.kind not in "fc":
            drawn.append(np.zeros(output.shape))
            continue
        values = _tenths(rng, output.shape)
        if output.dtype.kind == "c":
            values = values + 1j * _tenths(rng, output.shape)
        drawn.append(values.astype(output.dtype))
    return tuple(drawn)


def _tenths(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    magnitude = rng.integers(1, 21, shape) / 10.0
    return np.where(rng.random(shape) < 0.45, -magnitude, magnitude)


def unit_cotangents(cotangents: tuple[Array, ...], output: int) -> tuple[Array, ...]:
    """Cotangents of these shapes and types that are one at a place of all flat outputs, and zero elsewhere."""
    made, start = [], 0
    for v in cotangents:
        flat = np.zeros(v.size, v.dtype)
        if start <= output < start + v.size:
            flat[output - start] = 1
        made.append(flat.reshape(v.shape))
        start += v.size
    return tuple(made)


def completed(layer: Layer, case: Case) -> tuple[Case, tuple[Array, ...]]:
    """The Case with cotangents, drawn if it has none, and the outputs at its point.

    Raises LayerFailure if forward fails, its outputs are not of the declared shapes, or the Case's cotangents not of
    theirs.
    """
    case, evaluation = evaluated(layer, case)
    return case, evaluation.outputs


def evaluated(layer: Layer, case: Case) -> tuple[Case, Evaluation]:
    """As `completed`, with the Evaluation of that forward, on copies of the primals."""
    with unpatched():
        evaluation = run(layer, copies(case.primals), case.options)
    outputs = evaluation.outputs
    _shaped(layer, case, outputs)
    if case.cotangents is None:
        return case.but(cotangents=draw_cotangents(case, outputs)), evaluation
    shapes = [v.shape for v in case.cotangents], [y.shape for y in outputs]
    if shapes[0] != shapes[1]:
        raise LayerFailure(
            "outputs", "forward", f"the case has cotangents of shapes {shapes[0]}, forward returned {shapes[1]}"
        )
    return case, evaluation


def _shaped(layer: Layer, case: Case, outputs: tuple[Array, ...]) -> None:
    """Whether the outputs have the dimensions that the layer declares for them."""
    if not layer.returns:
        return
    sizes = sizes_in(case.options)
    try:
        for primal in layer.primals:
            sizes = primal.dims.bind(np.shape(case.primals[primal.name]), sizes)
    except (DeclarationError, KeyError):
        return  # arithmetic on what no shape tells
    for (name, spec), output in zip(layer.returns.items(), outputs):
        try:
            sizes = spec.bind(output.shape, sizes)
        except DeclarationError as error:
            message = f"output {name!r} of forward of {layer.name!r} is not as declared in returns: {error}"
            raise LayerFailure("outputs", "forward", message) from None


def gradients(
    layer: Layer, primals: Mapping[str, Array], options: Mapping[str, Any], cotangents: tuple[Array, ...]
) -> Gradients:
    """Raw gradients of one fresh forward and backward, on copies of everything."""
    return pulled(run(layer, copies(primals), options), cotangents)


def pulled(evaluation: Evaluation, cotangents: tuple[Array, ...]) -> Gradients:
    """Raw gradients of an Evaluation, for copies of cotangents in the dtypes of its outputs."""
    return evaluation.pull(
        tuple(
            np.array(v, dtype=y.dtype if y.dtype.kind in "fc" else v.dtype)
            for v, y in zip(cotangents, evaluation.outputs)
        )
    )
