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
from gradverify.core.evaluate.foreign import MOST, array, described
from gradverify.core.nouns import Array, Case, Stream
from gradverify.core.texts import line

Gradients = dict[str, Any]  # by primal name: a plain array, None, or a LayerFailure that says why it is neither


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
        arguments = (*cotangents, saved) if len(cotangents) > 1 and spreads(backward, len(cotangents)) else None
        if arguments is None:
            arguments = (cotangents if len(outputs) > 1 else cotangents[0], saved)
        raw = guarded("backward", backward, *arguments, **taken_by(backward, options, len(arguments)))
        return by_name(layer, raw)

    return Evaluation(outputs, saved, pull)


def forwarded(layer: Layer, result: Any) -> tuple[tuple[Array, ...], Any]:
    """The outputs as plain arrays, and what backward needs, from what forward returned.

    Raises LayerFailure if it is not (outputs, saved).
    """
    raw, saved = result if type(result) is tuple and len(result) == 2 else guarded("forward", _two, layer, result)
    return outputs_of(layer, raw), saved


def _two(layer: Layer, result: Any) -> tuple[Any, Any]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise LayerFailure(
            "outputs",
            "forward",
            f"forward of {layer.name!r} must return (outputs, saved), a tuple of two; it returned {described(result)}"
            + _cached(result),
        )
    return tuple(result)


def _cached(result: Any) -> str:
    """What to do where the cache is the last of several, as in `return h, c, cache`."""
    if not isinstance(result, tuple) or len(result) < 3:
        return ""
    return "; where the last is what backward needs, write adapt.cached(forward, backward, ...)"


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
    named = _named(layer, raw) if _known(raw) else guarded(stage, _named, layer, raw)
    return {name: _read(name, value, stage) for name, value in named.items()}


def _read(name: str, value: Any, stage: str = "backward") -> Any:
    if value is None or isinstance(value, LayerFailure) or (type(value) is np.ndarray and value.size <= MOST):
        return value
    try:
        return guarded(stage, array, value, f"the gradient of {name}", stage, "dtype", name)
    except LayerFailure as failure:
        if failure.kind not in ("dtype", "crash"):  # a time limit
            raise
        return failure


def _named(layer: Layer, raw: Any) -> dict[str, Any]:
    names, wanted = layer.primal_names, tuple(p.name for p in layer.differentiable)
    if isinstance(raw, Mapping):
        renamed = {_primal_of(key, names): value for key, value in raw.items()}
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


def _primal_of(key: Any, names: tuple[str, ...]) -> Any:
    """Gradients may be keyed by the primal's name or by "d" and the name."""
    return key[1:] if key not in names and isinstance(key, str) and key[:1] == "d" and key[1:] in names else key


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
