"""The tutorial's network with one hidden layer, and the sigmoid it is made of."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register


def logistic(z):
    """1 / (1 + exp(-z)) without overflow, in the precision of z; also for complex z."""
    left = z.real < 0
    e = np.exp(np.where(left, z, -z))
    return np.where(left, e, 1.0) / (1.0 + e)


def decay(z):
    """exp(-|z|); for complex z exp(-z), or exp(z) to the left, so that it has a derivative."""
    return np.exp(np.where(z.real < 0, z, -z))


@register
class sigmoid:
    """y = 1 / (1 + exp(-x)); the derivative is y(x) y(-x), accurate in both tails."""

    x = "*batch"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return logistic(x), x

    @staticmethod
    def backward(dy, x):
        return dy * logistic(x) * logistic(-x)


@register
class sigmoid_mlp:
    """a = sigmoid(i W1 + b1), x = sigmoid(a W2 + b2)."""

    i, W1, b1, W2, b2 = "N I", "I H", "H", "H K", "K"
    returns = "N K"
    batch = "N"
    empty = True

    @staticmethod
    def forward(i, W1, b1, W2, b2):
        a = logistic(i @ W1 + b1)
        x = logistic(a @ W2 + b2)
        return x, (i, W1, a, W2, x)

    @staticmethod
    def backward(dx, saved):
        i, W1, a, W2, x = saved
        dz2 = dx * x * (1.0 - x)
        dz1 = (dz2 @ W2.T) * a * (1.0 - a)
        return dz1 @ W1.T, i.T @ dz1, dz1.sum(0), a.T @ dz2, dz2.sum(0)
