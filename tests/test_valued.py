"""Signatures of values: ties, borders, singular points and tails, each told by what makes the gradient right again."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer, verify
from gradverify.core.diagnose import diagnose


def told(backward, x, forward=lambda x: (x * x, x), properties="gradient", dims="N", **more):
    """By name, what a finding on a case looks like."""
    x = np.array(x, float)
    layer = Layer(forward, backward, name="given", x=dims, **more)
    with np.errstate(all="ignore"):
        (finding,) = verify(layer, Case("given", {"x": x}, seed=1), properties).findings
        return {d.name: d.text for d in diagnose(layer, finding, 60.0)}


def test_values_that_are_equal_are_told_from_values_that_are_exact():
    def among_equals(dy, x):
        return 2 * x * dy * (1 + (np.sum(x[:, None] == x[None], 1) > 1))

    assert "it is wrong at ties (x = 1.5)" in told(among_equals, [1.5, -0.5, 1.5])["tie"]

    def at_a_border(dy, x):
        return np.where(x == 1.5, 3 * x * dy, 2 * x * dy)

    said = told(at_a_border, [1.5, -0.5, 0.25])["tie"]
    assert said == "the gradient of x is wrong at exactly x = 1.5, and right a thousandth beside: a border or a kink"


def test_a_point_where_a_gradient_is_no_number_is_named_by_what_must_be_filled():
    def norm(x):
        r = np.sqrt((x * x).sum(-1, keepdims=True) + 1e-2)
        return x / r, (x, r)

    def unguarded(dy, saved):
        x, r = saved
        return dy / r - x * (dy * x).sum(-1, keepdims=True) / r**3 + 0 / (x * x).sum(-1, keepdims=True)

    said = told(unguarded, [[0.0, 0.0], [1.0, 2.0]], norm, "complete", "N D")
    assert "is NaN or infinite at a vector x that is all zero, and right a thousandth beside it" in said["singular"]
    said = told(lambda dy, x: 2 * x * dy + 0 / x, [0.0, 1.0], properties="complete")
    assert "is NaN or infinite at x = 0, and" in said["singular"]
    said = told(lambda dy, x: 2 * x * dy + 0 / (x - 1.5), [1.5, 1.0], properties="complete")
    assert "is NaN or infinite at exactly these values, and" in said["singular"]
    said = told(lambda dy, x: np.where(x == 0, dy, 2 * x * dy), [0.0, 1.0])
    assert "is wrong at x = 0, and" in said["singular"]


@pytest.mark.parametrize(
    ("beyond", "what", "properties"),
    [(0.0, "exactly zero", "gradient"), (1.0, "wrong", "gradient"), (np.nan, "NaN or infinite", "complete")],
)
def test_a_tail_is_told_with_where_it_begins(beyond, what, properties):
    said = told(lambda dy, x: np.where(np.abs(x) > 40, beyond * dy, 2 * x * dy), [50.0, 1.0], properties=properties)
    assert f"is {what} for large values only: from about 40" in said["tail"]
    assert said["tail"].endswith("a formula that overflows, cancels or saturates")


def test_a_tail_that_begins_where_nothing_saturates_is_a_branch():
    said = told(lambda dy, x: np.where(np.abs(x) > 3, dy, 2 * x * dy), [5.0, 1.0])
    assert "from about 3 on" in said["tail"] and said["tail"].endswith("a branch or a clamp of its own there")
