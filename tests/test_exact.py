"""Gradients that must be equal up to rounding: how large that is, and what is more, on numbers that can be read."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.evaluate import LayerFailure, once
from gradverify.core.judge import backward_noise, exact
from gradverify.core.nouns import AGREES, DISAGREES
from gradverify.core.tuning import Tuning, using

EPS = 2.0**-52
SHARE = 4096 * EPS  # of the largest entry, as the page on numerics states it


def layer_of(backward, forward=lambda x: (x * 1.0, x), **declaration):
    return Layer(forward, backward, name="layer", **({"x": "N"} if "x" not in declaration else {}), **declaration)


def case_of(x, v=None):
    x = np.asarray(x)
    return Case("layer", {"x": x}, cotangents=(np.ones(x.shape) if v is None else np.asarray(v, float),))


PLAIN = layer_of(lambda dy, x: dy * 1.0)
ONES = case_of(np.ones(4))


def compared(got, wanted, layer=PLAIN, case=ONES, **more):
    return exact.compare(layer, case, {"x": np.asarray(got)}, {"x": np.asarray(wanted)}, **more)["x"]


def right(got, wanted, **more):
    return (compared(got, wanted, **more).verdicts == AGREES).tolist()


# -- arrays that move ------------------------------------------------------------------------


def test_each_entry_moves_by_a_unit_in_its_last_place_at_the_most_and_some_do():
    x = np.random.default_rng(0).normal(size=200)
    moved = backward_noise.nudge(x, np.random.default_rng(1))
    steps = (moved - x) / (EPS * np.abs(x))
    assert np.abs(steps).max() <= 4 / 3 and (steps > 0.4).any() and (steps < -0.4).any() and (steps == 0).any()
    assert backward_noise.nudge(np.arange(3), np.random.default_rng(1)).tolist() == [0, 1, 2]
    assert backward_noise.nudge(np.float32([1.0, 2.0]), np.random.default_rng(1)).dtype == np.float32


def test_entries_move_by_a_part_of_themselves_or_zeros_by_that_of_the_largest():
    x, rng = np.array([0.0, 1.0, -8.0] * 20), np.random.default_rng(0)
    moved = backward_noise.nudge(x, rng, 0.25)
    assert set((moved - x).round(9)) == {0.0, 0.25, -0.25, 2.0, -2.0} and not moved[::3].any()
    together = backward_noise.nudge(x, rng, 0.25, zeros=True)
    assert set(together - x) == {0.0, 2.0, -2.0} and together[::3].any()
    assert set(backward_noise.nudge(np.zeros(40), rng, 0.25, zeros=True)) == {0.0, 0.25, -0.25}


def test_a_shift_is_a_thousandth_of_an_entry_or_of_1():
    assert backward_noise.shifted(np.array([0.0, 0.5, -4.0])) == pytest.approx([1e-3, 0.501, -3.996])
    assert backward_noise.shifted(np.array([3, -7])).tolist() == [3, -7]


@pytest.mark.parametrize(
    ("array", "size"), [([3.0, 4.0], 12.5**0.5), ([0.0, 0.0], 1.0), ([], 1.0), ([3j, 4.0], 12.5**0.5)]
)
def test_a_size_is_that_of_a_usual_entry_and_1_where_there_is_none(array, size):
    assert exact.size(np.array(array)) == pytest.approx(size)


def test_the_natural_size_is_that_of_the_outputs_over_the_entry():
    layer = layer_of(lambda dy, x: dy, lambda x: (-3 * x, x))
    case = case_of([2.0, -2.0], [1.0, -0.5])
    assert exact.natural_size(layer, case, "x") == pytest.approx((6.0 + 3.0) / 2.0)
    with np.errstate(all="ignore"):
        assert exact.natural_size(layer_of(lambda dy, x: dy, lambda x: (x / 0, x)), case, "x") == 0.0


def test_a_type_is_narrow_whose_range_everyday_numbers_overflow():
    for dtype, narrow in ((np.float16, True), (np.float32, False), (np.float64, False)):
        assert exact.narrow(PLAIN, case_of(np.ones(2, dtype))) == narrow
    assert not exact.narrow(PLAIN, Case("layer", {"x": np.array([1, 2], np.int8)}))
    assert exact.narrow(PLAIN, Case("layer", {"x": np.ones(2), "y": np.ones(2, np.float16)}))  # one is enough


def test_outputs_are_alike_up_to_the_order_of_sums_and_whole_numbers_are_the_same():
    a = np.array([1.0, -8.0, np.nan, np.inf])
    for off, same in ((0.9, True), (1.1, False)):
        assert exact.alike(a, a + np.array([8 * off * SHARE, 0, 0, 0])) == same
    assert not exact.alike(a, -a) and not exact.alike(a, a[:3]) and not exact.alike(a[:1], a[:1, None])
    assert exact.alike(np.array([1, 2]), np.array([1, 2])) and not exact.alike(np.array([1, 2]), np.array([1, 3]))
    assert not exact.alike(np.array([1.0, np.nan]), np.array([1.0, np.inf]))


# -- what is equal --------------------------------------------------------------------------------


def test_entries_may_differ_by_a_share_of_the_largest_and_of_the_outputs_and_by_no_more():
    wanted = np.array([1.0, -4.0, 0.0, 0.0])
    bound = (4.0 + 4.0) * SHARE  # of the largest entry, and of the outputs over an entry
    for off, agrees in ((0.99, True), (1.01, False)):
        assert right(wanted + off * bound * np.array([1, 0, -1, 0]), wanted) == [agrees, True, agrees, True]


def test_terms_count_for_the_rounding_of_a_sum_and_least_for_nothing_below_it():
    wanted = np.ones(4)
    got = wanted + np.array([90 * SHARE, 0, 0, 0])
    assert right(got, wanted) == [False, True, True, True]
    assert right(got, wanted, terms={"x": 100 * wanted}) == [True] * 4
    assert right(got, wanted, least=1e-9) == [True] * 4
    assert right(wanted + np.array([2e-9, 0, 0, 0]), wanted, least=1e-9) == [False, True, True, True]


def test_what_is_not_finite_is_equal_only_to_itself_but_in_a_type_whose_range_sums_may_leave():
    nan, inf = np.nan, np.inf
    got, wanted = np.array([nan, inf, inf, nan]), np.array([nan, inf, -inf, 1.0])
    assert right(got, wanted) == [True, True, False, False]
    low = case_of(np.ones(4, np.float16))
    assert right(got, wanted, case=low, layer=PLAIN) == [True] * 4


def test_the_rounding_of_a_backward_counts_unless_the_very_same_arithmetic_was_done():
    at = np.array([0.3, 0.7, 1.1, 1.9])
    noisy, case = layer_of(lambda dy, x: dy * (1 + 1e9 * (x - at))), case_of(at)
    assert (backward_noise.rounding(noisy, case)["x"] > 1e-8).all()
    wanted = np.ones(4)
    assert right(wanted + 4e-7, wanted, layer=noisy, case=case) == [True] * 4
    assert right(wanted + 4e-7, wanted, layer=noisy, case=case, same=True) == [False] * 4
    assert right(wanted + 4e-7, wanted, case=case) == [False] * 4
    assert right(wanted + 4e-3, wanted, layer=noisy, case=case) == [False] * 4


def test_a_backward_without_rounding_has_no_spread_and_one_that_fails_has_none_to_tell():
    assert backward_noise.rounding(PLAIN, ONES)["x"].max() <= 2 * EPS

    def picky(dy, x):
        if not np.array_equal(dy, np.ones(4)):
            raise ValueError("only ones")
        return dy

    assert backward_noise.rounding(layer_of(picky), ONES) == {}


def test_a_spread_is_the_largest_of_its_samples_each_over_what_its_cotangent_was_multiplied_with():
    """A backward that adds a number to what it is handed: 3 v gives a third of that too little."""
    found = backward_noise.rounding(layer_of(lambda dy, x: dy + 0.11), case_of(np.ones(4), np.full(4, 5.0)))["x"]
    assert found == pytest.approx(0.1, rel=1e-9)  # 0.11 less an eleventh of it


def test_what_forward_saves_is_rounded_as_well_in_lists_and_dicts_too():
    def forward(x):
        return x * 1.0, {"kept": [1e9 + x], "name": "saved"}

    layer = layer_of(lambda dy, saved: dy * (saved["kept"][0] - 1e9), forward)
    found = backward_noise.rounding_saved(layer, case_of([0.3, 0.7, 1.1, 1.9]))["x"]
    assert (found > 1e-7).any() and (found <= 4.1e-7).all()
    assert backward_noise.rounding_saved(PLAIN, ONES)["x"].max() == 0.0
    with pytest.raises(LayerFailure):
        exact.gradients(layer_of(lambda dy, x: dy.nothing), ONES)
    assert backward_noise.rounding_saved(layer_of(lambda dy, x: dy.nothing), ONES) == {}


def test_a_spread_that_would_hide_anything_adds_nothing_and_one_entry_speaks_for_others():
    far, sizes = np.ones(3, bool), (1.0, 1.0)
    for extra, added in (
        ([1e-5, 0.0, 0.0], [1.6e-4, 16 * EPS**0.5, 16 * EPS**0.5]),  # pooled, but for no more than half of the digits
        ([1e-9, 0.0, 0.0], [1.6e-8] * 3),
        ([2e-3, 1e-9, 0.0], [1.6e-8] * 3),  # a jump
        ([np.nan, np.inf, 1e-9], [1.6e-8] * 3),
    ):
        told = exact._allowed(PLAIN, ONES, "x", np.array(extra), far, sizes, EPS)
        assert told == pytest.approx(added, rel=1e-6), extra


@pytest.mark.parametrize(
    ("eps", "sizes", "cap"),
    [
        (EPS, (4.0, 2.0), 4e-3),  # a thousandth of the largest, or of the terms that it is a sum of
        (EPS, (2.0, 4.0), 4e-3),
        (2.0**-10, (4.0, 2.0), 4 * 2.0**-5),  # or half of the digits, where there are few
        (EPS, (0.0, 0.0), np.inf),
    ],
)
def test_a_spread_counts_up_to_a_part_of_the_largest_term(eps, sizes, cap):
    for share, counts in ((0.99, True), (1.01, cap == np.inf)):
        extra = np.array([share * cap if cap < np.inf else 1e9])
        told = exact._allowed(PLAIN, ONES, "x", extra, np.zeros(1, bool), sizes, eps)[0]
        assert (told >= 16 * extra[0] * 0.999) == counts


def test_what_others_are_rounded_by_counts_for_an_entry_up_to_half_of_the_digits_of_its_terms():
    for size in (0.5, 8.0):
        told = exact._allowed(PLAIN, ONES, "x", np.array([4e-4, 0.0]), np.ones(2, bool), (1.0, size), EPS)
        assert told == pytest.approx([16 * 4e-4, 16 * EPS**0.5 * size])


def test_terms_that_cancel_lend_a_thousandth_of_their_size_where_that_is_asked_for():
    hidden = layer_of(lambda dy, x: dy + 1e4 * (x - x.mean()))
    extra, sizes = np.array([2e-3]), (1.0, 1.0)
    for far, counts in ((True, True), (False, False)):
        told = exact._allowed(hidden, ONES, "x", extra, np.array([far]), sizes, EPS)[0]
        assert (told > 0) == counts


def test_terms_that_cancel_are_heard_where_primals_move_by_a_thousandth():
    cancels = layer_of(lambda dy, x: dy * (100 * x - 100 * x.copy() + 1 + 0 * x) + 50 * (x - x.mean()))
    assert exact._terms(cancels, case_of(np.ones(4)), "x") == pytest.approx(50, rel=0.8)
    assert exact._terms(PLAIN, ONES, "x") == 0.0


# -- iterations that stop -------------------------------------------------------------------------


def stopping(size, scale=1.0):
    """A backward that stops now after one step more, now after one less, and is off by as much."""
    return layer_of(lambda dy, x: scale * dy * (1.0 + size * np.floor(40 * x.sum())))


def test_jumps_of_the_gradient_between_neighbours_count_where_they_are_small_beside_it():
    case = case_of([0.31, 0.72, 0.53, 0.94])
    assert 0.5e-7 < backward_noise.unfinished(stopping(1e-7), case, "x") < 3e-7
    assert backward_noise.unfinished(stopping(1e-2), case, "x") == backward_noise.unfinished(PLAIN, case, "x") == 0.0
    for scale in (1e-3, 1e3):  # beside a gradient of any size
        assert 0.5e-7 * scale < backward_noise.unfinished(stopping(1e-7, scale), case, "x") < 3e-7 * scale


def test_jumps_are_told_of_the_primal_that_has_them():
    def backward(dy, saved):
        x, y = saved
        return dy * (1 + 1e-7 * np.floor(40 * x.sum())), 3 * dy

    layer = Layer(lambda x, y: (x + 3 * y, (x, y)), backward, name="layer", x="N", y="N")
    x = np.array([0.31, 0.72, 0.53, 0.94])
    case = Case("layer", {"x": x, "y": x}, cotangents=(np.ones(4),))
    assert backward_noise.unfinished(layer, case, "x") > 0.5e-7 and backward_noise.unfinished(layer, case, "y") == 0.0


def stairs(calls):
    """A layer whose backward jumps by 1e-7, and counts its calls."""

    def backward(dy, x):
        calls.append(1)
        return dy * (1.0 + 1e-7 * np.floor(40 * x.sum()))

    return layer_of(backward)


def test_no_further_jump_is_looked_for_once_one_is_large_enough():
    spent = []
    for enough in (0.5e-7, np.inf):
        calls: list[int] = []
        assert backward_noise.unfinished(stairs(calls), case_of([0.31, 0.72, 0.53, 0.94]), "x", enough) > 0.5e-7
        spent.append(len(calls))
    assert spent[0] < 200 and spent[1] > 600


def test_jumps_are_looked_for_once_at_a_case():
    calls: list[int] = []
    layer = stairs(calls)
    known = once.at(layer, case_of([0.31, 0.72, 0.53, 0.94])).case
    spent = []
    for error in (1e-6, 1e-5, 1e-5, 1e-6):
        calls.clear()
        found = exact._undone(layer, known, "x", np.array([error]), np.zeros(1), np.ones(1, bool))
        spent.append(len(calls))
        assert found[0] > 0.5e-7
    assert 10 < spent[0] < 200 and spent[1] > 600 and max(spent[2:]) < 10


def test_an_error_beyond_all_that_an_iteration_may_leave_is_not_looked_into():
    def stops(dy, x):
        calls.append(1)
        return dy * (1 + 1e-7 * np.floor(40 * x.sum()))

    case = case_of([0.31, 0.72, 0.53, 0.94])
    for error, asked in ((15e-3, True), (17e-3, False)):
        calls: list[int] = []
        exact._undone(layer_of(stops), case, "x", np.array([error]), np.zeros(1), np.ones(1, bool))
        assert (len(calls) > 1) == asked
    assert not exact._undone(layer_of(lambda dy, x: dy.nothing), ONES, "x", *np.zeros((2, 1)), np.ones(1, bool)).any()
    case = case_of([0.31, 0.72, 0.53, 0.94])
    wanted = np.ones(4)
    assert right(wanted + 1e-6, wanted, layer=stopping(1e-7), case=case) == [True] * 4
    assert right(wanted + 5e-6, wanted, layer=stopping(1e-7), case=case) == [False] * 4


@pytest.mark.parametrize(("far", "asked"), [(1e-7, 3), (0.0, 1)])
def test_a_gradient_that_jumps_nowhere_is_not_looked_at_for_jumps_again(monkeypatch, far, asked):
    """It is found wrong all the same; one of a backward that iterates is looked at at every case."""
    calls, looks = [], backward_noise.unfinished
    monkeypatch.setattr(backward_noise, "unfinished", lambda *given: calls.append(given[2]) or looks(*given))
    wanted = np.ones(4)
    with using(Tuning(vain=set())):
        for x in (0.31, 0.32, 0.33):
            case = case_of([x, 0.72, 0.53, 0.94])
            assert right(wanted + 5e-6, wanted, layer=stopping(far) if far else PLAIN, case=case) == [False] * 4
    assert calls == ["x"] * asked


# -- what is told -----------------------------------------------------------------------------------


def test_an_outcome_counts_entries_and_tells_the_first_that_differs_of_each_primal():
    got, wanted = np.array([1.0, 2.0, 2.5, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    pairs = [("at first", {"x": wanted}, {"x": wanted}), ("later", {"x": got}, {"x": wanted})]
    outcome = exact.outcome(PLAIN, ONES, "reuse", [*pairs, ("again", {"x": 2 * got}, {"x": wanted})])
    (finding,) = outcome.findings
    assert outcome.entries == 12
    assert finding.message == "later, the gradient of x changes: at x[2] it is 2.5 instead of 1"
    assert finding.facts["wrong"] == 2 and finding.facts["what"] == "later" and finding.kind == "differs"
    assert finding.severity == pytest.approx(1.5 / (5 * SHARE), rel=0.01)  # a share of 1 and of 4, of the outputs
    assert finding.comparison.verdicts.tolist() == [AGREES, DISAGREES, DISAGREES, AGREES]


def test_a_gradient_that_is_a_multiple_of_the_other_says_by_how_much():
    wanted = np.array([1.0, -2.0, 3.0, 4.0])
    (finding,) = exact.outcome(PLAIN, ONES, "reuse", [("doubled", {"x": 2 * wanted}, {"x": wanted})]).findings
    assert finding.facts["ratio"] == pytest.approx(2.0) and finding.facts["remainder"] < 1e-9


def test_a_gradient_read_from_a_subtraction_may_be_off_by_its_rounding_on_both_sides():
    read = layer_of(lambda dy, x: dy).derive()
    hooks = type(read.hooks)(gradient_rounding=lambda primals: {"x": 1e-6})
    read = read.derive(hooks=hooks)
    wanted = np.ones(4)
    for off, loose, agrees in ((3.9e-6, 1.0, True), (4.1e-6, 1.0, False), (4.1e-6, 8.0, True)):
        told = exact.compare(read, ONES, {"x": wanted + off}, {"x": wanted}, same=True, loose=loose)["x"]
        assert (told.verdicts == AGREES).all() == agrees
    assert exact.compare(read, ONES, {"x": wanted + 4.1e-6}, {"x": wanted}, same=True)["x"].wrong.all()


def test_where_forward_is_not_finite_gradients_say_nothing():
    with np.errstate(all="ignore"):
        assert exact.ready(layer_of(lambda dy, x: dy, lambda x: (x / 0, x)), ONES)[1] is not None
    assert exact.ready(PLAIN, ONES)[1] is None
