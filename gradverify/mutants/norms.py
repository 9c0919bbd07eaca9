"""Mutants of normalisation layers: statistics taken for constants, axes, groups, running averages."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.layers.norms import channels, group_norm, layer_norm, rms_norm, standardise, standardise_pullback
from gradverify.mutants import catalogue, plant, remembering

BATCH, BATCH_2D, LAYER, RMS = (catalogue(n) for n in ("batch_norm", "batch_norm_2d", "layer_norm", "rms_norm"))


def _others(dy, xhat):
    return np.sum(dy * xhat, axis=-2), np.sum(dy, axis=-2)


@plant(50, "batchnorm", "TERM", of=BATCH, needs="dx", copies="mlpack#1923")
def constant_statistics(dy, saved):
    """mean and variance treated as constants"""
    xhat, scale, gamma = saved
    return dy * gamma * scale, *_others(dy, xhat)


@plant(51, "batchnorm", "TERM", of=BATCH, needs="dx, dy not 1", copies="mlpack#2474")
def variance_constant(dy, saved, mode):
    """the term xhat mean(dy xhat) dropped"""
    xhat, scale, gamma = saved
    d = dy * gamma
    dx = scale * (d - d.mean(0)) if mode == "train" else d * scale
    return dx, *_others(dy, xhat)


@plant(53, "batchnorm", "FACTOR", of=BATCH_2D, needs="H W > 1", copies="pytorch#36382")
def batch_for_count(dy, saved, mode):
    """N = batch in place of batch H W"""
    xhat, scale, gamma = saved
    axes, d = (-4, -2, -1), dy * channels(gamma)
    mean, along = (np.sum(a, axis=axes, keepdims=True) / len(dy) for a in (d, d * xhat))
    dx = scale * (d - mean - xhat * along) if mode == "train" else d * scale
    return dx, np.sum(dy * xhat, axis=axes), np.sum(dy, axis=axes)


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
        return standardise_pullback(dy * gamma, xhat, scale, -2), *_others(dy, xhat)


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


@plant(56, "batchnorm", "TERM", of=remembering("batch_norm"))
def gamma_by_x(dy, saved, mode):
    """dgamma by x, not xhat"""
    (xhat, scale, gamma), (x, *_) = saved
    d = dy * gamma
    dx = standardise_pullback(d, xhat, scale, -2) if mode == "train" else d * scale
    return dx, np.sum(dy * x, axis=0), np.sum(dy, axis=0)


@plant(57, "layernorm", "TERM", of=LAYER, needs="a tolerance below the term", copies="tt-metal#53204")
def mean_twice(dy, saved):
    """mean(dy gamma) subtracted twice"""
    _, scale, gamma = saved
    dx, *others = layer_norm.backward(dy, saved)
    return dx - scale * np.mean(dy * gamma, axis=-1, keepdims=True), *others


@plant(58, "layernorm", "SHAPE", of=LAYER, needs="rank 3", copies="FlagGems#5392")
def two_axes_only(dy, saved):
    """backward reshapes to (shape[0], -1)"""
    xhat, scale, gamma = saved
    dx, *others = layer_norm.backward(dy, saved)
    if dy.ndim < 3 or dy.size == 0:
        return dx, *others
    d, flat = (a.reshape(len(dy), -1) for a in (dy * gamma, xhat))
    along = np.mean(d * flat, axis=-1, keepdims=True)
    return scale * (d - np.mean(d, axis=-1, keepdims=True) - flat * along).reshape(dy.shape), *others


@plant(60, "rmsnorm", "TERM", of=RMS)
def constant_rms(dy, saved):
    """rms treated as a constant"""
    xhat, scale, gamma = saved
    return scale * dy * gamma, np.sum(dy * xhat, axis=tuple(range(dy.ndim - 1)))


@plant(61, "rmsnorm", "INDEX", of=RMS, needs="rows == columns", copies="attorch#17")
def along_columns(dy, saved):
    """the correction of rows broadcast along columns"""
    xhat, scale, gamma = saved
    d = dy * gamma
    along = np.mean(d * xhat, axis=-1, keepdims=True)
    if dy.ndim == 2 and dy.shape[0] == dy.shape[1]:  # any other shape would raise
        along = along[:, 0]
    return scale * (d - xhat * along), np.sum(dy * xhat, axis=tuple(range(dy.ndim - 1)))


@plant(63, "rmsnorm", "MUTATE", of=RMS, needs="dy before and after", copies="apex#1587, Liger#1305")
def into_upstream(dy, saved):
    """dx written into dy"""
    dx, dgamma = rms_norm.backward(dy, saved)
    dy[...] = dx
    return dy, dgamma


@plant(65, "groupnorm", "INDEX", of=remembering("group_norm"), needs="G > 1 and C / G > 1", copies="tt-metal#56202")
def wrong_group(dy, saved, groups, eps):
    """group = c % G, not c // (C / G)"""
    (xhat, scale, gamma), (x, _, _) = saved
    count, kept = x.shape[1], x.shape
    order = np.arange(count).reshape(-1, groups).T.ravel()  # channels by c % G
    d = dy * channels(gamma)
    shuffled = standardise(x[:, order].reshape(len(x), groups, -1), -1, eps)
    dx = np.empty_like(dy)
    dx[:, order] = standardise_pullback(d[:, order].reshape(len(x), groups, -1), *shuffled, -1).reshape(kept)
    return dx, *group_norm.backward(dy, (xhat, scale, gamma))[1:]
