"""The reference of a JAX or Pallas kernel: plain operations, differentiated by JAX in float64.

What a good kernel may lose comes from the same model as for torch (see `_torch_noise`): the jaxpr of the reference and
its pullback is run operation by operation, and each result moves by plus or minus its own bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradverify.adapters._jax_engine import Engine, Tape, _cotangent, _precision, import_jax

Array = Any  # numpy.ndarray or jax.Array
UNIT = 2.0**-24
_FEW, _MANY = 4.0, 4096
_SUMS = {"dot_general", "reduce_sum", "cumsum", "scatter-add", "scatter_add", "conv_general_dilated"}
_PRODUCTS = {"dot_general", "conv_general_dilated"}
_EXACT = {
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "slice", "concatenate", "gather", "select_n", "pad", "rev",
    "neg", "abs", "sign", "max", "min", "reduce_max", "reduce_min", "convert_element_type", "copy", "stop_gradient",
    "iota", "dynamic_slice", "dynamic_update_slice", "expand_dims", "scatter", "clamp", "floor", "round", "argmax",
}  # fmt: skip
_NESTED = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclass
class Truth:
    """What a forward of the reference keeps: its tape, and what the first sample traces."""

    tape: Tape
    halves: _Halves | None = None


@dataclass(frozen=True)
class Reference:
    """Called like forward, gives the outputs alone; see `_torch_reference.Reference`."""

    high: Engine
    type: str

    @property
    def dtype(self) -> Any:
        return import_jax().numpy.dtype(self.type)

    @property
    def eps(self) -> float:
        return float(import_jax().numpy.finfo(self.dtype).eps)

    @property
    def largest(self) -> float:
        return float(import_jax().numpy.finfo(self.dtype).max)

    @property
    def smallest(self) -> float:
        normal = float(import_jax().numpy.finfo(self.dtype).tiny)
        return normal * (self.eps if self.type == "float16" else 1.0)

    def __call__(self, *arrays: Array, **options: Any) -> Any:
        return self.high.forward(*arrays, **options)[0]

    def batched(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """See `Hooks.batched`."""
        return self.high.batched(stack, options)

    def at(self, primals: Mapping[str, Array]) -> dict[str, Array]:
        """The point at which the kernel is: every primal as it is stored."""
        return {n: self.stored(a) for n, a in primals.items()}

    def stored(self, array: Array) -> Array:
        """As the kernel's type holds it, in float64."""
        return array if array.dtype.kind != "f" else np.asarray(array).astype(self.dtype).astype(np.float64)

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Truth]:
        """Outputs in float64, and what `backward` and `sample` need."""
        outputs, tape = self.high.forward(*arrays, **options)
        return outputs, Truth(tape)

    def backward(self, cotangents: Any, truth: Truth) -> dict[str, Array]:
        """Gradients by JAX's own differentiation."""
        return {n: np.asarray(g, float) for n, g in self.high.backward(cotangents, truth.tape).items()}

    def kept(self, saved: Any) -> int | None:
        """A compiled kernel does not tell what it keeps: tensors as large as an output may be rounded."""
        return 1

    def sample(
        self,
        arrays: tuple[Array, ...],
        cotangents: tuple[Array, ...],
        options: Mapping[str, Any],
        seed: int,
        kept: int | None,
        truth: Truth,
    ) -> tuple[Any, dict[str, Array], int]:
        """Outputs, gradients and elements computed, each operation off by as much as a good kernel's may be."""
        leaves = import_jax().tree_util.tree_leaves
        primals = {n: np.asarray(a) for n, a in zip(self.high.names, arrays)}
        moving, rest = self.high._parted(primals, self.high.differentiable)
        noise = _Noise(self.dtype, np.random.default_rng(seed))
        with _precision((moving, rest, cotangents)):
            if truth.halves is None:
                truth.halves = _Halves(self.high._outputs(options), moving, rest, cotangents)
            halves = truth.halves
            found = noise.run(halves.ahead.jaxpr, halves.ahead.consts, leaves((moving, rest)))
            outputs, saved = found[: halves.outputs], found[halves.outputs :]
            if len(saved) == len(halves.exact):
                saved = [noise.again(value, exact) for value, exact in zip(saved, halves.exact)]
            flat = noise.run(halves.back.jaxpr, halves.back.consts, [*saved, *cotangents])
            gradients = import_jax().tree_util.tree_unflatten(halves.gradients, flat)
        return tuple(map(np.asarray, outputs)), {n: np.asarray(g, float) for n, g in gradients.items()}, noise.work


