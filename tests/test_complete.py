"""The property `complete`: what is no number, and what has too few digits, where everything else is as it should be."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.properties import complete

NAN, INF = np.nan, np.inf


def found(backward, x, forward=lambda x: (2 * x, x), layer=None):
    x = np.asarray(x)
    layer = layer or Layer(forward, backward, name="given", x="*batch")
    return complete.holds(layer, Case("given", {"x": x}, cotangents=(np.ones_like(forward(x)[0]),))).findings


def test_a_gradient_that_is_no_number_is_told_with_its_place_and_the_value_there():
    (finding,) = found(lambda dy, x: np.where(x == 3, NAN, dy), [1.0, 3.0, 3.0])
    assert finding.kind == "nan" and finding.facts == {"index": [1], "value": 3.0}
    assert "NaN at x[1] (2 of 3 entries)" in finding.message
    (finding,) = found(lambda dy, x: NAN * dy, 3.0)
    assert "NaN at x (1 of 1 entries)" in finding.message and finding.facts["index"] == []


@pytest.mark.parametrize("beyond", [NAN, INF])
def test_what_is_not_finite_beside_it_leaves_it_to_others(beyond):
    """An infinite gradient to the comparison; one that is NaN where an output is not finite either, to nobody."""
    assert not found(lambda dy, x: INF * dy, [1.0])
    assert not found(lambda dy, x: NAN * dy, [1.0, 2.0], lambda x: (np.where(x == 1, beyond, x), x))


def narrow(backward, x=(300.0, 1.0)):
    return found(backward, np.array(x, np.float16))


def test_what_leaves_a_narrow_type_on_the_way_is_left_to_precision_and_what_no_type_has_is_not():
    with np.errstate(all="ignore"):
        assert not narrow(lambda dy, x: dy * (x * x * x) / (x * x * x))  # 300^3 has no number in float16
        assert not narrow(lambda dy, x: dy * 1)
        for backward in (lambda dy, x: dy * (x - x) / (x - x), lambda dy, x: dy * np.where(x == 1, NAN, x * x / x)):
            (finding,) = narrow(backward)
            assert finding.kind == "nan"
        single = [1e30, 1.0]
        assert found(lambda dy, x: dy * (x * x) / (x * x), np.array(single, np.float32))  # its range is wide


def test_where_a_wider_type_cannot_be_tried_a_narrow_one_is_believed():
    def backward(dy, x):
        if x.dtype == np.float64:
            raise TypeError("float16 alone")
        return NAN * dy

    (finding,) = narrow(backward)
    assert finding.kind == "nan"

    def other_shape(dy, x):
        return NAN * dy if x.dtype == np.float16 else np.zeros(5)

    assert not narrow(other_shape)  # nothing there says that it is none


@pytest.mark.parametrize(
    ("primal", "output", "gradient", "low"),
    [
        ("f8", "f8", "f4", True),
        ("f8", "f8", "f8", False),
        ("f8", "f4", "f4", False),
        ("f4", "f8", "f4", False),
        ("f4", "f4", "f2", True),
        ("f8", "f8", "i8", True),
    ],
)
def test_a_gradient_has_no_fewer_digits_than_its_primal_or_the_output(primal, output, gradient, low):
    findings = found(lambda dy, x: dy.astype(gradient), np.ones(2, primal), lambda x: ((2 * x).astype(output), None))
    assert [f.kind for f in findings] == (["dtype"] if low else [])


def test_a_kernel_may_give_gradients_in_its_own_type():
    layer = Layer(lambda x: (2 * x, x), lambda dy, x: dy.astype("f4"), name="given", x="*batch")
    assert found(None, np.ones(2), layer=layer)
    for own, low in (("float32", False), ("float16", True)):
        kernel = layer.derive(hooks=replace(layer.hooks, reference=SimpleNamespace(type=own)))
        assert bool(found(None, np.ones(2), layer=kernel)) == low
