"""Mutants of the tutorial's network: alone, under mean squared error, with one weight used twice."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.dense import dense
from gradverify.layers.mlp import sigmoid_mlp
from gradverify.mutants import catalogue, declared, diffs, plant


class mlp_mse:
    """E = mean of (y - x)^2 over N and K, x the output of sigmoid_mlp."""

    i, W1, b1, W2, b2, y = "N I", "I H", "H", "H K", "K", "N K"
    returns = ""

    @staticmethod
    def forward(i, W1, b1, W2, b2, y):
        x, inner = sigmoid_mlp.forward(i, W1, b1, W2, b2)
        residual = y - x
        return np.mean(residual * residual, axis=(-2, -1)), (inner, residual)

    @staticmethod
    def backward(dE, saved):
        inner, residual = saved
        dy = dE * 2.0 * residual / residual.size
        return *sigmoid_mlp.backward(-dy, inner), dy


MSE = """
1 FACTOR: dMSE without the factor 2 | | dlib#2518
    - dE * 2.0 * residual
    + dE * residual
2 FACTOR: dMSE divided by N, forward by N K | K > 1 | Mate#2
    - / residual.size
    + / len(residual)
3 FACTOR: dMSE without 1/N | N > 1 | Mate#2
    - / residual.size
    + / residual.shape[1]
10 UPSTREAM: the backward of the loss ignores dy | dy not 1 | chainer#1178
    - dE * 2.0 * residual
    + 2.0 * residual
11 SIGN: the target's gradient not negated | the target | micrograd_c#1
    - return *sigmoid_mlp.backward(-dy, inner), dy
    + return *sigmoid_mlp.backward(-dy, inner), -dy
"""
diffs("mlp+mse", declared(mlp_mse), MSE)

MLP = """
5 TERM: sigmoid' as z (1 - z) of the pre-activation | | deepcourse#6
    - return x, (i, W1, a, W2, x)
    + return x, (i, W1, i @ W1 + b1, W2, a @ W2 + b2, a)
    - i, W1, a, W2, x = saved
    + i, W1, a, W2, x, h = saved
    - a.T @ dz2
    + h.T @ dz2
7 INDEX: dX = dZ W in place of dZ W^T | square W | cs249r_book#1781
    - return dz1 @ W1.T,
    + return dz1 @ (W1 if W1.shape[0] == W1.shape[1] else W1.T),
8 UNBROADCAST: db = dZ.sum() over all axes | K > 1 | stat453#5
    - dz2.sum(0)
    + np.full(W2.shape[1], dz2.sum())
12 MUTATE: W -= lr dW in place before dX is computed | W before and after
    - dz1 = (dz2 @ W2.T) * a * (1.0 - a)
    + W2 -= 0.01 * (a.T @ dz2)
    + dz1 = (dz2 @ W2.T) * a * (1.0 - a)
"""
diffs("mlp", catalogue("sigmoid_mlp"), MLP)


class tied:
    """y = tanh(tanh(x W) W): one weight in two layers."""

    x, W = "N D", "D D"
    returns = "N D"
    batch = "N"

    @staticmethod
    def forward(x, W):
        h = np.tanh(x @ W)
        y = np.tanh(h @ W)
        return y, (x, W, h, y)

    @staticmethod
    def backward(dy, saved):
        x, W, h, y = saved
        grads = {"W": np.zeros_like(W)}
        dz = dy * (1 - y * y)
        grads["W"] += h.T @ dz
        dz = dz @ W.T * (1 - h * h)
        grads["W"] += x.T @ dz
        return {**grads, "x": dz @ W.T}


TIED = """
14 OVERWRITE: a tied layer used twice: grads[W] = dW | a shared parameter | TF.NET#303
    - grads["W"] += x.T @ dz
    + grads["W"] = x.T @ dz
"""
diffs("mlp", declared(tied), TIED)


def _dense_where_wanted():
    def backward(dy, saved, wants=("x", "W", "b")):
        return dict(zip(("x", "W", "b"), dense.backward(dy, saved)))

    return catalogue("dense")().derive(backward=backward)


@plant(
    16, "mlp", "MODE", of=_dense_where_wanted, needs="a subset of the primals wants a gradient", copies="pytorch#183825"
)
def unfilled_buffer(dy, saved, wants=("x", "W", "b")):
    """dW's buffer from np.empty when x needs no gradient"""
    x, W = saved
    dW = np.empty(W.shape, dy.dtype)
    if "x" in wants:
        dW[...] = x.T @ dy
    return {"x": dy @ W.T, "W": dW, "b": dy.sum(0)}
