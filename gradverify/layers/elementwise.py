"""Arithmetic of single elements; the second operand of a pair broadcasts against the first."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register
from gradverify.layers.linear import sum_to
from gradverify.layers.mlp import logistic


@register
class add:
    """z = x + y."""

    x, y = "*batch", "*batch?"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x, y):
        return x + y, y.shape

    @staticmethod
    def backward(dz, shape):
        return dz.copy(), sum_to(dz, shape)


@register
class mul:
    """z = x y."""

    x, y = "*batch", "*batch?"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x, y):
        return x * y, (x, y)

    @staticmethod
    def backward(dz, saved):
        x, y = saved
        return dz * y, sum_to(dz * x, y.shape)


@register
class maximum:
    """z = max(x, y); a tie gives half of the cotangent to each."""

    x, y = "*batch", "*batch?"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x, y):
        return np.maximum(x, y), (x, y)

    @staticmethod
    def backward(dz, saved):
        x, y = saved
        dx = np.where(x > y, dz, np.where(x == y, dz * 0.5, 0))
        return dx, sum_to(dz - dx, y.shape)


@register
class logaddexp:
    """z = log(exp(x) + exp(y))."""

    x, y = "*batch", "*batch?"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x, y):
        return np.logaddexp(x, y), (x - y, y.shape)

    @staticmethod
    def backward(dz, saved):
        gap, shape = saved
        return dz * logistic(gap), sum_to(dz * logistic(-gap), shape)


@register
class sqrt:
    """y = sqrt(x) for x > 0."""

    x = "*batch: positive"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        y = np.sqrt(x)
        return y, y

    @staticmethod
    def backward(dy, y):
        return dy * 0.5 / y


@register
class exp:
    """y = exp(x)."""

    x = "*batch: between -8 8"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        y = np.exp(x)
        return y, y

    @staticmethod
    def backward(dy, y):
        return dy * y


@register
class log:
    """y = log(x) for x > 0."""

    x = "*batch: positive"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return np.log(x), x

    @staticmethod
    def backward(dy, x):
        return dy / x


@register
class abs:
    """y = |x|; the slope at 0 is 0."""

    x = "*batch"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return np.abs(x), x

    @staticmethod
    def backward(dy, x):
        return dy * np.sign(x)


@register
class clip:
    """y = min(max(x, low), high); the slope at the borders is 1."""

    x = "*batch"
    returns = "*batch"
    options = {"low": [-1.0, 0.0], "high": [1.0, 2.0]}
    empty = True

    @staticmethod
    def forward(x, low=-1.0, high=1.0):
        return np.clip(x, low, high), x

    @staticmethod
    def backward(dy, x, low=-1.0, high=1.0):
        return dy * ((x >= low) & (x <= high))


@register
class dropout:
    """y = x mask / (1 - p) in "train", x in "eval"; the mask is drawn outside."""

    x, mask = "*batch", "*batch: mask"
    returns = "*batch"
    constants = ("mask",)
    options = {"p": [0.0, 0.3, 0.5], "mode": ["train", "eval"]}
    empty = True

    @staticmethod
    def forward(x, mask, p=0.0, mode="train"):
        return np.where(mask != 0, x / (1 - p), 0) if mode == "train" else x.copy(), mask

    @staticmethod
    def backward(dy, mask, p=0.0, mode="train"):
        return np.where(mask != 0, dy / (1 - p), 0) if mode == "train" else dy.copy()
