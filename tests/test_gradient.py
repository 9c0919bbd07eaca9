"""The gradient property itself: which entries are compared, and how far a backward is rounded."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core import tuning
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import AGREES, DISAGREES, UNRESOLVED, Comparison
from gradverify.core.properties import gradient


def layer_of(backward, forward=lambda x: (x * x / 2, x), **more):
    return Layer(forward, backward, name="layer", x="N", **more)


def case_of(x, **more):
    x = np.asarray(x)
    return Case("layer", {"x": x}, cotangents=(np.ones(x.shape),), **more)


RIGHT = layer_of(lambda dy, x: dy * x)
X = np.linspace(0.3, 1.9, 8)


def test_a_forward_that_is_not_finite_has_nothing_to_differentiate():
    with np.errstate(all="ignore"):
        assert gradient.holds(layer_of(lambda dy, x: dy, lambda x: (x / 0, x)), case_of(X)).skipped == gradient.NOTHING
        one = layer_of(lambda dy, x: dy, lambda x: (x / (x - X[3]), x))
        assert gradient.holds(one, case_of(X)).skipped == gradient.NOTHING
        two = layer_of(lambda dy, x: dy[0], lambda x: ((x, x / 0), x))
        assert gradient.holds(two, Case("layer", {"x": X}, cotangents=(X, X))).skipped == gradient.NOTHING


def test_what_is_not_differentiable_or_fixed_to_a_low_type_is_not_asked():
    class Fixed:
        eps = 1e-3

    assert gradient.applies(RIGHT) is None
    assert "no primal" in gradient.applies(layer_of(lambda dy, x: None, constants=("x",)))
    fixed = RIGHT.derive(hooks=type(RIGHT.hooks)(reference=Fixed()))
    assert "reference judges it" in gradient.applies(fixed)


def test_low_types_are_differentiated_in_float64_and_others_as_they_are():
    for dtype, working in ((np.float16, np.float64), (np.float32, np.float64), (np.float64, None), (np.int64, None)):
        assert gradient.working_dtype(case_of(np.ones(2, dtype))) is working
    mixed = Case("layer", {"a": np.ones(1, np.float32), "b": np.ones(1)})
    assert gradient.working_dtype(mixed) is None
    assert gradient.holds(RIGHT, case_of(X.astype(np.float32))).compared[0].verdicts.tolist() == [AGREES] * 8
    coarse = layer_of(lambda dy, x: dy * x * (1 + 0.01 * (x.dtype == np.float32)))  # for the property precision
    assert gradient.holds(coarse, case_of(X.astype(np.float32))).compared[0].verdicts.tolist() == [AGREES] * 8


def test_code_that_computes_in_float32_is_judged_as_such():
    def forward(x):
        y = np.tanh(x.astype(np.float32))
        return y.astype(np.float64), y

    def backward(dy, y):
        return dy.astype(np.float32) * (1 - y * y)

    for factor, wrong in ((1.0, False), (1.1, True)):
        layer = layer_of(lambda dy, y, factor=factor: factor * backward(dy, y), forward)
        assert gradient.holds(layer, case_of(X)).compared[0].wrong.any() == wrong


def test_what_is_verified_is_told_of_each_output_as_well_where_that_is_asked():
    layer = Layer(
        lambda x: ((x * x, 3 * x), x), lambda dy, x: 2 * x * dy[0] + 3 * dy[1], name="layer", x="N",
        returns={"square": "N", "triple": "N"},
    )  # fmt: skip
    case = Case("layer", {"x": X}, cotangents=(np.ones(8), np.ones(8)))
    with tuning.using(tuning.Tuning(outputs=True)):
        assert set(gradient.holds(layer, case).outputs) == {"square", "triple"}
    with tuning.using(tuning.Tuning(outputs=False)):
        assert not gradient.holds(layer, case).outputs


def test_entries_are_counted_that_are_finite_and_findings_are_of_what_is_wrong():
    def backward(dy, x):
        g = dy * x
        g[0], g[1] = np.nan, 5.0
        return g

    outcome = gradient.holds(layer_of(backward), case_of(X))
    assert outcome.entries == 7
    (finding,) = outcome.findings
    assert finding.primal == "x" and finding.comparison.verdicts[1] == DISAGREES
    assert finding.comparison.verdicts[2:].tolist() == [AGREES] * 6


def test_only_primals_in_question_are_compared():
    two = Layer(lambda a, b: (a + b, None), lambda dy, _: (dy, dy), name="layer", a="N", b="N")
    assert gradient.asked(two) == {"a", "b"}
    with tuning.using(tuning.Tuning(known=frozenset({"a"}))):
        assert gradient.asked(two) == {"b"}
    with tuning.using(tuning.Tuning(only="a")):
        assert gradient.asked(two) == {"a"}
    with tuning.using(tuning.Tuning(only="a", known=frozenset({"a"}))):
        assert gradient.asked(two) == set()


def test_a_gradient_that_is_declared_zero_must_be_and_is_not_differenced():
    for given, verdict in ((0.0, AGREES), (1e-300, DISAGREES)):
        layer = layer_of(lambda dy, x, given=given: dy * 0 + given, zero="x")
        compared = gradient.holds(layer, case_of(X)).compared[0]
        assert compared.verdicts.tolist() == [verdict] * 8 and not compared.numerical.any()


def test_of_a_large_layer_a_sample_is_compared_and_what_a_screen_points_at():
    size = 3000

    def backward(dy, x):
        g = dy * x
        g[1234] *= 1.01
        return g

    x = np.random.default_rng(0).uniform(0.5, 1.5, size)
    with tuning.using(tuning.Tuning(sweep_limit=size - 1, sample=16)):
        right = gradient.holds(RIGHT, case_of(x)).compared[0]
        wrong = gradient.holds(layer_of(backward), case_of(x)).compared[0]
    assert np.count_nonzero(right.verdicts == AGREES) == 16
    assert np.count_nonzero(right.verdicts == UNRESOLVED) == size - 16
    assert right.because() == {("unresolved", "screened"): size - 16}
    assert np.flatnonzero(wrong.wrong).tolist() == [1234]
    with tuning.using(tuning.Tuning(sweep_limit=size, sample=16)):
        every = gradient.holds(RIGHT, case_of(x)).compared[0]
    assert (every.verdicts == AGREES).all()


# -- how far a backward is rounded --------------------------------------------------------------


def rounding(backward, x, **more):
    layer = layer_of(backward)
    case = case_of(x)
    point = Point(layer, case)
    return gradient.backward_rounding(point, case, point.gradient(case), **more)


def test_a_backward_is_rounded_by_eight_times_what_a_unit_in_the_last_place_moves_it():
    eps = 2.0**-52
    spread = rounding(lambda dy, x: dy * (1 + 1e6 * (x - X)), X)
    assert (spread >= 8 * 1e6 * eps * X / 2).all() and (spread <= 8 * 1e6 * 2 * eps * X + 8e-15).all()
    assert (rounding(lambda dy, x: dy * 3, X) <= 8 * 3 * 2 * eps).all()


def test_many_draws_show_what_few_may_miss():
    """One entry in eight is moved by only one of some draws."""
    few, many = (rounding(lambda dy, x: dy * (1 + 1e6 * (x - X)), X, small=small) for small in (False, True))
    assert (many >= few).all()


def test_a_backward_that_fails_beside_the_point_has_no_rounding_to_tell():
    def picky(dy, x):
        if not np.array_equal(x, X):
            raise ValueError("elsewhere")
        return dy * 0 + 1.0

    assert rounding(picky, X).tolist() == [0.0] * 8


def test_a_backward_with_more_digits_shows_what_it_has_lost():
    """1e17 + x - 1e17 is 0 or 16 in float64, for every neighbour, and x in longdouble."""
    if np.finfo(np.longdouble).eps == np.finfo(float).eps:
        pytest.skip("no type with more digits")
    spread = rounding(lambda dy, x: dy * ((1e17 + x) - 1e17), X)
    assert spread == pytest.approx(8 * X, rel=0.1)


def test_two_numbers_that_look_alike_are_written_with_the_digits_that_tell_them_apart():
    a, n = np.array([1.0000001, 2.0]), np.array([1.0, 2.0])
    verdicts = np.array([DISAGREES, AGREES], np.int8)
    told = gradient.finding(case_of([1.0, 2.0]), Comparison("x", a, n, np.full(2, 1e-9), verdicts, 2.0, ("N",)))
    assert told.message == (
        "the gradient of x is wrong in 1 of 2 entries: at x[0] analytic 1.0000001, numerical 1 ± 1e-09"
    )
    third = Comparison("x", a[:1] * 4 / 3, n[:1], np.full(1, 1e-9), verdicts[:1], 2.0, ("N",))
    assert "analytic 1.33333, numerical 1 ± 1e-09" in gradient.finding(case_of([1.0]), third).message
    one = Comparison("x", a[:1] + 1, n[:1], np.full(1, 1e-9), verdicts[:1], 2.0, ("N",))
    assert "in 1 of 1 entry: at x[0] analytic 2, numerical 1 ± 1e-09" in gradient.finding(case_of([1.0]), one).message
