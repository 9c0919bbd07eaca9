"""Perturbed copies that are joined along an axis of the layer's own."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import check
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Case

RNG = np.random.default_rng(5)
X, W = RNG.standard_normal((5, 4)), RNG.standard_normal(4)


class Counted:
    """A forward that counts its calls."""

    def __init__(self, forward):
        self.forward, self.calls = forward, 0

    def __call__(self, *primals):
        self.calls += 1
        return self.forward(*primals), None


def standardised(x, w):
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * w


def slopes(forward, **dims):
    """How many forwards it takes to move every entry both ways; the changes are those of copies one by one."""
    primals = {"x": X, "w": W} if "w" in dims else {"x": X}
    case = Case("layer", primals, {}, (np.ones_like(forward(*primals.values())),), None, 0, None)
    together, alone = Counted(forward), Counted(forward)
    found = []
    for counted in (together, alone):
        point = Point(Layer(counted, lambda dy, saved: None, name="layer", **dims), case)
        if counted is alone:
            point._beside.axes = {}
        counted.calls = 0
        step = np.full(point.size, 1e-5)
        found.append(point.slopes(np.arange(point.size), step, -step).change)
    np.testing.assert_array_equal(*found)
    assert alone.calls >= 2 * point.size
    return together.calls


def test_rows_of_a_batch_share_a_forward_and_weights_do_not():
    assert slopes(lambda x: standardised(x, 1.0), x="N D") < 12  # of 40 copies, and those that measure the noise
    assert 2 * W.size <= slopes(standardised, x="N D", w="D") < 2 * W.size + 15


def test_any_axis_that_primals_and_outputs_have_is_tried():
    assert slopes(lambda x: x.T.cumsum(axis=1), x="T D") < 12 + 12  # T is refused, D is not


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x - x.mean(axis=0, keepdims=True) + x.mean(axis=1, keepdims=True),
        lambda x: np.cumsum(np.cumsum(x, axis=0), axis=1)[: len(x)],
        lambda x: x / x.size + x.sum(axis=1).sum() * 0,
        lambda x: np.array([x.sum(axis=1).max()]),
    ],
    ids=["mean of the batch", "runs along both axes", "divides by the size", "one number"],
)
def test_what_sees_the_whole_batch_goes_one_by_one(forward):
    assert slopes(forward, x="N D") >= 2 * X.size


def test_a_mean_over_the_batch_is_differentiated_as_it_is():
    def forward(x):
        return x * (x - x.mean(axis=0)[None, :]).sum(axis=1)[:, None], x

    def backward(dy, x):
        gap = (x - x.mean(axis=0)[None, :]).sum(axis=1)[:, None]
        inner = (dy * x).sum(axis=1, keepdims=True) * np.ones_like(x)
        return dy * gap + inner - inner.mean(axis=0)

    assert check(forward, backward, x="N D", examples=20).ok
    wrong = lambda dy, x: backward(dy, x) + (dy * x).sum(axis=1, keepdims=True).mean(axis=0)  # noqa: E731
    assert check(forward, wrong, x="N D", examples=20, raises=False).findings
