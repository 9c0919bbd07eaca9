"""Mutants of single numbers in, single numbers out: activations, dropout, roots, kinks, second order."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.mutants import catalogue, declared, diffs, plant

DROPOUT = """
89 FACTOR: 1/(1 - p) missing in backward | p > 0
    - dy / (1 - p)
    + dy
90 MODE: backward of eval still masks | eval
    - np.where(mask != 0, dy / (1 - p), 0) if mode == "train" else dy.copy()
    + np.where(mask != 0, dy / (1 - p) if mode == "train" else dy, 0)
"""
diffs("dropout", catalogue("dropout"), DROPOUT)

GELU = """
91 TERM: derivative of the tanh approximation for the exact forward | a tolerance below 8.7e-4 | kulinseth/pytorch#284
    - dy * (p + x * density(x))
    + gelu_tanh.backward(dy, np.clip(x, -60, 60))
92 TERM: the term x phi(x) dropped
    - (p + x * density(x))
    + p
"""
diffs("gelu", catalogue("gelu"), GELU)

SIGMOID = """
94 TAIL: s (1 - s), exactly 0 at x = 40 where the slope is 4e-18 | x = 40, a relative error | jax#40342
    - logistic(x) * logistic(-x)
    + logistic(x) * (1 - logistic(x))
"""
diffs("sigmoid", catalogue("sigmoid"), SIGMOID)


class norm:
    """y = |x| along the last axis; the slope at x = 0 is 0."""

    x = "*batch D"
    returns = "*batch"

    @staticmethod
    def forward(x):
        y = np.sqrt(np.sum(x * x, axis=-1))
        return y, (x, y)

    @staticmethod
    def backward(dy, saved):
        x, y = saved
        return dy[..., None] * x / np.where(y == 0, 1, y)[..., None]


NORM = """
103 SINGULAR: x / |x| without a guard | a zero vector | pytorch#2421
    - np.where(y == 0, 1, y)[..., None]
    + y[..., None]
"""
diffs("norm", declared(norm), NORM)


class safe_sqrt:
    """y = sqrt(x) for x >= 0, with a gradient of 0 at 0, where there is no slope."""

    x = "*batch: nonnegative"
    returns = "*batch"

    @staticmethod
    def forward(x):
        y = np.sqrt(np.maximum(x, 0))
        return y, y

    @staticmethod
    def backward(dy, y):
        return np.where(y > 0, 0.5 * dy / np.where(y > 0, y, 1), 0)


SQRT = """
104 SINGULAR: where() outside the division | exact zero | kornia#3980
    - np.where(y > 0, 0.5 * dy / np.where(y > 0, y, 1), 0)
    + (y > 0) * (0.5 * dy / y)
"""
diffs("sqrt", declared(safe_sqrt), SQRT)

PROD = """
106 SINGULAR: y / x | one zero, and two | tinygrad#17404
    - dy[..., None] * before * after
    + dy[..., None] * np.prod(x, axis=-1, keepdims=True) / x
"""
diffs("prod", catalogue("prod"), PROD)

LOGADDEXP = """
108 TIE: 0 at a tie | an exact tie | jax#2107
    - return dz * logistic(gap), sum_to(dz * logistic(-gap), shape)
    + dx, dy = (np.where(gap == 0, 0, dz * logistic(d)) for d in (gap, -gap))
    + return dx, sum_to(dy, shape)
"""
diffs("logaddexp/abs", catalogue("logaddexp"), LOGADDEXP)


class tanh_gate:
    """y = x tanh(x)."""

    x = "*batch"
    returns = "*batch"

    @staticmethod
    def forward(x):
        t = np.tanh(x)
        return x * t, (x, t)

    @staticmethod
    def backward(dy, saved):
        x, t = saved
        return dy * (t + x * (1 - t * t))


def _second(primals, cotangents, weights):
    """d/dx of w dy (t + x (1 - t^2)) with t = tanh(x): w dy (2 (1 - t^2) - 2 x t (1 - t^2))."""
    x, t = primals["x"], np.tanh(primals["x"])
    return {"x": weights["x"] * cotangents[0] * 2 * (1 - t * t) * (1 - x * t)}


def _twice_differentiable() -> Layer:
    right = declared(tanh_gate)()
    return right.derive(hooks=replace(right.hooks, second=_second))


@plant(
    117,
    "any custom Function",
    "ORDER2",
    of=_twice_differentiable,
    into=lambda right, wrong: right.derive(hooks=replace(right.hooks, second=wrong)),
    needs="the gradient of the gradient",
    copies="pytorch#18619",
)
def detached(primals, cotangents, weights):
    """backward uses a detached copy, so the second order is wrong"""
    t = np.tanh(primals["x"])  # taken for a constant
    return {"x": weights["x"] * cotangents[0] * (1 - t * t)}
