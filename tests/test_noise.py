"""The noise of a forward: what seven points close together tell of it, and what they cannot."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradverify.core.differentiate import noise

EPS = 2.0**-52
TYPES = {"x": np.zeros(1), "k": np.zeros(1, int)}


def about(base, **facts):
    known = dict(base=np.asarray(base, float), eps=EPS, grid=None, primals=TYPES)
    return SimpleNamespace(**(known | facts))


def table(base, *columns):
    """Outputs at the points: each column is added to its base."""
    return np.asarray(base, float) + np.stack(columns, axis=1)


PLACES = np.arange(7.0) - 3
QUIET = np.zeros(7)


def test_a_noise_of_known_size_is_told_and_seldom_made_half_as_large():
    rng = np.random.default_rng(0)
    sigma = 1e-9
    told = noise.levels(about(np.ones(2000)), 1 + sigma * rng.standard_normal((7, 2000)))
    assert (told < sigma / 2).mean() < 0.1 and np.median(told) < 2 * sigma
    assert sigma < np.sqrt(np.mean((told / 1.5) ** 2)) < 1.1 * sigma  # the larger of two estimates


@pytest.mark.parametrize("size", [2.0**-900, 2.0**900])
def test_noise_whose_square_is_no_number_is_told_as_any_other(size):
    near = 1 + 1e-9 * np.random.default_rng(0).standard_normal((7, 1))
    assert noise.levels(about([size]), size * near) == size * noise.levels(about([1.0]), near) > 0


def test_what_is_smooth_is_no_noise():
    for power in (0, 1, 2):
        told = noise.levels(about([1.0]), table([1.0], 1e-6 * PLACES**power))
        assert np.allclose(told, 0.5 * EPS, rtol=0.1, atol=0)
    assert noise.levels(about([1.0]), table([1.0], 1e-6 * PLACES**3)) > 1e-7


def test_the_least_noise_of_an_output_is_half_a_unit_in_its_last_place():
    assert noise.levels(about([3.0, -5.0, 0.0]), table([3.0, -5.0, 0.0], QUIET, QUIET, QUIET)).tolist() == [
        1.5 * EPS,
        2.5 * EPS,
        0.0,
    ]


def test_an_output_that_is_quiet_by_chance_has_the_noise_that_is_typical_of_the_others():
    """The root of the mean square of the relative ones, up to a thousand roundings."""
    loud = np.array([1, -1, 1, -1, 1, -1, 1.0])
    one = noise.levels(about([1.0]), table([1.0], 16 * EPS * loud))[0]
    both = noise.levels(about([1.0, -8.0]), table([1.0, -8.0], 16 * EPS * loud, QUIET))
    assert both[0] == one and np.isclose(both[1], 8 * (one / 1.5) / np.sqrt(2), rtol=1e-6, atol=0)
    zero = noise.levels(about([1.0, 0.0, -8.0]), table([1.0, 0.0, -8.0], 16 * EPS * loud, QUIET, QUIET))
    assert zero[1] == 0 and np.isclose(zero[2], 8 * (one / 1.5) / np.sqrt(3), rtol=1e-6, atol=0)
    much = noise.levels(about([1.0, -8.0]), table([1.0, -8.0], 1e-9 * loud, QUIET))
    assert np.isclose(much[1], 8e3 * EPS, rtol=1e-12, atol=0)
    beyond = noise.levels(about([1e-9, 0.0, 1.0]), table([1e-9, 0.0, 1.0], 1e-6 * loud, 16 * EPS * loud, QUIET))
    assert np.isclose(beyond[2], 1e3 * EPS, rtol=1e-12, atol=0) and beyond[1] > 0


def test_noise_counts_as_no_more_than_the_whole_of_an_output_for_the_others():
    loud = np.array([1, -1, 1, -1, 1, -1, 1.0])
    told = noise.levels(about([1e-9, 1.0], eps=1e-3), table([1e-9, 1.0], 10 * loud, QUIET))
    assert np.isclose(told[1], 1 / np.sqrt(2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("beyond", [np.nan, np.inf])
def test_outputs_that_leave_the_numbers_nearby_tell_nothing(beyond):
    away = QUIET.copy()
    away[0] = beyond
    with np.errstate(all="ignore"):
        assert noise.levels(about([2.0]), table([2.0], away)).tolist() == [EPS]


def test_points_lie_on_a_random_line_some_units_in_the_last_place_apart():
    values = np.array([1.0, 2.0, -3.0, 4.0])
    point = about([1.0], size=4, values=values, scale=np.abs(values))
    at = noise.samples(point)
    assert at.shape == (7, 4) and (at[3] == values).all()
    part = noise.direction(point) / values
    assert (np.abs(part) >= 0.5).all() and (np.abs(part) < 1).all()
    assert np.allclose(np.diff(at, axis=0), 128 * EPS * noise.direction(point), rtol=0.02, atol=0)
    signs = np.sign(noise.direction(about([1.0], size=64, scale=np.ones(64))))
    assert {-1.0, 1.0} == set(signs)


def test_the_points_are_as_far_apart_as_the_coarsest_primal_needs():
    assert np.diff(noise.steps(about([1.0]))).tolist() == [128 * EPS] * 6
    both = {"x": np.zeros(1), "w": np.zeros(1, np.float32), "k": np.zeros(1, int)}
    assert (np.diff(noise.steps(about([1.0], primals=both))) == 128 * 2.0**-23).all()
    cast = about([1.0], grid=np.float16, eps=2.0**-10)
    assert (np.diff(noise.steps(cast)) == 128 * 2.0**-10).all()
