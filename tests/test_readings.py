"""Readings of layers that no signature was written for: what is said is what holds."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gradverify import check


def shuffled(axes):
    """Blocks of channels laid out as pixels, and back again by some order of axes."""

    def forward(x):
        n, c, h, w = x.shape
        return x.reshape(n, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w), x.shape

    def backward(dy, shape):
        n, c, h, w = shape
        return dy.reshape(n, c // 4, h, 2, w, 2).transpose(axes).reshape(shape)

    return forward, backward, {"x": "N C*4 H W"}


def householder(passed):
    def forward(x):
        v = 1.0 + np.arange(x.shape[1])
        return x - 2 * np.outer(x @ v, v) / (v @ v), v

    def backward(dy, v):
        return dy if passed else dy - 2 * np.outer(dy @ v, v) / (v @ v)

    return forward, backward, {"x": "N D"}


def labelled(over_all):
    """A mean of squares over the rows that have a label."""

    def forward(x, labels):
        ok = (labels != -1)[:, None]
        return (x * x * ok).sum() / max(1, ok.sum()), (x, ok)

    def backward(dy, saved):
        x, ok = saved
        return dy * 2 * x * ok / (len(x) if over_all else max(1, ok.sum()))

    return forward, backward, {"x": "N D", "labels": "N: labels 4 -1"}


def masked(over_all):
    """The same over what a mask leaves."""

    def forward(x, m):
        return (x * x * m).sum() / max(1.0, m.sum()), (x, m)

    def backward(dy, saved):
        x, m = saved
        return dy * 2 * x * m / (x.size if over_all else max(1.0, m.sum()))

    return forward, backward, {"x": "N D", "m": "N D: mask", "constants": ("m",)}


def segmented(over_all):
    """Sums of segments."""

    def forward(x, of):
        y = np.zeros((4, x.shape[1]))
        np.add.at(y, of, x)
        return y, of

    def backward(dy, of):
        return (dy / (np.maximum(1, np.bincount(of, minlength=4))[:, None] if over_all else 1))[of]

    return forward, backward, {"x": "T D", "of": "T: labels 4"}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (segmented(False), ""),
        (segmented(True), "1 over how many there are of each by of|their number is left out"),
        (labelled(False), ""),
        (labelled(True), r"times \(number of labels that are not -1\)/N"),
        (masked(False), ""),
        (masked(True), r"\(number of m that are on\)"),
        (shuffled((0, 1, 3, 5, 2, 4)), ""),
        (shuffled((0, 1, 5, 3, 2, 4)), "the right numbers in other places"),
        (householder(False), ""),
        (householder(True), "lacks what an entry does to other places|is the upstream gradient itself"),
    ],
)
def test_a_reading_names_what_is_mixed_up_or_left_out(layer, said):
    forward, backward, dims = layer
    report = check(forward, backward, **dims, properties="gradient", examples=15, raises=False)
    assert bool(said) == bool(report.findings)
    if said:
        assert re.search(said, report.findings[0].diagnoses[0].text)


def leaky_attention(slope):
    """Graph attention: a slip in the slope of its scores is no meeting in one place, nor a matter of equal sizes."""

    def forward(H, W, a, b):
        Z = H @ W
        s = (Z @ a)[:, None] + Z @ b
        e = np.where(s > 0, s, 0.2 * s)
        p = np.exp(e - e.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return p @ Z, (H, W, a, b, Z, s, p)

    def backward(dy, saved):
        H, W, a, b, Z, s, p = saved
        dp = dy @ Z.T
        de = p * (dp - (dp * p).sum(1, keepdims=True)) * np.where(s > 0, 1, slope)
        dZ = p.T @ dy + np.outer(de.sum(1), a) + np.outer(de.sum(0), b)
        return dZ @ W.T, H.T @ dZ, Z.T @ de.sum(1), Z.T @ de.sum(0)

    return forward, backward, dict(H="N D", W="D E", a="E", b="E")


def one_way(wrong):
    """Two outputs, of which x reaches the first alone."""

    def forward(x, w):
        return (x**3, w * 2), x

    return forward, lambda dys, x: (dys[0] * (2 if wrong else 3) * x * x, 2 * dys[1]), dict(x="N D", w="N D")


def branches(wrong):
    """Labels of 0 and 1 that choose between two ways are no mask."""

    def forward(z, t):
        return np.where(t > 0, z, -z) ** 3, (z, t)

    return (
        forward,
        lambda dy, s: 3 * dy * s[0] ** 2 * (1 if wrong else np.where(s[1] > 0, 1, -1)),
        dict(z="N D", t="N D: mask"),
    )


def graph(mean):
    """Sizes N and D + 1 are often equal: the simpler one is meant."""

    def forward(X, W, b):
        Z = X @ W + b
        return np.maximum(Z, 0), (X, W, Z > 0)

    def backward(dy, saved):
        X, W, on = saved
        d = dy * on
        return d @ W.T, X.T @ d, d.mean(0) if mean else d.sum(0)

    return forward, backward, dict(X="N D", W="D E", b="E")


@pytest.mark.parametrize(
    ("right", "wrong", "said", "never"),
    [
        (leaky_attention(0.2), leaky_attention(1.0), "", "overwrite one another|where N = E"),
        (one_way(False), one_way(True), "2/3|0.666667", "sends back is right"),
        (branches(False), branches(True), "wrong sign in some entries", "is 1 everywhere"),
        (graph(False), graph(True), "times 1/N", r"D \+ 1"),
    ],
)
def test_a_reading_says_nothing_that_holds_by_chance(right, wrong, said, never):
    asked = dict(properties="gradient", examples=25, raises=False)
    assert check(*right[:2], **right[2], **asked).ok
    report = check(*wrong[:2], **wrong[2], **asked)
    texts = [d.text for f in report.findings for d in f.diagnoses]
    assert re.search(said, report.findings[0].diagnoses[0].text), texts
    assert not any(re.search(never, text) for text in texts)
