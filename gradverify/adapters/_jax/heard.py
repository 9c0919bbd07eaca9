"""What is heard of a kernel's operations in JAX, or of a reference's, while they run as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.adapters._engines.lossy import Sought
from gradverify.adapters._jax.run import Run, done, in_numpy

Array = Any  # numpy.ndarray or jax.Array
PRODUCTS = {"dot_general", "conv_general_dilated"}
_MOVES = {"transpose", "reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "copy"}


class Quiet(Run):
    """Runs a jaxpr as it is, and hears which operations make what is sought."""

    def __init__(self, kept: Sought, products: Sought) -> None:
        self.kept, self.products, self.count, self.places = kept, products, 0, list[int]()

    def step(self, jaxpr: Any, eqn: Any, given: list[Any]) -> list[Any]:
        results, self.count = done(eqn, given), self.count + 1
        sought = (self.kept, self.products) if eqn.primitive.name in PRODUCTS else (self.kept,)
        made = np.asarray(results[0])
        if made.dtype.kind == "f" and any(of.found(lambda: made, made.shape) for of in sought):
            self.places.append(self.count)
        return results


class Made(Run):
    """Runs a kernel's jaxpr as it is, and keeps the results of matrix products in its type, `found`.

    Values of that type pass as float32 from one operation to the next, for NumPy knows no bfloat16.
    """

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.found = dtype, list[Array]()

    def step(self, jaxpr: Any, eqn: Any, given: list[Any]) -> list[Any]:
        pairs = [(np.asarray(a), v.aval.dtype == self.dtype) for a, v in zip(given, eqn.invars)]
        between = np.float32 if in_numpy(eqn) else self.dtype
        results = done(eqn, [a.astype(between) if low else a for a, low in pairs])
        low = [v.aval.dtype == self.dtype for v in eqn.outvars]
        results = [np.asarray(r).astype(self.dtype).astype(np.float32) if of else r for r, of in zip(results, low)]
        if eqn.primitive.name in PRODUCTS and low[0]:
            self.found.append(np.asarray(results[0], float))
        return results


class Peak(Run):
    """Runs a jaxpr as it is; hears how large results are, and operands and results of matrix products (`factor`).

    Of a product a (b c), a kernel may make (a b) c: a b and a c count, too, by what they come to at most.
    """

    factor = result = 0.0

    def __init__(self) -> None:
        self.factors: dict[int, tuple[Array, list[float]]] = {}  # of products: how large each of theirs is

    def step(self, jaxpr: Any, eqn: Any, given: list[Any]) -> list[Any]:
        results = done(eqn, given)
        known = np.asarray(results[0])
        if known.dtype.kind == "f":  # an infinity is a mask, unless an exponential made it
            within = known < np.inf if eqn.primitive.name not in ("exp", "exp2") else ~np.isnan(known)
            self.result = max(self.result, float(np.max(np.abs(known), initial=0.0, where=within & (known > -np.inf))))
        if eqn.primitive.name in PRODUCTS:
            sizes = [float(np.max(np.abs(a), initial=0.0)) for a in (*given, *results)]
            self.factor = max(self.factor, *sizes, *self.other_orders(eqn, given, sizes))
            self.factors[id(results[0])] = results[0], sizes[:2]
        elif eqn.primitive.name in _MOVES and id(given[0]) in self.factors:
            self.factors[id(results[0])] = results[0], self.factors[id(given[0])][1]
        return results

    def other_orders(self, eqn: Any, given: list[Any], sizes: list[float]) -> list[float]:
        """The most that products of one operand and the factors of the other may be."""
        if eqn.primitive.name != "dot_general":
            return []
        terms = float(np.prod([np.shape(given[0])[axis] for axis in eqn.params["dimension_numbers"][0][0]]))
        others = [(sizes[1 - k], self.factors[id(a)][1]) for k, a in enumerate(given) if id(a) in self.factors]
        return [terms * size * factor for size, factors in others for factor in factors]


class Sizes(Run):
    """Runs a pullback so that what comes of these upstream gradients is a sum of the sizes of terms."""

    def __init__(self, upstream: tuple[Array, ...]) -> None:
        self.known = {id(v): v for v in upstream}

    def step(self, jaxpr: Any, eqn: Any, given: list[Any]) -> list[Any]:
        if not any(id(a) in self.known for a in given):
            return done(eqn, given)
        name = eqn.primitive.name
        if name in ("sub", "neg", "mul", "div", *PRODUCTS):
            given = [np.abs(a) for a in given]
        results = [np.add(*given)] if name == "sub" else done(eqn, given)
        results = [np.abs(r) if np.asarray(r).dtype.kind == "f" else r for r in results]
        self.known.update((id(r), r) for r in results)
        return results
