"""Runs a jaxpr operation by operation, in NumPy where that knows the operation: nothing is compiled then.

Compiling costs ten milliseconds or more for each operation at each new shape, and a small case has many of either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from gradverify.adapters._jax.engine import _cotangent, import_jax

Array = Any  # numpy.ndarray or jax.Array

_NESTED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_WHOLE = ("scan", "while", "cond", "pallas_call")  # whose inner jaxprs are not run once, or on references
_PLAIN: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh,
    "sqrt": np.sqrt, "square": np.square, "sin": np.sin, "cos": np.cos, "abs": np.abs, "max": np.maximum,
    "min": np.minimum, "pow": np.power, "sign": np.sign, "floor": np.floor, "is_finite": np.isfinite,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "copy": np.array, "stop_gradient": np.array, "rsqrt": lambda x: 1 / np.sqrt(x),
    "logistic": lambda x: 1 / (1 + np.exp(-x)), "select_n": lambda which, no, yes: np.where(which, yes, no),
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}  # fmt: skip
_WITH: dict[str, Callable[..., Any]] = {
    "integer_pow": lambda p, x: x ** p["y"],
    "broadcast_in_dim": lambda p, x: _broadcast(x, p["shape"], p["broadcast_dimensions"]),
    "reshape": lambda p, x: np.reshape(x, p["new_sizes"]),
    "transpose": lambda p, x: np.transpose(x, p["permutation"]),
    "squeeze": lambda p, x: np.squeeze(x, p["dimensions"]),
    "reduce_sum": lambda p, x: np.sum(x, p["axes"], dtype=x.dtype),
    "reduce_max": lambda p, x: np.max(x, p["axes"]),
    "reduce_min": lambda p, x: np.min(x, p["axes"]),
    "convert_element_type": lambda p, x: np.asarray(x).astype(p["new_dtype"]),
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "dot_general": lambda p, a, b: _product(a, b, *p["dimension_numbers"]),
    "top_k": lambda p, x: _largest(x, p["k"], p.get("axis", -1)),
    "scatter-add": lambda p, x, at, by: _added(x, at, by, p["dimension_numbers"], p["mode"]),
}  # fmt: skip


def _inner(eqn: Any) -> Any:
    """The jaxpr that an operation runs once; None where it has none."""
    whole = eqn.primitive.name in _WHOLE
    return None if whole else next((eqn.params[key] for key in _NESTED if key in eqn.params), None)


def in_numpy(eqn: Any) -> bool:
    """Whether NumPy knows an operation."""
    return eqn.primitive.name in _PLAIN or eqn.primitive.name in _WITH


def done(eqn: Any, given: list[Any]) -> list[Any]:
    """Results of an operation."""
    name, arrays = eqn.primitive.name, list(map(np.asarray, given))
    if all(a.dtype.kind in "fiub" for a in arrays) and (name != "div" or arrays[0].dtype.kind == "f"):
        if name in _PLAIN:
            return [_PLAIN[name](*arrays)]
        if name in _WITH:
            found = _WITH[name](eqn.params, *arrays)
            if found is not None:
                return list(found) if eqn.primitive.multiple_results else [found]
    results = eqn.primitive.bind(*given, **eqn.params)
    return list(results) if eqn.primitive.multiple_results else [results]


class Run:
    """Runs a jaxpr as it is."""

    def run(self, jaxpr: Any, consts: Any, arguments: Any) -> list[Any]:
        """Outputs of a jaxpr."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, arguments))

        def value(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else known[atom]

        with np.errstate(all="ignore"):
            for eqn in jaxpr.eqns:
                given = [value(atom) for atom in eqn.invars]
                inner = _inner(eqn)
                if inner is not None:
                    results = self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
                else:
                    results = self.step(jaxpr, eqn, given)
                known.update(zip(eqn.outvars, results))
        return [value(atom) for atom in jaxpr.outvars]

    def step(self, jaxpr: Any, eqn: Any, given: list[Any]) -> list[Any]:
        """Results of one operation of a jaxpr."""
        return done(eqn, given)


class Halves:
    """Forward and pullback of a function as jaxprs, and what passes from one to the other at a point."""

    back: Any = None
    gradients: Any = None

    def __init__(self, function: Any, moving: Any, rest: Any) -> None:
        jax = import_jax()

        def ahead(moving: Any, rest: Any) -> Any:
            ys, pull = jax.vjp(lambda m: function({**rest, **m}), moving)
            saved, self._tree = jax.tree_util.tree_flatten(pull)
            return ys, saved

        self.ahead, (self._ys, self._between) = jax.make_jaxpr(ahead, return_shape=True)(moving, rest)
        self.outputs = len(self._ys)

    def forward(self, run: Run, moving: Any, rest: Any) -> tuple[list[Any], list[Any]]:
        """Outputs, and what the pullback is handed."""
        found = run.run(self.ahead.jaxpr, self.ahead.consts, import_jax().tree_util.tree_leaves((moving, rest)))
        return found[: self.outputs], found[self.outputs :]

    def trace_pull(self) -> None:
        """Let the pullback be known, which takes a trace of its own."""
        jax = import_jax()

        def back(saved: list[Any], vs: tuple[Any, ...]) -> Any:
            pull = jax.tree_util.tree_unflatten(self._tree, saved)
            return pull(tuple(_cotangent(v, y) for v, y in zip(vs, self._ys)))[0]

        self.back, shape = jax.make_jaxpr(back, return_shape=True)(self._between, tuple(self._ys))
        self.gradients = jax.tree_util.tree_structure(shape)

    def pull(self, run: Run, saved: list[Any], cotangents: tuple[Array, ...]) -> dict[str, Array]:
        """Gradients by name."""
        if self.back is None:
            self.trace_pull()
        given = [np.asarray(v, y.dtype) for v, y in zip(cotangents, self._ys)]
        flat = run.run(self.back.jaxpr, self.back.consts, [*saved, *given])
        found = import_jax().tree_util.tree_unflatten(self.gradients, flat)
        return {n: np.asarray(g, float) for n, g in found.items()}

    def __iter__(self) -> Iterator[Any]:
        """Every operation that `run` comes to."""
        return chain(_operations(self.ahead.jaxpr), _operations(self.back.jaxpr))


def _operations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        inner = _inner(eqn)
        if inner is not None:
            yield from _operations(getattr(inner, "jaxpr", inner))


def _largest(x: Array, k: int, axis: int) -> tuple[Array, Array]:
    """See `jax.lax.top_k`: of what is equal, the first."""
    at = np.take(np.argsort(-x, axis, kind="stable"), range(k), axis)
    return np.take_along_axis(x, at, axis), at.astype(np.int32)


def _added(x: Array, at: Array, by: Array, numbers: Any, mode: Any) -> Array | None:
    """See `jax.lax.scatter_add`, for single numbers whose places are within; None for others."""
    if numbers.update_window_dims or mode != import_jax().lax.GatherScatterMode.PROMISE_IN_BOUNDS:
        return None
    index: list[Any] = [None] * x.ndim
    places = np.indices(at.shape[:-1], sparse=True)
    for axis, k in zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims):
        index[axis] = places[k]
    for k, axis in enumerate(numbers.scatter_dims_to_operand_dims):
        index[axis] = at[..., k]
    found = np.array(x)
    np.add.at(found, tuple(index), by)
    return found


def _broadcast(x: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    placed = [1] * len(shape)
    for axis, size in zip(axes, x.shape):
        placed[axis] = size
    return np.broadcast_to(x.reshape(placed), shape)


def _product(a: Array, b: Array, contracted: Any, batched: Any) -> Array:
    """See `jax.lax.dot_general`: axes of the batch first, then those that are left of either."""
    kept = [[k for k in range(x.ndim) if k not in (*c, *n)] for x, c, n in zip((a, b), contracted, batched)]
    left = a.transpose(*batched[0], *kept[0], *contracted[0])
    right = b.transpose(*batched[1], *contracted[1], *kept[1])
    many = left.shape[: len(batched[0])]
    rows, columns = ([x.shape[k] for k in ks] for x, ks in zip((a, b), kept))
    terms = math.prod(a.shape[k] for k in contracted[0])
    found = left.reshape(*many, math.prod(rows), terms) @ right.reshape(*many, terms, math.prod(columns))
    return found.reshape(*many, *rows, *columns)
