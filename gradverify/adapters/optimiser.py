"""Objects whose backward applies the optimiser, and keeps no gradient.

    layer.forward(x);  dx = layer.backward(dy)      # changes layer.W

The gradient is the parameter before minus after, over the rate. An optimiser that the object holds is
replaced by one that records what it is given, so that no digit is lost in the subtraction.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._normal import annotated, attempt
from gradverify.adapters._objects.building import OPTIMISERS, RATES, build
from gradverify.adapters._objects.pairs import Pair, Weight
from gradverify.adapters._objects.stateful import Stateful
from gradverify.adapters._objects.weights import put
from gradverify.core.declare.declaration import Backward, Forward
from gradverify.core.declare.held import Path, arrays_of, attributes, fetch
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array

_DEEP = 4  # layers of a network, in a list of it
_GRADIENT = re.compile(r"^(g|d\w?|d_\w+|.*grad.*)$", re.IGNORECASE)  # of keyword arguments
_RATE = 2.0**80  # a power of two, so large that the subtraction from the parameter costs no digits of the gradient
_KEY = "_gradverify_recorder"
_SHARES = 1e-6  # of the largest gradient, by which steps may differ from momentum: some hundred roundings of float32


class Misunderstood(DeclarationError):
    """The recording optimiser was called in a way that it cannot read: our limit, and no fault of the layer."""

    def __init__(self, call: str) -> None:
        super().__init__(
            f"backward calls its optimiser as {call}, which the recording optimiser cannot read. Put one of your own "
            "in its place and say its rate, or say where gradients are kept:\n"
            '  gradverify.adapt.optimiser(Dense, setup=lambda layer, _: layer.start(SGD(1.0)), rate=1.0, x="N D")\n'
            '  gradverify.check(Dense, x="N D", pairs={"W": "dW"})'
        )


class Recorder:
    """Gradient descent at rate 1 that remembers each parameter and gradient it was given.

    It answers to any method name (`update`, `step`, `apply`, ...), and takes a parameter and its gradient in this
    order or by name, lists or dicts of both, a list of pairs, or a gradient alone. A parameter with its gradient
    gives the parameter minus the gradient; a gradient alone gives itself, to be added or subtracted.

    Attributes
    ----------
    seen : parameters (None where it was not given) and copies of their gradients
    rated : whether somebody asked for its rate, or keeps one of ours
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Array]] = []
        self.rated = False

    def update(self, *given: Any, **named: Any) -> Any:
        """The parameter after one step, or the step."""
        parts = [a for a in given if _numbers(a)]
        gradients = [v for k, v in named.items() if _numbers(v) and _GRADIENT.search(k)]
        parameters = [v for k, v in named.items() if _numbers(v) and not _GRADIENT.search(k) and k not in RATES]
        parts = [*(parameters or parts[:0]), *parts, *gradients] if gradients else [*parts, *parameters]
        pairs: Any = parts[0] if len(parts) == 1 and isinstance(parts[0], (list, tuple)) else [None]
        if all(isinstance(pair, (list, tuple)) and len(pair) == 2 and _alike(*pair) for pair in pairs):
            return [self._step(parameter, gradient) for parameter, gradient in pairs]
        if len(parts) >= 2 and _alike(parts[0], parts[1]):
            return self._both(parts[0], parts[1])
        if len(parts) == 1:
            return self._both(None, parts[0])
        if parts:
            told = [_kind(value) for value in given] + [f"{name}={_kind(value)}" for name, value in named.items()]
            raise Misunderstood(f"opt({', '.join(told)})")
        return None

    def _both(self, parameter: Any, gradient: Any) -> Any:
        if isinstance(gradient, dict):
            return {k: self._both(None if parameter is None else parameter[k], g) for k, g in gradient.items()}
        if isinstance(gradient, (list, tuple)):
            held = [None] * len(gradient) if parameter is None else parameter
            return [self._both(p, g) for p, g in zip(held, gradient)]
        return self._step(parameter, gradient)

    def _step(self, parameter: Any, gradient: Any) -> Any:
        self.seen.append((parameter, np.array(gradient)))
        return np.array(gradient) if parameter is None else parameter - gradient

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.update(*given, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in RATES:
            self.rated = True
            return _RATE
        return self.update

    def __deepcopy__(self, memo: Any) -> Recorder:
        made = Recorder()
        made.rated = self.rated
        return made

    def __copy__(self) -> Recorder:
        return self  # objects copy one optimiser for each parameter; all are to be heard


def _numbers(value: Any) -> bool:
    """Whether a value is an array or holds arrays, and is no name, index or flag."""
    if isinstance(value, dict):
        return bool(value) and all(_numbers(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return bool(value) and all(_numbers(part) for part in value)
    return isinstance(value, (np.ndarray, np.floating)) and np.asarray(value).dtype.kind in "fc"


def _alike(one: Any, other: Any) -> bool:
    """Whether two values have one structure and one shape, as a parameter and its gradient."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other))
    lists = isinstance(one, (dict, list, tuple)) or isinstance(other, (dict, list, tuple))
    return not lists and np.shape(one) == np.shape(other)


def _kind(value: Any) -> str:
    return f"array {np.shape(value)}" if isinstance(value, np.ndarray) else type(value).__name__


@dataclass
class Applied(Stateful):
    """A stateful layer whose gradients are read from what backward did to the parameters.

    Attributes
    ----------
    setup : called as setup(object, optimiser) on each new object
    rate : learning rate that backward is known to use, where it cannot be set to 1
    """

    setup: Callable[[Any, Any], Any] | None = None
    rate: float | None = None
    rates: dict[str, float] = field(default_factory=dict)  # of parameters whose gradient was read from a subtraction

    def ready(self, instance: Any, given: list[Array], options: Mapping[str, Any]) -> None:
        """A recording optimiser in place of the object's own, and a rate of ours where it keeps one."""
        rates = {n: _RATE for n in self._signature(instance, self.methods[1])[0] if n in RATES}
        self.extra = {**rates, **self.extra}
        recorder = Recorder()
        if self.setup is not None:
            self.setup(instance, recorder)
        Stateful.ready(self, instance, given, options)
        for holder in _holders(instance, _DEEP):
            for name in (*attributes(holder), *(n for n in RATES if isinstance(getattr(type(holder), n, None), float))):
                if name.lower() in OPTIMISERS or name.lower().endswith(("_opt", "_optimizer", "_optimiser")):
                    if self.setup is None:
                        setattr(holder, name, recorder)
                elif name in RATES and self.rate is None:
                    setattr(holder, name, _RATE)
                    recorder.rated = True
        instance.__dict__[_KEY] = recorder

    def _pair(self, instance: Any, name: str, built: Mapping[str, Array]) -> Pair:
        return self.pairs.get(name) or Pair(name, ((("attr", name),),), _before_minus_after)

    def found(self, pair: Pair) -> Pair:
        """The same parameter, with before minus after as its gradient."""
        return Pair(pair.name, pair.values, _before_minus_after)

    def tells(self, weight: Weight) -> bool:
        """Whether backward changes the weight."""
        return weight.changed

    def stored_parameters(self, saved: Any) -> dict[str, Array]:
        """Nothing: backward is meant to change the parameters."""
        return {}

    def again(self, rounds: Any, options: Any) -> dict[str, Array]:
        """Nothing: no gradients are kept."""
        return {}

    def remember(self, instance: Any, pairs: Mapping[str, Pair]) -> dict[str, Any]:
        """The parameters before backward, and copies of them."""
        instance.__dict__[_KEY].seen.clear()
        held = {n: fetch(instance, p.values[0]) for n, p in pairs.items()}
        return {n: (a, np.array(a)) for n, a in held.items() if a is not None}

    def read(self, instance: Any, pair: Pair, before: Mapping[str, Any]) -> Any:
        """What the optimiser was given for a parameter, else before minus after."""
        if pair.name not in before:
            return None
        array, value = before[pair.name]
        seen = instance.__dict__[_KEY].seen
        heard = [g for p, g in seen if p is array]
        if heard:
            return sum(heard[1:], heard[0])
        change = value - np.asarray(fetch(instance, pair.values[0]))
        alone = (g for p, g in seen if p is None and g.shape == change.shape)
        step = next((g for g in alone if _is_step(change, g, value)), None)
        if step is not None:
            return step
        ours = not RATES.isdisjoint(self.extra) or instance.__dict__[_KEY].rated
        self.rates[pair.name] = rate = self.rate if self.rate is not None else _RATE if ours else 1.0
        return change / rate

    def session(self) -> tuple[Forward, Backward]:
        """As `Stateful.session`; momentum, with which each step repeats a share of the one before, is left out."""
        forward, _ = Stateful.session(self)
        before: dict[str, Any] = {}
        written: dict[Path, tuple[Array, Array]] = {}  # by backward: as it was when the object was new, and is now

        def backward(cotangent: Any, saved: Any) -> dict[str, Any]:
            nonlocal before
            start = _own_arrays(saved.instance)
            rested = {p: new for p, (new, now) in written.items() if p in start and np.array_equal(start[p], now)}
            alone = _without(saved, rested) if rested else None
            found = self.backward(cotangent, saved)
            if alone is not None:
                first = self.backward(cotangent, alone)
                found = first if _momentum(found, first, before, self.parameters) else found
            for path, now in _own_arrays(saved.instance).items():
                if path in start and not np.array_equal(start[path], now):
                    written[path] = written.get(path, (start[path], now))[0], now
            before = found
            return found

        return forward, backward

    def gradient_rounding(self, primals: Mapping[str, Array]) -> dict[str, float]:
        """What a subtraction from a parameter rounds its gradient to: eps |w| over the rate."""
        return {
            n: float(np.finfo(primals[n].dtype).eps * np.max(np.abs(primals[n]), initial=0.0)) / abs(rate)
            for n, rate in self.rates.items()
            if n in primals and primals[n].dtype.kind == "f" and rate
        }


def _own_arrays(instance: Any) -> dict[Path, Array]:
    """Copies of the arrays that an object is made of."""
    return {p: np.array(a) for p, a in arrays_of(instance, every=True).items() if isinstance(a, np.ndarray)}


def _without(saved: Any, arrays: Mapping[Path, Array]) -> Any:
    """A forward that an object has run, on a copy of it with other values in some arrays; None if that fails."""
    try:
        instance = copy.deepcopy(saved.instance)
    except Exception:  # noqa: BLE001  whatever the author's object cannot be copied for
        return None
    for path, value in arrays.items():
        put(instance, path, value)
    return replace(saved, instance=instance)


def _momentum(found: Mapping[str, Any], first: Mapping[str, Any], before: Mapping[str, Any], names: Any) -> bool:
    """Whether all steps are those of an object that remembers nothing and one share, below 1, of the step before.

    A share of 1 is no momentum: then gradients add up from call to call.
    """
    given = [n for n in names if found.get(n) is not None]
    if any(before.get(n) is None or np.shape(before[n]) != np.shape(found[n]) for n in given):
        return False
    extra = np.concatenate([np.ravel(np.asarray(found[n]) - first[n]) for n in given] or [np.zeros(0)])
    held = np.concatenate([np.ravel(before[n]) for n in given] or [np.zeros(0)])
    size = float(held @ held)
    share = float(extra @ held) / size if size else 0.0
    slack = _SHARES * np.abs(held).max(initial=0.0)
    return 0.0 < share < 1.0 - _SHARES and bool((np.abs(extra - share * held) <= slack).all())


def _is_step(change: Array, gradient: Array, value: Array) -> bool:
    """Whether a parameter moved by a gradient, either way: an optimiser may give what is added, or subtracted."""
    slack = 8 * np.finfo(change.dtype).eps * (np.abs(value) + np.abs(gradient))
    return any(bool((np.abs(change - sign * gradient) <= slack).all()) for sign in (+1, -1))


def _holders(instance: Any, deep: int) -> Iterator[Any]:
    """An object, and the objects that it is made of, in lists and dicts as well."""
    if isinstance(instance, (list, tuple)):
        parts = list(instance)
    elif isinstance(instance, dict):
        parts = list(instance.values())
    elif hasattr(instance, "__dict__") and not callable(instance) and not isinstance(instance, (type, Recorder)):
        yield instance
        parts = list(vars(instance).values())
    else:
        return
    for part in parts if deep else ():
        yield from _holders(part, deep - 1)


def _before_minus_after(instance: Any) -> None:
    raise AssertionError("read from the object before and after backward")


_before_minus_after.__name__ = "before minus after"  # as reports call it


# cannot be told from a layer that forgets its gradients
@convention('gradverify.adapt.optimiser(Dense, init=("D", "H"), x="N D", W="D H")')
def optimiser(
    target: Any,
    /,
    *,
    setup: Callable[[Any, Any], Any] | None = None,
    rate: float | None = None,
    init: tuple[Any, ...] | Mapping[str, Any] | None = None,
    methods: tuple[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    prepare: Callable[..., Any] | None = None,
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from an object whose backward applies the optimiser.

    Parameters
    ----------
    target, init, methods, extra, prepare : as for `stateful`
    setup : called as setup(object, optimiser) with an optimiser that records, e.g.
        ``lambda layer, opt: layer.initialize(opt)``; by default attributes with such names are replaced
    rate : learning rate of backward, where it is neither an attribute nor an argument (default 1)
    **declaration : primals and settings; primals that forward does not take are attributes

    Raises
    ------
    DeclarationError
        As `stateful`.
    """
    layer = build(
        Applied,
        target,
        init=init,
        pairs=None,
        methods=methods,
        name=name,
        declaration=declaration,
        extra=extra or {},
        prepare=prepare,
        setup=setup,
        rate=rate,
    )
    inner: Applied = layer.forward.__self__  # type: ignore[attr-defined]
    layer = layer.derive(hooks=replace(layer.hooks, gradient_rounding=inner.gradient_rounding))
    _understood(layer)
    rest = [n for n in inner.parameters if n not in inner.pairs]
    return annotated(layer, "pairs: " + ", ".join(f"{n}<->{n} before minus after" for n in rest) if rest else "")


def _understood(layer: Layer) -> None:
    """Refuse a layer whose calls of the optimiser cannot be read, before they look like a fault of its author."""
    _, evaluation, _ = attempt(layer)
    if evaluation is None:
        return
    try:
        evaluation.pull(tuple(np.ones(y.shape) for y in evaluation.outputs))
    except LayerFailure as failure:
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, Misunderstood):
                raise cause from None
            cause = cause.__cause__
