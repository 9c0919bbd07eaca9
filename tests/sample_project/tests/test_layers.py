"""Tests that need the package gradverify, but not its plugin."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from sample_layers import affine, softplus

import gradverify as gv


def test_affine_has_the_right_gradient():
    gv.check("sample_affine", examples=20)


@settings(max_examples=20, deadline=None)
@gv.given(affine, factor=st.sampled_from([0.5, 2.0, 4.0]))
def test_affine_is_linear_in_its_weights(case, factor):
    x, W, b = (case.primals[name] for name in ("x", "W", "b"))
    scaled, _ = affine.forward(x, factor * W, factor * b)
    np.testing.assert_allclose(scaled, factor * affine.forward(x, W, b)[0], rtol=1e-12, atol=1e-300)


@settings(max_examples=20, deadline=None)
@gv.given(softplus)
def test_softplus_is_positive(case):
    y, _ = softplus.forward(case.primals["x"])
    assert (y >= 0).all()
