"""The reference of a JAX or Pallas kernel: plain operations, differentiated by JAX in float64.

What a good kernel may lose comes from the same model as for torch (see `_torch.noise`): the jaxpr of the reference and
its pullback is run operation by operation, and each result moves by plus or minus its own bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradverify.adapters._engines.closed import one_of_each
from gradverify.adapters._engines.lossy import FEW, UNIT, Held, Lossy, Sought, least, told
from gradverify.adapters._jax.closed import Steep
from gradverify.adapters._jax.engine import Engine, Tape, _precision, import_jax
from gradverify.adapters._jax.heard import PRODUCTS, Made, Peak, Quiet, Sizes
from gradverify.adapters._jax.noise import Noise, Ties, floats
from gradverify.adapters._jax.run import Halves, Run

Array = Any  # numpy.ndarray or jax.Array
_COPIES = 64  # up to which a loop takes less time than to compile

Seen = tuple[Held, tuple[int, ...], Halves | None]


@dataclass(frozen=True)
class Truth:
    """What a forward of the reference keeps: primals, its jaxprs, and what the pullback is handed.

    Attributes
    ----------
    places : operations that make what the kernel keeps, once it is known
    closed : the same of the function with factors, what they are of, and how far they go, once it is asked
    """

    given: tuple[dict[str, Array], dict[str, Array]]
    options: Mapping[str, Any]
    halves: Halves
    saved: list[Any]
    places: list[frozenset[int]] = field(default_factory=list)
    closed: list[tuple[Truth, Steep, list[Array]]] = field(default_factory=list)


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
        return self.kernel

    def stored(self, array: Array) -> Array:
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
        return (found if len(found) > 1 else found[0]), Truth(given, options, halves, saved)

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
        vs = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        with _precision(truth.given):
            return truth.halves.pull(Run(), truth.saved, vs)

    def terms(self, cotangents: tuple[Array, ...], truth: Truth) -> dict[str, Array]:
        vs = tuple(np.abs(v) for v in cotangents)
        with _precision(truth.given):
            return {n: np.abs(g) for n, g in truth.halves.pull(Sizes(vs), truth.saved, vs).items()}

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
            return Held(least([a.shape for a in low.values() if floats(a)])), (), None
        ahead = halves.ahead.jaxpr
        outputs, residuals = ahead.outvars[: halves.outputs], ahead.outvars[halves.outputs :]
        size = least([tuple(v.aval.shape) for v in (*ahead.invars, *outputs) if floats(v.aval)])
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

    def beyond(self, cotangents: tuple[Array, ...], truth: Truth) -> bool:
        heard = Peak()
        with _precision(truth.given):
            _, saved = truth.halves.forward(heard, *truth.given)
            truth.halves.pull(heard, saved, cotangents)
        return self.leaves(heard)

    def sample(
        self, cotangents: tuple[Array, ...], seed: int, held: Held, truth: Truth, closed: bool = False
    ) -> tuple[Any, dict[str, Array], int]:
        if closed:
            return self.sample(cotangents, seed, held, self._closed(seed, held, truth))
        with _precision(truth.given):
            if not truth.places:
                quiet = Quiet(*(Sought.of(values, self.eps) for values in (held.values, held.products)))
                if held.values or held.products:
                    _, between = truth.halves.forward(quiet, *truth.given)
                    quiet.kept = Sought([], self.eps)
                    truth.halves.pull(quiet, between, cotangents)
                truth.places.append(frozenset(quiet.places))
            noise = Noise(self.dtype, seed, held.least, truth.places[0], Ties(seed, list(truth.given[0].values())))
            outputs, saved = truth.halves.forward(noise, *truth.given)
            noise.ties.moving = None
            lost = {id(a) for n, a in truth.given[0].items() if n in held.lost}
            saved = [noise.again(value, exact, id(value) in lost) for value, exact in zip(saved, truth.saved)]
            outputs = [noise.unrounded.get(id(y), (y, y))[1] for y in outputs]
            gradients = truth.halves.pull(noise, saved, cotangents)
        return tuple(map(np.asarray, outputs)), gradients, noise.work

    def _closed(self, seed: int, held: Held, truth: Truth) -> Truth:
        """Where gradients are had from what forward gave: see `Closed`."""
        moving, rest = truth.given
        with _precision(truth.given):
            if not truth.closed:
                steep, kept = Steep(self.high._outputs(truth.options), moving, rest), Sought.of(held.values, self.eps)
                given = moving, {**rest, **steep.factors({})}
                saved = steep.halves.forward(Run(), *given)[1]
                low = (kept.found(y.copy, y.shape) for y, _ in steep.found)
                offs = [off * (FEW * UNIT + self.eps / 2 * here) for (_, off), here in zip(steep.found, low)]
                truth.closed.append((Truth(given, truth.options, steep.halves, saved), steep, offs))
        alike, steep, offs = truth.closed[0]
        signs = np.random.default_rng([seed // 2, 1])  # the other way round in the other of two samples
        groups = ([(k, offs[k]) for k in group] for group in steep.roots.values())
        drawn = {
            k: 1 + (2 * (seed % 2) - 1) * off * signs.choice((-1.0, 1.0), off.shape)
            for k, off in one_of_each(groups, seed).items()
        }
        return replace(alike, given=(moving, {**rest, **steep.factors(drawn)}))


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
