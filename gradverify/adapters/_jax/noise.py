"""Operations of a jaxpr as a good kernel might compute them, each result off by its bound: see `_torch.noise`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradverify.adapters._engines.lossy import FEW, FLOOR, FORMATS, TINY, UNIT, as_much_again, counted
from gradverify.adapters._jax.heard import PRODUCTS
from gradverify.adapters._jax.run import Run, done
from gradverify.adapters._jax.ties import Ties

Array = Any  # numpy.ndarray or jax.Array
_SUMS = {"dot_general", "reduce_sum", "cumsum", "scatter-add", "scatter_add", "conv_general_dilated"}
_EXACT = {
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "slice", "concatenate", "gather", "select_n", "pad", "rev",
    "neg", "abs", "sign", "max", "min", "reduce_max", "reduce_min", "convert_element_type", "copy", "stop_gradient",
    "iota", "dynamic_slice", "dynamic_update_slice", "expand_dims", "scatter", "clamp", "floor", "round", "argmax",
}  # fmt: skip
_ORDERS = ("gt", "ge", "lt", "le")
_ADDED = {"add", "add_any", "sub"}
_CARRIED = {"mul", "div", *_ADDED, *_EXACT} - {"argmax", "iota", "scatter", "sign", "floor", "round"}


@dataclass(frozen=True)
class _Exponential:
    """A result of exp: the axes over which it was summed, if it was, and by what share backward's may be off.

    Backward computes the arguments of a softmax again and takes a log-sum-exp from them, each rounded at its size.
    """

    value: Any
    doubt: Any
    axes: tuple[int, ...] = ()
    divided: bool = False  # by that sum


class Noise(Run):
    """Runs a jaxpr with every result displaced; `places` are the operations whose result the kernel keeps."""

    def __init__(self, dtype: Any, seed: int, kept: int | None, places: frozenset[int], ties: Ties) -> None:
        self.places, self.count, self.ties = places, 0, ties
        self.unrounded: dict[int, tuple[Any, Any]] = {}  # results that are kept, and what they are before
        self.dtype, self.rng, self.kept, self.work = dtype, np.random.default_rng(seed), kept, 0
        self.share = as_much_again(seed)
        self.format = FORMATS[str(dtype)]
        self.sizes: dict[int, tuple[Any, Any, float]] = {}  # of products and differences, sum |term| and count of terms
        self.exponentials: dict[int, _Exponential] = {}

    def again(self, value: Any, exact: Any, lost: bool) -> Any:
        """What a pullback is handed: off by what made it off, and as much again: see `_torch.reference._Moved`.

        And rounded to the kernel's type, where it was seen to keep tensors in that, and not this primal.
        """
        if lost:
            return np.asarray(value) * (1 + self.format.eps / 2 * self.signs(value))
        if not floats(value) or np.shape(value) != np.shape(exact):
            return value
        off = np.nan_to_num(np.asarray(value) - np.asarray(exact), nan=0.0, posinf=0.0, neginf=0.0)
        if not off.any():  # a primal, which is stored as it is
            return value
        decided = (np.abs(off) >= 0.5) & (np.rint(exact) == exact)  # a count, or a mask: that is no rounding
        moved = value + np.where(decided, 0.0, off) * (self.share * self.signs(off))
        if self.kept is not None and np.size(moved) >= self.kept:
            moved = self.low(moved)
        known = self.exponentials.get(id(value))
        if known is not None and known.axes:
            moved = moved * (1 + known.doubt * self.signs(moved))
            self.exponentials[id(moved)] = replace(known, value=moved)
        return moved

    def step(self, jaxpr: Any, eqn: Any, given: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        results = self.displaced(eqn, name, self.ties.before(name, given))
        results[0] = self.ties.after(name, given, results[0])
        if name == "sub":
            _, terms, count = self.sizes.get(id(given[0]), (None, None, 0.0))
            results[0] = self.ties.shifted(given, results[0], terms, count)
        summed = (v for other in jaxpr.eqns if other.primitive.name == "reduce_sum" for v in other.invars)
        if name == "mul" and all(v is not eqn.outvars[0] for v in summed):
            results = [self.softmax(given, results[0])]
        self.count += 1
        if self.count in self.places:
            rounded = self.low(results[0])
            self.unrounded[id(rounded)] = rounded, results[0]
            results[0] = rounded
        self.carried(eqn, name, given, results[0])
        self.ties.follow(name, given, results)
        return results

    def displaced(self, eqn: Any, name: str, given: list[Any]) -> list[Any]:
        """Results of an operation, each off by its bound."""
        if name in _EXACT:
            return done(eqn, given)
        if name in _ORDERS and self.kept is not None and np.size(given[0]) >= self.kept:
            given = [self.low(a) for a in given]  # a mask that backward may take from what is kept
        spread: list[Any] = [0.0] * len(eqn.outvars)
        if name in PRODUCTS:
            exact, given = given, [self.low(a) for a in given]
            spread = self.spread(eqn, exact, given)
        sizes: list[Any] = [None] * len(eqn.outvars)
        if name in _SUMS:
            sizes = done(eqn, [_size(a) for a in given])
        found = []
        for result, size, beside in zip(done(eqn, given), sizes, spread):
            self.work += int(np.size(result))
            if not floats(result):
                found.append(result)
                continue
            if size is not None:
                off = size * (UNIT * counted(_terms(eqn, given, result))) + beside
                found.append(result + off * self.signs(result))
                continue
            scale = FEW + (np.abs(np.nan_to_num(np.asarray(given[0]))) if name in ("exp", "exp2") else 0.0)
            moved = result + np.where(np.isfinite(result), result, 0.0) * (UNIT * scale) * self.signs(result)
            found.append(np.where((np.abs(moved) <= TINY) & (self.signs(moved) > 0), 0.0, moved))
        return found

    def spread(self, eqn: Any, exact: list[Any], moved: list[Any]) -> list[Any]:
        """Half of what the displaced operands move a product by in the mean: see `_torch.noise`."""
        found: Any = 0.0
        for k, (a, b) in enumerate(zip(exact, moved)):
            if floats(a) and not np.array_equal(a, b):
                squares = [np.square(x) if floats(x) else x for x in exact]
                squares[k] = np.square(np.asarray(b) - np.asarray(a))
                found = found + done(eqn, squares)[0]
        return [FLOOR * np.nan_to_num(np.sqrt(np.abs(found)), nan=0.0, posinf=0.0, neginf=0.0)]

    def carried(self, eqn: Any, name: str, given: list[Any], result: Any) -> None:
        """Remember of what sizes the terms of a result are, and which exponentials are those of a softmax."""
        if name in ("exp", "exp2"):
            _, terms, count = self.sizes.get(id(given[0]), (None, _size(given[0]), 1.0))
            doubt = np.minimum(UNIT * (FEW + count) * np.nan_to_num(terms), 1.0)
            self.exponentials[id(result)] = _Exponential(result, doubt)
        elif name == "reduce_sum" and id(given[0]) in self.exponentials:
            known = self.exponentials[id(given[0])]
            self.exponentials[id(given[0])] = replace(known, axes=tuple(eqn.params["axes"]))
        elif name == "div" and id(given[0]) in self.exponentials:
            self.exponentials[id(result)] = replace(self.exponentials[id(given[0])], value=result, divided=True)
        if name in PRODUCTS:
            terms = done(eqn, [_size(a) for a in given])[0]
            self.sizes[id(result)] = result, terms, counted(_terms(eqn, given, result))
        elif name == "sub" or (name in _CARRIED and any(id(a) in self.sizes for a in given)):
            _, sizes, counts = zip(*(self.sizes.get(id(a), (a, _size(a), 1.0)) for a in given))
            terms = sizes[0] + sizes[1] if name in _ADDED else _size(done(eqn, list(sizes))[0])
            self.sizes[id(result)] = result, terms, max(counts)

    def softmax(self, given: list[Any], result: Any) -> Any:
        """The gradient of a softmax, p (g - sum p g), with the sum as the product of upstream gradient and output.

        It is the pullback of the exponential, whose factor is off by the rounding of every term: see `_torch.noise`.
        """
        p = next(
            (e for a in given if (e := self.exponentials.get(id(a))) is not None and e.axes and not e.divided), None
        )
        if p is None or self.kept is None:
            return result
        other = given[1] if given[0] is p.value else given[0]
        terms = self.sizes.get(id(other), (other, _size(other), 1.0))[1]
        weights = np.asarray(p.value)
        rows = (weights * terms).sum(p.axes, keepdims=True) / np.maximum(weights.sum(p.axes, keepdims=True), TINY)
        return result + weights * rows * (self.format.eps / 2) * self.signs(rows)

    def low(self, array: Any) -> Any:
        """Displaced by as much as rounding to the kernel's type takes; what it holds exactly stays."""
        if not floats(array):
            return array
        wide = np.asarray(array)
        exact = wide.astype(self.dtype).astype(wide.dtype) == wide
        least = self.format.smallest / 2 if str(self.dtype) == "float16" else 0.0  # it has no other below
        off = np.where(np.isfinite(wide), np.abs(wide), 0.0) * (self.format.eps / 2) + least
        return np.where(exact, wide, wide + off * self.signs(wide))

    def signs(self, like: Any) -> Array:
        return self.rng.choice((-1.0, 1.0), np.shape(like))


def _size(value: Any) -> Any:
    """Absolute values, of what is finite."""
    return np.where(np.isfinite(value), np.abs(value), 0.0) if floats(value) else value


def _terms(eqn: Any, given: list[Any], result: Any) -> float:
    """Number of terms of each sum, at most."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return float(np.prod([np.shape(given[0])[axis] for axis in contracted]))
    if eqn.primitive.name.startswith("scatter"):
        return float(np.size(given[-1]))
    return max(1.0, float(np.size(given[0])) / max(1, np.size(result)))


def floats(value: Any) -> bool:
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    return dtype.kind == "f" or str(dtype) in FORMATS  # for NumPy bfloat16 is no floating type
