"""A test that takes examples, seed and corpus from the run."""

from __future__ import annotations

from sample_layers import softplus


def test_softplus_has_the_right_gradient(gradverify):
    gradverify(softplus)
