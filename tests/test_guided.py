"""Drawing where the author's code leads: its numbers on both sides, and mutants of cases that reached something new."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
from hypothesis import strategies as st

import gradverify as gv
from gradverify import Layer
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings as CheckSettings
from gradverify.core.declare.regime import Regime
from gradverify.core.draw import Pool, cases, drawing_of, each, explored
from gradverify.core.draw.constants import constants

CFG = {"BLOCK": 128, "tiles": [24, {"inner": (56.0,)}]}
TABLE = np.array([2.75, 8.5])
RULES = {5: "five"}


class Settings:
    ceiling = 3000.0


def mentions(dy, x):
    if len(x) > CFG["BLOCK"] or (x > Settings.ceiling).any() or len(x) in RULES:
        return dy * TABLE[0]
    return 2 * x * dy


def square(x):
    return x * x, x


def test_numbers_in_dicts_lists_arrays_and_attributes_are_read():
    found = set(constants(Layer(square, mentions, x="N")))
    assert {128.0, 24.0, 56.0, 2.75, 8.5, 3000.0, 5.0} <= found


def test_sizes_go_beyond_a_block_by_one_by_half_and_by_its_double():
    lengths = Counter()
    each(cases(Layer(square, mentions, name="m", x="N")), 1500, 0, lambda c: lengths.update([c.primals["x"].size]))
    assert {127, 128, 129, 192, 256, 257} <= set(lengths)


def test_values_lie_on_both_sides_of_a_number_and_between_two():
    def band(dy, x):
        return np.where((x > 700.0) & (x < 720.0), 3 * x * dy, 2 * x * dy)

    values = []
    each(cases(Layer(square, band, name="band", x="N")), 400, 0, lambda c: values.extend(c.primals["x"].tolist()))
    values = np.array(values)
    assert ((values > 700) & (values < 720)).sum() > 5
    assert ((values > 600) & (values < 700)).sum() > 5 and ((values > 720) & (values < 800)).sum() > 5


def test_a_number_beyond_what_a_type_can_square_is_not_drawn_in_it():
    def huge(dy, x):
        return np.where(x > 1e30, 0, 2 * x * dy)

    layer = Layer(square, huge, name="huge", x="N")
    for dtype, least, most in (("float64", 1e30, 1e60), ("float32", 0, 1e20), ("float16", 0, 6e4)):
        largest = 0.0

        def look(case):
            nonlocal largest
            largest = max(largest, float(np.abs(case.primals["x"]).max(initial=0)))

        each(cases(layer, dtype=dtype), 300, 0, look)
        assert least <= largest <= most


def test_an_id_that_the_code_mentions_is_drawn():
    def take(idx, W):
        return W[idx], (idx, W.shape)

    def backward(dy, saved):
        idx, shape = saved
        dW = np.zeros(shape)
        np.add.at(dW, idx, dy)
        if (idx == 6).any():
            dW[6] = 0
        return dW

    seen = Counter()
    layer = Layer(take, backward, name="take", idx="N: indices V", W="V D")
    each(cases(layer), 300, 0, lambda c: seen.update([bool((c.primals["idx"] == 6).any())]))
    assert seen[True] >= 15
    assert gv.check(layer, raises=False, properties="gradient", examples=100).findings


def deep(x, p=1, scale=1.0, mode="plain"):
    return x * x, x


OPTIONS = {"p": [1, 2, 3, 4], "scale": [1.0, 2.0, 0.5, 0.25, 8.0], "mode": ["plain", "negated", "third"]}


def depth(case):
    """How many conditions, one inside the other, hold of a case."""
    conditions = (case.options["p"] == 3, case.options["mode"] == "third", case.primals["x"].size > 4)
    found = 0
    for holds in (*conditions, (case.primals["x"] < -3).any()):
        if not holds:
            break
        found += 1
    return found


def count_deep(seed, guided):
    reached, deepest = 0, 0

    def body(case):
        nonlocal reached, deepest
        new = depth(case) > reached
        reached = max(reached, depth(case))
        deepest += depth(case) == 4
        return new and guided

    drawing = drawing_of(Layer(deep, lambda dy, x: 2 * x * dy, name="deep", x="N", options=OPTIONS), Regime())
    explored(drawing, 200, seed, body)
    return deepest


def test_what_lies_behind_conditions_is_drawn_more_often_where_cases_that_came_close_are_mutated():
    assert sum(count_deep(seed, True) for seed in range(6)) > 2 * sum(count_deep(seed, False) for seed in range(6))


def test_equal_seeds_draw_equal_cases():
    def drawn(seed):
        found = []

        def body(case):
            found.append((case.options["p"], case.primals["x"].tolist()))
            return len(found) % 7 == 0

        drawing = drawing_of(Layer(deep, lambda dy, x: 2 * x * dy, name="deep", x="N", options=OPTIONS), Regime())
        explored(drawing, 60, seed, body)
        return found

    assert drawn(3) == drawn(3) and len(drawn(3)) == 60
    assert drawn(3) != drawn(4)


def test_rows_that_reached_new_code_are_parents_of_half_of_the_mutants():
    pool = Pool([bytes([k]) * 30 for k in range(8)], (0, 0, 30), random.Random(0))
    pool.keep(bytes([99]) * 30, reached=True)
    mutants = [pool.mutant() for _ in range(400)]
    assert 100 < sum(Counter(row).most_common(1)[0][0] == 99 for row in mutants) < 300


def test_offsets_that_absorb_are_special_points_in_float64_and_nowhere_else():
    layer = Layer(square, lambda dy, x: 2 * x * dy, name="square", x="N")
    for dtype, most in (("float64", 1e50), ("float32", 1e3)):
        found = []
        each(cases(layer, Regime(special=True), dtype=dtype), 200, 0, found.append)
        assert max(float(case.primals["x"].max(initial=0)) for case in found) == most


def test_large_offsets_with_small_spreads_are_drawn_for_every_real_primal():
    ratios = Counter()

    def look(case):
        for name, array in case.primals.items():
            if array.size > 3 and array.std() > 0:
                ratios[name, int(np.log10(max(abs(array.mean()) / array.std(), 1)))] += 1

    layer = Layer(lambda x, w: (x * w, (x, w)), lambda dy, s: (dy * s[1], dy * s[0]), name="two", x="N", w="N")
    each(cases(layer), 1000, 0, look)
    for name in "xw":
        assert all(sum(n for (who, k), n in ratios.items() if who == name and k >= least) for least in (2, 4, 6, 7))


def test_a_strategy_that_draws_now_this_and_now_that_is_asked_again_and_what_it_lacks_is_said():
    turns = itertools.count()

    @st.composite
    def fickle(draw):
        turn = next(turns)
        if turn % 3:
            draw(st.booleans())
        if turn % 2:
            draw(st.integers(0, 1))
        return draw(st.booleans())

    layer = Layer(lambda x, k: (x * x, x), lambda dy, x: 2 * x * dy, name="square", x="N", options={"k": fickle()})
    report = check_layer(layer, CheckSettings(properties=("gradient",)))
    assert report.verified and not report.findings
    assert report.tallies["gradient"].cases > 4
    assert any("cases could be drawn" in note for note in report.notes)
