"""Shrinking explicit cases."""

from __future__ import annotations

import time

import numpy as np
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradverify import Case, Layer, casefile
from gradverify.core import evaluate
from gradverify.core.declare.dims import parse
from gradverify.core.shrink import shrink
from gradverify.core.shrink.axes import _places_of


def dense_case(N, D, H, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    shapes = {"x": (N, D), "W": (D, H), "b": (H,)}
    return Case("planted", {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}, seed=seed)


def shapes(case):
    return {name: array.shape for name, array in case.primals.items()}


def layer(forward=lambda x: (x, None), **declaration):
    return Layer(forward, lambda dy, saved: dy, name="shrunk", **declaration)


# --- planted bugs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", planted.PLANTED)
def test_a_planted_bug_shrinks_to_a_few_round_numbers(name, seed):
    wrong, fails = planted.planted(name)
    small = shrink(wrong, planted.first_failure(name, seed), fails, seconds=20)
    assert fails(small)
    assert small.size <= planted.PLANTED[name][-1]
    numbers = np.concatenate([np.ravel(a) for a in (*small.primals.values(), *small.cotangents)])
    assert np.count_nonzero(numbers) <= 5
    assert (numbers == np.round(numbers, 2)).all()
    assert any(v.any() for v in small.cotangents)


def test_a_threshold_is_found_exactly():
    wrong, fails = planted.planted("wrong above 20")
    case = Case("planted", {"x": np.array([[3.0, 977.123], [1.0, 4.0]])})
    small = shrink(wrong, case, fails)
    assert small.primals["x"].ravel().tolist() == [21.0]


def test_axes_of_equal_size_shrink_together():
    wrong, fails = planted.planted("W is not transposed where square")
    assert shapes(shrink(wrong, dense_case(3, 7, 7), fails, seconds=20)) == {"x": (1, 2), "W": (2, 2), "b": (2,)}


def test_large_arrays_are_simplified_too():
    wrong, fails = planted.planted("the bias gradient is a mean")
    small = shrink(wrong, dense_case(40, 30, 20), fails, seconds=20)
    assert shapes(small) == {"x": (2, 1), "W": (1, 1), "b": (1,)}


def test_large_arrays_that_cannot_be_cut_are_emptied_in_blocks():
    case = Case("shrunk", {"x": np.random.default_rng(0).normal(size=1000)})
    asked = []

    def fails(case):
        asked.append(case)
        return case.primals["x"].size == 1000 and case.primals["x"][777] != 0

    small = shrink(layer(x="N"), case, fails, seconds=20)
    assert np.count_nonzero(small.primals["x"]) < 10
    assert len(asked) < 1000


# --- the same case, legal and failing ---------------------------------------------------------------


def test_shrinking_is_deterministic():
    wrong, fails = planted.planted("the bias gradient is a mean")
    found = [casefile.digest(shrink(wrong, dense_case(4, 5, 3), fails, seconds=20)) for _ in range(2)]
    assert found[0] == found[1]


def test_the_given_case_is_not_touched():
    wrong, fails = planted.planted("the bias gradient is a mean")
    case = dense_case(4, 5, 3)
    before = casefile.digest(case)
    shrink(wrong, case, fails)
    assert casefile.digest(case) == before


def test_a_case_that_nothing_makes_smaller_is_returned():
    case = dense_case(2, 3, 2)
    before = casefile.digest(case)
    wrong, _ = planted.planted("the bias gradient is a mean")
    assert casefile.digest(shrink(wrong, case, lambda c: casefile.digest(c) == before)) == before


def test_a_smaller_case_that_is_known_to_fail_is_where_it_begins():
    wrong, fails = planted.planted("the bias gradient is a mean")
    asked = []

    def asks(case):
        asked.append(case.size)
        return fails(case)

    small = shrink(wrong, dense_case(7, 5, 6), fails)
    case = dense_case(9, 9, 9)
    assert shrink(wrong, case, asks, first=[dense_case(1, 1, 1), case, small]).size == small.size
    assert max(asked) <= small.size


def test_time_is_kept():
    wrong, _ = planted.planted("the bias gradient is a mean")
    begun = time.perf_counter()

    def slow(case):
        time.sleep(0.02)
        return True

    shrink(wrong, dense_case(9, 9, 9), slow, seconds=0.3)
    assert time.perf_counter() - begun < 2
    asked = []
    assert shrink(wrong, dense_case(2, 2, 2), asked.append, seconds=-1).primals["x"].shape == (2, 2)
    assert asked == []


def test_a_candidate_that_cannot_be_judged_is_not_accepted():
    def fails(case):
        if case.primals["x"].shape[0] < 3:
            raise RuntimeError("needs three rows")
        return True

    assert shrink(layer(x="N D"), Case("shrunk", {"x": np.ones((6, 4))}), fails).primals["x"].shape == (3, 1)


def test_a_forward_that_raises_on_short_inputs_is_survived():
    def forward(x):
        if len(x) < 2:
            raise ValueError("too short")
        return x, None

    small = shrink(layer(forward, x="N"), Case("shrunk", {"x": np.arange(6.0)}), lambda case: True)
    assert small.primals["x"].tolist() == [0, 0]


def test_an_interrupt_comes_through():
    def fails(case):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shrink(layer(x="N"), Case("shrunk", {"x": np.ones(3)}), fails)


def test_the_assumption_of_the_author_holds_on_the_way():
    even = layer(x="N", assume=lambda x: x.size % 2 == 0)
    seen = []
    small = shrink(even, Case("shrunk", {"x": np.ones(8)}), lambda case: not seen.append(case.primals["x"].size))
    assert small.primals["x"].size == 2
    assert not [n for n in seen if n % 2]


@pytest.mark.parametrize("dtype", ["float32", "float16", "complex128", "complex64"])
def test_types_are_kept(dtype):
    domain = "complex" if dtype.startswith("complex") else "real"
    x = (np.random.default_rng(0).normal(size=(3, 2)) * (1 + (1j if domain == "complex" else 0))).astype(dtype)
    small = shrink(layer(x=f"N D: {domain}"), Case("shrunk", {"x": x}), lambda case: case.primals["x"].any())
    assert small.primals["x"].dtype == dtype
    assert small.primals["x"].tolist() == [[1]]


DOMAINS = {
    "positive": np.array([2.34, 0.5, 7.0]),
    "nonnegative": np.array([2.34, 0.5, 7.0]),
    "nonzero": np.array([-2.34, 0.5, 7.0]),
    "unit": np.array([0.34, 0.5, 0.7]),
    "between 0.25 0.75": np.array([0.34, 0.5, 0.7]),
    "probabilities": np.array([0.25, 0.125, 0.625]),
    "distinct": np.array([0.25, 0.125, -0.625]),
    "mask": np.array([0.0, 1.0, 0.0]),
    "signs": np.array([-1.0, 1.0, -1.0]),
    "bool": np.array([False, True, False]),
    "integers 2 5": np.array([4, 3, 5]),
    "labels K": np.array([2, 3, 1]),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_candidate_is_in_its_domain(domain):
    one = Layer(lambda x, W: (W, None), lambda dy, saved: {}, x=f"N: {domain}", W="K", name="shrunk")
    seen = []

    def fails(case):
        seen.append(case)
        return case.primals["x"].size >= 2

    small = shrink(one, Case("shrunk", {"x": DOMAINS[domain], "W": np.arange(4.0)}), fails)
    assert small.primals["x"].size == 2
    assert all(one.primal("x").domain.contains(c.primals["x"], {"K": c.primals["W"].size}) for c in seen)
    assert {c.primals["x"].dtype for c in seen} == {DOMAINS[domain].dtype}


def test_an_authors_own_values_are_dropped_but_not_edited():
    from hypothesis import strategies as st

    small = shrink(layer(x=("N", st.just(0.3))), Case("shrunk", {"x": np.full(5, 0.3)}), lambda case: True)
    assert small.primals["x"].tolist() == [0.3]


# --- axes -----------------------------------------------------------------------------------------------


def test_the_place_that_matters_stays():
    x = np.zeros((5, 6))
    x[3, 4] = 9.0
    small = shrink(layer(x="N D"), Case("shrunk", {"x": x}), lambda case: case.primals["x"].max() == 9)
    assert small.primals["x"].tolist() == [[9.0]]


def test_indices_follow_the_rows_they_point_at():
    take = Layer(planted.take, planted.take_backward, **planted.TAKE)
    W = np.arange(10.0).reshape(5, 2)
    small = shrink(take, Case("shrunk", {"idx": np.array([4, 1, 4]), "W": W}),
                   lambda case: 8.0 in planted.take(case.primals["idx"], case.primals["W"])[0])  # fmt: skip
    assert small.primals["idx"].tolist() == [0]
    assert small.primals["W"].tolist() == [[8.0]]


def test_packed_gates_lose_a_place_of_each_block():
    W = np.arange(12.0).reshape(1, 12)  # four blocks of three
    packed = layer(lambda h, W: (h @ W, None), h="N H", W="D 4*H")
    kept = []

    def fails(case):
        kept.append(case.primals["W"])
        return case.primals["W"].size < 12 and case.primals["W"][0, -1] == 11

    small = shrink(packed, Case("shrunk", {"h": np.ones((2, 3)), "W": W}, cotangents=None), fails)
    assert small.primals["W"].shape == (1, 4)
    assert [11.0] in [w[0, -1:].tolist() for w in kept]
    assert [2.0, 5.0, 8.0, 11.0] in [w[0].tolist() for w in kept]


def test_concatenated_axes_lose_the_place_of_the_right_part():
    kept = []
    W = np.arange(5.0)  # the first two belong to D, the last three to H
    joined = layer(lambda x, h, W: (W, None), x="D", h="H", W="D+H")
    case = Case("shrunk", {"x": np.ones(2), "h": np.ones(3), "W": W})
    shrink(joined, case, lambda c: bool(kept.append(c.primals["W"].tolist())))
    assert [0.0, 2.0] in kept
    assert [0.0, 2.0, 3.0, 4.0] in kept
    assert [0.0, 1.0, 4.0] in kept


def test_leading_and_broadcast_axes_are_dropped():
    broad = layer(lambda x, y, s: (x * y, None), x="*batch N", y="*batch? N?", s="N?")
    case = Case("shrunk", {"x": np.ones((2, 3, 4)), "y": np.ones((3, 1)), "s": np.ones(1)})
    seen = []

    def fails(case):
        seen.append([case.primals[n].shape for n in "xys"])
        return case.primals["x"].shape[-1] > 1

    small = shrink(broad, case, fails)
    assert shapes(small) == {"x": (2,), "y": (1,), "s": (1,)}
    assert all(np.broadcast_shapes(x, y) == x for x, y, _ in seen)


def test_an_empty_axis_may_stay_empty():
    small = shrink(layer(x="N D", empty=True), Case("shrunk", {"x": np.ones((0, 5))}), lambda case: True)
    assert small.primals["x"].shape == (0, 1)


# --- cotangents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("returns", ["N H", None])
def test_cotangents_are_cut_in_step(returns):
    forward = Layer(planted.dense, planted.dense_backward, x="N D", W="D H", b="H", returns=returns, name="dense")
    v = np.arange(1.0, 13.0).reshape(4, 3)
    case = dense_case(4, 5, 3).but(cotangents=(v,))
    small = shrink(forward, case, lambda c: 8.0 in c.cotangents[0])  # row 1, column 1
    assert small.cotangents[0].tolist() == [[8.0]]


def test_cotangents_are_never_all_zero():
    seen = []
    both = layer(lambda x: ((x, x.sum()), None), x="N")
    case = Case("shrunk", {"x": np.ones(3)}, cotangents=(np.array([0.0, 0.0, 2.5]), np.array(0.0)))
    shrink(both, case, lambda c: not seen.append(c.cotangents))
    assert all(any(v.any() for v in cotangents) for cotangents in seen)


def test_missing_cotangents_are_drawn_and_rounded():
    small = shrink(layer(x="N"), Case("shrunk", {"x": np.ones(3)}, seed=5), lambda case: True)
    assert small.cotangents[0].tolist() == [1.0]


# --- options --------------------------------------------------------------------------------------------


def test_options_become_the_simplest_that_fail():
    stepped = layer(lambda x, stride, mode: (x[:: stride[0]], None), x="N",
                    options={"stride": ([1, 2, 3], [1, 2]), "mode": ["a", "b", "c"]})  # fmt: skip
    case = Case("shrunk", {"x": np.ones(7)}, options={"stride": (3, 2), "mode": "c"}, step=1e-3)
    small = shrink(stepped, case, lambda c: c.options["stride"][0] > 1 and c.options["mode"] != "a")
    assert small.options == {"stride": (2, 1), "mode": "b"}
    assert small.step is None


def test_an_option_that_is_a_size_takes_its_arrays_with_it():
    window = layer(lambda x, w, K: (x, None), x="N", w="K", options={"K": [1, 2, 5]})
    case = Case("shrunk", {"x": np.ones(3), "w": np.arange(5.0)}, options={"K": 5})
    small = shrink(window, case, lambda c: c.options["K"] == c.primals["w"].size >= 2)
    assert small.options == {"K": 2}
    assert small.primals["w"].shape == (2,)


def test_a_case_whose_shapes_contradict_the_layer_keeps_them():
    case = Case("shrunk", {"x": np.ones((2, 3)), "y": np.ones((3, 3))})
    odd = layer(lambda x, y: (x, None), x="N D", y="N D")
    assert shapes(shrink(odd, case, lambda c: True)) == {"x": (2, 3), "y": (3, 3)}


def test_what_is_shrunk_can_still_be_evaluated():
    for seed in range(5):
        wrong, fails = planted.planted("two gates are swapped")
        small = shrink(wrong, planted.first_failure("two gates are swapped", seed), fails, seconds=20)
        assert evaluate.completed(wrong, small)[0].cotangents is small.cotangents


# --- laws -----------------------------------------------------------------------------------------

PREDICATES = {
    "an entry above": lambda case, t: bool((case.primals["x"] > t).any()),
    "a large sum": lambda case, t: abs(case.primals["x"].sum()) > t,
    "a long axis": lambda case, t: case.primals["x"].shape[0] >= 1 + t,
    "unequal entries": lambda case, t: np.unique(case.primals["x"]).size > t,
    "an option": lambda case, t: case.options["k"] >= t and case.primals["x"].size > 0,
}


@settings(max_examples=30)
@given(
    st.sampled_from(sorted(PREDICATES)),
    st.integers(0, 3),
    st.lists(st.lists(st.floats(-100, 100), min_size=2, max_size=2), min_size=1, max_size=5),
    st.integers(0, 3),
)
def test_shrinking_never_grows_keeps_what_fails_and_stays_legal(name, threshold, rows, k):
    legal = layer(
        lambda x, k: (x * k, k),
        x="N D: between -100 100",
        options={"k": [0, 1, 2, 3]},
        assume=lambda x: x.shape[0] != 2,
    )
    case = Case("shrunk", {"x": np.array(rows)}, {"k": k})

    def fails(candidate):
        return PREDICATES[name](candidate, threshold)

    if len(rows) == 2 or not fails(case):
        return
    small = shrink(legal, case, fails, seconds=0.3)
    assert fails(small)
    assert small.primals["x"].size <= case.primals["x"].size
    assert legal.allows(small.primals, small.options)
    assert legal.primals[0].domain.contains(small.primals["x"], {})
    assert shrink(legal, small, fails, seconds=0.3).size <= small.size


@pytest.mark.parametrize(
    ("text", "size", "places"),
    [("H", 4, [1, 3]), ("2*H", 8, [1, 3, 5, 7]), ("H+2", 6, [1, 3, 4, 5]), ("H-1", 3, [0]), ("H//2", 2, [0])],
)
def test_places_of_an_axis_that_is_computed_follow_those_of_its_name(text, size, places):
    (axis,) = parse(text).axes
    assert list(_places_of(axis, text, size, {"H": [1, 3]}, {"H": 4})) == places
