"""The reference of a JAX or Pallas kernel: plain operations, differentiated by JAX in float64.

What a good kernel may lose comes from the same model as for torch (see `_torch_noise`): the jaxpr of the reference and
its pullback is run operation by operation, and each result moves by plus or minus its own bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradverify.adapters._jax_engine import Engine, Tape, _precision, import_jax
from gradverify.adapters._jax_heard import PRODUCTS, Made, Peak, Quiet
from gradverify.adapters._jax_run import Halves, Run, done
from gradverify.adapters._jax_ties import Ties
from gradverify.adapters._lossy import (
    FEW,
    FLOOR,
    FORMATS,
    TINY,
    UNIT,
    Held,
    Lossy,
    Sought,
    as_much_again,
    counted,
    least,
    told,
)  # fmt: skip

Array = Any  # numpy.ndarray or jax.Array
_SUMS = {"dot_general", "reduce_sum", "cumsum", "scatter-add", "scatter_add", "conv_general_dilated"}
_EXACT = {
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "slice", "concatenate", "gather", "select_n", "pad", "rev",
    "neg", "abs", "sign", "max", "min", "reduce_max", "reduce_min", "convert_element_type", "copy", "stop_gradient",
    "iota", "dynamic_slice", "dynamic_update_slice", "expand_dims", "scatter", "clamp", "floor", "round", "argmax",
}  # fmt: skip
_ORDERS = ("gt", "ge", "lt", "le")
_COPIES = 64  # up to which a loop takes less time than to compile
_ADDED = {"add", "add_any", "sub"}
_CARRIED = {"mul", "div", *_ADDED, *_EXACT} - {"argmax", "iota", "scatter", "sign", "floor", "round"}


Seen = tuple[Held, tuple[int, ...], Halves | None]


@dataclass(frozen=True)
class Truth:
    """What a forward of the reference keeps: primals, its jaxprs, and what the pullback is handed.

    Attributes
    ----------
    places : operations that make what the kernel keeps, once it is known
    """

    given: tuple[dict[str, Array], dict[str, Array]]
    halves: Halves
    saved: list[Any]
    places: list[frozenset[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Reference(Lossy):
    """See `Lossy`.

    Attributes
    ----------
    kernel : the engine of the kernel, which is asked what it keeps
    known : its answers, by shapes and options
    traced : jaxprs of the reference, by the same
    """

    kernel: Engine
    known: dict[str, Seen] = field(default_factory=dict)
    traced: dict[str, Halves] = field(default_factory=dict)

    @property
    def dtype(self) -> Any:
        return import_jax().numpy.dtype(self.type)

    @property
    def exact(self) -> Engine:
        """See `Lossy`."""
        return self.kernel

    def stored(self, array: Array) -> Array:
        """See `Lossy`."""
        return array if array.dtype.kind != "f" else np.asarray(array).astype(self.dtype).astype(np.float64)

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Truth]:
        """Outputs in float64, and what `backward` and `sample` need."""
        given = self.high._parted(dict(zip(self.high.names, map(np.asarray, arrays))), self.high.differentiable)
        key = [(a.shape, str(a.dtype)) for part in given for a in part.values()], sorted(options.items())
        with _precision(given):
            halves = self.traced.get(repr(key))
            if halves is None:
                halves = self.traced[repr(key)] = Halves(self.high._outputs(options), *given)
            outputs, saved = halves.forward(Run(), *given)
        found = tuple(map(np.asarray, outputs))
        return (found if len(found) > 1 else found[0]), Truth(given, halves, saved)

    def batched(self, stack: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Array, ...]:
        """See `Lossy`; few copies one by one, as nothing is compiled then."""
        count = max(a.shape[0] for a in stack.values())
        if count > _COPIES:
            return super().batched(stack, options)
        rows = [
            self.forward(*(stack[n][k % len(stack[n])] for n in self.high.names), **options)[0] for k in range(count)
        ]
        return tuple(np.stack(parts) for parts in zip(*(r if isinstance(r, tuple) else (r,) for r in rows)))

    def backward(self, cotangents: Any, truth: Truth) -> dict[str, Array]:
        """See `Lossy`."""
        vs = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        with _precision(truth.given):
            return truth.halves.pull(Run(), truth.saved, vs)

    def kept(self, saved: Any, watched: Any, cotangents: tuple[Array, ...]) -> Held:
        """See `Lossy`; the kernel's trace tells what is kept, and what of it is a primal."""
        if not isinstance(saved, Tape):
            return told(saved)
        low = {n: a.astype(self.dtype) if a.dtype.kind == "f" else a for n, a in saved.primals.items()}
        key = repr([(n, a.shape) for n, a in low.items()] + sorted(saved.options.items()))
        parts = self.kernel._parted(low, self.kernel.differentiable)
        if key not in self.known:
            self.known[key] = self._seen(low, parts, saved.options)
        held, at, halves = self.known[key]
        if halves is not None:
            held = replace(held, products=self._products(halves, parts, cotangents))
        if not at:
            return held
        residuals = self.kernel._do("residuals", _residuals(self.kernel._outputs(saved.options)), saved.options, *parts)
        return replace(held, values=tuple(np.asarray(residuals[k], float) for k in at))

    def _products(self, halves: Halves, parts: Any, cotangents: tuple[Array, ...]) -> tuple[Array, ...]:
        """What the kernel's matrix products give in its type."""
        made = Made(self.dtype)
        try:
            _, between = halves.forward(made, *parts)
            if cotangents:
                halves.pull(made, between, cotangents)
        except Exception:  # noqa: BLE001  an operation that does not run by itself: what came before it is known
            pass
        return tuple(made.found)

    def _seen(self, low: dict[str, Array], parts: Any, options: Any) -> Seen:
        """What is kept, which of the residuals are values that are, and where products are made in the type."""
        try:
            halves = Halves(self.kernel._outputs(options), *parts)
            halves.trace_pull()
        except Exception:  # noqa: BLE001  control flow on values: nobody can tell, and it may
            return Held(least([a.shape for a in low.values() if _floats(a)])), (), None
        ahead = halves.ahead.jaxpr
        outputs, residuals = ahead.outvars[: halves.outputs], ahead.outvars[halves.outputs :]
        size = least([tuple(v.aval.shape) for v in (*ahead.invars, *outputs) if _floats(v.aval)])
        own, have = set(map(id, ahead.invars)), set(map(id, residuals))
        kept = [k for k, v in enumerate(residuals) if v.aval.dtype == self.dtype and id(v) not in own]
        products = [eqn.outvars[0].aval for eqn in halves if eqn.primitive.name in PRODUCTS]
        sizes = {made.size for made in products}  # that no statistics of rows have
        at = tuple(k for k in kept if residuals[k].aval.size >= size or residuals[k].aval.size in sizes)
        within = halves if any(made.dtype == self.dtype for made in products) else None
        if not at:
            return Held(), (), within
        lost = (n for n, v in zip(sorted(parts[0]), ahead.invars) if id(v) not in have)
        return Held(size, frozenset(lost)), at, within

    def beyond(self, arrays: tuple[Array, ...], cotangents: tuple[Array, ...], options: Mapping[str, Any]) -> bool:
        """See `Lossy`."""
        _, truth = self.forward(*arrays, **options)
        heard = Peak()
        with _precision(truth.given):
            _, saved = truth.halves.forward(heard, *truth.given)
            truth.halves.pull(heard, saved, cotangents)
        return self.leaves(heard)

    def sample(
        self,
        arrays: tuple[Array, ...],
        cotangents: tuple[Array, ...],
        options: Mapping[str, Any],
        seed: int,
        held: Held,
        truth: Truth,
    ) -> tuple[Any, dict[str, Array], int]:
        """Outputs, gradients and elements computed, each operation off by as much as a good kernel's may be."""
        with _precision(truth.given):
            if not truth.places:
                quiet = Quiet(*(Sought.of(values, self.eps) for values in (held.values, held.products)))
                if held.values or held.products:
                    _, between = truth.halves.forward(quiet, *truth.given)
                    quiet.kept = Sought([], self.eps)
                    truth.halves.pull(quiet, between, cotangents)
                truth.places.append(frozenset(quiet.places))
            noise = _Noise(self.dtype, seed, held.least, truth.places[0], Ties(seed, list(truth.given[0].values())))
            outputs, saved = truth.halves.forward(noise, *truth.given)
            noise.ties.moving = None
            lost = {id(a) for n, a in truth.given[0].items() if n in held.lost}
            saved = [noise.again(value, exact, id(value) in lost) for value, exact in zip(saved, truth.saved)]
            outputs = [noise.unrounded.get(id(y), (y, y))[1] for y in outputs]
            gradients = truth.halves.pull(noise, saved, cotangents)
        return tuple(map(np.asarray, outputs)), gradients, noise.work


