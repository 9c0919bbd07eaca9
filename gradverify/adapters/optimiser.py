"""Objects whose backward applies the optimiser, and keeps no gradient.

    layer.forward(x);  dx = layer.backward(dy)      # changes layer.W

The gradient is the parameter before minus after, over the rate. An optimiser that the object holds is
replaced by one that records what it is given, so that no digit is lost in the subtraction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import Adapter, add
from gradverify.adapters._building import build, methods_of
from gradverify.adapters._instance import accepted_by
from gradverify.adapters._normal import told
from gradverify.adapters._pairs import Pair, attributes, fetch
from gradverify.adapters._stateful import Stateful
from gradverify.adapters._weights import Weight
from gradverify.layer import Layer
from gradverify.types import Array

_HELD = ("optimizer", "optimiser", "opt", "optim")
_RATES = {"learning_rate", "lr", "alpha", "eta", "rate", "step_size"}
_RATE = 2.0**80  # a power of two, so large that the subtraction from the parameter costs no digits of the gradient
_KEY = "_gradverify_recorder"


class Recorder:
    """Gradient descent at rate 1 that remembers each parameter and gradient it was given.

    It answers to any method name (`update`, `step`, `apply`, ...) with arguments (parameter,
    gradient, ...), and returns the parameter minus the gradient.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Array, Array]] = []

    def update(self, parameter: Any, gradient: Any, *_: Any, **__: Any) -> Any:
        """The parameter after one step."""
        self.seen.append((parameter, np.array(gradient)))
        return parameter - gradient

    def __call__(self, parameter: Any, gradient: Any, *_: Any, **__: Any) -> Any:
        return self.update(parameter, gradient)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.update

    def __deepcopy__(self, memo: Any) -> Recorder:
        return Recorder()

    def __copy__(self) -> Recorder:
        return self  # objects copy one optimiser for each parameter; all are to be heard


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

    def ready(self, instance: Any, given: list[Array], options: Mapping[str, Any]) -> None:
        """A recording optimiser in place of the object's own, and a rate of ours where it keeps one."""
        recorder = Recorder()
        if self.setup is not None:
            self.setup(instance, recorder)
        Stateful.ready(self, instance, given, options)
        for name in attributes(instance):
            if name.lower() in _HELD or name.lower().endswith(("_opt", "_optimizer", "_optimiser")):
                setattr(instance, name, recorder)
            elif name in _RATES and self.rate is None:
                setattr(instance, name, _RATE)
        instance.__dict__[_KEY] = recorder

    def _pair(self, instance: Any, name: str, built: Mapping[str, Array]) -> Pair:
        return self.pairs.get(name) or Pair(name, ((("attr", name),),), _before_minus_after)

    def found(self, pair: Pair) -> Pair:
        """The same parameter, with before minus after as its gradient."""
        return Pair(pair.name, pair.values, _before_minus_after)

    def tells(self, weight: Weight) -> bool:
        """Whether backward changes the weight."""
        return weight.changed

    def held(self, saved: Any) -> dict[str, Array]:
        """Nothing: backward is meant to change the parameters."""
        return {}

    def again(self, primals: Any, cotangents: Any, options: Any) -> dict[str, Array]:
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
        heard = [g for p, g in instance.__dict__[_KEY].seen if p is array]
        if heard:
            return sum(heard[1:], heard[0])
        return (value - np.asarray(fetch(instance, pair.values[0]))) / self._rate(instance)

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
