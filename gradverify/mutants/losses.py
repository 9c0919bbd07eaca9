"""Mutants of losses: the softmax and its cross-entropy, Huber, cosine similarity."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.losses import shared
from gradverify.mutants import catalogue, plant, remembering

ENTROPY, HUBER = remembering("softmax_cross_entropy"), catalogue("huber")


@plant(66, "softmax", "TERM", of=catalogue("softmax"), copies="ML-From-Scratch#71")
def diagonal_only(dy, saved):
    """backward is p (1 - p) dy"""
    y, _ = saved
    return y * (1 - y) * dy


def _pulled(dE, p, target, norm):
    """Gradient of -sum target log p for weights `target` of any sum."""
    return np.expand_dims(dE / norm, -1) * (p * target.sum(-1, keepdims=True) - target)


@plant(67, "softmax-ce", "TAIL", of=ENTROPY, needs="logits near 1e3")
def without_shift(dE, saved):
    """exp once more, without the shift by the maximum"""
    (_, _, target, norm), (x, _, _) = saved
    e = np.exp(x)
    return _pulled(dE, e / e.sum(-1, keepdims=True), target, norm)


@plant(69, "softmax-ce", "MASK", of=ENTROPY, needs="ignore_index")
def all_rows(dE, saved, reduction, smoothing, ignore_index):
    """the mean divides by N, not by the kept rows"""
    (p, _, target, norm), (_, labels, weight) = saved
    if reduction == "mean":
        norm = max(weight[labels].sum(), 1e-300)
    return _pulled(dE, p, target, norm)


@plant(71, "softmax-ce", "OPTION", of=ENTROPY, needs="weights")
def without_weights(dE, saved, smoothing, ignore_index):
    """class weights missing in backward"""
    (p, _, _, norm), (x, labels, _) = saved
    keep = (labels != ignore_index)[:, None]
    hit = labels[:, None] == np.arange(x.shape[-1])
    return _pulled(dE, p, keep * (hit * (1 - smoothing) + smoothing / x.shape[-1]), norm)


@plant(72, "softmax-ce", "OPTION", of=ENTROPY, needs="smoothing > 0", copies="Liger#243")
def without_smoothing(dE, saved, ignore_index):
    """label smoothing missing in backward"""
    (p, _, _, norm), (x, labels, weight) = saved
    keep = (labels != ignore_index)[:, None]
    hit = labels[:, None] == np.arange(x.shape[-1])
    return _pulled(dE, p, keep * hit * weight, norm)


@plant(96, "huber", "UPSTREAM", of=HUBER, needs="dy not 1", copies="chainer#1178")
def upstream_ignored(dE, d, delta, reduction):
    """ignores dy"""
    dx = shared(np.ones_like(dE), d.shape, reduction) * np.clip(d, -delta, delta)
    return dx, -dx


@plant(97, "huber", "FACTOR", of=HUBER, copies="dynet#1310")
def not_halved(dE, d, delta, reduction):
    """forward halved, backward not"""
    dx = shared(dE, d.shape, reduction) * np.clip(2 * d, -2 * delta, 2 * delta)
    return dx, -dx


@plant(99, "huber", "TERM", of=HUBER, needs="d < -delta", copies="attorch#13")
def one_sided(dE, d, delta, reduction):
    """compares d < delta, not |d|"""
    dx = shared(dE, d.shape, reduction) * np.where(d < delta, d, delta)
    return dx, -dx


COSINE = catalogue("cosine_similarity")


@plant(100, "cosine", "TERM", of=COSINE)
def constant_norms(dy, saved, eps):
    """norms treated as constants"""
    u, v, p, q = saved
    dy = dy[..., None]
    return dy * v / np.maximum(p, eps), dy * u / np.maximum(q, eps)


@plant(102, "cosine", "SINGULAR", of=COSINE, needs="a zero vector", copies="pytorch#3264")
def unguarded(dy, saved, eps):
    """no guard eps"""
    u, v, p, q = saved
    y, dy = np.sum(u * v, axis=-1, keepdims=True), dy[..., None]
    da = dy * (v - np.where(p > eps, y * u, 0)) / np.where(p > 0, np.maximum(p, eps), p)
    db = dy * (u - np.where(q > eps, y * v, 0)) / np.where(q > 0, np.maximum(q, eps), q)
    return da, db
