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


@pytest.mark.parametrize(
    ("layer", "said"),
    [
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
