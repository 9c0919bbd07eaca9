"""What to write instead: one line for a target that no adapter can take, with the author's own names in it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from gradverify.adapters._objects.guesses import PREDICTIONS, SLOPES
from gradverify.core.declare.validation import example

_BACKWARDS = ("{}_backward", "{}_bwd", "{}_vjp", "{}_back", "backward_{}", "backward", "bwd")
_DERIVATIVES = ("{}_grad", "grad_{}", "d{}", "d_{}", "{}_prime", "{}_derivative", "{}_deriv")


def advice(target: Any) -> str:
    """The line that names the fix, as far as the target shows which one it is."""
    owner = getattr(target, "__self__", None)
    if inspect.ismethod(target) and not inspect.isclass(owner):
        method, dims = target.__name__, example(target)
        return f'pass the object that {method} belongs to: gradverify.check(OBJECT, methods="{method}", {dims})'
    if inspect.isclass(owner) and getattr(target, "__name__", "") == "apply":
        return f"pass the class, not its apply: gradverify.check({owner.__name__}, {example(_forward(owner))})"
    if inspect.isclass(target):
        return _of_class(target)
    if inspect.isroutine(target):
        return _of_function(target)
    names = [next((n for n in known if callable(getattr(target, n, None))), None) for known in (PREDICTIONS, SLOPES)]
    if None not in names:
        return (
            f"{names[1]} is that of a loss, which {type(target).__name__} does not have: add it as a method, "
            f"def loss(self, X, T), or name the method that is one: "
            f'gradverify.check(OBJECT, methods=("LOSS", "{names[1]}"), X="N D", T="N K")'
        )
    if callable(getattr(target, "forward", None)):
        return _without_backward(f"type {type(target).__name__}", type(target))
    return 'pass two functions: gradverify.check(forward, backward, x="N D")'


def _of_class(cls: type) -> str:
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(cls, getattr(torch.nn, "Module", ())):
        return f"pass an instance: gradverify.check({cls.__name__}(...), {example(_forward(cls))})"
    if callable(getattr(cls, "forward", None)):
        return _without_backward(f"class {cls.__name__}", cls)
    return (
        f"{cls.__name__} has no forward and no backward: name its methods, "
        f'gradverify.check({cls.__name__}, methods=("FORWARD", "BACKWARD"), x="N D")'
    )


def _without_backward(what: str, cls: type) -> str:
    if callable(getattr(cls, "backward", None)):
        return f"name its arrays: gradverify.check({cls.__name__}, {example(_forward(cls))})"
    return (
        f"{what} has no backward: name the method that is one, "
        f'gradverify.check({cls.__name__}, methods=("forward", "BACKWARD"), {example(_forward(cls))})'
    )


def _of_function(function: Callable[..., Any]) -> str:
    name, around = function.__name__, getattr(function, "__globals__", {})
    dims = example(function)
    for patterns, line in (
        (_DERIVATIVES, f"gradverify.check(gradverify.adapt.elementwise({name}, {{}}))"),
        (_BACKWARDS, f"gradverify.check({name}, {{}}, {dims})"),
    ):
        other = next((n for n in (p.format(name) for p in patterns) if callable(around.get(n)) and n != name), None)
        if other is not None:
            return f"pass both functions: {line.format(other)}"
    return f"a forward alone has no backward: gradverify.check({name}, BACKWARD, {dims})"


def _forward(cls: type) -> Callable[..., Any]:
    forward: Callable[..., Any] = getattr(cls, "forward", cls)
    return forward