@dataclass(frozen=True)
class _Exponential:
    """A result of exp: the axes over which it was summed, if it was, and by what share backward's may be off.

    Backward computes the arguments of a softmax again and takes a log-sum-exp from them, each rounded at its size.
    """

    value: Any
    doubt: Any
    axes: tuple[int, ...] = ()
    divided: bool = False  # by that sum


class _Noise(Run):
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
        """What a pullback is handed: off by what made it off, and as much again: see `_torch_reference._Moved`.

        And rounded to the kernel's type, where it was seen to keep tensors in that, and not this primal.
        """
        if lost:
            return np.asarray(value) * (1 + self.format.eps / 2 * self.signs(value))
        if not _floats(value) or np.shape(value) != np.shape(exact):
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
        """See `Run`."""
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
            results = [rounded]
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
            if not _floats(result):
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
        """Half of what the displaced operands move a product by in the mean: see `_torch_noise`."""
        found: Any = 0.0
        for k, (a, b) in enumerate(zip(exact, moved)):
            if _floats(a) and not np.array_equal(a, b):
                squares = [np.square(x) if _floats(x) else x for x in exact]
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

        It is the pullback of the exponential, whose factor is off by the rounding of every term: see `_torch_noise`.
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
        if not _floats(array):
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
    return np.where(np.isfinite(value), np.abs(value), 0.0) if _floats(value) else value


