"""The usual check, as gradients are tested by hand: what it lets through is what this project is for.

One call at one typical shape with default options, contiguous normal numbers in float64, central
differences, a random cotangent, and `numpy.allclose`. And the same point through torch's `gradcheck`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.dims import sizes_in
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array, Case

EPS, RTOL, ATOL = 1e-6, 1e-3, 1e-5
_EXTENTS = (4, 3, 5, 6, 7, 2)  # of named axes, in the order in which they appear
_LEADING = (4,)
_ATTEMPTS = 50


def typical(layer: Layer, seed: int = 0) -> Case:
    """One case as a person would write it: distinct sizes, default options, kernels of 3, normal numbers.

    Raises ValueError if the layer's own predicate refuses such cases.
    """
    options = _options(layer)
    sizes = _sizes(layer, options)
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        primals = {p.name: _values(p, p.dims.shape(sizes), {**options, **sizes}, rng) for p in layer.primals}
        case = Case(layer.name, primals, options)
        if not layer.allows(primals, options):
            continue
        outputs = evaluate.run(layer, evaluate.copies(primals), options).outputs
        return case.but(cotangents=tuple(_cotangent(y, rng) for y in outputs))
    raise ValueError(f"no typical case of the layer {layer.name!r} is allowed by its own predicate")


def _options(layer: Layer) -> dict[str, Any]:
    """Defaults; a kernel, which is an axis of some primal, has its largest size, as 1 would hide its order."""
    options = layer.default_options
    axes = {axis.text for primal in layer.primals for axis in primal.dims.axes}
    for name, spec in layer.options.items():
        if name in axes and isinstance(spec, (list, range)):
            options[name] = max(spec)
    return options


def _sizes(layer: Layer, options: Mapping[str, Any]) -> dict[str, Any]:
    sizes = sizes_in(options)
    names = dict.fromkeys(n for p in layer.primals for n in p.dims.names if n not in sizes)
    single = [n for n in names if not n.startswith("*")]
    sizes |= {n: _EXTENTS[k % len(_EXTENTS)] for k, n in enumerate(single)}
    return {**sizes, **dict.fromkeys((n for n in names if n.startswith("*")), _LEADING)}


def _values(primal: Any, shape: tuple[int, ...], sizes: Mapping[str, Any], rng: np.random.Generator) -> Array:
    domain = primal.domain
    if domain.strategy is not None:
        from hypothesis import find

        return np.full(shape, find(domain.strategy, lambda value: True))
    raw = rng.random(shape) if domain.discrete else rng.standard_normal(shape)
    if domain.kind == "complex":
        raw = raw + 1j * rng.standard_normal(shape)
    return np.ascontiguousarray(domain.project(raw, sizes))


def _cotangent(output: Array, rng: np.random.Generator) -> Array:
    drawn = rng.standard_normal(output.shape)
    if output.dtype.kind not in "fc":
        return np.zeros(output.shape)
    return drawn + 1j * rng.standard_normal(output.shape) if output.dtype.kind == "c" else drawn


def usual_check(layer: Layer, case: Case) -> bool:
    """Whether the usual check is content: central differences of <v, y>, one entry after another."""
    try:
        gradients = evaluate.gradients(layer, case.primals, case.options, case.cotangents or ())
        for primal in layer.differentiable:
            numerical = _differences(layer, case, primal.name)
            if not np.allclose(np.asarray(gradients.get(primal.name), float), numerical, rtol=RTOL, atol=ATOL):
                return False
    except (LayerFailure, ValueError, TypeError):  # it raised, or shapes that do not broadcast
        return False
    return True


def _differences(layer: Layer, case: Case, name: str) -> Array:
    """Numerical gradient of one primal, in its shape."""
    primals = evaluate.copies(case.primals)
    array = primals[name]
    numerical = np.zeros(array.shape)
    for at in np.ndindex(array.shape):
        kept = array[at]
        ends = []
        for step in (EPS, -EPS):
            array[at] = kept + step
            outputs = evaluate.run(layer, primals, case.options).outputs
            ends.append(sum(float(np.sum(v * y)) for v, y in zip(case.cotangents or (), outputs)))
        array[at] = kept
        numerical[at] = (ends[0] - ends[1]) / (2 * EPS)
    return numerical


def gradcheck(layer: Layer, case: Case, *, fast: bool) -> bool | None:
    """Whether torch's gradcheck is content with the layer behind an autograd.Function; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    function, tensors = _bridge(torch, layer, case)
    try:
        return bool(
            torch.autograd.gradcheck(
                function, tensors, eps=EPS, rtol=RTOL, atol=ATOL, fast_mode=fast, raise_exception=False
            )
        )
    except Exception:  # noqa: BLE001  whatever the wrong backward makes torch raise, it is noticed
        return False


def _bridge(torch: Any, layer: Layer, case: Case) -> tuple[Any, tuple[Any, ...]]:
    """The layer as a function of torch tensors, one for each differentiable primal, and those tensors."""
    names = [p.name for p in layer.differentiable]

    class Bridge(torch.autograd.Function):  # type: ignore[misc,unused-ignore]
        @staticmethod
        def forward(context: Any, *given: Any) -> Any:
            primals = {**evaluate.copies(case.primals), **{n: t.detach().numpy() for n, t in zip(names, given)}}
            context.evaluation = evaluate.run(layer, primals, case.options)
            outputs = tuple(torch.from_numpy(np.array(y)) for y in context.evaluation.outputs)
            return outputs if len(outputs) > 1 else outputs[0]

        @staticmethod
        def backward(context: Any, *cotangents: Any) -> Any:
            gradients = context.evaluation.pull(tuple(v.numpy() for v in cotangents))
            return tuple(torch.from_numpy(np.array(gradients[n])) for n in names)

    tensors = tuple(torch.from_numpy(np.array(case.primals[n])).requires_grad_() for n in names)
    return Bridge.apply, tensors
