"""Normalisation: of columns, rows, groups and vectors; statistics always depend on the input."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register


def standardise(x, axes, eps):
    """(x - mean) / sqrt(variance + eps) over some axes, and 1 / sqrt(variance + eps)."""
    centred = x - np.mean(x, axis=axes, keepdims=True)
    scale = 1 / np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True) + eps)
    return centred * scale, scale


def standardise_pullback(d, xhat, scale, axes):
    """The mean and the variance depend on x as well: two terms that constants would not have."""
    along = np.mean(d * xhat, axis=axes, keepdims=True)
    return scale * (d - np.mean(d, axis=axes, keepdims=True) - xhat * along)


def channels(parameter):
    """A parameter of shape (C,) against arrays of shape (N, C, H, W)."""
    return parameter.reshape(*parameter.shape[:-3], -1, 1, 1)


def length(x):
    """Euclidean length along the last axis, kept; scaled, so that no square overflows or underflows."""
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    largest = np.where(largest > 0, largest, 1)
    return largest * np.sqrt(np.sum((x / largest) ** 2, axis=-1, keepdims=True))


@register
class batch_norm:
    """y = gamma (x - mean) / sqrt(var + eps) + beta: of the batch in "train", the running ones in "eval"."""

    x, gamma, beta, running_mean, running_var = "N D", "D", "D", "D", "D: positive"
    returns = "N D"
    constants = ("running_mean", "running_var")
    options = {"mode": ["train", "eval"], "eps": [1e-5, 0.1]}

    @staticmethod
    def forward(x, gamma, beta, running_mean, running_var, mode="train", eps=1e-5):
        if mode == "train":
            xhat, scale = standardise(x, -2, eps)
        else:
            scale = 1 / np.sqrt(running_var + eps)
            xhat = (x - running_mean) * scale
        return gamma * xhat + beta, (xhat, scale, gamma)

    @staticmethod
    def backward(dy, saved, mode="train"):
        xhat, scale, gamma = saved
        d = dy * gamma
        dx = standardise_pullback(d, xhat, scale, -2) if mode == "train" else d * scale
        return dx, np.sum(dy * xhat, axis=-2), np.sum(dy, axis=-2)


@register
class batch_norm_2d:
    """Batch normalisation of images: the statistics of a channel are over N, H and W."""

    x, gamma, beta, running_mean, running_var = "N C H W", "C", "C", "C", "C: positive"
    returns = "N C H W"
    constants = ("running_mean", "running_var")
    options = {"mode": ["train", "eval"], "eps": [1e-5, 0.1]}
    axes = (-4, -2, -1)

    @staticmethod
    def forward(x, gamma, beta, running_mean, running_var, mode="train", eps=1e-5):
        if mode == "train":
            xhat, scale = standardise(x, batch_norm_2d.axes, eps)
        else:
            scale = 1 / np.sqrt(channels(running_var) + eps)
            xhat = (x - channels(running_mean)) * scale
        return channels(gamma) * xhat + channels(beta), (xhat, scale, gamma)

    @staticmethod
    def backward(dy, saved, mode="train"):
        xhat, scale, gamma = saved
        axes = batch_norm_2d.axes
        d = dy * channels(gamma)
        dx = standardise_pullback(d, xhat, scale, axes) if mode == "train" else d * scale
        return dx, np.sum(dy * xhat, axis=axes), np.sum(dy, axis=axes)


@register
class layer_norm:
    """y = gamma (x - mean) / sqrt(var + eps) + beta along the last axis."""

    x, gamma, beta = "*batch D", "D", "D"
    returns = "*batch D"
    options = {"eps": [1e-5, 0.1]}
    empty = True
    assume = staticmethod(lambda x, **_: x.shape[-1] > 0)

    @staticmethod
    def forward(x, gamma, beta, eps=1e-5):
        xhat, scale = standardise(x, -1, eps)
        return gamma * xhat + beta, (xhat, scale, gamma)

    @staticmethod
    def backward(dy, saved):
        xhat, scale, gamma = saved
        leading = tuple(range(dy.ndim - 1))
        return (
            standardise_pullback(dy * gamma, xhat, scale, -1),
            np.sum(dy * xhat, axis=leading),
            np.sum(dy, axis=leading),
        )


@register
class group_norm:
    """Statistics of each sample over H, W and the channels of one group; gamma and beta for each channel."""

    x, gamma, beta = "N groups*C H W", "groups*C", "groups*C"
    returns = "N groups*C H W"
    batch = "N"
    options = {"groups": [1, 2, 3], "eps": [1e-5, 0.1]}

    @staticmethod
    def forward(x, gamma, beta, groups=1, eps=1e-5):
        xhat, scale = standardise(x.reshape(*x.shape[:-3], groups, -1), -1, eps)
        return channels(gamma) * xhat.reshape(x.shape) + channels(beta), (xhat, scale, gamma)

    @staticmethod
    def backward(dy, saved):
        xhat, scale, gamma = saved
        d = (dy * channels(gamma)).reshape(xhat.shape)
        dx = standardise_pullback(d, xhat, scale, -1).reshape(dy.shape)
        return dx, np.sum(dy * xhat.reshape(dy.shape), axis=(-4, -2, -1)), np.sum(dy, axis=(-4, -2, -1))


@register
class instance_norm:
    """Statistics of each sample and channel over H and W."""

    x, gamma, beta = "N C H W", "C", "C"
    returns = "N C H W"
    batch = "N"
    options = {"eps": [1e-5, 0.1]}

    @staticmethod
    def forward(x, gamma, beta, eps=1e-5):
        xhat, scale = standardise(x, (-2, -1), eps)
        return channels(gamma) * xhat + channels(beta), (xhat, scale, gamma)

    @staticmethod
    def backward(dy, saved):
        xhat, scale, gamma = saved
        dx = standardise_pullback(dy * channels(gamma), xhat, scale, (-2, -1))
        return dx, np.sum(dy * xhat, axis=(-4, -2, -1)), np.sum(dy, axis=(-4, -2, -1))


@register
class rms_norm:
    """y = gamma x / sqrt(mean(x^2) + eps) along the last axis."""

    x, gamma = "*batch D", "D"
    returns = "*batch D"
    options = {"eps": [1e-5, 0.1]}
    empty = True
    assume = staticmethod(lambda x, **_: x.shape[-1] > 0)

    @staticmethod
    def forward(x, gamma, eps=1e-5):
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        return gamma * x * scale, (x * scale, scale, gamma)

    @staticmethod
    def backward(dy, saved):
        xhat, scale, gamma = saved
        d = dy * gamma
        dx = scale * (d - xhat * np.mean(d * xhat, axis=-1, keepdims=True))
        return dx, np.sum(dy * xhat, axis=tuple(range(dy.ndim - 1)))


@register
class l2_normalise:
    """y = x / max(|x|, eps) along the last axis; below eps the length counts as constant."""

    x = "*batch D"
    returns = "*batch D"
    options = {"eps": [1e-4, 0.5]}
    empty = True

    @staticmethod
    def forward(x, eps=1e-4):
        size = length(x)
        y = x / np.maximum(size, eps)
        return y, (y, size)

    @staticmethod
    def backward(dy, saved, eps=1e-4):
        y, size = saved
        along = np.where(size > eps, np.sum(dy * y, axis=-1, keepdims=True), 0)
        return (dy - y * along) / np.maximum(size, eps)
