"""Objects with forward and backward: each evaluation gets a fresh one, set to the primals of the case.

    layer.forward(x);  dx = layer.backward(dy);  layer.W, layer.dW

Parameters and their gradients are paired by a naming rule after calling the object once; what was
paired is printed with every report, and `pairs={"W": "dW"}` corrects it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._normal import required
from gradverify.adapters._objects.building import build
from gradverify.adapters._objects.guesses import methods_of
from gradverify.adapters._objects.instance import accepted_by, builds
from gradverify.adapters._objects.stateful import Stateful
from gradverify.adapters._trial import limited
from gradverify.adapters.elementwise import elementwise
from gradverify.core.declare.held import arrays_of
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure

FOREIGN = ("torch", "jax", "jaxlib", "flax", "equinox", "tensorflow", "keras", "chainer", "mxnet", "paddle")


def _recognises(target: Any) -> bool:
    cls = target if inspect.isclass(target) else type(target)
    if isinstance(target, Layer) or inspect.isroutine(target) or inspect.ismodule(target):
        return False
    if any(c.__module__.split(".")[0] in FOREIGN for c in cls.__mro__):
        return False
    found = methods_of(cls)
    if found is None:
        return False
    if found[1] == "" and not inspect.isclass(target) and not any(map(np.ndim, arrays_of(target).values())):
        return False  # a loss without weights, whose gradient nobody has seen
    return accepted_by(getattr(cls, found[0]))[:1] != ["ctx"]


_POINTS = np.array([[0.3, -0.7, 1.1], [-1.6, 2.1, 0.4]])  # at which no usual function bends
_STEP = 2.0**-17  # near the cube root of eps


def _derivative_of(target: Any, methods: Any) -> tuple[Any, Any] | None:
    """A function and its derivative, which take one argument of the same name; None if the second is a backward."""
    names = methods or methods_of(target if inspect.isclass(target) else type(target))
    made_by_call = builds(target) and (not inspect.isclass(target) or required(target))
    if not isinstance(names, (tuple, list)) or len(names) != 2 or not all(names) or made_by_call:
        return None
    try:
        with limited():
            made = target() if inspect.isclass(target) else copy.deepcopy(target)
    except LayerFailure:  # it does not return
        raise
    except Exception:  # noqa: BLE001  whatever a constructor raises: building it for its sizes says so
        return None
    function, derivative = (getattr(made, name, None) for name in names)
    if function is None or derivative is None:
        return None
    takes = required(function) or []
    same = len(takes) == 1 and takes == required(derivative)
    return (function, derivative) if same and _is_derivative(function, derivative) else None


def _is_derivative(function: Any, derivative: Any) -> bool:
    """Whether it needs no forward before, and is the slope, or not linear as a backward is."""
    try:
        with np.errstate(all="ignore"), limited():
            slope, twice, up, down = (
                np.array(f(np.array(x)), float)
                for f, x in (
                    (derivative, _POINTS),
                    (derivative, 2 * _POINTS),
                    (function, _POINTS + _STEP),
                    (function, _POINTS - _STEP),
                )
            )
            return not np.allclose(twice, 2 * slope) or np.allclose(slope, (up - down) / (2 * _STEP))
    except Exception:  # noqa: BLE001  whatever the author's code raises where forward was not called
        return False


@convention(
    'gradverify.check(Dense, init=("D", "H"), x="N D", pairs={"W": "dW"})',
    _recognises,
    priority=40,
    keywords={"init", "pairs", "methods", "gives", "extra", "prepare", "flush", "accumulates"},
)
def stateful(
    target: Any,
    /,
    *,
    init: tuple[Any, ...] | Mapping[str, Any] | None = None,
    pairs: Mapping[str, Any] | None = None,
    methods: str | tuple[str, ...] | None = None,
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
    methods : names of forward and backward, or of one method that returns (value, gradients)
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
    pair = _derivative_of(target, methods) if init is None else None
    if pair is not None:
        return elementwise(*pair, name=name or getattr(target, "__name__", type(target).__name__), **declaration)
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
