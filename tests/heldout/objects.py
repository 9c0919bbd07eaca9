"""Objects that keep what backward needs on themselves."""

from __future__ import annotations

import numpy as np

from tests.heldout import wrong


class _Dense:
    def __init__(self, D, H):
        self.W, self.b = np.random.randn(D, H), np.random.randn(H)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW, self.db = self.x.T @ dy, dy.sum(0)
        return dy @ self.W.T


@wrong("STALE", "the input of the first call is kept", x="N D")
class FirstInput(_Dense):
    def forward(self, x):
        if not hasattr(self, "x") or self.x.shape != x.shape:
            self.x = x
        return x @ self.W + self.b


@wrong("MUTATE STALE", "W is updated before dx is taken", x="N D")
class UpdatesFirst(_Dense):
    def backward(self, dy):
        self.dW, self.db = self.x.T @ dy, dy.sum(0)
        self.W -= 0.1 * self.dW
        return dy @ self.W.T


@wrong("TERM", "the slope of tanh is missing in b", x="N D")
class TanhDense(_Dense):
    def forward(self, x):
        self.y = np.tanh(super().forward(x))
        return self.y

    def backward(self, dy):
        dx = super().backward(dy * (1 - self.y**2))
        self.db = dy.sum(0)
        return dx


@wrong("RNG", "the mask is drawn again in backward", x="N D")
class Dropout:
    def __init__(self):
        self.rng = np.random.default_rng()

    def forward(self, x):
        return x * (self.rng.random(x.shape) < 0.5) * 2

    def backward(self, dy):
        return dy * (self.rng.random(dy.shape) < 0.5) * 2


@wrong("TERM", "mean and deviation count as constants", x="N D")
class Standardise:
    def __init__(self, D):
        self.gamma, self.beta = np.ones(D), np.zeros(D)

    def forward(self, x):
        self.sd = x.std(0) + 0.1
        self.z = (x - x.mean(0)) / self.sd
        return self.gamma * self.z + self.beta

    def backward(self, dy):
        self.dgamma, self.dbeta = (dy * self.z).sum(0), dy.sum(0)
        return dy * self.gamma / self.sd


@wrong("INDEX", "the heads are merged in another order than split", x="N T 6")
class Heads:
    def forward(self, x):
        n, t, d = x.shape
        self.shape = x.shape
        return x.reshape(n, t, 2, d // 2).transpose(0, 2, 1, 3)

    def backward(self, dy):
        return dy.reshape(self.shape)


@wrong("REPEAT-IDX", "rows with a repeated index overwrite one another", ids="N: indices V", W="V D", init=("V", "D"))
class Embed:
    def __init__(self, V, D):
        self.W = np.random.randn(V, D)

    def forward(self, ids):
        self.ids = ids
        return self.W[ids]

    def backward(self, dy):
        self.dW = np.zeros_like(self.W)
        self.dW[self.ids] = dy


@wrong("OVERWRITE", "W, which is used twice, gets the second use's gradient only", x="N D")
class TwiceUsed:
    def __init__(self, D):
        self.W = np.random.randn(D, D)

    def forward(self, x):
        self.x, self.h = x, np.tanh(x @ self.W)
        return self.h @ self.W

    def backward(self, dy):
        da = dy @ self.W.T * (1 - self.h**2)
        self.dW = self.h.T @ dy
        return da @ self.W.T