def _terms(eqn: Any, given: list[Any], result: Any) -> float:
    """Number of terms of each sum, at most."""
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return float(np.prod([np.shape(given[0])[axis] for axis in contracted]))
    if eqn.primitive.name.startswith("scatter"):
        return float(np.size(given[-1]))
    return max(1.0, float(np.size(given[0])) / max(1, np.size(result)))


def _floats(value: Any) -> bool:
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    return dtype.kind == "f" or str(dtype) in FORMATS  # for NumPy bfloat16 is no floating type


def _residuals(function: Any) -> Any:
    """What is kept for the pullback of a function, flat."""
    jax = import_jax()
    return lambda moving, rest: jax.tree_util.tree_leaves(jax.vjp(lambda m: function({**rest, **m}), moving)[1])


def in_type(engine: Engine, kind: str) -> Engine:
    """The engine of a kernel that gets its floating arrays in one type."""
    numpy, call = import_jax().numpy, engine.call

    def narrow(arrays: dict[str, Any], options: dict[str, Any]) -> Any:
        cast = {n: a.astype(kind) if numpy.issubdtype(a.dtype, numpy.floating) else a for n, a in arrays.items()}
        return call(cast, options)

    return replace(engine, call=narrow, _compiled={}, _plain=set())


def reference_of(engine: Engine, call: Callable[..., Any], kind: str) -> Reference:
    """The reference for an engine."""
    return Reference(replace(engine, call=call, _compiled={}, _plain=set()), kind, engine)
