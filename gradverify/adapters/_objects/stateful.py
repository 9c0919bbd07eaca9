"""A stateful object in the normal form: a fresh one for each evaluation, and one for a whole session."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gradverify.adapters._arranged import Way
from gradverify.adapters._chance import forget, generators_of, moved, restore
from gradverify.adapters._normal import called, parted, required
from gradverify.adapters._objects.instance import Maker, Ran, accepted_by, assign, summed
from gradverify.adapters._objects.pairs import Pair, declared_pair, discover
from gradverify.core.declare import dims
from gradverify.core.declare.declaration import Backward, Forward
from gradverify.core.declare.held import fetch
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array

if TYPE_CHECKING:
    from gradverify.adapters._objects.pairs import Weight

CACHES = ("cache", "caches", "saved", "ctx", "context", "mem", "memory", "residual", "residuals", "stash", "tape")
_SHAPES = 64  # whose sizes are kept
_WATCHED = 16  # forwards in which generators are looked for; later ones would show nothing new
FLUSHES = ("flush_gradients", "zero_grad", "zero_grads", "zero_gradients", "clear_gradients", "reset_gradients")


@dataclass
class Stateful:
    """A stateful layer in the normal form; `saved` is the forward that an object has run.

    Attributes
    ----------
    methods : names of forward and backward; no second one where forward returns (value, gradients) or a pullback
    inputs, parameters : primal names given to forward, and set on the object
    gives : names of what backward returns, in its order; None reads it from the number of values
    extra : further arguments of backward, by name
    prepare : run on each new object, with the inputs, before its parameters are set
    read : from the object and the values before backward to the gradients of the parameters
    """

    maker: Maker
    methods: tuple[str, str]
    inputs: tuple[str, ...]
    wanted: tuple[str, ...]  # inputs that are differentiable
    dims: Mapping[str, dims.Dims]
    pairs: dict[str, Pair] = field(default_factory=dict)
    gives: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[..., Any] | None = None
    flush: str | None = None
    accumulates: bool = False
    names: tuple[str, ...] = ()  # of all primals, in order
    options: tuple[str, ...] = ()  # their names
    seen: set[Any] = field(default_factory=set)  # types of the parameters as the object was built
    signatures: dict[Any, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    dtype: Any = None  # of the object's own arrays, where it is lower than that of the primals
    assumed: Mapping[str, Any] = field(default_factory=dict)  # sizes, while parameters are not known yet
    updated: set[str] = field(default_factory=set)  # parameters that backward was seen to change
    fault: str = ""  # why forward or backward broke down, where one did as the object was looked at
    runs: int = 0  # in which generators were looked for
    pulls: bool = False  # whether forward returns (outputs, pullback), as far as a call has told
    modes: bool = False  # whether options change what it does
    bound: dict[Any, Mapping[str, Any]] = field(default_factory=dict)  # sizes at the shapes that were seen last
    keys: dict[Any, str] = field(default_factory=dict)  # of a dict that backward returns, and primals they are of
    lists: Mapping[str, list[str]] = field(default_factory=dict)  # arguments of forward that hold several inputs
    way: Way | None = None  # how it is called, where it is not the usual way

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n not in self.inputs)

    def found(self, pair: Pair) -> Pair:
        """A pair that trying showed, as this convention reads it."""
        return pair

    def tells(self, weight: Weight) -> bool:
        """Whether the gradient of a weight that nobody declared can be read from what was seen."""
        return weight.gradient is not None or weight.returned is not None

    # -- forward ------------------------------------------------------------------------------

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """A fresh object with the primals set, its forward, and the object with the options as what is saved."""
        primals = self.cast(dict(zip(self.names, arrays)))
        instance, built = self.fresh(primals, options)
        with self.maker.chance.fixed(options):
            return self.run(instance, primals, options, built)

    def cast(self, primals: dict[str, Array]) -> dict[str, Array]:
        """The primals in the precision of the object."""
        if self.dtype is None:
            return primals
        return {n: a.astype(self.dtype) if a.dtype.kind == "f" else a for n, a in primals.items()}

    def fresh(self, primals: Mapping[str, Array], options: Mapping[str, Any]) -> tuple[Any, dict[str, Array]]:
        """A new object, and the arrays that it was built from."""
        sizes = {} if self.maker.is_object else self._sizes(primals)
        given = [primals[n] for n in self.inputs]

        def warm(instance: Any) -> None:
            self.ready(instance, given, options)

        more = tuple(a.shape for a in given) if self.prepare is not None or self.parameters else None
        return self.maker.make(sizes, primals, options, warm, more)

    def ready(self, instance: Any, given: list[Array], options: Mapping[str, Any]) -> None:
        """Bring the parameters of a new object into being: by `prepare`, or by a first forward."""
        if self.prepare is not None:
            self.prepare(instance, *given)
        elif any(fetch(instance, self._pair(instance, n, {}).values[0]) is None for n in self.parameters):
            self.call(instance, given, options)
            self._flush(instance)

    def run(
        self, instance: Any, primals: Mapping[str, Array], options: Mapping[str, Any], built: Mapping[str, Array]
    ) -> tuple[Any, Any]:
        """Set the parameters of an object, and run its forward."""
        for name in self.parameters:
            pair = self._pair(instance, name, built)
            if name not in built or fetch(instance, pair.values[0]) is None:
                if name in built and fetch(instance, pair.values[0]) is None:
                    continue  # kept under a name of its own; it was built from the array
                assign(instance, pair, np.asarray(primals[name]))
        for name, value in options.items():
            if hasattr(instance, name) and name not in self._forward_options(instance):
                setattr(instance, name, value)
        watched = self.runs < _WATCHED
        generators = generators_of(instance) if watched else {}
        output, ran = self.call(instance, [primals[n] for n in self.inputs], options)
        if watched:
            self.runs += 1
            self.maker.chance.drawn |= moved(generators) | (generators_of(instance).keys() - generators.keys())
        return output, ran

    def call(self, instance: Any, given: list[Array], options: Mapping[str, Any]) -> tuple[Any, Ran]:
        """Forward on some inputs: its outputs, and what backward needs."""
        raw = self.forwarded(instance, given, options)
        known = dict(zip(self.inputs, given))
        if self.way is not None:
            outputs, saved = self.way.parted(raw)
            return outputs, Ran(instance, options, known, saved if self.way.kept else outputs)
        if not self.methods[1]:
            if not isinstance(raw, tuple) or len(raw) < 2:
                raise LayerFailure("outputs", "forward", f"{self.methods[0]} must return (value, gradients)")
            self.pulls = callable(raw[-1])
            if self.pulls:
                return (raw[0] if len(raw) == 2 else raw[:-1]), Ran(instance, options, known, raw[-1])
            return raw[0], Ran(instance, options, known, raw[1] if len(raw) == 2 else raw[1:])
        roles = self._roles(instance)
        upstream = roles.count("")
        if isinstance(raw, tuple) and upstream and len(roles) > upstream and len(raw) == upstream + 1:
            *outputs, cache = raw
            return (outputs[0] if upstream == 1 else tuple(outputs)), Ran(instance, options, known, cache)
        return raw, Ran(instance, options, known)

    def forwarded(self, instance: Any, given: list[Array], options: Mapping[str, Any]) -> Any:
        """What forward returns, a list as a tuple."""
        method = getattr(instance, self.methods[0])
        taken = {n: options[n] for n in self._forward_options(instance) if n in options}
        raw = called("forward", method, *self._arguments(given), **taken)
        return tuple(raw) if isinstance(raw, list) else raw

    def _arguments(self, given: list[Array]) -> list[Any]:
        """The inputs as forward takes them: those of a list together."""
        if not self.lists:
            return given
        first = {names[0]: names for names in self.lists.values()}
        inside = {name for names in self.lists.values() for name in names[1:]}
        known = dict(zip(self.inputs, given))
        return [[known[m] for m in first[n]] if n in first else known[n] for n in self.inputs if n not in inside]

    def _forward_options(self, instance: Any) -> tuple[str, ...]:
        return self._signature(instance, self.methods[0])[0]

    def _signature(self, instance: Any, method: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of all, and of the required, arguments of a method."""
        key = type(instance), method
        if key not in self.signatures:
            bound = getattr(instance, method)
            self.signatures[key] = tuple(accepted_by(bound)), tuple(required(bound) or ())
        return self.signatures[key]

    def _sizes(self, primals: Mapping[str, Array]) -> Mapping[str, Any]:
        """Sizes by name; known shapes are not read again, which takes longer than most forwards."""
        key = (*self.assumed.items(), *((n, np.shape(a)) for n, a in primals.items()))
        if key not in self.bound:
            if len(self.bound) >= _SHAPES:
                self.bound.clear()
            sizes: dict[str, Any] = dict(self.assumed)
            for name, array in primals.items():
                if name in self.dims:
                    sizes = self.dims[name].bind(np.shape(array), sizes)
            self.bound[key] = sizes
        return self.bound[key]

    def _pair(self, instance: Any, name: str, built: Mapping[str, Array]) -> Pair:
        """Where a parameter stands: as told or found, else the attribute of its name."""
        if name not in self.pairs:
            found = discover(instance, built)
            return found.get(name) or declared_pair(name, f"d{name}")
        return self.pairs[name]

    # -- backward -----------------------------------------------------------------------------

    def backward(self, cotangent: Any, saved: Any) -> dict[str, Any]:
        """Gradients by primal name, from what backward returned and what it left on the object."""
        instance = saved.instance
        pairs = {n: self._pair(instance, n, {}) for n in self.parameters}
        before = self.remember(instance, pairs)
        with self.maker.chance.anew(saved.options):
            raw = self.pull(saved, cotangent)
        gradients = {} if self._of_ids(raw, saved) else self._returned(raw)
        for name in self.parameters:
            if name not in gradients:
                gradients[name] = self.read(instance, self._pair(instance, name, {}), before)
        if self.implicit(instance):
            gradients = {n: None if g is None else g * cotangent for n, g in gradients.items()}
        return gradients

    def stored_parameters(self, saved: Any) -> dict[str, Array]:
        """Copies of the parameters as they stand on the object; backward has to leave them alone."""
        instance = saved.instance
        found = {n: fetch(instance, self._pair(instance, n, {}).values[0]) for n in self.parameters}
        return {n: np.array(a) for n, a in found.items() if a is not None}

    def again(
        self, rounds: Sequence[tuple[Mapping[str, Array], tuple[Array, ...]]], options: Mapping[str, Any]
    ) -> dict[str, Array]:
        """What rounds of forward and backward leave on one new object whose gradients nobody clears between."""
        instance, built = self.fresh(self.cast(dict(rounds[0][0])), options)
        before = self.remember(instance, {n: self._pair(instance, n, {}) for n in self.parameters})
        kept = _Kept(instance)
        for primals, cotangents in rounds:
            with self.maker.chance.fixed(options):
                kept.rewind()
                _, ran = self.run(instance, self.cast(dict(primals)), options, built)
            with self.maker.chance.anew(options):
                self.pull(ran, cotangents if len(cotangents) > 1 else cotangents[0])
        left = {n: self.read(instance, self._pair(instance, n, {}), before) for n in self.parameters}
        return {} if self.implicit(instance) else {n: np.array(g) for n, g in left.items() if g is not None}

    def remember(self, instance: Any, pairs: Mapping[str, Pair]) -> dict[str, Any]:
        """What has to be known from before backward."""
        return {n: summed(instance, pair) for n, pair in pairs.items()} if self.accumulates else {}

    def read(self, instance: Any, pair: Pair, before: Mapping[str, Any]) -> Any:
        """The gradient that backward left for one parameter."""
        gradient = summed(instance, pair)
        held = before.get(pair.name)
        return gradient - held if held is not None and gradient is not None else gradient

    def pull(self, ran: Ran, cotangent: Any) -> Any:
        """Backward of a forward: what it returns."""
        instance, options = ran.instance, ran.options
        if not self.methods[1]:
            return called("backward", ran.cache, cotangent) if self.pulls else ran.cache
        method, takes = getattr(instance, self.methods[1]), self._signature(instance, self.methods[1])[0]
        extra = {**{n: options[n] for n in takes if n in options}, **self.extra}
        if self.way is not None:
            dys = cotangent if isinstance(cotangent, tuple) else (cotangent,)
            values = self.way.given(ran.cache, ran.cache, dys, {**ran.given, **options, **extra})
            return called("backward", method, *values, **{n: v for n, v in extra.items() if n not in self.way.roles})
        roles = self._roles(instance)
        upstream = roles.count("")
        spread = isinstance(cotangent, tuple) and upstream == len(cotangent)
        parts = list(cotangent) if spread else [cotangent]
        if self.implicit(instance):
            return called("backward", method, *(ran.given[role] for role in roles), **extra)
        if upstream != len(parts) or len(roles) == upstream:  # in the usual order, whatever backward makes of it
            return called("backward", method, *parts, *([ran.cache] if len(roles) > upstream else []), **extra)
        kept = [ran.cache if ran.cache is not None or role not in ran.given else ran.given[role] for role in roles]
        given = [parts.pop(0) if role == "" else kept[k] for k, role in enumerate(roles)]
        return called("backward", method, *given, **extra)

    def upstream(self, instance: Any) -> list[str]:
        """Arguments that backward needs besides inputs and a cache: the cotangents, and what nobody has told of."""
        if not self.methods[1]:
            return []
        needs = self._signature(instance, self.methods[1])[1]
        return [n for n in needs if n not in (*self.inputs, *self.extra, *self.options)][1:]

    def _roles(self, instance: Any) -> tuple[str, ...]:
        """What each argument is that backward needs: an input or a cache, by its name, or "" for a cotangent."""
        known = {*self.extra, *self.options}
        needs = [n for n in self._signature(instance, self.methods[1])[1] if n not in known]
        if len(needs) == 1:
            return ("",)  # one value is the upstream gradient, whatever its name is
        return tuple(n if n in self.inputs or n.strip("_").lower() in CACHES else "" for n in needs)

    def implicit(self, instance: Any) -> bool:
        """Whether backward takes no cotangent, as those of losses do."""
        if not self.methods[1]:
            return not self.pulls
        if self.way is not None:
            return not self.way.upstream
        takes = self._signature(instance, self.methods[1])[0]
        return not set(takes) - set(self.extra) - set(self._roles(instance)) - {""}

    def _returned(self, raw: Any) -> dict[str, Any]:
        """Names for what backward returned: inputs, or inputs and parameters, in forward's order."""
        values, named = parted(raw)
        if named or isinstance(raw, Mapping):
            found = {self.keys.get(k, str(k)): v for k, v in named.items()}
            return {**(self._in_order(values) if values else {}), **found}
        return self._in_order(values)

    def _of_ids(self, raw: Any, ran: Ran) -> bool:
        """Whether backward returned zeros for inputs such as ids, and left the gradients of the parameters."""
        if self.wanted or self.gives is not None:
            return False
        values, _ = parted(raw)
        if any(np.any(v) for v in values):
            return False
        pairs = (self._pair(ran.instance, n, {}) for n in self.parameters)
        shapes = [np.shape(ran.given[n]) for n in self.inputs]
        return [np.shape(v) for v in values] == shapes and all(summed(ran.instance, p) is not None for p in pairs)

    @property
    def orders(self) -> tuple[tuple[str, ...], ...]:
        """What backward may return, in the order in which that is tried."""
        if self.gives is not None:
            return (self.gives,)
        return (self.wanted, self.inputs, self.names) if self.wanted else ((), self.parameters)

    def _in_order(self, values: list[Any]) -> dict[str, Any]:
        if len(values) == 1 and values[0] is None:  # a backward without a result leaves all that it has on the object
            return dict.fromkeys(self.wanted)
        for order in self.orders:
            if len(values) == len(order):
                return dict(zip(order, values))
        wanted = self.orders[0] or self.orders[-1]
        kind = "input" if self.wanted else "parameter"
        raise LayerFailure(
            "missing" if len(values) < len(wanted) else "surplus",
            "backward",
            f"backward returned {len(values)} value(s) for {len(wanted)} {kind}(s) ({', '.join(wanted)}); "
            'where it returns others, name them in its order: gives=("x", "W")',
        )

    def _flush(self, instance: Any) -> None:
        name = self.flush or next((f for f in FLUSHES if callable(getattr(instance, f, None))), None)
        if name is not None:
            getattr(instance, name)()

    # -- one object for several calls -----------------------------------------------------------

    def session(self) -> tuple[Forward, Backward]:
        """A forward and a backward on one object, which is built at the first call."""
        kept: _Kept | None = None

        def forward(*arrays: Array, **options: Any) -> tuple[Any, Any]:
            nonlocal kept
            primals = self.cast(dict(zip(self.names, arrays)))
            built: dict[str, Array] = {}
            if kept is None:
                instance, built = self.fresh(primals, options)
                used = _Kept(instance)
            else:
                used = kept
            self._flush(used.instance)
            used.rewind()
            if all(n in self.pairs for n in built):  # else it could not be given other arrays later
                kept = used
            with self.maker.chance.fixed(options):
                return self.run(used.instance, primals, options, built)

        return forward, self.backward


class _Kept:
    """An object for several calls; a mask that it draws is the same one at each."""

    def __init__(self, instance: Any) -> None:
        self.instance = instance
        self._generators = generators_of(instance)
        self._before = None
        with suppress(Exception):  # what cannot be copied keeps the generators that a forward makes
            self._before = copy.deepcopy(instance)

    def rewind(self) -> None:
        """Set its generators back to where they stood when it was new."""
        if self._before is not None:
            forget(self.instance, self._generators, self._before)
        restore(self._generators)
