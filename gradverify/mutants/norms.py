"""Mutants of normalisation layers: statistics taken for constants, axes, groups, running averages."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.layers.norms import standardise_pullback
from gradverify.mutants import catalogue, diffs, plant

BATCH = """
50 TERM: mean and variance treated as constants | dx | mlpack#1923
    - standardise_pullback(d, xhat, scale, -2)
    + d * scale
51 TERM: the term xhat mean(dy xhat) dropped | dx, dy not 1 | mlpack#2474
    - standardise_pullback(d, xhat, scale, -2)
    + scale * (d - d.mean(0))
56 TERM: dgamma by x, not xhat
    - (xhat, scale, gamma)
    + (xhat, scale, gamma, x)
    - xhat, scale, gamma = saved
    + xhat, scale, gamma, x = saved
    - np.sum(dy * xhat, axis=-2)
    + np.sum(dy * x, axis=-2)
"""
diffs("batchnorm", catalogue("batch_norm"), BATCH)

BATCH_2D = """
53 FACTOR: N = batch in place of batch H W | H W > 1 | pytorch#36382
    - dx = standardise_pullback(d, xhat, scale, axes) if mode == "train" else d * scale
    + mean, along = (np.sum(a, axis=axes, keepdims=True) / len(dy) for a in (d, d * xhat))
    + dx = scale * (d - mean - xhat * along) if mode == "train" else d * scale
"""
diffs("batchnorm", catalogue("batch_norm_2d"), BATCH_2D)


class Running:
    """Batch normalisation that averages its statistics over all calls, kept on itself."""

    def __init__(self):
        self.calls, self.mean, self.var = 0, 0.0, 0.0

    def forward(self, x, gamma, beta):
        mean, var = x.mean(-2, keepdims=True), x.var(-2, keepdims=True)
        self.calls += 1
        self.mean = self.mean + (mean - self.mean) / self.calls
        self.var = self.var + (var - self.var) / self.calls
        xhat = (x - mean) / np.sqrt(var + 1e-3)
        return gamma * xhat + beta, (x, gamma, mean, var)

    def backward(self, dy, saved):
        x, gamma, mean, var = saved
        return self.gradients(dy, x, gamma, mean, var)

    @staticmethod
    def gradients(dy, x, gamma, mean, var):
        scale = 1 / np.sqrt(var + 1e-3)
        xhat = (x - mean) * scale
        return standardise_pullback(dy * gamma, xhat, scale, -2), np.sum(dy * xhat, axis=-2), np.sum(dy, axis=-2)


def _stateful(kind):
    """Each forward on an instance of its own, but for sessions, which share one."""

    def forward(x, gamma, beta):
        instance = kind()
        output, saved = instance.forward(x, gamma, beta)
        return output, (instance, saved)

    def backward(dy, saved):
        return saved[0].backward(dy, saved[1])

    def session():
        instance = kind()
        return instance.forward, instance.backward

    return Layer(
        forward, backward, name="running_batch_norm", x="N D", gamma="D", beta="D", stateful=True, session=session
    )


@plant(
    54,
    "batchnorm",
    "STALE",
    of=lambda: _stateful(Running),
    into=lambda right, wrong: _stateful(wrong),
    needs="a second call",
    copies="pytorch#586",
)
class Stale(Running):
    """backward takes the running statistics that forward updated"""

    def backward(self, dy, saved):
        x, gamma, _, _ = saved
        return self.gradients(dy, x, gamma, self.mean, self.var)


LAYER = """
57 TERM: mean(dy gamma) subtracted twice | a tolerance below the term | tt-metal#53204
    - standardise_pullback(dy * gamma, xhat, scale, -1)
    + standardise_pullback(dy * gamma, xhat, scale, -1) - scale * np.mean(dy * gamma, axis=-1, keepdims=True)
58 SHAPE: backward reshapes to (shape[0], -1) | rank 3 | FlagGems#5392
    - standardise_pullback(dy * gamma, xhat, scale, -1)
    + standardise_pullback(dy * gamma, xhat, scale, tuple(range(1, dy.ndim)) if dy.ndim > 2 and dy.size else -1)
"""
diffs("layernorm", catalogue("layer_norm"), LAYER)

RMS = """
60 TERM: rms treated as a constant
    - (d - xhat * np.mean(d * xhat, axis=-1, keepdims=True))
    + d
61 INDEX: the correction of rows broadcast along columns | rows == columns | attorch#17
    - dx = scale * (d - xhat * np.mean(d * xhat, axis=-1, keepdims=True))
    + along = np.mean(d * xhat, axis=-1, keepdims=True)
    + if dy.ndim == 2 and dy.shape[0] == dy.shape[1]:  # any other shape would raise
    +     along = along[:, 0]
    + dx = scale * (d - xhat * along)
63 MUTATE: dx written into dy | dy before and after | apex#1587, Liger#1305
    - return dx, np.sum(dy * xhat, axis=tuple(range(dy.ndim - 1)))
    + dgamma = np.sum(dy * xhat, axis=tuple(range(dy.ndim - 1)))
    + dy[...] = dx
    + return dy, dgamma
"""
diffs("rmsnorm", catalogue("rms_norm"), RMS)

GROUP = """
65 INDEX: group = c % G, not c // (C / G) | G > 1 and C / G > 1 | tt-metal#56202
    - (xhat, scale, gamma)
    + (xhat, scale, gamma, x)
    - def backward(dy, saved):
    + def backward(dy, saved, groups, eps):
    - xhat, scale, gamma = saved
    + xhat, scale, gamma, x = saved
    - d = (dy * channels(gamma)).reshape(xhat.shape)
    - dx = standardise_pullback(d, xhat, scale, -1).reshape(dy.shape)
    + order = np.arange(x.shape[1]).reshape(-1, groups).T.ravel()  # channels by c % G
    + d = (dy * channels(gamma))[:, order].reshape(xhat.shape)
    + shuffled = standardise(x[:, order].reshape(xhat.shape), -1, eps)
    + dx = np.empty_like(dy)
    + dx[:, order] = standardise_pullback(d, *shuffled, -1).reshape(dy.shape)
"""
diffs("groupnorm", catalogue("group_norm"), GROUP)
