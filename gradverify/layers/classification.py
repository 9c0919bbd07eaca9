"""Losses of class scores: logits, and labels or probabilities to compare them with."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register
from gradverify.layers.losses import reduced, shared
from gradverify.layers.mlp import logistic
from gradverify.layers.softmax import log_probabilities


@register
class bce_with_logits:
    """Binary cross-entropy of logits x and probabilities t: -w t log s(x) - (1 - t) log s(-x), s the sigmoid."""

    x, t, weight = "N K", "N K: unit", "K: positive"
    constants = ("weight",)
    options = {"reduction": ["mean", "sum", "none"]}
    loss = True

    @staticmethod
    def forward(x, t, weight, reduction="mean"):
        # Both terms are positive: max(x, 0) - t x + log(1 + exp(-|x|)) would cancel for sure predictions.
        yes, no = np.logaddexp(0, -x), np.logaddexp(0, x)
        return reduced(weight * t * yes + (1 - t) * no, reduction), (x, t, weight, yes, no)

    @staticmethod
    def backward(dE, saved, reduction="mean"):
        x, t, weight, yes, no = saved
        share = shared(dE, x.shape, reduction)
        return share * ((1 - t) * logistic(x) - weight * t * logistic(-x)), share * (weight * yes - no)


@register
class softmax_cross_entropy:
    """-log p of the label, weighted by class; rows with the label `ignore_index` count for nothing.

    With label smoothing the target is (1 - smoothing) on the label plus smoothing / K on every class.
    The mean divides by the sum of the weights of the kept labels; it is 0 when no row is kept.
    """

    x, labels, weight = "N K", "N: labels K", "K: positive"
    constants = ("weight",)
    options = {"ignore_index": [-1, 0, 1], "smoothing": [0.0, 0.1, 0.3], "reduction": ["mean", "sum", "none"]}
    loss = True

    @staticmethod
    def forward(x, labels, weight, ignore_index=-1, smoothing=0.0, reduction="mean"):
        classes = x.shape[-1]
        hit = labels[..., None] == np.arange(classes)
        keep = (labels != ignore_index)[..., None]
        target = keep * (np.where(hit, weight * (1 - smoothing), 0) + weight * (smoothing / classes))
        log_p, p, q = log_probabilities(x)
        rows, norm = -np.sum(target * log_p, axis=-1), 1
        if reduction == "mean":
            kept = np.sum(np.where(hit & keep, weight, 0))
            norm = np.where(kept > 0, kept, 1)
        return rows if reduction == "none" else np.sum(rows, axis=-1) / norm, (p, q, target, norm)

    @staticmethod
    def backward(dE, saved):
        p, q, target, norm = saved
        others = np.sum(target, axis=-1, keepdims=True) - target
        return np.expand_dims(dE / norm, -1) * (p * others - target * q)


@register
class focal:
    """E = 1/N sum -(1 - p)^gamma log p, with p the probability of the label (Lin et al., 2017)."""

    x, labels = "N K", "N: labels K"
    returns = ""
    options = {"gamma": [2.0, 0.0, 0.5]}
    loss = True

    @staticmethod
    def forward(x, labels, gamma=2.0):
        hit = labels[..., None] == np.arange(x.shape[-1])
        log_p, p, q = log_probabilities(x)
        own, own_p, own_q = (np.sum(np.where(hit, part, 0), axis=-1, keepdims=True) for part in (log_p, p, q))
        return np.sum(-(own_q**gamma) * own, axis=(-2, -1)) / x.shape[-2], (hit, p, q, own, own_p, own_q)

    @staticmethod
    def backward(dE, saved, gamma=2.0):
        hit, p, q, own, own_p, own_q = saved
        ratio = np.where(own_q > 0, own / np.where(own_q > 0, own_q, 1), -1)  # log p / (1 - p) tends to -1
        slope = own_q**gamma * (gamma * own_p * ratio - 1)
        return dE / p.shape[-2] * slope * np.where(hit, q, -p)
