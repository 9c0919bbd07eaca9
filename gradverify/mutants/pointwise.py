"""Mutants of single numbers in, single numbers out: activations, dropout, roots, kinks, second order."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.layers.gelu import cumulative, gelu_tanh
from gradverify.layers.linear import sum_to
from gradverify.layers.mlp import logistic
from gradverify.mutants import catalogue, declared, plant

DROPOUT, GELU = catalogue("dropout"), catalogue("gelu")


@plant(89, "dropout", "FACTOR", of=DROPOUT, needs="p > 0")
def unscaled(dy, mask, mode):
    """1/(1 - p) missing in backward"""
    return np.where(mask != 0, dy, 0) if mode == "train" else dy.copy()


@plant(90, "dropout", "MODE", of=DROPOUT, needs="eval")
def masked_in_eval(dy, mask, p, mode):
    """backward of eval still masks"""
    return np.where(mask != 0, dy / (1 - p) if mode == "train" else dy, 0)


@plant(
    91,
    "gelu",
    "TERM",
    of=GELU,
    needs="a tight tolerance: the largest difference is 8.7e-4",
    copies="kulinseth/pytorch#284",
)
def approximate_slope(dy, saved):
    """derivative of the tanh approximation for the exact forward"""
    x, _ = saved
    return gelu_tanh.backward(dy, np.clip(x, -60, 60))


@plant(92, "gelu", "TERM", of=GELU)
def density_dropped(dy, saved):
    """the term x phi(x) dropped"""
    x, _ = saved
    return dy * cumulative(x)


@plant(94, "sigmoid", "TAIL", of=catalogue("sigmoid"), needs="x = 40, a relative error", copies="jax#40342")
def cancelling_slope(dy, x):
    """s (1 - s), exactly 0 at x = 40 where the slope is 4e-18"""
    s = logistic(x)
    return dy * s * (1 - s)


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


@plant(103, "norm", "SINGULAR", of=declared(norm), needs="a zero vector", copies="pytorch#2421")
def unguarded_norm(dy, saved):
    """x / |x| without a guard"""
    x, y = saved
    return dy[..., None] * x / y[..., None]


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


@plant(104, "sqrt", "SINGULAR", of=declared(safe_sqrt), needs="exact zero", copies="kornia#3980")
def where_outside(dy, y):
    """where() outside the division"""
    return (y > 0) * (0.5 * dy / y)


@plant(106, "prod", "SINGULAR", of=catalogue("prod"), needs="one zero, and two", copies="tinygrad#17404")
def quotient(dy, x):
    """y / x"""
    return dy[..., None] * np.prod(x, axis=-1, keepdims=True) / x


@plant(108, "logaddexp/abs", "TIE", of=catalogue("logaddexp"), needs="an exact tie", copies="jax#2107")
def zero_at_tie(dz, saved):
    """0 at a tie"""
    gap, shape = saved
    dx, dy = (np.where(gap == 0, 0, dz * logistic(d)) for d in (gap, -gap))
    return dx, sum_to(dy, shape)


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