class _Halves:
    """Forward and pullback of a function as jaxprs, and what passes from one to the other at a point."""

    def __init__(self, function: Any, moving: Any, rest: Any, cotangents: tuple[Array, ...]) -> None:
        jax = import_jax()
        trees = []

        def ahead(moving: Any, rest: Any) -> Any:
            ys, pull = jax.vjp(lambda m: function({**rest, **m}), moving)
            saved, tree = jax.tree_util.tree_flatten(pull)
            trees.append(tree)
            return ys, saved

        def back(saved: list[Any], vs: tuple[Any, ...]) -> Any:
            pull = jax.tree_util.tree_unflatten(trees[-1], saved)
            return pull(tuple(_cotangent(v, y) for v, y in zip(vs, ys)))[0]

        self.exact = ahead(moving, rest)[1]
        self.ahead, (ys, between) = jax.make_jaxpr(ahead, return_shape=True)(moving, rest)
        self.back, shape = jax.make_jaxpr(back, return_shape=True)(between, tuple(cotangents))
        self.outputs, self.gradients = len(ys), jax.tree_util.tree_structure(shape)


class _Noise:
    """Runs a jaxpr with every result displaced."""

    def __init__(self, dtype: Any, rng: np.random.Generator) -> None:
        self.dtype, self.rng, self.work = dtype, rng, 0
        self.unit = float(import_jax().numpy.finfo(dtype).eps) / 2

    def again(self, value: Any, exact: Any) -> Any:
        """What a pullback is handed: off by what made it off, and as much again: see `_torch_reference._Moved`."""
        if not _floats(value) or np.shape(value) != np.shape(exact):
            return value
        off = np.nan_to_num(np.asarray(value) - np.asarray(exact), nan=0.0, posinf=0.0, neginf=0.0)
        return value + off * self.signs(off)

    def run(self, jaxpr: Any, consts: Any, arguments: Any) -> list[Any]:
        """Outputs of a jaxpr."""
        jax = import_jax()
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, arguments))

        def value(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else known[atom]

        for eqn in jaxpr.eqns:
            given = [value(atom) for atom in eqn.invars]
            inner = next((eqn.params[key] for key in _NESTED if key in eqn.params), None)
            name = eqn.primitive.name
            if inner is not None and name not in ("scan", "while", "cond"):
                results = self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
            else:
                results = self.displaced(eqn, name, given, jax)
            known.update(zip(eqn.outvars, results))
        return [value(atom) for atom in jaxpr.outvars]

    def displaced(self, eqn: Any, name: str, given: list[Any], jax: Any) -> list[Any]:
        def bound_to(arguments: list[Any]) -> list[Any]:
            results = eqn.primitive.bind(*arguments, **eqn.params)
            return list(results) if eqn.primitive.multiple_results else [results]

        if name in _EXACT:
            return bound_to(given)
        if name in _PRODUCTS:
            given = [self.low(a) for a in given]
        sizes: list[Any] = [None] * len(eqn.outvars)
        if name in _SUMS:
            sizes = bound_to([abs(a) if _floats(a) else a for a in given])
        found = []
        for result, size in zip(bound_to(given), sizes):
            self.work += int(np.size(result))
            if not _floats(result):
                found.append(result)
                continue
            if size is not None:
                n = max(1.0, float(np.size(given[0])) / max(1, np.size(result)))
                n = float(np.shape(given[0])[-1]) if name == "dot_general" and np.ndim(given[0]) else n
                n = float(np.size(given[-1])) if name.startswith("scatter") else n
                off = size * (UNIT * min(n, (_MANY * n) ** 0.5))
            else:
                scale = _FEW + (np.abs(np.nan_to_num(np.asarray(given[0]))) if name in ("exp", "exp2") else 0.0)
                off = np.where(np.isfinite(result), result, 0.0) * (UNIT * scale)
            found.append(result + off * self.signs(result))
        return found

    def low(self, array: Any) -> Any:
        """Displaced by as much as rounding to the kernel's type takes; what it holds exactly stays."""
        if not _floats(array):
            return array
        wide = np.asarray(array)
        exact = wide.astype(self.dtype).astype(wide.dtype) == wide
        return np.where(exact, wide, wide + np.where(np.isfinite(wide), wide, 0.0) * (self.unit * self.signs(wide)))

    def signs(self, like: Any) -> Array:
        return self.rng.choice((-1.0, 1.0), np.shape(like))


def _floats(value: Any) -> bool:
    return bool(np.issubdtype(getattr(value, "dtype", np.asarray(value).dtype), np.floating))


def in_type(engine: Engine, kind: str) -> Engine:
    """The engine of a kernel that gets its floating arrays in one type."""
    numpy, call = import_jax().numpy, engine.call

    def narrow(arrays: dict[str, Any], options: dict[str, Any]) -> Any:
        cast = {n: a.astype(kind) if numpy.issubdtype(a.dtype, numpy.floating) else a for n, a in arrays.items()}
        return call(cast, options)

    return replace(engine, call=narrow, _compiled={}, _plain=set())


def reference_of(engine: Engine, call: Callable[..., Any], kind: str) -> Reference:
    """The reference for an engine."""
    return Reference(replace(engine, call=call, _compiled={}, _plain=set()), kind)
