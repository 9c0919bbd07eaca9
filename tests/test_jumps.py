"""A forward that is torn at drawn values is no plain pass, unless its author declares that it may jump."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv
from gradverify.core.errors import PartlyVerified


def torn_elu(x):
    return np.where(x > 0, x, 0.8 * np.exp(np.minimum(x, 0)) - 1), x


def torn_elu_backward(dy, x):
    return dy * np.where(x > 0, 1.0, 0.8 * np.exp(np.minimum(x, 0)))


def hardshrink(x):
    return np.where(np.abs(x) > 0.5, x, 0.0), x


def hardshrink_backward(dy, x):
    return dy * (np.abs(x) > 0.5)


def test_a_torn_activation_is_no_pass():
    with pytest.raises(PartlyVerified, match="jumps=True") as told:
        gv.check(torn_elu, torn_elu_backward, x="N D", examples=40)
    assert "not verified: x" in str(told.value)


@pytest.mark.parametrize(
    ("forward", "backward"), [(torn_elu, torn_elu_backward), (hardshrink, hardshrink_backward)], ids=["elu", "shrink"]
)
def test_a_declared_jump_is_one(forward, backward):
    report = gv.check(forward, backward, x="N D", jumps=True, examples=40)
    assert report.ok
    assert any("jumps" in line for line in report.declared)


def test_a_declared_jump_hides_no_wrong_slope():
    with pytest.raises(gv.GradientMismatch):
        gv.check(torn_elu, lambda dy, x: dy * np.where(x > 0, 1.0, 0.7 * np.exp(x)), x="N D", jumps=True, examples=40)


LEVELS = {
    "floor": (lambda x: (np.floor(x), None), lambda dy, _: np.zeros_like(dy)),
    "step": (lambda x: ((x > 0) + 0.0, None), lambda dy, _: np.zeros_like(dy)),
}


@pytest.mark.parametrize("name", ["floor", "step"])
def test_a_step_between_levels_is_0_by_convention(name):
    assert gv.check(*LEVELS[name], x="N D", examples=40).ok


def test_a_straight_through_estimator_is_declared_by_its_surrogate():
    assert gv.check(lambda x: (np.round(x), None), lambda dy, _: dy, x="N D", surrogate=lambda x: x, examples=40).ok


def test_a_choice_between_equal_values_is_no_jump():
    def forward(x):
        k = np.argmax(x, -1)
        return x[np.arange(len(x)), k], (x, k)

    def backward(dy, saved):
        x, k = saved
        g = np.zeros_like(x)
        g[np.arange(len(x)), k] = dy
        return g

    assert gv.check(forward, backward, x="N D", examples=40, properties=("gradient", "special")).ok


def test_a_steep_slope_is_no_jump():
    def forward(x):
        y = np.tanh(1e9 * x)
        return y, y

    report = gv.check(forward, lambda dy, y: dy * 1e9 * (1 - y * y), x="N", examples=40, raises=False)
    assert not report.blocking


@pytest.mark.parametrize("large", [3e10 + 0.5, 1e16, -7e15])
def test_a_stair_is_no_slope_at_large_values(large):
    stair = gv.Layer(lambda x: (np.floor(x), None), lambda dy, _: np.zeros_like(dy), x="N")
    forgotten = gv.Layer(lambda x: (x + 0.0, None), lambda dy, _: np.zeros_like(dy), x="N")
    case = gv.Case("stair", {"x": np.array([large, 0.5])}, {}, seed=1)
    assert not gv.verify(stair, case, ["gradient"]).findings
    assert gv.verify(forgotten, case, ["gradient"]).findings


def unit(least):
    """Rows over their norm, which is `least` at the least, as F.normalize has it; it passes 0 by degrees."""

    def forward(x):
        n = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), least)
        return x / n, (x / n, n)

    def backward(dy, saved):
        y, n = saved
        return np.where(n > least, dy - y * (dy * y).sum(1, keepdims=True), dy) / n

    return forward, backward


@pytest.mark.parametrize("least", [1e-12, 1e-20, 1e-30])
def test_a_slope_that_is_steep_at_zero_is_no_jump(least):
    assert gv.check(*unit(least), x="N D", properties=["gradient", "special"]).ok
    forward, backward = unit(least)
    with pytest.raises(gv.GradientMismatch):
        gv.check(forward, lambda dy, s: backward(dy, (0.5 * s[0], s[1])), x="N D", properties="gradient")


def test_a_jump_at_zero_is_one_over_the_smallest_steps_as_well():
    with pytest.raises(PartlyVerified, match="jumps=True"):
        gv.check(lambda x: (np.sign(x) * (1 + x * x), x), lambda dy, x: dy * 2 * np.abs(x), x="N D", examples=60)
