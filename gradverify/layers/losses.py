"""Losses: how far a prediction is from its target, and the gradients of both."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register
from gradverify.layers.norms import length


@register
class mse:
    """The tutorial's mean squared error: E = 1/N sum_n sum_k (y - x)^2, x the prediction, y the target."""

    x, y = "N K", "N K"
    returns = ""
    loss = True

    @staticmethod
    def forward(x, y):
        residual = y - x
        return np.sum(residual * residual, axis=(-2, -1)) / x.shape[-2], residual

    @staticmethod
    def backward(dE, residual):
        dy = dE * 2.0 * residual / residual.shape[-2]
        return -dy, dy


def reduced(values, reduction):
    """Losses of single entries, shape (N, K): their mean, their sum, or as they are ("none")."""
    if reduction == "none":
        return values
    total = np.sum(values, axis=(-2, -1))
    return total / (values.shape[-2] * values.shape[-1]) if reduction == "mean" else total


def shared(dE, shape, reduction):
    """The pullback of `reduced`, still to be broadcast to (N, K)."""
    return dE / (shape[-2] * shape[-1]) if reduction == "mean" else dE


@register
class mae:
    """Mean absolute error: E = 1/(N K) sum |x - y|; the slope at x = y is 0."""

    x, y = "N K", "N K"
    returns = ""
    loss = True

    @staticmethod
    def forward(x, y):
        return reduced(np.abs(x - y), "mean"), np.sign(x - y)

    @staticmethod
    def backward(dE, sign):
        dx = shared(dE, sign.shape, "mean") * sign
        return dx, -dx


@register
class huber:
    """d^2 / 2 for |d| <= delta, delta (|d| - delta / 2) beyond, with d = x - y."""

    x, y = "N K", "N K"
    options = {"delta": [1.0, 0.5, 2.0], "reduction": ["mean", "sum", "none"]}
    loss = True

    @staticmethod
    def forward(x, y, delta=1.0, reduction="mean"):
        d = x - y
        near = np.minimum(np.abs(d), delta)
        return reduced(near * (np.abs(d) - near / 2), reduction), d

    @staticmethod
    def backward(dE, d, delta=1.0, reduction="mean"):
        dx = shared(dE, d.shape, reduction) * np.clip(d, -delta, delta)
        return dx, -dx


@register
class hinge:
    """E = 1/(N K) sum max(margin - y x, 0) for scores x and signs y."""

    x, y = "N K", "N K: signs"
    returns = ""
    options = {"margin": [1.0, 0.5]}
    loss = True

    @staticmethod
    def forward(x, y, margin=1.0):
        gap = margin - y * x
        return reduced(np.maximum(gap, 0), "mean"), (y, gap)

    @staticmethod
    def backward(dE, saved):
        y, gap = saved
        return shared(dE, gap.shape, "mean") * np.where(gap > 0, -y, 0)


@register
class kl_divergence:
    """E = 1/N sum t (log t - x): from log-probabilities x to target probabilities t."""

    x, t = "N K", "N K: probabilities"
    returns = ""
    loss = True

    @staticmethod
    def forward(x, t):
        gap = np.log(t) - x
        return np.sum(t * gap, axis=(-2, -1)) / x.shape[-2], (t, gap)

    @staticmethod
    def backward(dE, saved):
        t, gap = saved
        share = dE / t.shape[-2]
        return -share * t, share * (gap + 1)


@register
class cosine_similarity:
    """y = <a, b> / (max(|a|, eps) max(|b|, eps)); below eps the length counts as constant."""

    a, b = "N D", "N D"
    returns = "N"
    batch = "N"
    options = {"eps": [1e-4, 0.5]}

    @staticmethod
    def forward(a, b, eps=1e-4):
        p, q = length(a), length(b)
        u, v = a / np.maximum(p, eps), b / np.maximum(q, eps)
        return np.sum(u * v, axis=-1), (u, v, p, q)

    @staticmethod
    def backward(dy, saved, eps=1e-4):
        u, v, p, q = saved
        y, dy = np.sum(u * v, axis=-1, keepdims=True), dy[..., None]
        da = dy * (v - np.where(p > eps, y * u, 0)) / np.maximum(p, eps)
        db = dy * (u - np.where(q > eps, y * v, 0)) / np.maximum(q, eps)
        return da, db
