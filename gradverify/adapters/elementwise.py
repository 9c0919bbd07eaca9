"""Elementwise functions with their derivatives: f, f', and chains f, f', f''.

Each member of a chain is checked as the derivative of the one before, all in one layer with a
primal for each (`x`, `x_1`, ...), so that a finding names the member that is wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.adapters import convention
from gradverify.adapters._normal import called, finished, required, split
from gradverify.adapters._objects.instance import accepted_by
from gradverify.core.declare.functions import taken_by
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError
from gradverify.core.nouns import Array

FUNCTIONS = ("fn", "function", "forward", "activate", "activation", "call", "__call__")
DERIVATIVES = ("grad", "gradient", "derivative", "deriv", "prime", "backward", "inverse_deriv")
# what takes one array is the derivative there, and no pullback; elsewhere where it is named as that of the function is
PAIRS = (("fn", "grad"), ("function", "derivative"), ("__call__", "gradient"), ("__call__", "derivative"))
SECOND = ("grad2", "second_derivative", "deriv2")


@dataclass
class Chain:
    """Functions, each the derivative of the one before, in the normal form."""

    functions: tuple[Callable[..., Any], ...]
    of: str

    def forward(self, *arrays: Array, **options: Any) -> tuple[Any, Any]:
        """Each function but the last at its own primal."""
        values = tuple(called("forward", f, x, **taken_by(f, options)) for f, x in zip(self.functions, arrays))
        return values[0] if len(values) == 1 else values, (arrays, values, options)

    def backward(self, cotangent: Any, saved: Any) -> tuple[Any, ...]:
        """Each derivative at the input, or at the output, of the function before, times its cotangent."""
        arrays, values, options = saved
        cotangents = cotangent if isinstance(cotangent, tuple) else (cotangent,)
        gradients = []
        for k, (v, derivative) in enumerate(zip(cotangents, self.functions[1:])):
            at = values[0] if self.of == "output" and k == 0 else arrays[k]
            taken = taken_by(derivative, options)
            gradients.append(v * np.asarray(called("backward", derivative, np.array(at), **taken)))
        return tuple(gradients)


def _recognises(target: Any) -> bool:
    """Objects whose function and derivative each take one array."""
    if inspect.isroutine(target) or isinstance(target, (Layer, tuple)) or inspect.ismodule(target):
        return False
    cls = target if inspect.isclass(target) else type(target)
    takes = {n: _own_arguments(vars_of(cls, n)) for n in (*FUNCTIONS, *DERIVATIVES)}
    alone = [(f, d) for f in FUNCTIONS for d in DERIVATIVES if len(takes[f]) == len(takes[d]) == 1]
    return any(pair in PAIRS or (pair[1] != "backward" and takes[pair[0]] == takes[pair[1]]) for pair in alone)


def _own_arguments(method: Any) -> list[str]:
    """Names of what a method must be given, besides the object; none where there is no such method."""
    return [n for n in (required(method) or [] if method else []) if n not in ("self", "cls")]


@convention(
    'gradverify.adapt.elementwise(f, df), with of="output" where df takes the output of f', _recognises, priority=45
)
def elementwise(
    f: Any,
    /,
    *derivatives: Callable[..., Any],
    of: str = "input",
    domain: str = "real",
    name: str | None = None,
    **declaration: Any,
) -> Layer:
    """A Layer from an elementwise function and its derivatives.

    Parameters
    ----------
    f : function of one array; or an object with methods such as `fn` and `grad`
    derivatives : f', and f'' and so on where there are
    of : what f' takes: "input" (of f), or "output" (s (1 - s) for a sigmoid)
    domain : values of the input, e.g. "positive"
    **declaration : settings, and the primal where it is not ``x="N D"``

    Raises
    ------
    DeclarationError
        If there is no derivative, or `of` is neither word.
    """
    label = name or getattr(f, "__name__", type(f).__name__)
    functions = (f, *derivatives) if derivatives else methods_of(f)
    if len(functions) < 2:
        raise DeclarationError(f"{label}: give its derivative as well: elementwise(f, df), or elementwise(f, df, d2f)")
    if of not in ("input", "output"):
        raise DeclarationError(f"{label}, of: {of!r} is neither 'input' nor 'output'")
    primals, settings = split(declaration)
    first, spec = next(iter(primals.items())) if primals else ("x", f"N D: {domain}")
    names = [first, *(f"{first}_{k}" for k in range(1, len(functions) - 1))]
    inner = Chain(tuple(functions), of)
    doc = settings.pop("doc", None) or inspect.getdoc(f) or ""
    layer = Layer(inner.forward, inner.backward, name=label, primals=dict.fromkeys(names, spec), doc=doc, **settings)
    lines = [f"the derivative takes the {of} of {label}"]
    for k, n in enumerate(names[1:], 1):
        lines.append(f"{n} is the input of derivative {k}, of which derivative {k + 1} is the derivative")
    return finished(layer, *lines)


def methods_of(target: Any) -> tuple[Callable[..., Any], ...]:
    """Function and derivatives of an object, or of a class that is built without arguments."""
    if inspect.isroutine(target):
        return (target,)
    made = target
    if inspect.isclass(target):
        if required(target):
            raise DeclarationError(
                f"{target.__name__} takes arguments; hand over an object: elementwise({target.__name__}(...))"
            )
        made = target()
    found = [next((n for n in names if _takes_one(made, n)), None) for names in (FUNCTIONS, DERIVATIVES, SECOND)]
    if found[0] is None or found[1] is None:
        return ()
    return tuple(getattr(made, n) for n in found if n is not None)


def _takes_one(target: Any, name: str) -> bool:
    method = getattr(type(target), name, None)
    if not callable(method) or not callable(getattr(target, name, None)):
        return False
    bound = getattr(target, name)
    return len(required(bound) or []) == 1 or (not required(bound) and len(accepted_by(bound)) == 1)


def vars_of(cls: type, name: str) -> Any:
    """A method that a class or one of its bases (but not `object` or `type`) defines."""
    for base in cls.__mro__:
        if name in vars(base):
            method = vars(base)[name]
            return getattr(method, "__func__", method)
    return None
