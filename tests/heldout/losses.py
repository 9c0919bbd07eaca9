"""Losses that return value and gradient, and pairs of value and gradient."""

from __future__ import annotations

import numpy as np

from gradverify import adapt
from tests.heldout import put, wrong


def _softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@wrong("FACTOR", "N times the right one", x="N C", y="N: labels C")
def softmax_loss(x, y):
    p = _softmax(x)
    rows = np.arange(len(x))
    loss = -np.log(p[rows, y]).mean()
    p[rows, y] -= 1
    return loss, p


@wrong("FACTOR", "N times the right one", x="N C", y="N: labels C")
def svm_loss(x, y):
    rows = np.arange(len(x))
    margins = np.maximum(0, x - x[rows, y][:, None] + 1)
    margins[rows, y] = 0
    dx = (margins > 0).astype(float)
    dx[rows, y] -= dx.sum(1)
    return margins.sum() / len(x), dx


@wrong("TERM", "the own class counts no other class", x="N C", y="N: labels C")
def svm_own_class(x, y):
    rows = np.arange(len(x))
    margins = np.maximum(0, x - x[rows, y][:, None] + 1)
    margins[rows, y] = 0
    dx = (margins > 0).astype(float)
    dx[rows, y] -= 1
    return margins.sum() / len(x), dx / len(x)


def _ridge(w, X, y):
    r = X @ w - y
    return 0.5 * r @ r + w @ w, X.T @ r + w


put(
    "ridge",
    "TERM",
    "the penalty's slope is half of what it should be",
    lambda: adapt.objective(_ridge, w="P", X="N P", y="N"),
)


def _logistic(w, X, y):
    z = X @ w
    return np.logaddexp(0, -y * z).sum(), -X.T @ (y / (1 + np.exp(-y * z)))


put(
    "logistic_regression",
    "TERM SIGN",
    "the sign in the exponent is wrong",
    lambda: adapt.objective(_logistic, w="P", X="N P", y="N: signs"),
)


def _poisson(theta):
    return np.sum(np.exp(theta) - 3 * theta), 3 - np.exp(theta)


put("poisson", "SIGN", "negated", lambda: adapt.objective(_poisson, theta="P"))

put(
    "squared_error_pair",
    "SIGN FACTOR",
    "-N K times the right one",
    lambda: adapt.loss(lambda y, p: ((p - y) ** 2).mean(), lambda y, p: -2 * (p - y), p="N K", y="N K"),
)

put(
    "cross_entropy_pair",
    "TERM",
    "the part of 1 - y is missing",
    lambda: adapt.loss(
        lambda y, p: -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(),
        lambda y, p: -y / p,
        p="N: between 0.05 0.95",
        y="N: mask",
    ),
)

put(
    "softsign_derivative",
    "TERM",
    "the derivative lacks its square",
    lambda: adapt.elementwise(lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x))),
)

put(
    "sigmoid_of_output",
    "TERM",
    "the derivative is taken of the input where it needs the output",
    lambda: adapt.elementwise(lambda x: 1 / (1 + np.exp(-x)), lambda x: x * (1 - x)),
)
