"""The property `batch`: rows that see each other are found by splitting or by permuting, on any declared axis."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.properties import batch, properties

RNG = np.random.default_rng(0)
DIMS = {"x": "N D", "W": "D H", "b": "H"}


def forward(x, W, b):
    return x @ W + b, (x, W)


def right(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(0)


def told(backward, rows=4, forward=forward, dims=None, **declaration):
    layer = Layer(
        forward, backward, name="given", **(dims or DIMS), **{"batch": "N", "returns": {"y": "N H"}, **declaration}
    )
    assert batch.applies(layer) is None
    primals = {"x": RNG.standard_normal((rows, 3)), "W": RNG.standard_normal((3, 2)), "b": RNG.standard_normal(2)}
    case = Case("given", primals, cotangents=(RNG.standard_normal((rows, 2)),))
    outcome = batch.holds(layer, case)
    return outcome.skipped or [(f.primal, f.facts["what"]) for f in outcome.findings]


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_what_treats_rows_alone_is_silent(rows):
    assert told(right, rows) == []


SPLIT, PERMUTED = "with the batch N split in two", "with the batch N in another order"


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_mean_over_the_batch_shows_where_it_is_split(rows):
    def mean(dy, saved):
        dx, dW, db = right(dy, saved)
        return dx, dW, db / len(dy)

    assert told(mean, rows) == [("b", SPLIT)]


def test_rows_that_see_their_neighbour_are_found():
    def neighbours(dy, saved):
        dx, dW, db = right(dy, saved)
        return dx + np.roll(dx, 1, 0), dW, db

    assert told(neighbours) == [("x", SPLIT)]


def test_an_order_that_counts_is_found_where_halves_hide_it():
    def first_of_two(dy, saved):
        dx, dW, db = right(dy, saved)
        return dx, dW, 2 * dy[::2].sum(0)  # of four rows, as of two

    assert told(first_of_two) == [("b", PERMUTED)]


def test_a_batch_of_one_cannot_be_split():
    assert told(right, 1) == "a batch of one cannot be split"


def test_the_batch_may_be_any_axis_of_a_primal_and_of_an_output():
    def forward(x, W, b):
        return (x @ W + b).T, (x, W)

    def backward(dy, saved):
        return right(dy.T, saved)

    def turned(dy, saved):
        return right(dy[:, ::-1].T, saved)

    def across(x, W, b):
        return forward(x.T, W, b)

    def back_across(dy, saved):
        dx, dW, db = backward(dy, saved)
        return dx.T, dW, db

    told_ = batch.holds
    for pull, wrong in ((backward, False), (turned, True)):
        layer = Layer(forward, pull, name="given", batch="N", returns={"y": "H N"}, **DIMS)
        case = Case("given", {"x": RNG.standard_normal((4, 3)), "W": RNG.standard_normal((3, 2)), "b": np.ones(2)})
        assert bool(told_(layer, case).findings) == wrong
    layer = Layer(across, back_across, name="given", batch="N", returns={"y": "H N"}, x="D N", W="D H", b="H")
    case = case.but(primals={**case.primals, "x": RNG.standard_normal((3, 4))})
    outcome = told_(layer, case)
    assert not outcome.findings and outcome.entries == 2 * (12 + 6 + 2)


def test_it_applies_where_all_outputs_have_the_axis():
    def asked(**more):
        return batch.applies(Layer(forward, right, name="given", **DIMS, **more))

    assert "no batch axis" in asked()
    for returns in ({}, {"y": "M H"}, {"y": "N H", "z": "H"}):
        assert "do not declare the batch axis N" in asked(batch="N", returns=returns)
    assert asked(batch="N", returns={"y": "N H", "z": "N"}) is None
    assert properties.get("batch").implied_by == ("gradient",)
