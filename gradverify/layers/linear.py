"""Products of matrices: batched, broadcast, bilinear, and inside a residual block."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register


def sum_to(gradient, shape):
    """Transpose of broadcasting: sum over the axes along which `shape` was stretched."""
    gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(k for k, size in enumerate(shape) if size == 1 and gradient.shape[k] != 1)
    return gradient.sum(stretched, keepdims=True)


def transpose(a):
    """Swap the last two axes."""
    return np.swapaxes(a, -1, -2)


@register
class linear:
    """y = x W^T + b for any number of leading axes; W holds one row for each output, as in torch."""

    x, W, b = "*batch D", "H D", "H"
    returns = "*batch H"
    empty = True

    @staticmethod
    def forward(x, W, b):
        return x @ transpose(W) + b, (x, W)

    @staticmethod
    def backward(dy, saved):
        x, W = saved
        every = tuple(range(dy.ndim - 1))
        return dy @ W, np.tensordot(dy, x, (every, every)), dy.sum(every)


@register
class matvec:
    """y = A v."""

    A, v = "M K", "K"
    returns = "M"
    empty = True

    @staticmethod
    def forward(A, v):
        return (A * v).sum(-1), (A, v)

    @staticmethod
    def backward(dy, saved):
        A, v = saved
        return np.outer(dy, v), A.T @ dy


@register
class batched_matmul:
    """y_n = a_n b_n."""

    a, b = "N M K", "N K L"
    returns = "N M L"
    batch = "N"
    empty = True

    @staticmethod
    def forward(a, b):
        return a @ b, (a, b)

    @staticmethod
    def backward(dy, saved):
        a, b = saved
        return dy @ transpose(b), transpose(a) @ dy


@register
class matmul_broadcast:
    """y = a b, where the leading axes of b broadcast against those of a; gradients sum over what was stretched."""

    a, b = "*batch M K", "*batch? K L"
    returns = "*batch M L"
    empty = True

    @staticmethod
    def forward(a, b):
        return a @ b, (a, b)

    @staticmethod
    def backward(dy, saved):
        a, b = saved
        return dy @ transpose(b), sum_to(transpose(a) @ dy, b.shape)


@register
class bilinear:
    """y_nj = sum_ik x_ni A_jik z_nk."""

    x, A, z = "N I", "J I K", "N K"
    returns = "N J"
    batch = "N"
    empty = True

    @staticmethod
    def forward(x, A, z):
        return transpose((x @ A * z).sum(-1)), (x, A, z)

    @staticmethod
    def backward(dy, saved):
        x, A, z = saved
        weighted = dy.T[:, :, None]  # J N 1
        dx = ((weighted * z) @ transpose(A)).sum(0)
        dA = transpose(weighted * x) @ z
        dz = (weighted * (x @ A)).sum(0)
        return dx, dA, dz


@register
class residual:
    """y = x + f(x W1 + b1) W2 with f = tanh or relu (slope 0 at 0).

    Where a unit of relu stands at its kink, what backward gives for x need not lie between the slopes from
    the left and from the right, because many paths meet there: such points are left out.
    """

    x, W1, b1, W2 = "N D", "D H", "H", "H D"
    returns = "N D"
    batch = "N"
    empty = True
    options = {"activation": ["tanh", "relu"]}
    assume = staticmethod(lambda x, W1, b1, activation: activation == "tanh" or (x @ W1 + b1 != 0).all())

    @staticmethod
    def forward(x, W1, b1, W2, activation):
        z = x @ W1 + b1
        a = np.tanh(z) if activation == "tanh" else np.maximum(z, 0)
        return x + a @ W2, (x, W1, W2, a)

    @staticmethod
    def backward(dy, saved, activation):
        x, W1, W2, a = saved
        slope = 1 - a * a if activation == "tanh" else a > 0
        dz = dy @ W2.T * slope
        return dy + dz @ W1.T, x.T @ dz, dz.sum(0), a.T @ dy
