"""Objects whose backward applies the optimiser, and keeps no gradient.

    layer.forward(x);  dx = layer.backward(dy)      # changes layer.W

The gradient is the parameter before minus after, over the rate. An optimiser that the object holds is
replaced by one that records what it is given, so that no digit is lost in the subtraction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradverify.adapters import Adapter, add
from gradverify.adapters._building import build, methods_of
from gradverify.adapters._instance import accepted_by
from gradverify.adapters._normal import told
from gradverify.adapters._pairs import Pair, attributes, fetch
from gradverify.adapters._stateful import Stateful
from gradverify.evaluate import LayerFailure
from gradverify.layer import Layer
from gradverify.types import Array

_HELD = ("optimizer", "optimiser", "opt", "optim")
_RATES = {"learning_rate", "lr", "alpha", "eta", "rate", "step_size"}
_RATE = 2.0**80  # a power of two, so large that the subtraction from the parameter costs no digits of the gradient
_KEY = "_gradverify_recorder"


class Recorder:
    """Gradient descent at rate 1 that remembers each parameter and gradient it was given.

    It answers to any method name (`update`, `step`, `apply`, ...) and to any call: of a parameter and its gradient,
    by position or by name, it returns the parameter minus the gradient; of a gradient alone, the gradient; of lists
    or dicts of both, one step for each.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Array | None, Array]] = []

    def update(self, *given: Any, **named: Any) -> Any:
        """The parameter after one step, or the gradient if there is no parameter.

        Raises
        ------
        LayerFailure
            If no array is among the arguments: what the call means cannot be told.
        """
        gradients = [v for n, v in named.items() if _is_gradient(n)]
        others = [v for n, v in named.items() if not _is_gradient(n)]
        values = [v for v in (*given, *others, *gradients) if _holds_arrays(v)]
        if not values:
            raise LayerFailure("crash", "backward", _NOT_UNDERSTOOD)
        if len(values) == 1:
            return self._step(None, values[0])
        return self._step(values[0], gradients[0] if gradients and _holds_arrays(gradients[0]) else values[1])

    def _step(self, parameter: Any, gradient: Any) -> Any:
        if isinstance(gradient, dict):
            by_key = parameter if isinstance(parameter, dict) else {}
            return {k: self._step(by_key.get(k), g) for k, g in gradient.items()}
        if isinstance(gradient, (list, tuple)):
            held = parameter if isinstance(parameter, (list, tuple)) else [None] * len(gradient)
            return [self._step(p, g) for p, g in zip(held, gradient)]
        self.seen.append((parameter, np.array(gradient)))
        return np.array(gradient) if parameter is None else parameter - gradient

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.update(*given, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.update

    def __deepcopy__(self, memo: Any) -> Recorder:
        return Recorder()

    def __copy__(self) -> Recorder:
        return self  # objects copy one optimiser for each parameter; all are to be heard


_NOT_UNDERSTOOD = (
    "gradverify's own recording optimiser, which stands in for the layer's, was called without any array and cannot "
    "tell the gradient. This is no finding against the layer; declare how it updates:\n"
    "  adapt.optimiser(Layer, setup=lambda layer, recorder: layer.compile(MyOptimiser(rate=1.0)), rate=1.0, ...)\n"
    "  adapt.stateful(Layer, pairs={'W': 'dW'}, ...), where the gradients are kept as well"
)


def _is_gradient(name: str) -> bool:
    return "grad" in name.lower() or name.lower() in ("g", "dw", "db", "dp", "delta")


def _holds_arrays(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_arrays, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_arrays, value))
    return isinstance(value, np.ndarray)


@dataclass
class Applied(Stateful):
    """A stateful layer whose gradients are read from what backward did to the parameters.

    Attributes
    ----------
    setup : called as setup(object, optimiser) on each new object
    rate : learning rate that backward is known to use, where it cannot be set to 1
    rates : rates of the parameters whose gradient was read from a subtraction
    """

    setup: Callable[[Any, Any], Any] | None = None
    rate: float | None = None
    rates: dict[str, float] = field(default_factory=dict)

    def ready(self, instance: Any, given: list[Array], options: Mapping[str, Any]) -> None:
        """A recording optimiser in place of the object's own, and a rate of ours where it keeps one."""
        recorder = Recorder()
        before = dict(attributes(instance))
        if self.setup is not None:
            self.setup(instance, recorder)
        chosen = {n for n, v in attributes(instance).items() if before.get(n) is not v and self.setup is not None}
        Stateful.ready(self, instance, given, options)
        for name in attributes(instance):
            if name in chosen:
                continue  # put there by the author's own setup
            if name.lower() in _HELD or name.lower().endswith(("_opt", "_optimizer", "_optimiser")):
                setattr(instance, name, recorder)
            elif name in _RATES and self.rate is None:
                setattr(instance, name, _RATE)
        instance.__dict__[_KEY] = recorder

    def _pair(self, instance: Any, name: str, built: Mapping[str, Array]) -> Pair:
        return Pair(name, ((("attr", name),),), _before_minus_after)

    def held(self, saved: Any) -> dict[str, Array]:
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
        near = 64 * np.finfo(float).eps * (np.abs(value) + np.abs(change))
        for p, g in seen:  # a gradient alone: the parameter went up or down by it
            if p is None and g.shape == change.shape and np.all(np.minimum(abs(change - g), abs(change + g)) <= near):
                return g
        rate = self._rate(instance)
        self.rates[pair.name] = rate
        return change / rate

    def grain(self, primals: Mapping[str, Array]) -> dict[str, float]:
        """What a subtraction from a parameter rounds its gradient to: eps |w| over the rate."""
        return {
            n: float(np.finfo(primals[n].dtype).eps * np.max(np.abs(primals[n]), initial=0.0)) / abs(rate)
            for n, rate in self.rates.items()
            if n in primals and primals[n].dtype.kind == "f" and rate
        }

    def _rate(self, instance: Any) -> float:
        ours = not _RATES.isdisjoint(self.extra) or not _RATES.isdisjoint(attributes(instance))
        return self.rate if self.rate is not None else _RATE if ours else 1.0


def _before_minus_after(instance: Any) -> None:
    raise AssertionError("read from the object before and after backward")


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
        extra={**_rate_argument(target, methods), **(extra or {})},
        prepare=prepare,
        setup=setup,
        rate=rate,
    )
    inner: Applied = layer.forward.__self__  # type: ignore[attr-defined]
    layer = layer.derive(hooks=replace(layer.hooks, grain=inner.grain))
    return told(layer, "pairs: " + ", ".join(f"{n}<->{n} before minus after" for n in inner.parameters))


def _rate_argument(target: Any, methods: tuple[str, str] | None) -> dict[str, float]:
    """A rate for a backward that takes one."""
    cls = target if isinstance(target, type) else type(target)
    found = methods or methods_of(cls)
    names = accepted_by(getattr(cls, found[1], None)) if found is not None else []
    return {n: _RATE for n in names if n in _RATES}


add(
    Adapter(
        "optimiser",
        lambda target: False,  # cannot be told from a layer that forgets its gradients
        optimiser,
        'gradverify.adapt.optimiser(Dense, init=("D", "H"), x="N D", W="D H")',
        priority=30,
    )
)
