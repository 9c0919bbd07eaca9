"""Run the forward and the pullback of a Layer on a Case, on copies, and record what happened."""

from __future__ import annotations

import inspect
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from textwrap import shorten
from typing import Any

import numpy as np

from gradverify.dims import sizes_in
from gradverify.errors import DeclarationError
from gradverify.layer import Backward, Forward, Layer, accepted
from gradverify.types import Array, Case

_HERE = os.path.dirname(os.path.abspath(__file__))
_INSIDE = tuple(os.path.join(_HERE, part) for part in ("evaluate.py", "differences", "properties", "adapters", "cli"))


class LayerFailure(Exception):
    """The layer's own code went wrong: it raised, or returned something that cannot be used.

    Attributes
    ----------
    kind : "crash", "outputs", "missing", "surplus", "shape", "dtype" or "nan"
    stage : "forward" or "backward"
    primal : the gradient concerned, if any
    """

    def __init__(self, kind: str, stage: str, message: str, primal: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.stage = stage
        self.primal = primal


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Outputs of one forward, and its pullback.

    Attributes
    ----------
    outputs : arrays, one for each output
    saved : what backward needs, as the layer returned it
    pull : from cotangents to raw gradients by primal name; values may still be None or misshapen
    """

    outputs: tuple[Array, ...]
    saved: Any
    pull: Callable[[tuple[Array, ...]], dict[str, Any]]


def run(
    layer: Layer,
    primals: Mapping[str, Array],
    options: Mapping[str, Any],
    pair: tuple[Forward, Backward] | None = None,
) -> Evaluation:
    """One forward on the arrays as given (no copies are made), and its pullback.

    Parameters
    ----------
    pair : forward and backward to use in place of the layer's, e.g. from a session

    Raises
    ------
    LayerFailure
        If the layer raises, or does not return (outputs, saved).
    """
    forward, backward = pair or (layer.forward, layer.backward)
    result = guarded("forward", forward, *(primals[p.name] for p in layer.primals), **options)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise LayerFailure(
            "outputs",
            "forward",
            f"forward of {layer.name!r} must return (outputs, saved), a tuple of two; it returned {_describe(result)}"
            + _cached(result),
        )
    outputs, saved = outputs_of(layer, result[0]), result[1]

    def pull(cotangents: tuple[Array, ...]) -> dict[str, Any]:
        arguments = (*cotangents, saved) if len(cotangents) > 1 and _spreads(backward, len(cotangents)) else None
        if arguments is None:
            arguments = (cotangents if len(outputs) > 1 else cotangents[0], saved)
        raw = guarded("backward", backward, *arguments, **{k: options[k] for k in accepted(backward, tuple(options))})
        return by_name(layer, raw)

    return Evaluation(outputs, saved, pull)


def _cached(result: Any) -> str:
    """What to do where the cache is the last of several, as in `return h, c, cache`."""
    if not isinstance(result, tuple) or len(result) < 3:
        return ""
    return "; where the last is what backward needs, write adapt.cached(forward, backward, ...)"


def outputs_of(layer: Layer, raw: Any) -> tuple[Array, ...]:
    """The outputs as a tuple of arrays; raises LayerFailure if they are not numbers, or too few."""
    parts = tuple(raw) if isinstance(raw, (tuple, list)) else (raw,)
    arrays = tuple(np.asarray(part) for part in parts)
    if not arrays or any(a.dtype.kind not in "fciub" for a in arrays):
        raise LayerFailure(
            "outputs", "forward", f"forward of {layer.name!r} returned no array of numbers but {_describe(raw)}"
        )
    if layer.differentiable and all(a.dtype.kind in "iub" for a in arrays):
        raise LayerFailure(
            "outputs",
            "forward",
            f"forward of {layer.name!r} returned {_describe(raw)} of type {arrays[0].dtype}: "
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


def by_name(layer: Layer, raw: Any) -> dict[str, Any]:
    """Gradients by primal name, from a dict or from a tuple in forward's order."""
    names, wanted = layer.primal_names, tuple(p.name for p in layer.differentiable)
    if isinstance(raw, Mapping):
        renamed = {_primal_of(key, names): value for key, value in raw.items()}
        surplus = [key for key in renamed if key not in names]
        if surplus:
            raise LayerFailure(
                "surplus",
                "backward",
                f"backward of {layer.name!r} returned a gradient for {surplus[0]!r}, which is no primal "
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
        f"it returned {_describe(raw)}",
        wanted[len(values)] if len(values) < len(wanted) else None,
    )


def _primal_of(key: Any, names: tuple[str, ...]) -> Any:
    """Gradients may be keyed by the primal's name or by "d" and the name."""
    return key[1:] if key not in names and isinstance(key, str) and key[:1] == "d" and key[1:] in names else key


@lru_cache(maxsize=1024)
def _spreads(backward: Backward, count: int) -> bool:
    """Whether backward takes its cotangents one by one: backward(dh, dc, saved)."""
    try:
        parameters = inspect.signature(backward).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == count + 1


def guarded(stage: str, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """Call the layer's code; what it raises becomes a LayerFailure that names the author's line."""
    outer, _began[0] = _began[0], time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            return function(*arguments, **keywords)
    except LayerFailure:
        raise
    except (Exception, SystemExit) as error:
        raise LayerFailure(
            "crash", stage, f"{stage} raised {type(error).__name__}: {_first_line(error)}{_authors_line(error)}"
        ) from error
    finally:
        _began[0] = outer


def running() -> float:
    """Seconds for which the call of the layer's code that is in progress has run; 0 outside of one."""
    return time.perf_counter() - _began[0] if _began[0] else 0.0


_began = [0.0]  # of the innermost call in progress, by `perf_counter`


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _authors_line(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_INSIDE) and f"{os.sep}site-packages{os.sep}numpy" not in frame.filename
    ]
    if not frames:
        return ""
    frame = frames[-1]
    return f" (line {frame.lineno} of {os.path.basename(frame.filename)}: {shorten(frame.line or '', 120)})"


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r}" if value is None else f"a {type(value).__name__}"


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
        rng = case.rng(1, k)
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

    Raises
    ------
    LayerFailure
        If forward fails, its outputs are not of the declared shapes, or the Case's cotangents not of theirs.
    """
    case, evaluation = evaluated(layer, case)
    return case, evaluation.outputs


def evaluated(layer: Layer, case: Case) -> tuple[Case, Evaluation]:
    """As `completed`, with the Evaluation of that forward, on copies of the primals."""
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
) -> dict[str, Any]:
    """Raw gradients of one fresh forward and backward, on copies of everything."""
    return pulled(run(layer, copies(primals), options), cotangents)


def pulled(evaluation: Evaluation, cotangents: tuple[Array, ...]) -> dict[str, Any]:
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
        value = raw.get(name)
        if value is None:
            if name in layer.declared.zero:
                good[name] = np.zeros(shape)
            else:
                bad.append(LayerFailure("missing", "backward", f"backward gives no gradient for {name} (None)", name))
            continue
        try:
            array = np.asarray(value)
        except Exception as error:  # noqa: BLE001  whatever the author's object raises
            bad.append(LayerFailure("dtype", "backward", f"the gradient of {name} is no array: {error}", name))
            continue
        if array.dtype.kind not in "fciub":
            bad.append(LayerFailure("dtype", "backward", f"the gradient of {name} has dtype {array.dtype}", name))
        elif array.shape != shape:
            bad.append(
                LayerFailure(
                    "shape", "backward", f"the gradient of {name} has shape {array.shape}, {name} has {shape}", name
                )
            )
        elif array.dtype.kind == "c" and np.asarray(case.primals[name]).dtype.kind != "c":
            bad.append(LayerFailure("dtype", "backward", f"the gradient of the real primal {name} is complex", name))
        else:
            good[name] = array
    return good, bad
