"""Laws of verdicts: they do not depend on units, on the order of the batch, or on names."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradverify import Case, Layer, Verdict
from gradverify.core.properties import properties
from gradverify.core.verify import examine

DIMS = {"x": "N D", "W": "D H", "b": "H"}


def forward(x, W, b):
    y = np.tanh(x @ W + b)
    return y, (x, W, y)


def backward(dy, saved):
    x, W, y = saved
    dz = dy * (1 - y * y)
    return dz @ W.T, x.T @ dz, dz.sum(0)


def factor_on_one(dy, saved):
    dx, dW, db = backward(dy, saved)
    dW[0, -1] *= 1.001
    return dx, dW, db


def mean_of_bias(dy, saved):
    dx, dW, db = backward(dy, saved)
    return dx, dW, db / len(dx)


def flipped(dy, saved):
    dx, dW, db = backward(dy, saved)
    return -dx, dW, db


BACKWARDS = (backward, factor_on_one, mean_of_bias, flipped)
EXPONENTS = st.integers(-30, 30)
FEW = settings(max_examples=12)


@st.composite
def cases(draw):
    """Values in tenths, none of them zero, so that no entry is at a special place."""
    n, d, h = (draw(st.integers(1, 3)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))

    def array(*shape):
        return rng.choice([-1.0, 1.0], shape) * rng.integers(1, 15, shape) / 10

    primals = {"x": array(n, d), "W": array(d, h), "b": array(h)}
    return Case("network", primals, cotangents=(array(n, h),), seed=draw(st.integers(0, 1000)))


def verdicts(layer, case):
    outcome = examine(layer, case, properties.get("gradient"), None)
    assert outcome.compared
    return {compared.primal: compared.verdicts for compared in outcome.compared}


def network(wrong=backward, right=forward, **names):
    return Layer(right, wrong, name="network", primals=names or DIMS)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@FEW
@given(cases(), st.sampled_from(BACKWARDS), EXPONENTS)
def test_the_size_of_the_cotangent_changes_no_verdict(case, wrong, k):
    (v,) = case.cotangents
    assert_same(verdicts(network(wrong), case), verdicts(network(wrong), case.but(cotangents=(np.ldexp(v, k),))))


@FEW
@given(cases(), st.sampled_from(BACKWARDS), EXPONENTS)
def test_the_unit_of_the_outputs_changes_no_verdict(case, wrong, k):
    def larger(x, W, b):
        y, saved = forward(x, W, b)
        return np.ldexp(y, k), saved

    scaled = network(lambda dy, saved: wrong(np.ldexp(dy, k), saved), larger)
    assert_same(verdicts(network(wrong), case), verdicts(scaled, case))


@FEW
@given(cases(), st.sampled_from(BACKWARDS), st.integers(-12, 12))
def test_the_unit_of_the_primals_changes_no_verdict(case, wrong, k):
    def smaller(x, W, b):
        return forward(np.ldexp(x, -k), W, b)

    def pulled(dy, saved):
        dx, dW, db = wrong(dy, saved)
        return np.ldexp(dx, -k), dW, db

    moved = case.but(primals={**case.primals, "x": np.ldexp(case.primals["x"], k)})
    assert_same(verdicts(network(wrong), case), verdicts(network(pulled, smaller), moved))


@FEW
@given(cases(), st.sampled_from(BACKWARDS), st.randoms(use_true_random=False))
def test_the_order_of_the_batch_moves_the_verdicts_with_it(case, wrong, random):
    order = list(range(len(case.primals["x"])))
    random.shuffle(order)
    (v,) = case.cotangents
    moved = case.but(primals={**case.primals, "x": case.primals["x"][order]}, cotangents=(v[order],))
    before, after = verdicts(network(wrong), case), verdicts(network(wrong), moved)
    assert_same({**before, "x": before["x"][order]}, after)


@FEW
@given(cases(), st.sampled_from(BACKWARDS), st.permutations(["a", "kernel", "offset"]))
def test_the_names_of_primals_change_no_verdict(case, wrong, names):
    renamed = dict(zip(names, DIMS.values()))
    other = case.but(primals=dict(zip(names, case.primals.values())))
    before, after = verdicts(network(wrong), case), verdicts(network(wrong, **renamed), other)
    assert_same(dict(zip(names, before.values())), after)


@FEW
@given(cases(), st.sampled_from(BACKWARDS[1:]))
def test_what_is_wrong_disagrees_and_the_rest_agrees(case, wrong):
    found = verdicts(network(wrong), case)
    right = np.concatenate([g.ravel() for g in backward(case.cotangents[0], forward(**case.primals)[1])])
    given = np.concatenate([g.ravel() for g in wrong(case.cotangents[0], forward(**case.primals)[1])])
    flat = np.concatenate([found[name].ravel() for name in DIMS])
    far = np.abs(given - right) > 1e-6 * np.abs(right).max()
    assert (flat[far] == Verdict.DISAGREES).all()
    assert (flat[given == right] == Verdict.AGREES).all()
