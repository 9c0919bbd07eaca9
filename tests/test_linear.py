"""The property `linear`: each way in which a pullback can depend on the size or the zeros of its cotangent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradverify import Case, Layer, verify
from gradverify.core.properties import linear

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


# -- what an iteration leaves undone at an absolute tolerance -------------------------------------


def said(bend, case=CASE):
    """What is found, and what is noted."""
    layer = Layer(lambda x: (3 * x, None), lambda dy, _: bend(3 * dy), name="bent", x="N")
    outcome = linear.holds(layer, case)
    return [finding.kind for finding in outcome.findings], outcome.notes


def stopping(dy, tolerance=1e-6):
    """A grid of absolute numbers, as an iteration leaves that stops at a tolerance."""
    return tolerance * np.round(dy / tolerance)


def test_what_stops_at_a_tolerance_is_noted_and_is_no_finding():
    assert said(stopping) == ([], (linear._STOPS,))
    assert said(lambda dy: dy) == ([], ())


@pytest.mark.parametrize(
    "bend",
    [
        lambda dy: stopping(dy, 0.5),  # a share of the gradient that no iteration may leave undone
        lambda dy: dy * (1 + 1e-5 * (dy != 0).mean()),  # at every size
        lambda dy: np.where(np.abs(dy) > 1e8, 2 * dy, stopping(dy)),  # and for larger ones it is something else
        lambda dy: stopping(dy) + np.where(np.abs(dy) < 0.01, np.nan, 0),
    ],
)
def test_what_only_looks_like_a_tolerance_is_found(bend):
    kinds, notes = said(bend)
    assert set(kinds) == {"nonlinear"} and notes == ()


def test_a_tolerance_that_no_larger_cotangent_can_show_is_found():
    (v,) = CASE.cotangents
    near = CASE.but(cotangents=(1e302 * v,))
    assert said(lambda dy: stopping(dy, 1e296), near)[0] == ["nonlinear"]
    assert said(lambda dy: stopping(dy, 1e284), CASE.but(cotangents=(1e290 * v,))) == ([], (linear._STOPS,))


def two(bend_x, bend_y):
    def backward(dy, _):
        return bend_x(3 * dy), bend_y(dy)

    layer = Layer(lambda x, y: (3 * x + y, None), backward, name="bent", x="N", y="N")
    (v,) = CASE.cotangents
    outcome = linear.holds(layer, Case("bent", {"x": v, "y": v}, cotangents=(v,)))
    return sorted(finding.primal for finding in outcome.findings), outcome.notes


def test_every_primal_that_is_not_linear_must_be_as_a_tolerance_leaves_it():
    assert two(stopping, stopping) == ([], (linear._STOPS,))
    assert two(stopping, lambda dy: dy) == two(lambda dy: dy, stopping) == ([], (linear._STOPS,))
    found, notes = two(stopping, lambda dy: stopping(dy, 0.5))
    assert "y" in found and notes == ()


def test_a_gradient_that_is_read_by_a_subtraction_is_rounded_by_as_much_at_every_size():
    layer = Layer(lambda x: (3 * x, None), lambda dy, _: stopping(3 * dy), name="bent", x="N")
    layer = layer.derive(hooks=replace(layer.hooks, gradient_rounding=lambda primals: {"x": 1e-6}))
    outcome = linear.holds(layer, CASE)
    assert outcome.findings == outcome.notes == ()


def test_what_says_nothing_is_a_number_near_either_end_of_its_type():
    for dtype in (np.float64, np.float32):
        ends = np.finfo(dtype)
        for beyond in (float(ends.max) * 2e-6, float(ends.tiny) * 5e5, np.inf):
            assert not linear._in_range([np.ones(2, dtype), np.array([1, beyond], dtype)])
        assert linear._in_range([np.array([0, float(ends.max) * 5e-7, float(ends.tiny) * 2e6], dtype), np.ones(2, int)])


def test_a_cotangent_of_zero_is_told_beside_what_else_is_found_but_once_for_each_primal():
    def forward(x, y):
        return 3 * x + y, None

    def backward(dy, _):
        return 3 * dy + 1.0, dy + (0.0 if dy.any() else 2.0)

    layer = Layer(forward, backward, name="bent", x="N", y="N")
    (v,) = CASE.cotangents
    found = linear.holds(layer, Case("bent", {"x": v, "y": v}, cotangents=(v,))).findings
    assert [finding.primal for finding in found] == ["x", "y"]
    assert "sum of two" in found[0].message and "largest entry 2" in found[1].message


def test_what_a_gradient_is_rounded_by_anyway_is_no_gradient_of_zero():
    layer = Layer(lambda x: (3 * x, None), lambda dy, _: 3 * dy + (0.0 if dy.any() else 1e-3), name="bent", x="N")
    assert linear.holds(layer, CASE).findings
    layer = layer.derive(hooks=replace(layer.hooks, gradient_rounding=lambda primals: {"x": 1e-2}))
    assert not linear.holds(layer, CASE).findings


def test_which_cotangents_are_asked_and_how_many_entries_that_compares():
    seen = []

    def pull(dy):
        seen.append(dy / 3)
        return dy

    layer = Layer(lambda x: (3 * x, None), lambda dy, _: pull(3 * dy), name="bent", x="N")
    assert linear.holds(layer, CASE).entries == 3 * 6  # of each multiple
    (v,) = CASE.cotangents
    for factor in (0.0, 1.0, 2.0, 1024.0, 1 / 1024):
        assert any(np.allclose(dy, factor * v, rtol=1e-12, atol=0) for dy in seen)


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.3, 1)])
def test_rounding_of_terms_that_cancel_to_less_than_themselves_is_no_bend(share, wrong):
    """x - tanh(x) near 0, as dy - dy (1 - t^2): what is left of it is a few roundings of the cotangent."""

    def backward(dy, t):
        return dy - dy * (1 - t * t) + share * 1e-12 * dy * np.abs(dy)

    layer = Layer(lambda x: (x - np.tanh(x), np.tanh(x)), backward, name="shrink", x="N D")
    x = np.array([[-2.74755946e-08, -2.88268183e-09], [-3.66210010e-09, 4.26657284e-09]])
    case = Case("shrink", {"x": x}, cotangents=(np.array([[1.7, 0.3], [-1.4, -1.0]]),))
    for seed in range(8):
        assert len(linear.holds(layer, replace(case, seed=seed)).findings) == wrong


def attended(H, W, a):
    """Nodes that look at one another, each with the score leaky(a . Wh): equal scores in a row, however large."""
    Z = H @ W
    s = np.repeat((Z @ a)[:, None], len(H), 1)
    e = np.where(s > 0, s, 0.2 * s)
    p = np.exp(e - e.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p @ Z, (H, W, a, Z, s, p)


def attended_back(dy, saved, bent=False):
    H, W, a, Z, s, p = saved
    dp = dy @ Z.T
    de = p * (dp - (dp * p).sum(1, keepdims=True))
    r = np.where(s > 0, de, 0.2 * de).sum(1)
    dZ = p.T @ (np.abs(dy) if bent else dy) + np.outer(r, a)
    return dZ @ W.T, H.T @ dZ, Z.T @ r


@pytest.mark.parametrize("bent", [False, True])
def test_terms_that_are_heard_only_where_what_was_saved_moves_are_rounded_too(bent):
    """Scores of 1e30 that are equal: primals that move break the tie, and no term is left that could be rounded."""
    layer = Layer(attended, lambda dy, s: attended_back(dy, s, bent), name="attended", H="N D", W="D E", a="E")
    primals = {"H": np.array([[-2.0], [-1.0]]), "W": np.array([[0.0, 1.0]]), "a": np.array([0.0, 1e30])}
    case = Case("attended", primals, cotangents=(np.array([[0.0, 0.0], [0.0, 1.0]]),))
    seeds = [replace(case, seed=seed) for seed in range(12)]
    assert not any(linear.holds(layer, at).findings for at in seeds)
    dy = (np.array([[1.0, -0.4], [-0.7, 1.2]]),)
    small = [replace(at, primals={**primals, "a": np.array([0.0, 1.0])}, cotangents=dy) for at in seeds]
    assert bent == any(linear.holds(layer, at).findings for at in small)
