"""Rules by themselves, each on a dispute of a few numbers: what they take out of it, and what they leave."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate.point import Point
from gradverify.core.judge.dispute import Dispute
from gradverify.core.judge.rules.integral import integral
from gradverify.core.judge.rules.neighbours import kinks_meet
from gradverify.core.judge.rules.outputs_apart import _asked, outputs_apart
from gradverify.core.nouns import DISAGREES, KINK, UNRESOLVED, Case


def dispute(forward, backward, x, v, numerical=0.0, **declaration):
    """All entries of x, where differences are said to have given these numbers."""
    layer = Layer(lambda x: (forward(x), x), backward, name="layer", x="N", **declaration)
    case, _ = evaluate.completed(layer, Case("layer", {"x": np.array(x)}, cotangents=(np.array(v),)))
    point = Point(layer, case)
    n = point.size
    return Dispute(point, np.arange(n), point.gradient(case), np.broadcast_to(numerical, n), np.full(n, 1e-12))


# -- outputs apart -------------------------------------------------------------------------------


def pairs(x):
    """Two outputs, each the larger one of the same two numbers."""
    return np.array([x.max(), x.max()])


def choosing(first, second):
    """A backward that gives x[0] these shares of the two outputs, and x[1] the rest."""
    return lambda dy, x: np.array([first * dy[0] + second * dy[1], (1 - first) * dy[0] + (1 - second) * dy[1]])


@pytest.mark.parametrize(
    ("shares", "legal"),
    [((1.0, 0.0), True), ((0.0, 1.0), True), ((0.5, 0.25), True), ((1.001, 0.0), False), ((0.0, -0.001), False)],
)
def test_each_output_may_choose_for_itself_between_its_two_slopes(shares, legal):
    told = outputs_apart(dispute(pairs, choosing(*shares), [1.0, 1.0], [1.0, -1.0])).verdicts
    assert told.tolist() == [KINK if legal else DISAGREES] * 2


def test_a_choice_is_none_where_no_output_has_a_kink():
    told = outputs_apart(dispute(lambda x: x**2, lambda dy, x: dy * x, [1.0, 3.0], [1.0, -1.0]))
    assert (told.verdicts == DISAGREES).all()
    beside = dispute(
        lambda x: np.append(x**2, x.max()),
        lambda dy, x: dy[:2] * 2 * x + dy[2] * (x >= x.max()),
        [1.0, 3.0],
        [1.0, -1.0, 1.0],
    )
    assert (outputs_apart(beside).verdicts == DISAGREES).all()


@pytest.mark.parametrize(("factor", "legal"), [(3.0, True), (3.1, False)])
def test_an_output_without_a_kink_has_one_slope(factor, legal):
    def backward(dy, x):
        return np.array([dy[0] + factor * dy[1], 0.0])

    told = outputs_apart(dispute(lambda x: np.array([x.max(), 3 * x[0]]), backward, [1.0, 1.0], [1.0, -1.0])).verdicts
    assert told[0] == (KINK if legal else DISAGREES)


@pytest.mark.parametrize(("factor", "verdict"), [(3.0, KINK), (3.1, DISAGREES)])
def test_a_slope_without_a_kink_counts_where_it_is_that_of_one_entry_alone(factor, verdict):
    def forward(x):
        return np.array([max(x[0], 1.0), 3 * x[0], 0 * x[0]])

    told = outputs_apart(dispute(forward, lambda dy, x: dy[:1] + factor * dy[1:2], [1.0], [1.0, -1.0, 2.0]))
    assert told.verdicts.tolist() == [verdict]


def test_an_entry_without_a_kink_is_left_beside_one_that_has_it():
    def forward(x):
        return np.array([max(x[0], x[1]), 3 * x[2]])

    told = outputs_apart(
        dispute(forward, lambda dy, x: np.array([dy[0], 0.0, 3 * dy[1]]), [1.0, 1.0, 2.0], [1.0, -1.0])
    )
    assert told.verdicts.tolist() == [KINK, KINK, DISAGREES]


def test_outputs_say_nothing_of_a_backward_that_is_not_the_sum_of_theirs():
    def backward(dy, x):
        return choosing(1.0, 0.0)(dy, x) + (dy[0] * dy[1] != 0) * 1e-6

    assert (outputs_apart(dispute(pairs, backward, [1.0, 1.0], [1.0, -1.0])).verdicts == DISAGREES).all()


def test_outputs_are_taken_apart_for_few_entries_of_real_outputs_whose_convention_is_open():
    ways = {"entries": 17, "complex": [1.0, 1.0], "left": [1.0, 1.0]}
    many = np.ones(ways["entries"])
    assert not _asked(dispute(lambda x: x * 1.0, lambda dy, x: dy, many, many))
    assert _asked(dispute(lambda x: x * 1.0, lambda dy, x: dy, many[1:], many[1:]))
    assert not _asked(dispute(lambda x: x * 1j, lambda dy, x: (dy * -1j).real, ways["complex"], [1.0 + 0j, 1.0]))
    assert not _asked(dispute(pairs, choosing(1.0, 0.0), ways["left"], [1.0, -1.0], kinks="left"))


def test_a_backward_that_fails_for_one_output_alone_excuses_nothing():
    def backward(dy, x):
        if (dy == 0).any():
            raise ValueError("needs all outputs")
        return choosing(1.0, 0.0)(dy, x)

    assert (outputs_apart(dispute(pairs, backward, [1.0, 1.0], [1.0, -1.0])).verdicts == DISAGREES).all()


# -- integral ------------------------------------------------------------------------------------


def tail(x):
    """1 + tanh, whose slope far in the tail is what rounding to 1 leaves of it."""
    return 1 + np.tanh(x)


def tail_slope(dy, x):
    return dy / np.cosh(x) ** 2


def blunt(factor=1.0, at=None, x=(-17.0,)):
    """The derivative of the tail times a factor, and of the tail at one point alone times a hundred."""

    def backward(dy, x):
        return tail_slope(dy, x) * factor * np.where(x == at, 100.0, 1.0)

    return dispute(tail, backward, list(x), [1.0] * len(x))


def test_a_continuous_gradient_whose_integral_is_right_is_not_refuted_by_a_plateau():
    assert integral(blunt()).verdicts.tolist() == [UNRESOLVED]


def test_one_whose_integral_is_wrong_is_and_one_that_jumps_at_the_point():
    assert integral(blunt(factor=1.3)).verdicts.tolist() == [DISAGREES]
    assert integral(blunt(at=-17.0)).verdicts.tolist() == [DISAGREES]


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_nor_one_that_jumps_on_one_side_of_the_point(side):
    def backward(dy, x):
        return tail_slope(dy, x) * np.where((side * (x + 17) >= 0) & (side * (x + 17) < 1e-5), 100.0, 1.0)

    assert integral(dispute(tail, backward, [-17.0], [1.0])).verdicts.tolist() == [DISAGREES]


def test_what_disagrees_by_more_than_rounding_is_not_integrated():
    clear = dispute(tail, tail_slope, [-17.0], [1.0], numerical=1e-5)
    assert integral(clear).verdicts.tolist() == [DISAGREES]


def test_the_first_entry_that_is_wrong_ends_the_search_and_few_are_looked_at():
    wrong_second = dispute(tail, lambda dy, x: tail_slope(dy, x) * [1.0, 1.3, 1.0], [-17.0, -17.1, -17.2], [1.0] * 3)
    assert integral(wrong_second).verdicts.tolist() == [UNRESOLVED, DISAGREES, DISAGREES]
    many = integral(blunt(x=np.linspace(-17, -16.5, 10))).verdicts
    assert (many[:8] == UNRESOLVED).all() and (many[8:] == DISAGREES).all()


@pytest.mark.parametrize(("spike", "verdict"), [(0.0, UNRESOLVED), (3.0, DISAGREES)])
def test_a_border_beside_the_point_is_told_where_backward_keeps_its_value_for_a_way(spike, verdict):
    """Of code in float32 differences tell the slope beyond; an integral is right whatever backward gives at a spike."""
    at = 1 - 1e-5

    def backward(dy, x):
        return dy * ((x > 1) + spike * (np.abs(x - at) < 5e-6))

    told = integral(dispute(lambda x: np.maximum(x - 1, 0).astype(np.float32), backward, [at], [1.0], 1.0))
    assert told.verdicts.tolist() == [verdict]


def test_a_backward_that_fails_nearby_excuses_nothing():
    def backward(dy, x):
        if x[0] != -17.0:
            raise ValueError("no")
        return tail_slope(dy, x)

    assert integral(dispute(tail, backward, [-17.0], [1.0])).verdicts.tolist() == [DISAGREES]


# -- neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.0, KINK), (1.0, KINK), (1.005, KINK), (1.05, DISAGREES), (-0.05, DISAGREES)],
)
def test_a_slope_within_those_nearby_is_a_kink_and_one_beyond_is_none(share, verdict):
    """100 |x[0] - x[1]| has the slopes -100 and 100, to two in a hundred of what is in dispute."""

    def forward(x):
        return np.array([100 * np.abs(x[0] - x[1])])

    def backward(dy, x):
        return 100 * dy[0] * np.array([2 * share - 1, 1 - 2 * share])

    assert kinks_meet(dispute(forward, backward, [1.0, 1.0], [1.0])).verdicts.tolist() == [verdict] * 2


def test_slopes_that_differ_less_at_nearer_neighbours_are_those_of_a_curve():
    told = kinks_meet(dispute(lambda x: 1e6 * x**2, lambda dy, x: dy * (2e6 * x + 1), [1.0], [1.0], 2e6))
    assert told.verdicts.tolist() == [DISAGREES]


def test_a_smooth_function_has_no_slopes_nearby_but_its_own():
    told = kinks_meet(dispute(np.sin, lambda dy, x: 1.1 * dy * np.cos(x), [0.3, 2.0], [1.0, 1.0], np.cos([0.3, 2.0])))
    assert (told.verdicts == DISAGREES).all()
