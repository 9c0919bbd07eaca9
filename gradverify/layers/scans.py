"""Products, running sums and products, sorting and selection along the last axis."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register


@register
class prod:
    """y = product along the last axis; the gradient multiplies all others, so that zeros do no harm."""

    x = "*batch D"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return np.prod(x, axis=-1), x

    @staticmethod
    def backward(dy, x):
        before, after = np.ones_like(x), np.ones_like(x)
        before[..., 1:] = np.cumprod(x[..., :-1], axis=-1)
        after[..., :-1] = np.cumprod(x[..., :0:-1], axis=-1)[..., ::-1]
        return dy[..., None] * before * after


@register
class cumsum:
    """y_k = x_1 + ... + x_k along the last axis."""

    x = "*batch D"
    returns = "*batch D"
    empty = True

    @staticmethod
    def forward(x):
        return np.cumsum(x, axis=-1), None

    @staticmethod
    def backward(dy, saved):
        return np.cumsum(dy[..., ::-1], axis=-1)[..., ::-1]


@register
class cumprod:
    """y_k = x_1 ... x_k along the last axis; the gradient divides by nothing, so that zeros do no harm."""

    x = "*batch D"
    returns = "*batch D"
    empty = True

    @staticmethod
    def forward(x):
        return np.cumprod(x, axis=-1), x

    @staticmethod
    def backward(dy, x):
        dx = np.ones_like(x)
        dx[..., 1:] = np.cumprod(x[..., :-1], axis=-1)
        later = 0  # sum over k > i of dy_k x_{i+1} ... x_k
        for i in reversed(range(x.shape[-1])):
            total = dy[..., i] + later
            dx[..., i] *= total
            later = x[..., i] * total
        return dx


@register
class sort:
    """y = x in ascending order along the last axis; equal values keep their order."""

    x = "*batch D: distinct"
    returns = "*batch D"
    empty = True

    @staticmethod
    def forward(x):
        order = np.argsort(x, axis=-1, kind="stable")
        return np.take_along_axis(x, order, axis=-1), order

    @staticmethod
    def backward(dy, order):
        dx = np.empty(dy.shape, dy.dtype)
        np.put_along_axis(dx, order, dy, axis=-1)
        return dx


@register
class topk:
    """The k largest values along the last axis, in descending order; of equal values the first."""

    x = "*batch D+k: distinct"
    returns = "*batch k"
    options = {"k": [1, 2, 3]}

    @staticmethod
    def forward(x, k=1):
        order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
        return np.take_along_axis(x, order, axis=-1), (order, x.shape)

    @staticmethod
    def backward(dy, saved):
        order, shape = saved
        dx = np.zeros(shape, dy.dtype)
        np.put_along_axis(dx, order, dy, axis=-1)
        return dx
