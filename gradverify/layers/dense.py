"""Affine layers."""

from __future__ import annotations

from gradverify.adapters import register


@register
class dense:
    """y = x W + b."""

    x, W, b = "N D", "D H", "H"
    returns = "N H"
    batch = "N"
    empty = True

    @staticmethod
    def forward(x, W, b):
        return x @ W + b, (x, W)

    @staticmethod
    def backward(dy, saved):
        x, W = saved
        return dy @ W.T, x.T @ dy, dy.sum(0)
