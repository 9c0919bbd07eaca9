"""Layers with a bug planted in their backward, and a verdict that needs no numerical derivative."""

from __future__ import annotations

import contextlib

import numpy as np

from gradverify import Layer
from gradverify.core import evaluate
from gradverify.core.draw import cases, each

MAGIC = 7.25


def dense(x, W, b):
    return x @ W + b, (x, W)


def dense_backward(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(0)


def mean_bias(dy, saved):
    return (*dense_backward(dy, saved)[:2], dy.mean(0))


def last_row_lost(dy, saved):
    x, W = saved
    dW = x.T @ dy
    if x.shape[1] > 4:
        dW[-1] = 0
    return dy @ W.T, dW, dy.sum(0)


def transposed(dy, saved):
    x, W = saved
    dx = dy @ W if W.shape[0] == W.shape[1] else dy @ W.T
    return dx, x.T @ dy, dy.sum(0)


def overflowing(dy, saved):
    x, W = saved
    saturated = x @ W > 20
    return np.where(saturated, 0, dy) @ W.T, x.T @ dy, dy.sum(0)


def square(x):
    return x * x, x


def square_backward(dy, x):
    return 2 * x * dy


def below_minus_two(dy, x):
    return np.where(x < -2, 0, 2 * x * dy)


def near_a_constant(dy, x):
    return np.where(np.abs(x - MAGIC) < 1e-3, 0, 2 * x * dy)


def cube_at_zero(dy, x):
    return np.where(x == 0, 5 * dy, 2 * x * dy)


def above_twenty(dy, x):
    return np.where(x > 20, dy, 2 * x * dy)


def take(idx, W):
    return W[idx], (idx, W.shape)


def take_backward(dy, saved):
    idx, shape = saved
    dW = np.zeros(shape)
    np.add.at(dW, idx, dy)
    return dW


def take_overwrites(dy, saved):
    idx, shape = saved
    dW = np.zeros(shape)
    dW[idx] = dy
    return dW


def scaled(x, *, power, scale):
    return scale * x**power, x


def scaled_backward(dy, x, *, power, scale):
    return dy * scale * power * x ** (power - 1)


def scale_forgotten(dy, x, *, power, scale):
    return dy * power * x ** (power - 1)


def gates(x, W):
    return x @ W, (x, W)


def gates_backward(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy


def third_gate_swapped(dy, saved):
    x, W = saved
    H = W.shape[1] // 4
    dW = x.T @ dy
    dW[:, 2 * H : 3 * H] = dW[:, 3 * H :]
    return dy @ W.T, dW


AFFINE = {"x": "N D", "W": "D H", "b": "H", "returns": "N H", "batch": "N"}
EACH = {"x": "*batch", "returns": "*batch"}
TAKE = {"idx": "N: indices V", "W": "V D"}
SCALED = {"x": "N", "options": {"power": [1, 2, 3], "scale": [1.0, 0.5, 2.0]}}
GATES = {"x": "N D", "W": "D 4*H"}

# name: forward, right backward, wrong backward, declaration, and how many elements a minimal case may have
PLANTED = {
    "the bias gradient is a mean": (dense, dense_backward, mean_bias, AFFINE, 8),
    "the last row is lost where D > 4": (dense, dense_backward, last_row_lost, AFFINE, 13),
    "W is not transposed where square": (dense, dense_backward, transposed, AFFINE, 12),
    "saturated above 20": (dense, dense_backward, overflowing, AFFINE, 4),
    "wrong below -2": (square, square_backward, below_minus_two, EACH, 2),
    "wrong above 20": (square, square_backward, above_twenty, EACH, 2),
    "wrong at exactly 0": (square, square_backward, cube_at_zero, EACH, 2),
    "wrong near 7.25": (square, square_backward, near_a_constant, EACH, 2),
    "repeated indices overwrite": (take, take_backward, take_overwrites, TAKE, 5),
    "an option is forgotten": (scaled, scaled_backward, scale_forgotten, SCALED, 2),
    "two gates are swapped": (gates, gates_backward, third_gate_swapped, GATES, 9),
}


def planted(name):
    """The wrong layer, and whether a case shows it."""
    forward, right, wrong, declaration, _ = PLANTED[name]
    layer = Layer(forward, wrong, name="planted", **declaration)
    good = layer.derive(backward=right)

    def fails(case):
        case, _ = evaluate.completed(good, case)
        ours, theirs = (evaluate.gradients(one, case.primals, case.options, case.cotangents) for one in (layer, good))
        return any(not np.allclose(ours[n], theirs[n], rtol=1e-6, atol=1e-12) for n in ours)

    return layer, fails


class Met(Exception):
    """Ends a run."""


def first_failure(name, seed):
    """The first of 300 cases that shows the bug, or None."""
    wrong, fails = planted(name)
    found = None

    def body(case):
        nonlocal found
        if fails(case):
            found = case
            raise Met

    with contextlib.suppress(Met):
        each(cases(wrong), 300, seed, body)
    return found
