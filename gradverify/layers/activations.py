"""Activations: one number in, one number out; each derivative keeps its digits in both tails."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register
from gradverify.layers.mlp import logistic


@register
class relu:
    """y = max(x, 0); the slope at 0 is 0."""

    x = "*batch"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return np.maximum(x, 0), x

    @staticmethod
    def backward(dy, x):
        return dy * (x > 0)


@register
class leaky_relu:
    """y = x for x > 0, slope * x elsewhere; any slope, also above 1."""

    x = "*batch"
    returns = "*batch"
    options = {"slope": [0.01, 0.3, 2.0]}
    empty = True

    @staticmethod
    def forward(x, slope=0.01):
        return np.where(x > 0, x, x * slope), x

    @staticmethod
    def backward(dy, x, slope=0.01):
        return np.where(x > 0, dy, dy * slope)


@register
class prelu:
    """y = max(x, 0) + alpha min(x, 0), one alpha for each channel."""

    x, alpha = "*batch C", "C"
    returns = "*batch C"
    empty = True

    @staticmethod
    def forward(x, alpha):
        return np.maximum(x, 0) + alpha * np.minimum(x, 0), (x, alpha)

    @staticmethod
    def backward(dy, saved):
        x, alpha = saved
        leading = tuple(range(x.ndim - 1))
        return np.where(x > 0, dy, dy * alpha), np.sum(dy * np.minimum(x, 0), axis=leading)


@register
class elu:
    """y = x for x > 0, alpha (exp(x) - 1) elsewhere."""

    x = "*batch"
    returns = "*batch"
    options = {"alpha": [1.0, 0.5, 2.0]}
    empty = True

    @staticmethod
    def forward(x, alpha=1.0):
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), x

    @staticmethod
    def backward(dy, x, alpha=1.0):
        return np.where(x > 0, dy, dy * (alpha * np.exp(np.minimum(x, 0))))


@register
class selu:
    """y = scale * elu(x); both constants from Klambauer et al., "Self-normalizing neural networks" (2017)."""

    x = "*batch"
    returns = "*batch"
    empty = True
    scale, alpha = 1.0507009873554805, 1.6732632423543772

    @staticmethod
    def forward(x):
        return selu.scale * np.where(x > 0, x, selu.alpha * np.expm1(np.minimum(x, 0))), x

    @staticmethod
    def backward(dy, x):
        return selu.scale * np.where(x > 0, dy, dy * (selu.alpha * np.exp(np.minimum(x, 0))))


@register
class softplus:
    """y = log(1 + exp(beta x)) / beta without overflow."""

    x = "*batch"
    returns = "*batch"
    options = {"beta": [1.0, 0.5, 3.0]}
    empty = True

    @staticmethod
    def forward(x, beta=1.0):
        return np.logaddexp(beta * x, 0) / beta, x

    @staticmethod
    def backward(dy, x, beta=1.0):
        return dy * logistic(beta * x)


@register
class silu:
    """y = x sigmoid(x)."""

    x = "*batch"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return x * logistic(x), x

    @staticmethod
    def backward(dy, x):
        return dy * (logistic(x) * (1 + x * logistic(-x)))


@register
class mish:
    """y = x tanh(log(1 + exp(x)))."""

    x = "*batch"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        t = np.tanh(np.logaddexp(x, 0))
        return x * t, (x, t)

    @staticmethod
    def backward(dy, saved):
        x, t = saved
        return dy * (t + x * (1 - t) * (1 + t) * logistic(x))


@register
class tanh:
    """y = tanh(x); the derivative is 4 s(2x) s(-2x) with s the sigmoid, where 1 - y^2 would be 0 from x = 20 on."""

    x = "*batch"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return np.tanh(x), x

    @staticmethod
    def backward(dy, x):
        return dy * (4 * logistic(2 * x) * logistic(-2 * x))


@register
class hardswish:
    """y = x min(max(x + 3, 0), 6) / 6."""

    x = "*batch"
    returns = "*batch"
    empty = True

    @staticmethod
    def forward(x):
        return x * (np.clip(x + 3, 0, 6) / 6), x

    @staticmethod
    def backward(dy, x):
        return np.where(np.abs(x) < 3, dy * (x / 3 + 0.5), dy * (x >= 3))
