"""What a Comparison says of its entries, on numbers that can be read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradverify.core.nouns import Comparison, Estimate, Verdict

AGREES, KINK, UNRESOLVED, DISAGREES = Verdict


def compared(analytic, numerical, bound, verdicts, scale=2.0, **more):
    arrays = (np.array(values, float) for values in (analytic, numerical, bound))
    return Comparison("w", *arrays, np.array(verdicts, np.int8), scale, **more)


def test_the_bound_of_an_estimate_is_the_sum_of_its_parts():
    assert Estimate(np.array([1.0]), np.array([0.25]), np.array([0.5])).bound == [0.75]


def test_errors_are_distances_and_ratios_are_in_units_of_the_bound():
    c = compared([1, -3, 2, 5], [3, 1, 2, 5], [4, 0, 0, 1], [AGREES, DISAGREES, AGREES, AGREES])
    assert c.error.tolist() == [2, 4, 0, 0]
    assert c.ratio.tolist() == [0.5, math.inf, 0, 0]
    assert c.wrong.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("bounds", "scale", "resolution"),
    [([1, 4, 2], 2.0, 1.0), ([1, 8, 4, 2], 2.0, 1.5), ([3], 2.0, 1.5), ([3], 0.0, 3.0)],
)
def test_the_resolution_is_the_median_bound_of_what_is_decided_over_the_scale(bounds, scale, resolution):
    verdicts = [*([AGREES] * len(bounds)), UNRESOLVED]
    zeros = np.zeros(len(verdicts))
    assert compared(zeros, zeros, [*bounds, 100], verdicts, scale).resolution == resolution


def test_nothing_decided_has_no_resolution():
    assert compared([0], [0], [1], [UNRESOLVED]).resolution == math.inf


def test_the_worst_entry_is_furthest_out_in_bounds_among_those_that_are_decided():
    c = compared([[1, 9], [5, 2]], [[0, 0], [0, 0]], [[1, 3], [1, 1]], [[AGREES, DISAGREES], [UNRESOLVED, KINK]])
    assert c.worst == (0, 1)
    nan = compared([9, np.nan], [0, 0], [1, 1], [DISAGREES, DISAGREES])
    assert nan.worst == (1,)
    assert compared([1, 0], [0, 0], [2, 1], [UNRESOLVED, AGREES]).worst == (1,)
    assert compared([], [], [], []).worst == ()


def test_the_severity_is_that_of_the_worst_entry_that_disagrees():
    c = compared([1, 5, 9, 2], [0] * 4, [1] * 4, [DISAGREES, DISAGREES, UNRESOLVED, DISAGREES])
    assert c.severity == 5
    assert compared([1, np.nan], [0, 0], [1, 1], [DISAGREES, DISAGREES]).severity == math.inf


def test_reasons_are_named_by_entry_and_counted_by_verdict():
    rules = ("", "kink", "hidden")
    verdicts, reasons = [AGREES, UNRESOLVED, UNRESOLVED, AGREES], np.array([0, 2, 2, 1], np.int8)
    c = compared([0] * 4, [0] * 4, [0] * 4, verdicts, reasons=reasons, rules=rules)
    assert [c.reason((k,)) for k in range(4)] == ["", "hidden", "hidden", "kink"]
    assert c.because() == {("unresolved", "hidden"): 2, ("agrees", "kink"): 1}
    plain = compared([0], [0], [0], [AGREES])
    assert plain.reason((0,)) == "" and plain.because() == {}
    assert compared([0], [0], [0], [AGREES], reasons=np.zeros(1, np.int8)).because() == {}


def test_two_calls_are_told_from_a_difference_by_their_names():
    assert not compared([0], [0], [0], [AGREES]).two_calls
    assert compared([0], [0], [0], [AGREES], sides=("first call", "second call")).two_calls
