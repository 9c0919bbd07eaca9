"""What backward may take from a result of forward: of y = f(x) entry by entry, its slope as a function of y.

A kernel that has y = 1 / (1 + exp(-x)) writes its slope as y (1 - y), and loses of 1 - y what y was rounded by. A
reference that is composed of elementary operations goes back by each of them, and never meets that difference: nothing
in it is off by as much. So where y is off by d, the slope is off by d y'' / y', since f' is f''(x) dx away where y is
f'(x) dx away. The slopes y' and y'' in the array that all began with come from rules of two orders, for each operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Array = Any  # a NumPy array, a tensor, or what a trace has for one
Jet = tuple[Any, Any, Any]  # a value, and its first and second slope

_LN2 = math.log(2)


def _of_one(slopes: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """A rule from the slopes of a function of one number, by the number and its value."""

    def rule(y: Any, x: Jet, *_: Jet) -> tuple[Any, Any]:
        one, two = slopes(x[0], y)
        return one * x[1], two * x[1] * x[1] + one * x[2]

    return rule


def _power(y: Any, x: Jet, n: Jet) -> tuple[Any, Any]:
    return _of_one(lambda x, y: (n[0] * y / x, n[0] * (n[0] - 1) * y / x / x))(y, x)


def _times(y: Any, a: Jet, b: Jet) -> tuple[Any, Any]:
    return a[1] * b[0] + a[0] * b[1], a[2] * b[0] + 2 * a[1] * b[1] + a[0] * b[2]


def _over(y: Any, a: Jet, b: Jet) -> tuple[Any, Any]:
    one = (a[1] - y * b[1]) / b[0]
    return one, (a[2] - 2 * one * b[1] - y * b[2]) / b[0]


def _which(y: Any, *parts: Jet) -> tuple[Any, Any]:
    """Of what is equal to the result."""
    first = parts[-1]
    found = first[1], first[2]
    for part in parts[:-1]:
        same = (part[0] == y) * 1.0
        found = tuple(same * p + (1 - same) * f for p, f in zip(part[1:], found))
    return found


_RULES: dict[str, Callable[..., tuple[Any, Any]]] = {
    "exp": _of_one(lambda x, y: (y, y)),
    "exp2": _of_one(lambda x, y: (_LN2 * y, _LN2 * _LN2 * y)),
    "expm1": _of_one(lambda x, y: (y + 1, y + 1)),
    "log": _of_one(lambda x, y: (1 / x, -1 / (x * x))),
    "log1p": _of_one(lambda x, y: (1 / (x + 1), -1 / ((x + 1) * (x + 1)))),
    "tanh": _of_one(lambda x, y: (1 - y * y, -2 * y * (1 - y * y))),
    "sigmoid": _of_one(lambda x, y: (y * (1 - y), y * (1 - y) * (1 - 2 * y))),
    "sqrt": _of_one(lambda x, y: (1 / (2 * y), -1 / (4 * x * y))),
    "rsqrt": _of_one(lambda x, y: (-y / (2 * x), 3 * y / (4 * x * x))),
    "reciprocal": _of_one(lambda x, y: (-y * y, 2 * y * y * y)),
    "square": _of_one(lambda x, y: (2 * x, 2.0)),
    "neg": _of_one(lambda x, y: (-1.0, 0.0)),
    "abs": _of_one(lambda x, y: ((x >= 0) * 2.0 - 1, 0.0)),
    "sign": _of_one(lambda x, y: (0.0, 0.0)),
    "pow": _power,
    "add": lambda y, a, b: (a[1] + b[1], a[2] + b[2]),
    "sub": lambda y, a, b: (a[1] - b[1], a[2] - b[2]),
    "rsub": lambda y, a, b: (b[1] - a[1], b[2] - a[2]),
    "mul": _times,
    "div": _over,
    "where": lambda y, which, yes, no: _which(y, yes, no),
    "max": _which,
    "clamp": lambda y, x, *_: _which(y, x, (0.0, 0.0, 0.0)),
}
_SAME = {
    "logistic": "sigmoid", "integer_pow": "pow", "maximum": "max", "minimum": "max", "min": "max", "add_any": "add",
    "clamp_min": "clamp", "clamp_max": "clamp", "relu": "clamp", "select_n": "where", "sgn": "sign",
}  # fmt: skip
Off = tuple[int, Any]  # the number of an operation, and by how much the slope of its result is off


def one_of_each(groups: Iterable[Sequence[Off]], seed: int) -> dict[int, Any]:
    """Of each array that others are made of, the result that backward has its slope from in a sample."""
    return dict(group[seed // 2 % len(group)] for group in groups)


LEAST = 4.0  # roundings of y that its slope is off by at any rate: those of an elementwise operation


class Closed:
    """Follows what is made of one array entry by entry."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Array, int, Any, Any]] = {}  # the array that all began with, and slopes in it

    def root(self, result: Array) -> int:
        """Of which array a result is made: it has its slope from one result, and not from all of them at once."""
        return self.known[id(result)][1]

    def off(self, name: str, args: Sequence[Any], result: Array, moves: Callable[[Any], bool]) -> Array | None:
        """By how many times as much as the result its slope is off, in relative terms; None where nobody can tell.

        Parameters
        ----------
        moves : whether a value depends on what gets a gradient
        """
        rule, moving = _RULES.get(_SAME.get(name, name)), [a for a in args if moves(a)]
        if rule is None or not moving or any(np.shape(a) != np.shape(result) for a in moving):
            return None
        known = [self.known.setdefault(id(a), (a, id(a), 1.0, 0.0)) for a in moving]
        if len({root for _, root, _, _ in known}) > 1:
            return None
        at = {id(a): k for a, k in zip(moving, known)}
        jets = [(a, *at[id(a)][2:]) if id(a) in at else (a, 0.0, 0.0) for a in args]
        first, second = rule(result, *jets)
        self.known[id(result)] = result, known[0][1], first, second
        made = any(id(a) != root for a, root, _, _ in known)  # of a result, whose slope is one of another already
        return abs(result * second / first / first) if made else None
