"""Mutants of the tutorial's network: alone, under mean squared error, with one weight used twice."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.dense import dense
from gradverify.layers.mlp import sigmoid_mlp
from gradverify.mutants import catalogue, declared, plant, remembering


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


MSE = declared(mlp_mse)
MLP = catalogue("sigmoid_mlp")


@plant(1, "mlp+mse", "FACTOR", of=MSE, copies="dlib#2518")
def without_two(dE, saved):
    """dMSE without the factor 2"""
    inner, residual = saved
    dy = dE * residual / residual.size
    return *sigmoid_mlp.backward(-dy, inner), dy


@plant(2, "mlp+mse", "FACTOR", of=MSE, needs="K > 1", copies="Mate#2")
def divided_by_batch(dE, saved):
    """dMSE divided by N, forward by N K"""
    inner, residual = saved
    dy = dE * 2.0 * residual / len(residual)
    return *sigmoid_mlp.backward(-dy, inner), dy


@plant(3, "mlp+mse", "FACTOR", of=MSE, needs="N > 1", copies="Mate#2")
def without_batch(dE, saved):
    """dMSE without 1/N"""
    inner, residual = saved
    dy = dE * 2.0 * residual / residual.shape[1]
    return *sigmoid_mlp.backward(-dy, inner), dy


@plant(5, "mlp", "TERM", of=remembering("sigmoid_mlp"), copies="deepcourse#6")
def slope_of_preactivation(dx, saved):
    """sigmoid' as z (1 - z) of the pre-activation"""
    (i, W1, a, W2, _), (_, _, b1, _, b2) = saved
    z1, z2 = i @ W1 + b1, a @ W2 + b2
    dz2 = dx * z2 * (1.0 - z2)
    dz1 = (dz2 @ W2.T) * z1 * (1.0 - z1)
    return dz1 @ W1.T, i.T @ dz1, dz1.sum(0), a.T @ dz2, dz2.sum(0)


@plant(7, "mlp", "INDEX", of=MLP, needs="square W", copies="cs249r_book#1781")
def untransposed(dx, saved):
    """dX = dZ W in place of dZ W^T"""
    i, W1, a, W2, x = saved
    dz2 = dx * x * (1.0 - x)
    dz1 = (dz2 @ W2.T) * a * (1.0 - a)
    di = dz1 @ W1 if W1.shape[0] == W1.shape[1] else dz1 @ W1.T  # any other shape would raise
    return di, i.T @ dz1, dz1.sum(0), a.T @ dz2, dz2.sum(0)


@plant(8, "mlp", "UNBROADCAST", of=MLP, needs="K > 1", copies="stat453#5")
def summed_over_everything(dx, saved):
    """db = dZ.sum() over all axes"""
    *others, db2 = sigmoid_mlp.backward(dx, saved)
    return *others, np.full(db2.shape, db2.sum())


@plant(10, "mlp+mse", "UPSTREAM", of=MSE, needs="dy not 1", copies="chainer#1178")
def upstream_ignored(dE, saved):
    """the backward of the loss ignores dy"""
    inner, residual = saved
    dy = 2.0 * residual / residual.size
    return *sigmoid_mlp.backward(-dy, inner), dy


@plant(11, "mlp+mse", "SIGN", of=MSE, needs="the target", copies="micrograd_c#1")
def target_not_negated(dE, saved):
    """the target's gradient not negated"""
    inner, residual = saved
    dx = -dE * 2.0 * residual / residual.size
    return *sigmoid_mlp.backward(dx, inner), dx


@plant(12, "mlp", "MUTATE", of=MLP, needs="W before and after")
def steps_in_backward(dx, saved):
    """W -= lr dW in place before dX is computed"""
    i, W1, a, W2, x = saved
    dz2 = dx * x * (1.0 - x)
    dW2 = a.T @ dz2
    W2 -= 0.01 * dW2
    dz1 = (dz2 @ W2.T) * a * (1.0 - a)
    return dz1 @ W1.T, i.T @ dz1, dz1.sum(0), dW2, dz2.sum(0)


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


@plant(14, "mlp", "OVERWRITE", of=declared(tied), needs="a shared parameter", copies="TF.NET#303")
def tied_overwritten(dy, saved):
    """a tied layer used twice: grads[W] = dW"""
    x, W, h, y = saved
    grads = {}
    dz = dy * (1 - y * y)
    grads["W"] = h.T @ dz
    dz = dz @ W.T * (1 - h * h)
    grads["W"] = x.T @ dz
    return {**grads, "x": dz @ W.T}


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
