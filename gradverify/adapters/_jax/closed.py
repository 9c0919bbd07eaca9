"""A function in JAX whose gradients may be moved at each result that a kernel may take them from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np

from gradverify.adapters._engines.closed import Closed
from gradverify.adapters._jax.engine import import_jax
from gradverify.adapters._jax.run import Halves, Run

Array = Any  # numpy.ndarray or jax.Array
_CALLS = ("pjit", "jit", "closed_call")


class Steep:
    """A function's results by entries, by how much their slopes are off, and its halves with a factor at each.

    Attributes
    ----------
    found : results and by how much each is off, in the order in which they are made
    halves : of the function, which takes factors beside its arguments
    """

    def __init__(self, function: Any, moving: Any, rest: Any) -> None:
        jax = import_jax()
        whole, shape = jax.make_jaxpr(lambda m, r: function({**r, **m}), return_shape=True)(moving, rest)
        self.at, self.roots = list[int](), dict[int, list[int]]()

        def listed(moving: Any, rest: Any) -> list[tuple[Any, Any]]:
            found, closed = [], Closed()

            def hear(k: int, name: str, params: Any, given: list[Any], y: Any, moves: Callable[[Any], bool]) -> Any:
                args = [*given, float(params["y"])] if name == "integer_pow" else given
                off = closed.off(name, args, y, moves)
                if off is not None:
                    self.roots.setdefault(closed.root(y), []).append(len(self.at))
                    self.at.append(k)
                    found.append((y, off))
                return y

            _walk(whole, moving, rest, hear)
            return found

        results = jax.make_jaxpr(listed)(moving, rest)
        flat = Run().run(results.jaxpr, results.consts, jax.tree_util.tree_leaves((moving, rest)))
        self.found = [(np.asarray(y), np.nan_to_num(np.asarray(off))) for y, off in zip(flat[::2], flat[1::2])]
        mark = _mark()

        def marked(arrays: dict[str, Any]) -> Any:
            own = {n: a for n, a in arrays.items() if n in moving or n in rest}
            parts = {n: own[n] for n in moving}, {n: own[n] for n in rest}

            def put(k: int, name: str, params: Any, given: list[Any], y: Any, moves: Any) -> Any:
                return mark(y, arrays[self.name(k)]) if k in self.at else y

            return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shape), _walk(whole, *parts, put))

        self.halves = Halves(marked, moving, {**rest, **self.factors({})})

    @staticmethod
    def name(k: int) -> str:
        """Of the factor at an operation, which is no name of an argument."""
        return f" {k}"

    def factors(self, off: Mapping[int, Array]) -> dict[str, Array]:
        """By name, at some of `found`; the others are 1."""
        return {self.name(k): off.get(at, np.ones_like(y)) for at, (k, (y, _)) in enumerate(zip(self.at, self.found))}


def _mark() -> Any:
    """The identity, whose gradient is multiplied by a factor."""
    jax = import_jax()
    mark = jax.custom_vjp(lambda y, factor: y)
    mark.defvjp(lambda y, factor: (y, factor), lambda factor, g: (g * factor, jax.numpy.zeros_like(factor)))
    return mark


def _walk(whole: Any, moving: Any, rest: Any, at: Callable[..., Any]) -> list[Any]:
    """Outputs of a jaxpr, `at` being told of each operation: its number, name, arguments and result."""
    leaves, number = import_jax().tree_util.tree_leaves, count()
    first, kept = leaves(moving), [*leaves(moving), *leaves(rest)]
    moved = set(map(id, first))

    def run(jaxpr: Any, consts: Any, arguments: Any) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, arguments))
        for eqn in jaxpr.eqns:
            given = [atom.val if hasattr(atom, "val") else known[atom] for atom in eqn.invars]
            if eqn.primitive.name in _CALLS:
                inner = eqn.params["jaxpr"]
                results = run(inner.jaxpr, inner.consts, given)
            else:
                bound = eqn.primitive.get_bind_params(eqn.params)
                functions, params = bound if isinstance(bound, tuple) else ((), bound)  # as it was before JAX 0.7
                results = eqn.primitive.bind(*functions, *given, **params)
                results = list(results) if eqn.primitive.multiple_results else [results]
                results[0] = at(next(number), eqn.primitive.name, params, given, results[0], lambda a: id(a) in moved)
            if any(id(a) in moved for a in given):
                moved.update(map(id, results))
            kept.extend((*given, *results))  # so that no other has the id of one
            known.update(zip(eqn.outvars, results))
        return [atom.val if hasattr(atom, "val") else known[atom] for atom in jaxpr.outvars]

    return run(whole.jaxpr, whole.consts, [*leaves(moving), *leaves(rest)])
