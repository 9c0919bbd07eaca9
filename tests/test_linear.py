"""The property `linear`: each way in which a pullback can depend on the size or the zeros of its cotangent."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer, verify

CASE = Case("bent", {"x": np.linspace(0.5, 2.0, 6)}, cotangents=(np.array([0.9, -0.7, 0.4, 1.2, -0.3, 0.6]),))


def found(bend, factor=3.0):
    layer = Layer(lambda x: (factor * x, None), lambda dy, _: bend(factor * dy), name="bent", x="N")
    return [finding.message for finding in verify(layer, CASE, "linear").findings]


def first_alone(dy):
    dy = dy.copy()
    dy[0] = 1.0 if not dy.any() else dy[0]
    return dy


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        (lambda dy: np.sign(dy) * np.linalg.norm(dy), "for the sum of two cotangents"),
        (lambda dy: dy * (dy != 0).mean(), "for the sum of two cotangents"),  # half of one cotangent is 0
        (lambda dy: np.clip(dy, -100, 100), "1024 times as large"),
        (lambda dy: np.where(np.abs(dy) > 0.01, dy, 0), "1024 times as small"),
        (lambda dy: np.where(np.abs(np.abs(dy) - 5.4) < 0.1, 0, dy), "doubled"),
        (first_alone, "for a cotangent of zero the gradient of x is not zero (largest entry 1)"),
    ],
)
def test_what_is_not_linear_is_found_where_it_shows(bend, said):
    (message,) = found(bend)
    assert said in message


@pytest.mark.parametrize("factor", [3.0, 1e305, 1e-306])
def test_what_is_linear_passes_also_where_its_multiples_leave_the_type(factor):
    assert not found(lambda dy: dy, factor)


def test_what_leaves_the_type_on_the_way_to_a_multiple_is_not_called_wrong():
    """512 times the gradient has a number, and 512 times 1024 times the gradient has none."""
    assert not found(lambda dy: dy * 512 / 512, 1e303)


def test_the_doubled_cotangent_is_tried_wherever_it_has_a_number():
    (message,) = found(lambda dy: np.where(np.isclose(np.abs(dy), 1.8e303, rtol=1e-9), 0, dy), 1e303)
    assert "doubled" in message
