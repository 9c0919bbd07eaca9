"""The ladder on numbers that can be read: its steps, what it believes of them, and how wide its bound must be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.flat import Differences
from gradverify.core.differentiate.ladder import RATIO

EPS = 2.0**-52
ONE, ZERO = np.zeros(1, int), np.zeros(1)


def point(phi, noise=EPS, at=0.0, **facts):
    """A function of one number, as the ladder asks for it."""

    def changed(a, b, known=0.0):
        with np.errstate(all="ignore"):
            ahead, behind = phi(at + a), phi(at if b is None else at + b)
            gap = a - (0.0 if b is None else b)
            return Differences(ahead - behind, gap, np.full(a.shape, noise), ahead != behind)

    def along(direction, a, b, known):
        d = changed(a * direction[0], None if b is None else b * direction[0])
        return Differences(d.change, known[0] * d.gap, d.noise, d.moved)

    about = dict(scale=np.ones(1), size=1, eps=EPS, magnified=False, unseen=0.0, inner=0.0, loudness=0.0)
    return SimpleNamespace(slopes=lambda entries, a, b, rungs: changed(a, b), along=along, **(about | facts))


def chosen(rates, noise, powers=(2, 4, 6), **more):
    """What is said of rungs, large steps first."""
    rates = np.array(rates, float)[None]
    return ladder.select(rates, np.broadcast_to(np.array(noise, float), rates.shape), powers, **more)


def step(count):
    """So many steps, large to small."""
    return RATIO ** -np.arange(count, dtype=float)


# -- steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [2.0**-10, 2.0**-23, EPS])
@pytest.mark.parametrize("reach", [1.0, 0.25, 0.1])
def test_steps_fall_by_one_ratio_and_end_just_below_a_power_of_the_precision(eps, reach):
    for depth, h in ((0.53, ladder.rungs(eps, reach, 0.53)), (0.6, ladder.rungs(eps, reach))):
        assert h[0] == reach and (h[:-1] / h[1:] == RATIO).all()
        assert h[-1] <= eps**depth < h[-2]
    assert ladder.rungs(eps)[0] == 1.0


def test_the_first_step_of_an_entry_is_the_power_of_two_below_its_scale():
    scale = np.array([1.0, 0.75, 3.0, 1e-5])
    about = SimpleNamespace(scale=scale, eps=EPS)
    for h in (ladder.steps(about, np.arange(4)), ladder.steps(about, np.arange(2), scale)):
        assert (h[:, 0] <= scale).all() and (scale < 2 * h[:, 0]).all()
        assert (np.frexp(h)[0] == 0.5).all()
    assert ladder.steps(about, np.array([2]))[0, 0] == 2.0


# -- estimates ------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [None, 1.0, 0.3, np.nan])
def test_the_derivative_lies_within_a_narrow_bound_whatever_was_subtracted(known):
    known = None if known is None else np.array([known])
    estimate = ladder.entrywise(point(np.exp), ONE, known)
    assert abs(estimate.value - 1) <= estimate.bound < 1e-11


def test_along_a_direction_the_residual_is_what_the_gradient_leaves():
    for known, left in ((None, 2.0), ([1.0], 0.0), ([1.5], -1.0)):
        known = None if known is None else np.array(known)
        estimate = ladder.directional(point(np.exp), np.array([2.0]), known)
        assert abs(estimate.value - left) <= estimate.bound < 1e-10


@pytest.mark.parametrize(("side", "slope"), [(dict(side=1), 3.0), (dict(side=-1), -1.0), ({}, 1.0)])
def test_each_side_of_a_kink_has_its_own_slope(side, slope):
    def kinked(x):
        return np.where(x > 0, 3 * x, -x) + 0.1 * x**3

    for estimate in (
        ladder.entrywise(point(kinked), ONE, **side),
        ladder.directional(point(kinked), np.ones(1), **side),
        ladder.chosen(point(kinked), ONE, ZERO, *ladder.quotients(point(kinked), ONE, ZERO, **side), **side),
    ):
        assert abs(estimate.value - slope) <= estimate.bound < 1e-9


@pytest.mark.parametrize(
    ("side", "powers", "noise", "bound"), [(0, (1, 3, 5, 7), 1e-13, 1.3e-10), (1, (1, 2, 3, 4), 1e-9, 3.7e-6)]
)
def test_what_the_difference_is_off_by_is_extrapolated_away(side, powers, noise, bound):
    """Even powers of the step, and all of them to one side; each one more that is left takes digits."""
    smooth = point(lambda x: sum(x**power for power in powers), noise)
    entry, joint = ladder.entrywise(smooth, ONE, side=side), ladder.directional(smooth, np.ones(1), side=side)
    assert abs(entry.value - 1) <= entry.bound < bound
    assert abs(joint.value - 1) <= joint.bound < 4.1 * bound  # its first step is a quarter


def test_a_ladder_at_another_scale_sees_what_is_sharp_there():
    sharp = point(lambda x: np.sin(1e7 * x))
    assert abs(ladder.entrywise(sharp, ONE, scale=np.array([1e-8])).value / 1e7 - 1) < 1e-9


def test_no_entries_have_no_derivatives():
    estimate = ladder.entrywise(point(np.exp), np.zeros(0, int))
    assert estimate.value.shape == estimate.bound.shape == (0,)


def test_values_that_may_be_rounded_inside_widen_the_bound_of_who_is_wary():
    inside = point(np.exp, unseen=1e-6)
    assert ladder.entrywise(inside, ONE).bound < 1e-11
    wary = ladder.entrywise(inside, ONE, wary=True)
    assert 1e-6 < wary.bound < 1e-3 and abs(wary.value - 1) <= wary.bound


# -- Lepski's choice ------------------------------------------------------------------------


def test_the_bound_is_as_wide_as_what_a_larger_step_may_hide_and_no_wider():
    """Small steps allow [-1, 1]; a larger step of a quarter of that noise, the least that is believed, says 1.25 and
    meets them at 1, while the truth may lie at -1.
    """
    for noise in (0.25, 0.0):
        estimate = chosen([1.25, 0, 0], [noise, 1, 1])
        assert estimate.value == 1.25 and estimate.bound == 2.25


def test_a_larger_step_that_smaller_ones_exclude_does_not_count():
    for far in (1.26, -1.26, np.nan, np.inf):
        estimate = chosen([far, 0, 0, 0], [0.25, 1, 1, 1])
        assert abs(estimate.value) < 0.1 and estimate.rounding >= 0.25


def test_what_was_excluded_once_does_not_come_back():
    """The false plateau of a bounded function, which its smaller steps have left."""
    estimate = chosen([1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0], [1e-9, 1e-8, 1e-7, 1e-6, 1e-3, 1e-2, 1e-1])
    assert abs(estimate.value - 1) < 1e-3 and estimate.rounding >= 1e-4


@pytest.mark.parametrize(("plain", "believed"), [(2, False), (3, True)])
def test_three_steps_must_agree(plain, believed):
    assert np.isfinite(chosen([1.0] * plain, 0.1).bound) == believed
    assert np.isfinite(chosen([5.0] * 3 + [1.0] * plain, [1e-3] * 3 + [0.1] * plain).bound) == believed


@pytest.mark.parametrize(("count", "believed"), [(5, False), (6, True)])
def test_twice_as_many_where_extrapolations_alone_agree(count, believed):
    estimate = chosen(1 + step(count) ** 2, 1e-12)
    assert np.isfinite(estimate.bound) == believed
    assert not believed or abs(estimate.value - 1) <= estimate.bound < 1e-7


def test_steps_that_cannot_be_used_are_passed_over_and_end_what_has_begun():
    small = chosen([1.0, 1.0, 1.0, np.nan, np.nan], [0.01, 0.1, 1, 0.1, 0.1])
    assert small.value == 1 and small.rounding < 0.2
    large = chosen([5.0, 5.0, np.nan, 1.0, 1.0, 1.0], [1e-3, 1e-3, 1e-3, 0.1, 0.1, 0.1])
    assert np.isclose(large.value, 1) and large.rounding >= 0.025
    assert not np.isfinite(chosen([np.nan] * 6, 0.1).bound)
    assert not np.isfinite(chosen([1.0, 1.0, np.nan, 1.0, 1.0], 0.1).bound)
    assert not np.isfinite(chosen([1.0, 1.0, 1.0], [0.1, np.nan, 0.1]).bound)


def test_a_change_says_twice_what_the_smaller_of_two_steps_is_off_by():
    for power in (1, 2, 4):
        rates = (1 + 3 * step(4) ** power)[None]
        bias = ladder._bias(rates, np.full(rates.shape, 10.0), power)
        assert np.allclose(bias[0, 1:], 2 * 3 * step(4)[1:] ** power, rtol=1e-9, atol=0) and bias[0, 0] == 0
        assert not ladder._bias(np.array([[np.nan, 1.0]]), np.ones((1, 2)), power).any()


def test_a_change_that_is_more_than_noise_says_what_the_larger_of_two_steps_is_off_by():
    for power in (1, 2, 4):
        rates, noise = (1 + 3 * step(4) ** power)[None], 1e-9
        bias = ladder._bias(rates, np.full(rates.shape, noise), power)
        off = 3 * step(4)[:-1] ** power
        assert (bias[0, :-1] >= off).all() and (bias[0, :-1] <= 2 * off + 5 * noise).all()
    drop = [[1.25, 0.0]]  # noise that falls by more than the step is as large as if it fell with it
    assert not ladder._bias(np.array(drop), np.array([[0.0, 1.0]]), 2)[0, 0]
    assert ladder._bias(np.array(drop), np.array([[0.0, 0.99]]), 2)[0, 0] > 1.25


def test_a_false_plateau_that_meets_a_step_whose_noise_was_rounded_away_stays_within_the_bound():
    """Rates less the truth of a gate, closed to 1e-13, that is added to a number near 5: up to the sixth step from
    below nothing moves, and each may hide as much as a unit in the last place.
    """
    rates = np.array([-1.138, -1.082, -0.09, -0.0315, -0.0315, -0.969, *[1.532] * 6])
    noise = np.array([0.0134, 0.0316, 0.104, 0.395, 1.556, 6.2, *(495 * 4.0 ** np.arange(6))])
    estimate = chosen(rates, noise)
    assert abs(estimate.value) <= estimate.bound


def test_the_change_from_a_larger_step_widens_what_a_smaller_one_claims():
    """The rungs are off by c h^2, a fifteenth of their change: an interval as narrow as the noise would exclude 1."""
    for curvature in np.geomspace(1e-6, 1e6, 60):
        for exact in (1e-16, 1e-9):
            estimate = chosen(1 + curvature * step(12) ** 2, exact / step(12))
            assert abs(estimate.value - 1) <= estimate.bound


def test_a_larger_step_with_a_hidden_bias_stays_within_the_bound():
    """The bias of each step is 16 times that of the next: whatever its size, some step barely passes for consistent."""
    rng = np.random.default_rng(1)
    h = ladder.rungs(2.2e-16)
    outside = 0
    for curvature in np.geomspace(1e-6, 1e6, 400):
        noise = 1e-16 / h
        estimate = chosen(1.0 + curvature * h**2 + noise * rng.normal(size=h.size), 4 * noise)
        outside += abs(estimate.value[0] - 1.0) > estimate.bound[0]
    assert outside == 0


# -- extrapolation --------------------------------------------------------------------------


@pytest.mark.parametrize("powers", [(2, 4, 6), (1, 2, 3)])
def test_each_extrapolation_does_without_one_more_power_and_adds_all_noise_up(powers):
    h = step(6)
    rates = 1 + sum(h**power for power in powers)
    levels = ladder.extrapolations(rates[None], np.ones((1, 6)), powers)
    assert [value.shape[1] for value, _ in levels] == [6, 5, 4, 3]
    assert np.allclose(levels[3][0], 1, rtol=1e-12)
    for k, power in enumerate(powers):  # what is left is led by the next power
        assert np.isclose(np.diff(levels[k][0])[0, -2] / np.diff(levels[k][0])[0, -1], RATIO**power, rtol=0.1)
    unit = ladder.extrapolations(np.eye(6), np.zeros((6, 6)), powers)
    for (value, _), (_, spread) in zip(unit, levels):
        assert np.allclose(np.abs(value).sum(0), spread[0], rtol=1e-12)
    assert len(ladder.extrapolations(np.ones((1, 2)), np.ones((1, 2)), powers)) == 2


# -- what is rounded inside -----------------------------------------------------------------


UNIT = 4.0**-4


def rounded(near):
    """Quotients of a slope of 1 where a value inside moves by whole units, and by the first of them from `near` on.

    They are 0 at smaller steps, UNIT / 2h from there, and 1 for large ones.
    """

    def value(x):
        return UNIT * np.round((x - near) / UNIT + 0.5)

    h = step(14)
    return (value(h) - value(-h)) / (2 * h)


@pytest.mark.parametrize("rung", [6, 7, 8, 9, 10, 11])
def test_a_value_that_does_not_move_at_small_steps_is_no_plateau(rung):
    estimate = chosen(rounded(0.7 * 4.0**-rung), 1e-15)
    assert abs(estimate.value - 1) <= estimate.bound < 1


def test_such_a_jump_is_seen_up_to_the_largest_step_but_one():
    seen = chosen([1.0, 4.0, 0, 0, 0, 0, 0, 0], 1e-15)
    assert seen.value == 1 and seen.rounding == 2  # twice the jump, a quarter of which is left at the largest step
    assert chosen([4.0, 0, 0, 0, 0, 0, 0, 0], 1e-15).bound < 1e-9  # the largest step alone may be anything


@pytest.mark.parametrize(("jump", "falls"), [(1.9, False), (2.1, True)])
def test_a_jump_falls_back_to_less_than_half_at_the_next_larger_step(jump, falls):
    assert (chosen([1.0, jump, 0, 0, 0, 0, 0, 0], 1e-15).bound > 1) == falls


def test_a_jump_larger_than_what_can_have_been_rounded_is_the_functions_own():
    rates = rounded(0.7 * 4.0**-8)  # jumps to 128
    for most, inner in ((127, False), (129, True)):
        assert (chosen(rates, 1e-15, limit=np.full((1, 14), float(most))).value != 0) == inner


def test_a_jump_that_the_noise_explains_is_none_of_a_rounded_value():
    """Of 64 times the noise of the step that did not move, and no less."""
    for noise, inner in ((128 / 63, False), (128 / 65, True)):
        estimate = chosen(rounded(0.7 * 4.0**-8), [1e-15] * 9 + [noise] + [1e-15] * 4)
        assert (estimate.value != 0) == inner


def test_at_a_point_the_most_is_the_same_change_at_every_step():
    """Half a unit of the value inside, which jumps on one side of the point alone."""
    near = 0.7 * 4.0**-8

    def value(x):
        return UNIT * np.round((x - near) / UNIT + 0.5)

    for share, inner in ((0.45, False), (0.55, True)):
        for facts in (dict(inner=share * UNIT / 256), dict(loudness=share * UNIT / 1e-3)):
            estimate = ladder.entrywise(point(value, 1e-18, **facts), ONE)
            assert (abs(estimate.value - 1) <= estimate.bound) == inner == bool(estimate.value)


def test_a_jump_that_does_not_fall_back_is_a_kink_beyond_the_small_steps():
    estimate = chosen([2.0] * 6 + [0.0] * 6, 1e-12)
    assert estimate.value == 0 and estimate.bound < 1e-9


def test_truncation_sets_in_gently_and_is_nothing_that_was_rounded():
    estimate = chosen(np.sin(20 * step(12)) / (20 * step(12)), 1e-13 / step(12))
    assert abs(estimate.value - 1) <= estimate.bound < 1e-7


def test_what_is_unseen_inside_adds_to_what_is_heard():
    h = step(10)
    plain, more = (chosen(np.ones(10), 1e-10 / h, more=m) for m in (None, 3e-10 / h[None]))
    assert np.isclose(more.bound / plain.bound, 4, rtol=1e-6)


def test_the_most_that_can_have_been_rounded_inside_is_a_share_of_the_outputs_or_units_of_their_rounding():
    assert ladder.quantum(SimpleNamespace(inner=1.0, loudness=3.0)) == 256
    assert ladder.quantum(SimpleNamespace(inner=0.0, loudness=3.0)) == 3e-3


# -- noise that is magnified -----------------------------------------------------------------


def loud(times, joint=False, **facts):
    """The bound where the loudest change is so many times its noise."""
    if joint:  # its first step is 1/4
        return ladder.directional(point(lambda x: x, noise=0.5 / times, **facts), np.ones(1)).bound
    return ladder.entrywise(point(lambda x: x, noise=2 / times, **facts), ONE).bound


@pytest.mark.parametrize("joint", [False, True])
def test_where_noise_is_magnified_nothing_is_told_until_some_step_is_heard(joint):
    assert np.isfinite(loud(31, joint)) and np.isfinite(loud(33, joint, magnified=True))
    assert not np.isfinite(loud(31, joint, magnified=True))


def test_what_has_no_noise_is_not_heard():
    silent = ladder.entrywise(point(lambda x: 0 * x, noise=0.0, magnified=True), ONE)
    assert not np.isfinite(silent.bound)


def test_where_the_last_place_is_no_small_step_changes_must_be_clear():
    large, small = (dict(scale=np.full(1, 2.0**power)) for power in (36, 34))  # 1.5e-5 and 4e-6
    for times, heard in ((0.9e6, False), (1.1e6, True)):
        assert np.isfinite(loud(times / 2.0**36, **large)) == heard
        for scale in (np.full(1, 2.0**36), np.array([2.0**36, 1.0])):
            assert np.isfinite(loud(times, joint=True, scale=scale)) == heard
        assert np.isfinite(loud(times / 2.0**34, **small))
        assert np.isfinite(loud(times, joint=True, scale=np.full(1, 1e-3), eps=2.0**-10))
    for scale, coarse in (([2.0**36], True), ([2.0**34], False), ([1.0, 2.0**36], True), ([], False)):
        assert ladder.coarse(SimpleNamespace(scale=np.array(scale), eps=EPS)) == coarse


def test_entries_are_heard_each_for_itself():
    both = point(lambda x: x, scale=np.array([1.0, 2.0**36]))
    noise = np.full((2, 3), 1e-3)
    told = ladder._audible(both, np.ones((2, 3)), noise, both.scale)
    assert np.isfinite(told).all(1).tolist() == [True, False]
