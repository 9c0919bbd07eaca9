"""Objects with forward and backward: each evaluation gets a fresh one, set to the primals of the case.

    layer.forward(x);  dx = layer.backward(dy);  layer.W, layer.dW

Parameters and their gradients are paired by a naming rule after calling the object once; what was
paired is printed with every report, and `pairs={"W": "dW"}` corrects it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradverify import dims
from gradverify.adapters import Adapter, add
from gradverify.adapters._chance import Chance, held, moved, restore
from gradverify.adapters._instance import Maker, accepted_by, assign, float_arrays, summed
from gradverify.adapters._normal import (
    called,
    examples,
    finished,
    flat,
    required,
    split,
)
from gradverify.adapters._pairs import Pair, attributes, discover, fetch, told_pair
from gradverify.errors import DeclarationError
from gradverify.evaluate import LayerFailure
from gradverify.layer import Backward, Forward, Layer
from gradverify.types import Array

FORWARDS = ("forward", "forward_pass", "fprop", "forward_propagation", "feedforward", "__call__")
BACKWARDS = (
    "backward",
    "backward_pass",
    "bprop",
    "backprop",
    "back_propagation",
    "backward_propagation",
    "backpropagate",
)
FLUSHES = ("flush_gradients", "zero_grad", "zero_grads", "zero_gradients", "clear_gradients", "reset_gradients")
FOREIGN = ("torch", "jax", "jaxlib", "flax", "equinox", "tensorflow", "keras", "chainer", "mxnet", "paddle")


@dataclass
class Stateful:
    """A stateful layer in the normal form; `saved` is the object that ran the forward, and its options.

    Attributes
    ----------
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
    seen: set[Any] = field(default_factory=set)  # types of the parameters as the object was built
    signatures: dict[Any, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    dtype: Any = None  # of the object's own arrays, where it is lower than that of the primals
    assumed: Mapping[str, Any] = field(default_factory=dict)  # sizes, while parameters are not known yet

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n not in self.inputs)

    # -- forward ------------------------------------------------------------------------------

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """A fresh object with the primals set, its forward, and the object with the options as what is saved."""
        primals = self.cast(dict(zip(self.names, arrays)))
        with self.maker.chance.fixed(options, note=False):
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
            self._call(instance, given, options)
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
        generators = held(instance)
        result = self._call(instance, [primals[n] for n in self.inputs], options)
        self.maker.chance.drawn |= moved(generators)
        return result, (instance, options)

    def _call(self, instance: Any, given: list[Array], options: Mapping[str, Any]) -> Any:
        method = getattr(instance, self.methods[0])
        taken = {n: options[n] for n in self._forward_options(instance) if n in options}
        raw = called("forward", method, *given, **taken)
        return tuple(raw) if isinstance(raw, list) else raw

    def _forward_options(self, instance: Any) -> tuple[str, ...]:
        return self._signature(instance, self.methods[0])[0]

    def _signature(self, instance: Any, method: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of all, and of the required, arguments of a method."""
        key = type(instance), method
        if key not in self.signatures:
            bound = getattr(instance, method)
            self.signatures[key] = tuple(accepted_by(bound)), tuple(required(bound) or ())
        return self.signatures[key]

    def _sizes(self, primals: Mapping[str, Array]) -> dict[str, Any]:
        sizes: dict[str, Any] = dict(self.assumed)
        for name, array in primals.items():
            if name in self.dims:
                sizes = self.dims[name].bind(np.shape(array), sizes)
        return sizes

    def _pair(self, instance: Any, name: str, built: Mapping[str, Array]) -> Pair:
        """Where a parameter stands: as told or found, else the attribute of its name."""
        if name not in self.pairs:
            found = discover(instance, built)
            return found.get(name) or told_pair(name, f"d{name}")
        return self.pairs[name]

    # -- backward -----------------------------------------------------------------------------

    def backward(self, cotangent: Any, saved: Any) -> dict[str, Any]:
        """Gradients by primal name, from what backward returned and what it left on the object."""
        instance, options = saved
        pairs = {n: self._pair(instance, n, {}) for n in self.parameters}
        before = self.remember(instance, pairs)
        with self.maker.chance.fixed(("backward", options)):
            raw = self._pull(instance, cotangent, options)
        gradients = self._returned(raw)
        for name in self.parameters:
            if name not in gradients:
                gradients[name] = self.read(instance, self._pair(instance, name, {}), before)
        if self._implicit(instance):
            gradients = {n: None if g is None else g * cotangent for n, g in gradients.items()}
        return gradients

    def remember(self, instance: Any, pairs: Mapping[str, Pair]) -> dict[str, Any]:
        """What has to be known from before backward."""
        return {n: summed(instance, pair) for n, pair in pairs.items()} if self.accumulates else {}

    def read(self, instance: Any, pair: Pair, before: Mapping[str, Any]) -> Any:
        """The gradient that backward left for one parameter."""
        gradient = summed(instance, pair)
        held = before.get(pair.name)
        return gradient - held if held is not None and gradient is not None else gradient

    def _pull(self, instance: Any, cotangent: Any, options: Mapping[str, Any]) -> Any:
        method, (takes, needs) = getattr(instance, self.methods[1]), self._signature(instance, self.methods[1])
        extra = {**{n: options[n] for n in takes if n in options}, **self.extra}
        if self._implicit(instance):
            return called("backward", method, **extra)
        spread = isinstance(cotangent, tuple) and len(set(needs) - set(extra)) == len(cotangent)
        return called("backward", method, *(cotangent if spread else (cotangent,)), **extra)

    def _implicit(self, instance: Any) -> bool:
        """Whether backward takes no cotangent, as those of losses do."""
        takes = self._signature(instance, self.methods[1])[0]
        return not set(takes) - set(self.extra)

    def _returned(self, raw: Any) -> dict[str, Any]:
        """Names for what backward returned: inputs, or inputs and parameters, in forward's order."""
        if isinstance(raw, Mapping):
            return {str(k): v for k, v in raw.items()}
        values = flat(raw)
        orders = (self.gives,) if self.gives is not None else (self.wanted, self.inputs, self.names)
        for order in orders:
            if order is not None and len(values) == len(order):
                return dict(zip(order, values))
        if raw is None:
            return dict.fromkeys(self.wanted)
        wanted = orders[0] or ()
        raise LayerFailure(
            "missing" if len(values) < len(wanted) else "surplus",
            "backward",
            f"backward returned {len(values)} value(s) for {len(wanted)} input(s) ({', '.join(wanted)}); "
            'where it returns others, name them in its order: gives=("x", "W")',
        )

    def _flush(self, instance: Any) -> None:
        name = self.flush or next((f for f in FLUSHES if callable(getattr(instance, f, None))), None)
        if name is not None:
            getattr(instance, name)()

    # -- one object for several calls -----------------------------------------------------------

    def session(self) -> tuple[Forward, Backward]:
        """A forward and a backward on one object, which is built at the first call."""
        kept: dict[str, Any] = {}

        def forward(*arrays: Array, **options: Any) -> tuple[Any, Any]:
            primals = self.cast(dict(zip(self.names, arrays)))
            with self.maker.chance.fixed(options, note=False):
                built: dict[str, Array] = {}
                instance = kept.get("instance")
                if instance is None:
                    instance, built = self.fresh(primals, options)
                    kept["generators"] = held(instance)
                self._flush(instance)
                restore(kept["generators"])
                if all(n in self.pairs for n in built):  # else it could not be given other arrays later
                    kept["instance"] = instance
            with self.maker.chance.fixed(options):
                return self.run(instance, primals, options, built)

        return forward, self.backward


def stateful(
    target: Any,
    *,
    init: tuple[Any, ...] | Mapping[str, Any] | None = None,
    pairs: Mapping[str, Any] | None = None,
    methods: tuple[str, str] | None = None,
    gives: tuple[str, ...] | None = None,
    extra: Mapping[str, Any] | None = None,
    prepare: Callable[..., Any] | None = None,
    flush: str | None = None,
    accumulates: bool = False,
    dtype: Any = None,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from an object, a class, or a function that builds an object.

    Parameters
    ----------
    target : an object is copied for each evaluation; a class or function is called with `init`
    init : arguments it is built with: names of axes, primals or options, or values, e.g. ("D", "H");
        by default its own argument names are matched
    pairs : where parameters and gradients stand: {"W": "dW"}, {"W": ("layer.weights", "grads[0]")}, or a
        function of the object for the gradient. What is not named is found by naming rules
    methods : names of forward and backward
    gives : primal names of what backward returns, in its order
    extra : further arguments of backward by name
    prepare : called as prepare(object, *inputs) on each new object; by default an object that has no
        parameters yet is run forward once, and flushed
    flush : name of the method that zeroes accumulated gradients
    accumulates : backward adds to the gradients; what was there before is subtracted
    dtype : precision in which the object is run; by default that of its parameters, if it is a low one
    **declaration : primals and settings as for `gradverify.Layer`. Primals that forward takes are
        inputs; others are parameters, found with their shapes where they are not declared

    Raises
    ------
    DeclarationError
        If the object cannot be built, or lacks the methods.
    """
    return build(
        Stateful,
        target,
        init=init,
        pairs=pairs,
        methods=methods,
        name=name,
        declaration=declaration,
        gives=gives,
        extra=extra or {},
        prepare=prepare,
        flush=flush,
        accumulates=accumulates,
        dtype=np.dtype(dtype) if dtype is not None else None,
    )


def build(
    kind: type[Stateful],
    target: Any,
    *,
    init: Any,
    pairs: Mapping[str, Any] | None,
    methods: tuple[str, str] | None,
    name: str | None,
    declaration: Mapping[str, Any],
    **fields: Any,
) -> Layer:
    """A Layer from a kind of stateful convention: find inputs, parameters and pairs, in this order."""
    primals, settings = split(declaration)
    label = name or getattr(target, "__name__", type(target).__name__)
    cls = target if inspect.isclass(target) else type(target)
    told = {n: told_pair(n, spec) for n, spec in (pairs or {}).items()}
    maker = Maker(target, init, Chance(cls, getattr(cls, "forward", None), target))
    inner = kind(maker, ("", ""), (), (), {}, dict(told), **fields)
    first, failure = _first(inner, primals, settings, label, methods, target)
    if first is None:
        inner.methods = methods or methods_of(cls) or ("forward", "backward")
        inner.inputs = _inputs(cls, inner.methods[0], primals, told)
    if not inner.inputs:
        raise DeclarationError(_no_inputs(label, cls, inner.methods[0]))
    lines = _complete(inner, primals, settings, label, first) if first is not None else ()
    layer = _layer(inner, primals, settings, label)
    if first is None and isinstance(failure, DeclarationError):
        raise failure
    paired = ", ".join(str(inner.pairs[n]) for n in inner.parameters if n in inner.pairs)
    return finished(layer, f"pairs: {paired}" if paired else "", *lines, chance=maker.chance)


def _first(
    inner: Stateful,
    primals: Mapping[str, Any],
    settings: Mapping[str, Any],
    label: str,
    methods: tuple[str, str] | None,
    target: Any,
) -> tuple[Any, Exception | None]:
    """An object built once for a look at it, or why there is none."""
    sketch = Layer(
        lambda *a, **o: (0.0, None), lambda dy, s: (), name=label, **_declared(primals or {"x": ""}, settings)
    )
    failure: Exception | None = None
    for arrays, sizes in examples(sketch, inner.maker.sizes()):
        try:
            with inner.maker.chance.fixed("built", note=False):
                made, built = inner.maker.make(sizes, arrays, sketch.default_options)
        except DeclarationError as error:
            return None, error
        except Exception as error:  # noqa: BLE001  whatever the author's constructor raises
            failure = DeclarationError(
                f"{label} cannot be built: {type(error).__name__}: {error}; "
                'say what to give it: init=("D", "H"), with names of axes or values'
            )
            continue
        inner.maker.prototypes.clear()
        found = methods or methods_of(type(made))
        if found is None:
            raise DeclarationError(
                f"{label} has no pair of methods such as forward and backward; name them: "
                'methods=("transform", "pull_back")'
            )
        inner.methods = found
        inner.inputs = _inputs(type(made), found[0], primals, inner.pairs, made, built)
        return made, None
    return None, failure


def _declared(primals: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"primals": dict(primals), **settings}


def methods_of(cls: type) -> tuple[str, str] | None:
    """Names of the forward and the backward method of a class, if it has both."""
    forward = next((n for n in FORWARDS if inspect.isroutine(getattr(cls, n, None))), None)
    backward = next((n for n in BACKWARDS if inspect.isroutine(getattr(cls, n, None))), None)
    return None if forward is None or backward is None else (forward, backward)


def _inputs(
    cls: type,
    forward: str,
    primals: Mapping[str, Any],
    told: Mapping[str, Pair],
    made: Any = None,
    built: Mapping[str, Array] | None = None,
) -> tuple[str, ...]:
    """Declared primals that forward takes, by name in its order; else all that name no parameter, as declared."""
    names = accepted_by(getattr(cls, forward, None))
    by_name = [n for n in names if n in primals]
    needed = [n for n in required(getattr(cls, forward)) or [] if n != "self"] if hasattr(cls, forward) else []
    if by_name and set(needed) <= set(by_name):
        return tuple(by_name)
    known = {*told, *(built or {}), *(discover(made, built) if made is not None else {})}
    known |= set(attributes(made)) if made is not None else set()
    left = [n for n in primals if n not in known]
    return tuple(left[: len(needed)] if needed else left)


def _no_inputs(label: str, cls: type, forward: str) -> str:
    names = [n for n in required(getattr(cls, forward, None) or (lambda x: x)) or [] if n != "self"] or ["x"]
    return f"{label}: name the input(s) of {forward} with their dimensions, e.g. " + ", ".join(
        f'{n}="N D"' for n in names
    )


def _complete(
    inner: Stateful, primals: dict[str, Any], settings: Mapping[str, Any], label: str, made: Any
) -> tuple[str, ...]:
    """Call the object forward and backward once, and add the parameters and pairs that show."""
    options = _layer(inner, primals, settings, label).default_options
    found: dict[str, Pair] = {}
    shapes: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = []
    for arrays, sizes in examples(_layer(inner, primals, settings, label), inner.maker.sizes()):
        inner.assumed = sizes
        looked = _look(inner, options, arrays)
        if looked is None:
            continue
        found = {**looked[0], **found}
        shapes.append((sizes, looked[1]))
        if len(shapes) == 2:
            break
    inner.assumed = {}
    taken = {path for p in inner.pairs.values() for path in p.values}
    added = {n: p for n, p in found.items() if n not in inner.pairs and n not in inner.inputs}
    added = {n: p for n, p in added.items() if not taken & set(p.values)}
    inner.pairs.update(added)
    inferred = []
    for name, pair in inner.pairs.items():
        if name not in primals and shapes and not any(pair.name == n for n in primals):
            text = _dimensions(name, shapes)
            if text is not None:
                primals[name] = text
                inferred.append(f'{name} "{text}"')
    lines = [f"dimensions: {', '.join(inferred)} (from the object's arrays)"] if inferred else []
    if inner.dtype is None and inner.seen and all(np.finfo(t).bits < 64 for t in inner.seen):
        inner.dtype = np.result_type(*inner.seen)
        lines.append(f"the object's parameters are {inner.dtype}: everything is run in that precision")
    return tuple(lines)


def _look(
    inner: Stateful, options: Mapping[str, Any], arrays: Mapping[str, Array]
) -> tuple[dict[str, Pair], dict[str, tuple[int, ...]]] | None:
    """Pairs and shapes of the parameters that an object shows before and after one forward and backward."""
    given = [np.array(arrays[n]) for n in inner.inputs]
    try:
        with inner.maker.chance.fixed(options, note=False):
            made, built = inner.fresh({n: np.array(a) for n, a in arrays.items()}, options)
            start = {*discover(made, built), *float_arrays(made)}
        with inner.maker.chance.fixed(options):
            output = inner._call(made, given, options)
            cotangent = (
                tuple(np.ones(np.shape(y)) for y in output) if isinstance(output, tuple) else np.ones(np.shape(output))
            )
            try:
                inner._pull(made, cotangent, options)
            except LayerFailure:
                pass  # what forward shows is shown; the check will report the crash
    except (LayerFailure, DeclarationError):
        return None
    found = discover(made, built)
    lazy = not (start & set(found))
    outside = [*given, *flat(output)]
    kept = {
        n: p
        for n, p in found.items()
        if (n in start or lazy or n in built) and not any(_same(fetch(made, p.values[0]), a) for a in outside)
    }
    inner.seen |= {
        v.dtype
        for v in (fetch(made, p.values[0]) for p in kept.values())
        if hasattr(v, "dtype") and v.dtype.kind == "f"
    }
    every = {**kept, **{n: p for n, p in inner.pairs.items()}}
    return kept, {
        n: np.shape(fetch(made, p.values[0])) for n, p in every.items() if fetch(made, p.values[0]) is not None
    }


def _same(value: Any, other: Any) -> bool:
    return value is other or (
        isinstance(value, np.ndarray) and np.shape(value) == np.shape(other) and np.array_equal(value, other)
    )


def _dimensions(name: str, shapes: list[tuple[dict[str, Any], dict[str, tuple[int, ...]]]]) -> str | None:
    """The dimension string of a parameter, from the shapes it had at one or two sets of sizes."""
    seen = [(sizes, found[name]) for sizes, found in shapes if name in found]
    if not seen or any(len(shape) != len(seen[0][1]) for _, shape in seen):
        return None
    tokens = []
    for axis in range(len(seen[0][1])):
        fits = [{t for t in _tokens(sizes, shape[axis])} for sizes, shape in seen]
        common = sorted(set.intersection(*fits), key=lambda t: (t.isdigit(), len(t), t))
        if not common:
            return None
        tokens.append(common[0])
    return " ".join(tokens)


def _tokens(sizes: Mapping[str, Any], extent: int) -> set[str]:
    named = {n: s for n, s in sizes.items() if isinstance(s, int) and s > 1}
    found = {n for n, s in named.items() if s == extent}
    found |= {f"{k}*{n}" for n, s in named.items() for k in (2, 3, 4) if k * s == extent}
    return found | {str(extent)}


def _layer(
    inner: Stateful,
    primals: Mapping[str, Any],
    settings: Mapping[str, Any],
    label: str,
) -> Layer:
    ordered = {n: primals[n] for n in (*inner.inputs, *(n for n in primals if n not in inner.inputs))}
    layer = Layer(
        inner.forward,
        inner.backward,
        name=label,
        primals=ordered,
        **{"stateful": True, "session": inner.session, "doc": inspect.getdoc(inner.maker.target) or "", **settings},
    )
    inner.names = layer.primal_names
    inner.dims = {p.name: p.dims for p in layer.primals}
    inner.wanted = tuple(p.name for p in layer.differentiable if p.name in inner.inputs)
    return layer


def _recognises(target: Any) -> bool:
    cls = target if inspect.isclass(target) else type(target)
    if isinstance(target, Layer) or inspect.isroutine(target) or inspect.ismodule(target):
        return False
    if any(c.__module__.split(".")[0] in FOREIGN for c in cls.__mro__):
        return False
    found = methods_of(cls)
    if found is None or (found[0] == "__call__" and inspect.isclass(target) and "__call__" not in vars(cls)):
        return False
    return accepted_by(getattr(cls, found[0]))[:1] != ["ctx"]


add(
    Adapter(
        "stateful",
        _recognises,
        stateful,
        'gradverify.check(Dense, init=("D", "H"), x="N D", pairs={"W": "dW"})',
        priority=40,
    )
)
