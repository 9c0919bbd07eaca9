"""Operations of a jaxpr as a good kernel might compute them, each result off by its bound: see `_torch.noise`.

What decides by order or sign may decide the other way at a tie, as may the largest of scores: see `_torch.signs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gradverify.adapters._engines.lossy import FEW, FLOOR, FORMATS, TIED, TINY, UNIT, Terms, as_much_again, counted
from gradverify.adapters._jax.heard import PRODUCTS
from gradverify.adapters._jax.run import Run, done

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
        self.dtype, self.rng, self.kept, self.work, self.seed = dtype, np.random.default_rng(seed), kept, 0, seed
        self.share = as_much_again(seed)
        self.format = FORMATS[str(dtype)]
        self.sizes: dict[int, Terms] = {}  # of products and differences
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
        if id(value) in self.sizes:
            self.sizes[id(moved)] = self.sizes[id(value)]._replace(of=moved)
        return moved

    def step(self, jaxpr: Any, eqn: Any, given: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        results = self.displaced(eqn, name, self.ties.before(name, given))
        results[0] = self.ties.after(name, given, results[0])
        if name == "sub":
            known = self.sizes.get(id(given[0]))
            results[0] = self.ties.shifted(given, results[0], *((None, 0.0) if known is None else known[1:3]))
        summed = (v for other in jaxpr.eqns if other.primitive.name == "reduce_sum" for v in other.invars)
        if name == "mul" and all(v is not eqn.outvars[0] for v in summed):
            results = [self.softmax(given, results[0])]
        if name == "div" and (over := self.exponentials.get(id(given[0]))) is not None and over.axes:
            results[0] = results[0] * (1 + over.doubt * self.signs(results[0]))  # nothing is normalised after it
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
            exact, given = given, list(map(self.operand, given))
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
            _, terms, count = self.known(given[0])[:3]
            doubt = np.minimum(UNIT * (FEW + count) * np.nan_to_num(terms), 1.0)
            self.exponentials[id(result)] = _Exponential(result, doubt)
        elif name == "reduce_sum" and id(given[0]) in self.exponentials:
            known = self.exponentials[id(given[0])]
            self.exponentials[id(given[0])] = replace(known, axes=tuple(eqn.params["axes"]))
        elif name == "div" and id(given[0]) in self.exponentials:
            self.exponentials[id(result)] = replace(self.exponentials[id(given[0])], value=result, divided=True)
        if name in PRODUCTS:
            terms = done(eqn, [_size(a) for a in given])[0]
            count = counted(_terms(eqn, given, result))
            self.sizes[id(result)] = Terms(result, terms, count, shift=partial(self.shift, eqn, given))
        elif name == "sub" or (name in _CARRIED and any(id(a) in self.sizes for a in given)):
            parts = [self.known(a) for a in given]
            if name in _ADDED:
                self.sizes[id(result)] = Terms(result, parts[0].size + parts[1].size, max(p.number for p in parts))
            else:
                self.sizes[id(result)] = self.moved(eqn, given, result, parts)

    def known(self, value: Any) -> Terms:
        """Of what sizes the terms of a value are: of what is no product, its own."""
        return self.sizes.get(id(value)) or Terms(value, _size(value), 1.0)

    def moved(self, eqn: Any, given: list[Any], result: Any, known: list[Terms]) -> Terms:
        """Those of what is made of a product by moves and factors; of several, none tells how it is shifted."""
        sizes = _size(done(eqn, [k.size for k in known])[0])
        products = [at for at, k in enumerate(known) if k.shift is not None]
        found = Terms(result, sizes, max(k.number for k in known))
        if len(products) != 1 or not floats(result):
            return found
        (at,), of = products, known[products[0]]

        def shift() -> Any:
            return done(eqn, [a if k != at else of.shift() for k, a in enumerate(given)])[0]  # type: ignore[misc]

        return found._replace(shift=shift)

    def shift(self, eqn: Any, given: list[Any]) -> Any:
        """By what a product moves where each of its factors is rounded, even one that its type holds."""
        moved = [a * (1 + self.format.eps / 2 * self.signs(a)) if floats(a) else a for a in given]
        return np.asarray(done(eqn, moved)[0]) - np.asarray(done(eqn, given)[0])

    def operand(self, value: Any) -> Any:
        """What is multiplied, off by a rounding; of a product, by as much as one in other order: see `_torch.noise`."""
        known = self.sizes.get(id(value))
        if known is None or known.shift is None:
            return self.low(value)
        if self.seed % 2:
            return self.low(value, np.maximum(_size(value), known.size / known.number**0.5))
        return self.low(value) + np.nan_to_num(known.shift(), nan=0.0, posinf=0.0, neginf=0.0)

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
        terms = self.known(other).size
        weights = np.asarray(p.value)
        rows = (weights * terms).sum(p.axes, keepdims=True) / np.maximum(weights.sum(p.axes, keepdims=True), TINY)
        return result + weights * rows * (self.format.eps / 2) * self.signs(rows)

    def low(self, array: Any, size: Any = None) -> Any:
        """Displaced by as much as rounding to the kernel's type takes; what it holds exactly stays.

        Parameters
        ----------
        size : of what is rounded, where that may be more than the value, and another one
        """
        if not floats(array):
            return array
        wide = np.asarray(array)
        exact = wide.astype(self.dtype).astype(wide.dtype) == wide
        least = self.format.smallest / 2 if str(self.dtype) == "float16" else 0.0  # it has no other below
        off = (_size(wide) if size is None else size) * (self.format.eps / 2) + least
        return np.where(exact & (size is None), wide, wide + off * self.signs(wide))

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


_SIGNS = {"gt", "ge", "lt", "le", "sign"}
_CHOICES = {"top_k", "sort", "argmax", "argmin"}
_TWO = {"max", "min"}
_SAME = {"max", "min", "broadcast_in_dim", "stop_gradient", "select_n", "reshape", "squeeze", "copy"}


class Ties:
    """What of a sample decides, and may decide the other way at a tie.

    Attributes
    ----------
    seed : of the sample
    moving : values that depend on primals that get a gradient; None in a pullback, where all count
    peaks : largest entries of rows, and of what
    """

    def __init__(self, seed: int, moving: list[Array]) -> None:
        self.seed, self.count = seed, 0
        self.moving: dict[int, Array] | None = {id(a): a for a in moving}
        self.peaks: dict[int, tuple[Array, Array]] = {}

    def paired(self, like: Array) -> Array:
        """Signs that are the other way round in the other of two samples."""
        signs = np.random.default_rng([self.seed // 2, self.count]).choice((-1.0, 1.0), np.shape(like))
        return signs if self.seed % 2 else -signs

    def lots(self, size: tuple[int, ...]) -> Array:
        """See `_torch.signs`."""
        if self.seed % 4 > 1:
            return np.random.default_rng([self.seed, self.count]).uniform(-1, 1, size)
        rising = np.linspace(-1, 1, int(np.prod(size))).reshape(size)
        return rising if self.seed % 2 else -rising

    def before(self, name: str, given: list[Array]) -> list[Array]:
        """Arguments of an operation, with what decides displaced."""
        self.count += 1
        value = np.asarray(given[0]) if given else np.zeros(0, int)
        if name not in _SIGNS | _CHOICES or value.dtype.kind != "f" or not self.moves(given[:1]):
            return given
        s = self.lots(value.shape) * TIED if name in _CHOICES else self.paired(value) * FEW
        return [np.where(value != 0, value * (1 + UNIT * s), TINY * s), *given[1:]]

    def after(self, name: str, given: list[Array], result: Array) -> Array:
        """The result, where equality or the larger of two decides."""
        if name in _TWO and np.shape(result) and not self.seed % 2 and self.moves(given):  # see `as_much_again`
            beside = np.where(result != 0, result * (1 + FEW * UNIT), TINY)
            result = np.where(np.equal(*given) & np.isfinite(result), beside, result)
        if name == "eq" and np.asarray(given[0]).dtype.kind == "f":
            over = tuple(k for k in range(np.ndim(result)) if any(_spread(a, k) for a in given))
            if over and np.sum(result, over).max(initial=0) > 1:
                lots = np.where(result, self.lots(np.shape(result)), -2.0)
                result = result & (lots == lots.max(over, keepdims=True))
        return result

    def moves(self, given: list[Array]) -> bool:
        """Whether any of these depends on a primal that gets a gradient."""
        return self.moving is None or any(id(a) in self.moving for a in given)

    def follow(self, name: str, given: list[Array], results: list[Array]) -> None:
        """Remember what depends on primals, and where a largest entry goes."""
        if self.moving is not None and self.moves(given):
            self.moving.update((id(r), r) for r in results)
        of = given[0] if name == "reduce_max" else None
        if name in _SAME:
            of = next((self.peaks[id(a)][1] for a in given if id(a) in self.peaks), None)
        if of is not None:
            self.peaks[id(results[0])] = results[0], of

    def shifted(self, given: list[Array], result: Array, terms: Array | None, count: float) -> Array:
        """Scores less their largest, off by what their sizes bring; any may be it that is unsure by more than 1."""
        known = self.peaks.get(id(given[1]))
        if known is None or known[1] is not given[0]:
            return result
        size = np.nan_to_num(np.abs(given[0]), posinf=0.0) * (FEW * UNIT)
        if terms is not None:
            size = size + np.nan_to_num(terms, posinf=0.0) * (UNIT * count)
        signs = self.paired(result)
        most = np.minimum(result + 4 * size, 0.0)
        return np.where((size <= 1) | (signs < 0), result + np.minimum(size, 1.0) * signs, most)


def _spread(factor: Array, axis: int) -> bool:
    """Whether an array has no entries of its own along an axis."""
    return np.ndim(factor) <= axis or factor.shape[axis] == 1 or getattr(factor, "strides", (1,) * 99)[axis] == 0
