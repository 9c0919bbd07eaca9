"""Three layers of a project of its own; the backward of the last one has a bug, planted on purpose."""

from __future__ import annotations

import numpy as np

import gradverify


@gradverify.register(name="sample_affine")
class affine:
    """y = x W + b."""

    x, W, b = "N D", "D H", "H"

    @staticmethod
    def forward(x, W, b):
        return x @ W + b, (x, W)

    @staticmethod
    def backward(dy, saved):
        x, W = saved
        return dy @ W.T, x.T @ dy, dy.sum(0)


@gradverify.register(name="sample_softplus")
class softplus:
    """y = log(1 + exp(x))."""

    x = "N D"

    @staticmethod
    def forward(x):
        return np.logaddexp(0.0, x), x

    @staticmethod
    def backward(dy, saved):
        x = saved
        return dy * np.exp(-np.logaddexp(0.0, -x))


@gradverify.register(name="sample_center")
class center:
    """y = x - mean of x over the batch."""

    x = "N D"

    @staticmethod
    def forward(x):
        return x - x.mean(0), None

    @staticmethod
    def backward(dy, saved):
        return dy * 1.0  # the bug: dy - dy.mean(0) is right
