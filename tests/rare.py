"""Ten layers that are right but for a special shape, option or value: what a campaign is for."""

from __future__ import annotations

import numpy as np

from gradverify import Layer, register


def square(x):
    return x * x, x


def dense(x, W, b):
    return x @ W + b, (x, W)


def dense_backward(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(0)


def rare_constant(dy, x):
    return np.where(np.abs(x - 7.25) < 1e-3, 0, 2 * x * dy)


def rare_two_values(dy, x):
    wrong = (x > 20).any() and (x == -3).any()
    return 2 * x * dy * (2 if wrong else 1)


def rare_length(dy, x):
    return np.where(np.arange(x.size) == 32, 0, 2 * x * dy)


def rare_prime(dy, x):
    return 2 * x * dy * (0 if x.size == 7 and x[0] < 0 else 1)


def rare_long_inner(dy, saved):
    dx, dW, db = dense_backward(dy, saved)
    dW[8:] = 0
    return dx, dW, db


def rare_square_batch(dy, saved):
    dx, dW, db = dense_backward(dy, saved)
    return dx, dW.T if len({*saved[0].shape, *saved[1].shape}) == 1 else dW, db


def rare_cancelling(dy, saved):
    dx, dW, db = dense_backward(dy, saved)
    return dx, dW, np.where((saved[0] == 0).all(), 0, db)


def power(x, p, scale, mode):
    y = scale * x**p
    return (y if mode == "plain" else -y), (x, p, scale, mode)


def rare_option(dy, saved):
    x, p, scale, mode = saved
    sign = 1 if mode == "plain" else -1
    lost = mode == "negated" and p == 3 and scale == 0.25
    return 0 * dy if lost else sign * dy * scale * p * x ** (p - 1)


def rare_option_and_shape(dy, saved):
    x, p, scale, mode = saved
    sign = 1 if mode == "plain" else -1
    right = sign * dy * scale * p * x ** (p - 1)
    if p == 1 and mode == "negated" and x.size > 8:
        right[-1] = 0
    return right


def take(idx, W):
    return W[idx], (idx, W.shape)


def rare_thrice(dy, saved):
    """Right for an index that occurs twice, not for one that occurs three times."""
    idx, shape = saved
    dW = np.zeros(shape)
    np.add.at(dW, idx, dy)
    return dW / np.where(np.bincount(idx, minlength=shape[0]) > 2, 2, 1)[:, None]


for backward in (rare_constant, rare_two_values, rare_length, rare_prime):
    register(Layer(square, backward, name=backward.__name__, x="N"))
for backward in (rare_long_inner, rare_square_batch, rare_cancelling):
    register(Layer(dense, backward, name=backward.__name__, x="N D", W="D H", b="H"))
for backward in (rare_option, rare_option_and_shape):
    options = {"p": [1, 2, 3], "scale": [1.0, 2.0, 0.5, 0.25], "mode": ["plain", "negated"]}
    register(Layer(power, backward, name=backward.__name__, x="N", options=options))
register(Layer(take, rare_thrice, name="rare_thrice", idx="N: indices V", W="V D"))
