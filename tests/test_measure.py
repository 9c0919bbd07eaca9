"""What one measurement says, on numbers that can be read: verdict, scale, reason, and what widens its bound."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.differentiate.central import best_step
from gradverify.core.differentiate.ladder import RATIO
from gradverify.core.differentiate.point import Point
from gradverify.core.judge import measure
from gradverify.core.judge.sweep import _clearest, _untold
from gradverify.core.judge.verdicts import Sweep, judge
from gradverify.core.nouns import AGREES, DISAGREES, UNRESOLVED, Estimate

EPS = 2.0**-52
FIRM, WIDE, COARSE, ROUNDINGS, CLEAR = 8.0, 1e-3, 1e-4, 1e-14, 100.0  # as the pages state them


def said(analytic, value, bound, scale=1.0):
    return judge(np.array([analytic]), np.array([value]), np.array([bound]), np.array([scale]))[0]


def about(size=4, slots=((0, 4),), **facts):
    """A point, as a sweep asks for it."""
    slots = tuple(SimpleNamespace(start=a, stop=b) for a, b in slots)

    def tops(flat):
        return np.concatenate([np.full(s.stop - s.start, np.abs(flat[s.start : s.stop]).max()) for s in slots])

    known = dict(size=size, slots=slots, tops=tops, scale=np.ones(size), loudness=2.0, eps=EPS, inner=0.0)
    return SimpleNamespace(**(known | facts))


# -- verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_within_its_bound_agrees_beyond_several_disagrees_and_between_is_in_doubt(sign):
    bound = 1e-6
    whole = bound + ROUNDINGS
    for bounds, verdict in ((0.99, AGREES), (1.01, UNRESOLVED), (FIRM - 0.01, UNRESOLVED), (FIRM + 0.01, DISAGREES)):
        assert said(1.0, 1.0 + sign * bounds * whole, bound) == verdict


def test_the_rounding_of_either_value_is_no_error():
    for analytic, value in ((1e3, 1e3 + 9e-12), (1e3 + 9e-12, 1e3)):
        assert said(analytic, value, 0.0) == AGREES
    assert said(1.0, 1.0 + 9e-14, 0.0) == DISAGREES


@pytest.mark.parametrize(
    ("values", "scale", "bound", "tells"),
    [
        ((1.0, 1.0), 0.0, 0.99 * WIDE, True),
        ((1.0, 1.0), 0.0, 1.01 * WIDE, False),
        ((0.0, 0.0), 1.0, 0.99 * COARSE, True),
        ((0.0, 0.0), 1.0, 1.01 * COARSE, False),
        ((0.0, 1e-3), 0.0, 0.99e-3 * WIDE, False),  # the error is far beyond the bound, but no bound is too wide for it
        ((1.0, 1.0), 100.0, 5.0 * WIDE, True),  # one of the two is enough
    ],
)
def test_a_bound_that_is_wide_for_the_entry_and_for_its_primal_cannot_tell(values, scale, bound, tells):
    verdict = said(*values, bound, scale)
    assert verdict == (AGREES if tells else DISAGREES if values[0] != values[1] else UNRESOLVED)


def test_a_clear_error_is_wrong_however_wide_the_bound_but_not_if_it_is_infinite():
    assert said(1.0, 100.0, 2.0) == DISAGREES
    assert said(1.0, 100.0, np.inf) == UNRESOLVED


# -- what is kept ----------------------------------------------------------------------------


def test_nothing_is_known_of_a_blank_sweep():
    sweep = Sweep.blank(about(), np.array([1.0, 2.0, -3.0, 0.0]))
    assert (sweep.verdicts == UNRESOLVED).all() and np.isinf(sweep.bound).all() and np.isnan(sweep.numerical).all()
    assert sweep.scale.tolist() == [3.0] * 4 and sweep.names == [""]


def test_a_gradient_of_zeros_has_the_scale_of_the_outputs_over_the_step():
    sweep = Sweep.blank(about(slots=((0, 2), (2, 4)), scale=np.full(4, 0.5)), np.array([0.0, 0.0, 0.3, 0.0]))
    assert sweep.scale.tolist() == [4.0, 4.0, 0.3, 0.3]


def test_reasons_are_kept_by_name_and_taken_over_from_another_sweep():
    one, other = (Sweep.blank(about(), np.ones(4)) for _ in range(2))
    one.settle(np.array([0]), UNRESOLVED, "own")
    other.settle(np.array([2]), UNRESOLVED, "theirs")
    other.store(np.array([1, 3]), np.array([1.0, 5.0]), np.array([0.1, 0.1]), np.array([AGREES, DISAGREES]))
    one.take(other, np.array([1, 2]))
    assert [one.names[k] for k in one.reasons] == ["own", "", "theirs", ""]
    assert one.verdicts.tolist() == [UNRESOLVED, AGREES, UNRESOLVED, UNRESOLVED]
    assert one.numerical[1] == 1 and one.bound[1] == 0.1 + ROUNDINGS and np.isnan(one.numerical[3])
    assert one.among(np.array([1, 2]), UNRESOLVED).tolist() == [2]
    assert other.bound[3] == 0.1 + 5 * ROUNDINGS  # of the larger of the two


def test_what_no_rule_has_explained_says_why_it_is_open():
    sweep = Sweep.blank(about(6, ((0, 6),)), np.array([1.0, 1.0, 1.0, np.inf, 1.0, 1.0]))
    sweep.numerical[:] = [1.0, 1.5, 1.0, 1.0, 1.5, 1.5]
    sweep.bound[:] = [1.0, 0.1, np.inf, np.inf, 0.1, 0.5]
    sweep.settle(np.array([4]), UNRESOLVED, "rule")
    sweep.explain(np.arange(6))
    assert [sweep.names[k] for k in sweep.reasons] == ["wide", "close", "no slope", "not finite", "rule", "wide"]


def test_a_scale_grows_with_the_numerical_gradient_and_never_shrinks():
    sweep = Sweep.blank(about(), np.array([1.0, 0.0, 0.0, 0.0]))
    sweep.widen(np.array([1]), np.array([-5.0]))
    sweep.widen(np.array([2]), np.array([2.0]))
    assert sweep.scale.tolist() == [5.0] * 4


def test_the_floor_is_the_primals_scale_unless_all_of_it_is_noise():
    sweep = Sweep.blank(about(scale=np.full(4, 0.5), inner=1e-3), np.array([1.0, 0.0, 1.0, 1.0]))
    assert sweep.floor(np.arange(4), np.zeros(4)).tolist() == [1.0, 1e-3 / EPS / 0.5, 1.0, 1.0]
    assert sweep.floor(np.array([1]), np.array([0.1])).tolist() == [1.0]
    natural = 2.0 / 0.5
    for units, own in ((63, False), (65, True)):
        sweep.scale[:] = units * EPS * natural
        assert (sweep.floor(np.array([0]), 1.0)[0] == sweep.scale[0]) == own
    sweep.point.inner = 0.0
    assert sweep.floor(np.array([1]), 0.0).tolist() == [natural]


# -- which entries stand for a primal ----------------------------------------------------------


def test_the_clearest_few_of_each_primal_stand_for_it():
    doubt = np.array([CLEAR, 1e4, 2e4, CLEAR - 1, 3e4, 200.0, 1e3])
    point = about(7, ((0, 5), (5, 7)))
    assert _clearest(point, np.arange(7), doubt).tolist() == [True, True, True, False, True, True, True]
    point = about(7, ((0, 7),))
    assert _clearest(point, np.arange(7), doubt).tolist() == [False, True, True, False, True, False, True]
    assert _clearest(point, np.array([6, 0]), np.array([1.0, CLEAR])).tolist() == [False, True]


def test_the_others_of_a_primal_with_a_wrong_entry_are_left_out_and_say_so():
    sweep = Sweep.blank(about(slots=((0, 2), (2, 4))), np.ones(4))
    sweep.settle(np.array([2]), DISAGREES)
    assert _untold(sweep, np.array([0, 1, 3])).tolist() == [0, 1]
    assert sweep.names[sweep.reasons[3]] == "enough" and sweep.reasons[:2].tolist() == [0, 0]


# -- measurements ------------------------------------------------------------------------------


def estimate(value, bound):
    value = np.array(value, float)
    return Estimate(value, np.array(bound, float), np.zeros(value.shape))


def test_a_better_estimate_is_kept_and_a_worse_one_only_if_told_to():
    sweep = Sweep.blank(about(2, ((0, 2),)), np.ones(2))
    both = np.arange(2)
    measure.measured(sweep, both, estimate([1.0, 3.0], [1e-6, 1e-6]))
    assert sweep.verdicts.tolist() == [AGREES, DISAGREES] and sweep.scale.tolist() == [3.0, 3.0]
    measure.measured(sweep, both, estimate([3.0, 1.0], [1e-5, 1e-7]))
    assert sweep.verdicts.tolist() == [AGREES, AGREES]
    measure.measured(sweep, both, estimate([3.0, 3.0], [1e-5, 1e-5]), True)
    assert sweep.verdicts.tolist() == [DISAGREES, DISAGREES]


def test_an_error_that_rounding_inside_explains_is_faint():
    for inner, faint in ((0.26, True), (0.24, False)):
        sweep = Sweep.blank(about(1, ((0, 1),), inner=inner, scale=np.full(1, 0.5)), np.ones(1))
        measure.measured(sweep, np.arange(1), estimate([3.0], [1e-6]))
        assert (sweep.names[sweep.reasons[0]] == "faint") == faint
        assert sweep.verdicts[0] == (UNRESOLVED if faint else DISAGREES)


def test_what_backward_may_be_rounded_by_widens_the_bound_unless_it_would_hide_anything():
    """A ten-thousandth of the gradient, or of the outputs over the step; what is not finite widens nothing."""
    error = np.array([1e-7, 5e-7, 9e-7, 9e-7, 9e-7])
    extra = np.array([2e-7, 1e-7, 1e-7, np.inf, 3e-4])
    told = []

    def allowance(small):
        told.append(small)
        return extra

    sweep = Sweep.blank(about(5, ((0, 5),), scale=np.ones(5)), np.ones(5))
    sweep.numerical[:], sweep.bound[:] = 1 + error, 1e-9
    left = measure.allow(sweep, np.arange(5), allowance)
    assert left.tolist() == [2, 3, 4] and told == [True]
    assert sweep.verdicts[:2].tolist() == [AGREES, UNRESOLVED]
    assert measure.allow(sweep, np.zeros(0, int), allowance).size == 0 and len(told) == 1


@pytest.mark.parametrize(("error", "small"), [(1.9e-4, True), (2.1e-4, False)])
def test_a_backward_is_told_whether_an_error_is_so_small_that_rounding_may_be_all_of_it(error, small):
    told = []
    sweep = Sweep.blank(about(1, ((0, 1),)), np.ones(1))
    sweep.numerical[:], sweep.bound[:] = 1 + error, 1e-9
    measure.allow(sweep, np.arange(1), lambda is_small: told.append(is_small) or np.zeros(1))
    assert told == [small]


def test_where_the_last_place_is_no_small_step_backward_may_be_off_by_all_of_its_rounding():
    for scale, leaves in ((1.0, [0]), (2.0**40, [])):
        sweep = Sweep.blank(about(1, ((0, 1),), scale=np.full(1, scale)), np.ones(1))
        sweep.numerical[:], sweep.bound[:] = 1.5, 1e-9
        sweep.settle(np.arange(1), DISAGREES)
        assert measure.allow(sweep, np.arange(1), lambda small: np.ones(1)).tolist() == leaves
        assert (sweep.names[sweep.reasons[0]] == "apart") == (not leaves)


# -- what single steps settle, and what goes on ---------------------------------------------------


def swept(forward, slope, x, **declaration):
    """A blank sweep of a layer of x alone at a point, with the gradient that is claimed."""
    layer = Layer(lambda x: (forward(x), None), lambda dy, _: dy * slope, name="layer", x="N", **declaration)
    x = np.asarray(x, float)
    case = Case("layer", {"x": x}, cotangents=(np.ones_like(forward(x)),))
    return Sweep.blank(Point(layer, case), np.broadcast_to(np.asarray(slope, float), x.shape).copy())


def settled(sweep, step=None, drawn=None):
    left, _ = measure.single_steps(sweep, np.arange(sweep.point.size), step, drawn)
    return left.tolist()


@pytest.mark.parametrize("drawn", [3e-2, 1e-5, 7e-8])
def test_the_multiple_of_a_drawn_step_that_stands_for_the_best_is_the_nearest_by_a_power_of_the_ratio(drawn):
    best = best_step(EPS)
    power = np.log(measure.nearest(best, drawn) / drawn) / np.log(RATIO)
    assert power == pytest.approx(np.round(power), abs=1e-9)
    assert abs(np.log(measure.nearest(best, drawn) / best)) <= 0.5 * np.log(RATIO) * (1 + 1e-9)
    assert measure.nearest(best, None) == best


def test_a_step_that_is_given_is_tried_first_but_none_that_moves_nothing():
    right = swept(lambda x: 3 * np.clip(x, -9, 9), 3.0, [0.7, -1.3])
    assert settled(right, step=1e-2) == []
    assert (right.bound < 1e-12).all()  # a hundredth of what rounding leaves at the best step
    assert settled(swept(lambda x: 3 * x, 3.0, [0.7, -1.3]), step=1e-30) == []


def test_where_truncation_is_in_the_way_smaller_steps_settle_what_is_right_and_none_what_is_wrong():
    x = np.array([0.7, -1.3])
    assert settled(swept(lambda x: np.sin(3e3 * x), 3e3 * np.cos(3e3 * x), x)) == []
    assert settled(swept(lambda x: np.sin(3e3 * x), 3.0003e3 * np.cos(3e3 * x), x)) == [0, 1]


def test_what_agrees_at_every_step_needs_no_finer_one_unless_it_is_too_wide():
    assert settled(swept(lambda x: 1e9 + x, 1.0, [0.7, -1.3])) == []
    assert settled(swept(lambda x: 1e13 + x, 1.0, [0.7, -1.3])) == [0, 1]
    assert settled(swept(lambda x: x + np.array([1e9, 0.0]), 1.0, [0.7, -1.3])) == []  # one so, the other at once


def test_what_moves_no_output_has_no_gradient_and_one_that_is_claimed_is_left():
    for claimed, left in ((0.0, []), (1e-3, [1])):
        slope = np.array([1.0, claimed])
        sweep = swept(lambda x: x * [1.0, 0.0], slope, [0.7, -1.3])
        assert settled(sweep) == left
        assert sweep.verdicts[0] == AGREES and sweep.numerical[0] == pytest.approx(1.0)
    sweep = swept(lambda x: np.where(np.abs(x) > 1.05, 3 * x, 0.0) + 1.0, 0.0, [1.0])  # still, but for a large step
    assert settled(sweep) == []


# -- jumps ---------------------------------------------------------------------------------------


def named(sweep):
    return [sweep.names[k] for k in sweep.reasons]


def jumping(forward, count, slope=1.0, **declaration):
    sweep = swept(forward, slope, np.zeros(count), **declaration)
    measure._jumping(sweep, np.arange(count))
    return named(sweep)


def torn(x):
    return np.where(x > 0, x + 1.0, x)


def test_every_entry_at_which_forward_jumps_is_named():
    assert jumping(torn, 20, jumps=True) == ["jump"] * 20
    later = np.arange(20) >= 16
    assert jumping(lambda x: np.where(later, torn(x), x), 20) == [""] * 16 + ["undeclared"] * 4


def test_a_jump_is_no_step_between_levels_no_steep_slope_and_not_small_beside_the_outputs():
    assert jumping(lambda x: (x > 0) + 0.0, 1, slope=0.0) == ["jump"]
    assert jumping(lambda x: (x > 0) + 0.0, 1, slope=1.0) == ["undeclared"]
    assert jumping(lambda x: np.where(x > 0, 2e-3, 0) + 1 + x / 100, 1, slope=0.01) == ["undeclared"]
    assert jumping(lambda x: np.where(x > 0, 5e-4, 0) + 1 + x / 100, 1, slope=0.01) == ["jump"]
    assert jumping(lambda x: np.tanh(1e12 * x), 1) == ["jump"]
    assert jumping(lambda x: x, 1) == [""]


def test_where_a_value_is_large_a_transition_may_be_as_steep_as_a_jump():
    for other, reason in ((10.0, "undeclared"), (1e4, "jump")):
        sweep = swept(lambda x: np.where(x > 0, 1.0, 0.0) + 1e-6 * x, 1e-6, [0.0, other])
        measure._jumping(sweep, np.array([0]))
        assert named(sweep)[0] == reason


# -- looked at again -------------------------------------------------------------------------------


def test_a_pole_that_larger_steps_cross_is_told_at_steps_of_the_entrys_own_size():
    """1/x^2 is even, and differences to 0 over a step across its pole."""
    x = np.array([1e-4, 1.0, -1.0])
    for factor, verdict in ((1.0, AGREES), (1.001, DISAGREES)):
        sweep = swept(lambda x: 1 / (x * x), factor * -2 / x**3, x)
        sweep.store(np.array([0]), 0.0, np.full(1, 1e-9), DISAGREES)
        measure._closer(sweep, np.arange(3))
        assert sweep.verdicts[0] == verdict


def test_an_entry_of_ordinary_size_or_none_has_been_looked_at_as_closely_as_can_be():
    x = np.array([0.0, 1.0, -1.0])
    sweep = swept(lambda x: 2 * x, 2.0, x)
    sweep.store(np.arange(2), 0.0, np.full(2, 1e-9), DISAGREES)
    measure._closer(sweep, np.arange(3))
    assert sweep.verdicts[:2].tolist() == [DISAGREES] * 2 and sweep.numerical[:2].tolist() == [0.0] * 2


def test_outputs_that_stay_where_they_are_when_an_entry_moves_have_no_weight():
    point = swept(lambda x: np.array([2 * x[0], 3 * x[1], np.abs(x[0]), 1.0]), 1.0, [0.5, 2.0]).point
    for entry, weights in ((0, [1, 0, 1, 0]), (1, [0, 1, 0, 0])):
        assert measure._moved(point, np.array([entry]), np.array([0.5, 2.0])).weights.tolist() == weights


# -- up the ladder ---------------------------------------------------------------------------------


def climbed(forward, slope, x, **declaration):
    sweep = swept(forward, slope, x, **declaration)
    with np.errstate(all="ignore"):
        measure.climb(sweep, np.arange(sweep.point.size))
    return sweep


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_at_the_edge_of_a_domain_one_side_tells(side):
    def forward(x):
        return np.where(side * x >= 0, np.sin(2 * x), np.nan)

    for slope, verdict in ((2.0, AGREES), (2.1, DISAGREES)):
        assert climbed(forward, slope, [0.0]).verdicts.tolist() == [verdict]


def test_steps_of_the_size_of_1_tell_of_an_entry_that_is_far_smaller():
    for slope, verdict in ((3.0, AGREES), (3.1, DISAGREES)):
        assert climbed(lambda x: 1 + np.sin(3 * x), slope, [1e-12]).verdicts.tolist() == [verdict]


def test_a_jump_is_named_whether_it_looks_like_a_slope_or_like_none():
    assert named(climbed(torn, 1.0, [0.0])) == ["undeclared"]
    assert named(climbed(lambda x: np.where(x > 0, 1e50, -1e50) + x, 1.0, [0.0])) == ["undeclared"]
    assert named(climbed(np.sin, np.cos(0.5), [0.5])) == [""]
    assert climbed(np.sin, 1.1 * np.cos(0.5), [0.5]).verdicts.tolist() == [DISAGREES]


def test_the_largest_value_of_all_primals_says_whether_a_transition_may_be_as_steep():
    for other, reason in ((10.0, "undeclared"), (1e4, "jump")):
        layer = Layer(
            lambda x, w: (np.where(x > 0, 1.0, 0.0) + 1e-6 * x + 0 * w.sum(), None), lambda dy, _: (dy, dy),
            name="layer", x="N", w="M",
        )  # fmt: skip
        primals = {"x": np.zeros(1), "w": np.array([other])}
        point = Point(layer, Case("layer", primals, cotangents=(np.ones(1),)))
        sweep = Sweep.blank(point, np.array([1e-6, 0.0]))
        measure._jumping(sweep, np.array([0]))
        assert named(sweep)[0] == reason


def test_a_level_need_not_go_on_for_ever():
    assert jumping(lambda x: np.where(x > 0, 1.0 + (x > 100), 0.0 - (x < -100)), 1, slope=0.0) == ["jump"]


def test_a_step_is_one_between_levels_only_where_it_is_flat_on_both_sides():
    for beside in (lambda x: np.where(x > 0, 1 + x, 0.0), lambda x: np.where(x > 0, 1.0, x)):
        assert jumping(beside, 1, slope=0.0) == ["undeclared"]


def test_rounding_in_proportion_to_the_step_is_heard_at_steps_with_other_digits():
    """The normed values of zeros add up to a constant share of each step, and to no noise."""

    def normed(x):
        d = x - x.mean()
        return (d / np.sqrt((d * d).mean() + 1e-5)).sum()

    assert climbed(normed, 0.0, np.zeros(3)).verdicts.tolist() == [UNRESOLVED] * 3
    assert climbed(normed, 1e-3, np.zeros(3)).verdicts.tolist() == [DISAGREES] * 3


def test_the_value_that_is_kept_is_the_measured_one():
    claimed = 3 + 2e-10
    sweep = swept(lambda x: 3 * x, claimed, [0.7])
    assert settled(sweep) == [] and abs(sweep.numerical[0] - 3) < 0.2 * abs(sweep.numerical[0] - claimed)


def test_one_error_that_rounding_may_explain_is_enough_to_look_closer():
    told = []
    sweep = Sweep.blank(about(2, ((0, 2),)), np.ones(2))
    sweep.numerical[:], sweep.bound[:] = [1 + 1e-6, 2.0], 1e-9
    measure.allow(sweep, np.arange(2), lambda small: told.append(small) or np.zeros(2))
    assert told == [True]


@pytest.mark.parametrize("value", [1e-30, 1e-15, 1e-8])
def test_no_slope_is_negligible_because_an_entry_is_tiny(value):
    """Outputs over the entry are 1e30 there, beside which every slope is nothing."""
    for slope, verdicts in ((3.0, {AGREES}), (3.1, {DISAGREES, UNRESOLVED})):
        assert climbed(lambda x: 1 + np.sin(3 * x), slope, [value]).verdicts[0] in verdicts
    assert climbed(lambda x: 1 + np.sin(3 * x), 3.1, [1e-30]).verdicts[0] == DISAGREES
