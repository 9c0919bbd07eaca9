"""How many digits a backward may lose: what its arithmetic must, and a few roundings; on numbers that can be read."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import AGREES, DISAGREES, UNRESOLVED
from gradverify.core.properties import precision

EPS32 = 2.0**-23
FACTOR = 32.0
SINGLE = np.dtype(np.float32)


def layer_of(backward, forward=lambda x: (x * 1, x), **more):
    return Layer(forward, backward, name="layer", x="N", **more)


def case_of(x, dtype=np.float32, seed=0):
    x = np.asarray(x, dtype)
    return Case("layer", {"x": x}, cotangents=(np.ones(x.shape, dtype),), seed=seed)


PLAIN = layer_of(lambda dy, x: dy * 1)
X = np.linspace(0.3, 1.9, 8)


def rounded(digits):
    """A backward that keeps so many binary digits of what it gives."""
    return layer_of(lambda dy, x: (dy * x * (1 + 2.0**-digits * (x.dtype == SINGLE))).astype(x.dtype), square)


def square(x):
    return x * x / 2, x


# -- what is judged, and where -------------------------------------------------------------------


def test_half_of_the_digits_are_needed_for_a_finding():
    for digits, wrong in ((22, False), (14, False), (12, True), (6, True)):
        assert bool(precision.holds(rounded(digits), case_of(X)).findings) == wrong, digits


def test_a_finding_tells_how_many_digits_are_lost_and_how_many_are_right():
    (finding,) = precision.holds(rounded(7), case_of(X)).findings
    assert finding.kind == "precision" and finding.facts["dtype"] == "float32" and finding.facts["wrong"] == 8
    assert finding.facts["digits_right"] == pytest.approx(7 * np.log10(2), abs=0.01)
    assert 2 < finding.facts["digits_lost"] < 5
    assert "in float32 the gradient of x loses" in finding.message and "(2.1 digits right)" in finding.message


@pytest.mark.parametrize(
    ("layer", "case", "words"),
    [
        (PLAIN, case_of(X, np.float64), "no primal is of a lower type than float64"),
        (PLAIN, case_of([32.5]), "values up to 32"),
        (layer_of(lambda dy, x: dy, lambda x: (x / 0, x)), case_of(X), "forward overflows"),
        (layer_of(lambda dy, x: dy.astype(np.float32)), case_of(X), "stays in float32 when given float64"),
        (
            layer_of(lambda dy, x: dy if x.dtype == SINGLE else dy.nothing),
            case_of(X),
            "does not run with float64",
        ),
    ],
)
def test_a_case_that_tells_nothing_is_skipped_with_its_reason(layer, case, words):
    with np.errstate(all="ignore"):
        assert words in precision.holds(layer, case).skipped


def test_a_tail_that_is_one_minus_nearly_one_loses_its_digits_in_float32():
    softplus = lambda x: (np.logaddexp(0, x), x)  # noqa: E731
    right = layer_of(lambda dy, x: dy * np.exp(-np.logaddexp(0, -x)), softplus)
    wrong = layer_of(lambda dy, x: dy * (1 - 1 / (1 + np.exp(x))), softplus)
    case = case_of([-14.0, -13.0])
    assert not precision.holds(right, case).findings
    assert precision.holds(wrong, case).findings


def test_an_entry_that_vanishes_beside_1_may_lie_on_either_side_of_a_border():
    stairs = lambda x: ((x + 1 - np.floor(x + 1)) ** 2, x)  # noqa: E731
    right = layer_of(lambda dy, x: 2 * dy * (x + 1 - np.floor(x + 1)), stairs)
    for case in (case_of([-2e-11]), case_of([-2e-11, 0.7, -2e-3])):
        assert not precision.holds(right, case).findings
    assert precision.holds(layer_of(lambda dy, x: dy * ((x + 1e4) - 1e4) * 2, stairs), case_of([0.3, 0.7])).findings


def test_what_is_0_but_for_what_forward_loses_is_right():
    def forward(x):
        apart = x - x.mean(0)
        scale = 1 / np.sqrt((apart * apart).mean(0) + x.dtype.type(1e-5))
        return apart * scale, (apart, scale)

    def backward(dy, saved):
        y = saved[0] * saved[1]
        return saved[1] * (dy - dy.mean(0) - y * (dy * y).mean(0))

    norm = Layer(forward, backward, name="norm", x="N D")
    assert not precision.holds(norm, case_of([[-2.9879398], [-3.0], [-3.0]])).findings


def test_moments_that_cancel_are_no_rounding_of_what_was_saved():
    def forward(x):
        mean = x.mean(1, keepdims=True)
        scale = 1 / np.sqrt(((x - mean) ** 2).mean(1, keepdims=True) + x.dtype.type(1e-5))
        return (x - mean) * scale, (x, mean, scale)

    def backward(dy, saved, cancels=False):
        x, mean, scale = saved
        if cancels:
            scale = 1 / np.sqrt(np.maximum((x * x).mean(1, keepdims=True) - mean**2, 0) + x.dtype.type(1e-5))
        y = (x - mean) * scale
        return scale * (dy - dy.mean(1, keepdims=True) - y * (dy * y).mean(1, keepdims=True))

    case = case_of(5 + 0.01 * np.random.default_rng(0).standard_normal((3, 4))).but(cotangents=None)
    right, wrong = (
        Layer(forward, lambda dy, saved, c=c: backward(dy, saved, c), name="norm", x="N D") for c in (False, True)
    )
    assert not precision.holds(right, case).findings
    assert precision.holds(wrong, case).findings


def test_values_up_to_32_are_moderate_in_single_and_up_to_100000_in_double():
    assert precision.holds(PLAIN, case_of([32.0])).skipped is None
    for value, skipped in ((1e5, False), (1.1e5, True)):
        told = precision.holds(PLAIN, case_of([value], np.float64), precision.DOUBLE, np.longdouble)
        assert (told.skipped is not None) == skipped
    assert "no primal is of float64" in precision.holds(PLAIN, case_of(X), precision.DOUBLE, np.longdouble).skipped


def test_double_precision_is_judged_where_there_are_more_digits():
    def tail(digits):
        wide = np.dtype(np.longdouble)
        return layer_of(lambda dy, x: dy * x * (1 + 2.0**-digits * (x.dtype != wide)), square)

    for digits, wrong in ((40, False), (20, True)):
        told = precision.holds(tail(digits), case_of(X, np.float64), precision.DOUBLE, np.longdouble)
        assert bool(told.findings) == wrong
    assert "in float64 the gradient of x loses" in told.findings[0].message
    assert "with more digits" in told.findings[0].message
    more = np.finfo(np.longdouble).eps < np.finfo(float).eps
    assert (precision.more_digits(PLAIN) is None) == more


# -- what is unavoidable ---------------------------------------------------------------------------


def test_what_moves_with_the_inputs_digits_is_unavoidable():
    """x - 1 near 1 has lost what x was rounded by; the difference itself is exact."""
    layer = layer_of(lambda dy, x: dy * (x - 1), lambda x: ((x - 1) ** 2 / 2, x))
    case = case_of(1 + 1e-3 * X, np.float64)
    truth = exact.gradients(layer, case)
    spread = precision.unavoidable(layer, case, truth, EPS32)["x"]
    assert (spread <= 2 * EPS32 * (1 + 2e-3)).all() and (spread > 0.2 * EPS32).all()
    assert (precision.unavoidable(layer, case, truth, EPS32, 60)["x"] >= spread).all()


def test_zeros_that_tie_move_where_they_are_told_to_and_a_single_one_does_not():
    rng = np.random.default_rng(0)
    for zeros, ties, moves in ((2, True, True), (2, False, False), (1, True, False)):
        array = np.append(np.zeros(zeros), [1.0, 2.0])
        moved = precision._moved(array, 0.1, rng, ties)
        assert moved[:zeros].any() == moves and (np.abs(moved - array) <= 0.1 * np.maximum(array, 1)).all()
    assert precision._moved(np.array([1, 2]), 0.1, rng).tolist() == [1, 2]


def test_a_forward_loses_what_its_outputs_differ_by_relative_to_their_size():
    case, layer = case_of(X), layer_of(lambda dy, x: dy, lambda x: (x * (1 + 3e-4 * (x.dtype == SINGLE)), x))
    assert precision._forward_loses(layer, case, np.float64, EPS32) == pytest.approx(3e-4, rel=1e-2)
    assert precision._forward_loses(PLAIN, case, np.float64, EPS32) <= EPS32


def test_a_backward_may_lose_ten_times_the_digits_that_its_forward_does():
    """Of a p that is rounded, both log p and its slope are."""

    def forward(x):
        return x * (1 + 1e-4 * (x.dtype == SINGLE)), x

    for scale in (1e-2, 1.0, 1e2):
        for off, wrong in ((9e-4, False), (2e-3, True)):
            layer = layer_of(
                lambda dy, x, scale=scale, off=off: (scale * dy * (1 + off * (x.dtype == SINGLE))).astype(x.dtype),
                lambda x, scale=scale: (scale * forward(x)[0], x),
            )
            assert bool(precision.holds(layer, case_of(X)).findings) == wrong


# -- terms, and the comparison ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "outputs", "size"),
    [
        ([3.0, 4.0], [5.0, -50.0], 50 / 0.5),  # where entries are nearly the same their spread is the smaller
        ([2.0, -2.0], [5.0, -50.0], 50 / 2.0),
        ([0.0, 0.0], [5.0, 1.0], 5.0),
        ([2.0, -2.0], [0.0, 0.0], 0.0),
    ],
)
def test_terms_are_outputs_over_entries_or_over_their_spread(x, outputs, size):
    assert precision._terms(case_of(x, np.float64), "x", (np.array(outputs),)) == pytest.approx(size)
    assert precision._terms(case_of([], np.float64), "x", ()) == 0.0
    turned = Case("layer", {"x": np.array([3j, 4.0])}, cotangents=(np.ones(2),))
    assert precision._terms(turned, "x", (np.array([5.0, -50.0]),)) == pytest.approx(50 / 0.5)


def compared(judged, truth, spread, terms=0.0):
    return precision._compare(PLAIN, "x", np.array(judged), np.array(truth), np.array(spread), SINGLE, terms)


def test_an_entry_may_be_off_by_its_spread_or_the_usual_one_and_by_some_roundings():
    spread = 1e-4
    bound = FACTOR * (spread + EPS32)
    for off, verdict in ((0.99, AGREES), (1.01, DISAGREES)):
        told = compared([1 + off * bound, 1.0, 1.0], [1.0] * 3, [spread] * 3)
        assert told.verdicts.tolist() == [verdict, AGREES, AGREES]
    told = compared([1.0] * 3, [1.0] * 3, [0.0, spread, 10 * spread])
    assert told.bound == pytest.approx(FACTOR * (np.array([spread, spread, 10 * spread]) + EPS32))
    terms = 50.0
    assert compared([1.0], [1.0], [spread], terms).bound == pytest.approx([bound + FACTOR * EPS32 * terms])


def test_half_of_the_digits_are_always_allowed_also_of_a_thousandth_of_the_largest():
    told = compared([1.0, 1e-9, 0.0], [1.0, 1e-9, 0.0], [0.0] * 3)
    assert told.bound == pytest.approx(precision.LOST * EPS32**0.5 * np.array([1.0, 1e-3, 1e-3]))


def test_what_is_beyond_the_type_is_open_and_what_is_not_finite_is_wrong():
    huge = 0.11 / float(np.finfo(SINGLE).tiny)
    told = compared([1.0, huge, np.nan, np.inf], [np.nan, huge, 1.0, 1.0], [0.0] * 4)
    assert told.verdicts.tolist() == [UNRESOLVED, UNRESOLVED, DISAGREES, DISAGREES]


def test_neighbours_stay_in_the_domain_beyond_which_forward_refuses_to_run():
    def forward(p, t):
        if (t < 0).any() or (t > 1).any():
            raise ValueError("targets lie between 0 and 1")
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)), (p, t)

    def backward(dy, saved):
        p, t = saved
        return dy * (p - t) / (p * (1 - p)), dy * (np.log(1 - p) - np.log(p))

    layer = Layer(forward, backward, name="bce", p="N: between 0.1 0.9", t="N: between 0 1")
    case = Case("bce", {"p": np.array([0.4, 0.8, 0.7], np.float32), "t": np.array([1.0, 0.185, 0.0], np.float32)})
    for seed in range(8):
        outcome = precision.holds(layer, case.but(seed=seed))
        assert not outcome.findings and outcome.skipped is None
