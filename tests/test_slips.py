"""Slips that tutorials warn of, each in a network of its own: all are found, on cases that a person reads."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.registry import layers
from gradverify.layers.recurrent import lstm_cell
from gradverify.recurrent import as_cell, unroll

pytestmark = pytest.mark.usefixtures("as_drawn")

READABLE = 24  # array elements of a case, cotangents included


def unshrunk(layer):
    """A short check that leaves its cases as they were drawn."""
    return check_layer(layer, Settings(examples=12, properties=("complete", "gradient"), shrink=False))


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def forward(i, W1, b1, W2, b2, label):
    a = sigmoid(i @ W1 + b1)
    out = sigmoid(a @ W2 + b2)
    return np.sum((label - out) ** 2) / len(i), (i, W1, a, W2, out, label)


def deltas(dE, saved):
    """Gradients before the two sigmoids, and for the output."""
    i, _, a, W2, out, label = saved
    d_out = dE * 2.0 * (out - label) / len(i)
    d2 = d_out * out * (1 - out)
    return (d2 @ W2.T) * a * (1 - a), d2, d_out


def right(dE, saved):
    i, W1, a, *_ = saved
    d1, d2, d_out = deltas(dE, saved)
    return d1 @ W1.T, i.T @ d1, d1.sum(0), a.T @ d2, d2.sum(0), -d_out


def bias_averaged_over_axis_1(dE, saved):
    di, dW1, db1, dW2, _, d_label = right(dE, saved)
    return di, dW1, db1, dW2, deltas(dE, saved)[1].mean(axis=1), d_label


def weight_gradients_swapped(dE, saved):
    di, dW1, db1, dW2, db2, d_label = right(dE, saved)
    return di, dW2, db1, dW1, db2, d_label


def descent_direction(dE, saved):
    """label - out, which is subtracted nowhere."""
    i, W1, a, W2, out, label = saved
    d2 = dE * (label - out) * out * (1 - out)
    d1 = (d2 @ W2.T) * a * (1 - a)
    return d1 @ W1.T, i.T @ d1, d1.sum(0), a.T @ d2, d2.sum(0), dE * (label - out)


# With equal sizes the first two slips have the right shapes, and only the values tell.
FREE = dict(i="N I", W1="I H", b1="H", W2="H K", b2="K", label="N K")
SQUARE = dict(i="K K", W1="K K", b1="K", W2="K K", b2="K", label="K K")


@pytest.mark.parametrize("dims", [FREE, SQUARE], ids=["free", "square"])
def test_the_network_without_a_slip_is_right(dims):
    assert gv.check(forward, right, **dims, examples=10, properties="gradient").ok


@pytest.mark.parametrize(
    ("slip", "dims", "primals"),
    [
        (bias_averaged_over_axis_1, SQUARE, {"b2"}),
        (weight_gradients_swapped, SQUARE, {"W1", "W2"}),
        (descent_direction, FREE, {"i", "W1", "b1", "W2", "b2", "label"}),
    ],
)
def test_a_slip_is_found(slip, dims, primals):
    report = unshrunk(gv.Layer(forward, slip, **dims))
    assert {finding.primal for finding in report.findings if finding.kind == "wrong"} == primals


@pytest.mark.parametrize("slip", [bias_averaged_over_axis_1, weight_gradients_swapped])
def test_a_slip_that_does_not_fit_other_sizes_is_a_gradient_of_another_shape(slip):
    report = unshrunk(gv.Layer(forward, slip, **FREE))
    assert ("complete", "shape") in {(finding.property, finding.kind) for finding in report.findings}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slip", "dims"),
    [(bias_averaged_over_axis_1, SQUARE), (weight_gradients_swapped, SQUARE), (descent_direction, FREE)],
)
def test_a_slip_is_shown_on_a_small_case(slip, dims):
    for finding in gv.check(forward, slip, **dims, examples=40, raises=False).findings:
        assert finding.case.size <= READABLE, f"{finding.primal}: {finding.case}"


# -- the LSTM ----------------------------------------------------------------------------------


def gates_swapped(cotangents, saved):
    """The gradients of input and forget gate stand in each other's place."""
    dx, dh, dc, _, _, db = lstm_cell.backward(cotangents, saved)
    x, h, _, W, U, *_ = saved
    i, f, g, o = np.split(np.arange(db.size), 4)
    da = _before_the_gates(cotangents, saved)[:, np.concatenate([f, i, g, o])]
    return da @ W.T, da @ U.T, dc, x.T @ da, h.T @ da, da.sum(0)


def _before_the_gates(cotangents, saved):
    """The gradient with respect to x W + h U + b, row by row: that of the bias for a batch of one."""
    x, h, c, W, U, a, c_next = saved
    rows = []
    for n in range(len(x)):
        row = slice(n, n + 1)
        kept = (x[row], h[row], c[row], W, U, a[row], c_next[row])
        rows.append(lstm_cell.backward(tuple(v[row] for v in cotangents), kept)[5])
    return np.array(rows).reshape(a.shape)


def cell_not_carried(cotangents, saved):
    dx, dh, dc, dW, dU, db = lstm_cell.backward(cotangents, saved)
    return dx, dh, 0.0 * dc, dW, dU, db


def test_swapped_gates_are_found_in_the_cell_and_in_the_sequence():
    wrong = as_cell(lstm_cell).derive(backward=gates_swapped, name="swapped_cell")
    for layer in (wrong, unroll(wrong)):
        assert {"W", "U", "b"} <= {finding.primal for finding in unshrunk(layer).findings}


def test_a_cell_state_that_is_not_carried_back_is_found_in_the_cell_and_in_the_sequence():
    wrong = as_cell(lstm_cell).derive(backward=cell_not_carried, name="uncarried_cell")
    assert {finding.primal for finding in unshrunk(wrong).findings} == {"c"}
    found = {finding.primal: finding.case for finding in unshrunk(unroll(wrong)).findings}
    assert {"c0", "W", "U", "b"} <= set(found)
    assert found["W"].primals["x"].shape[0] >= 2, "one step alone does not show that nothing is carried"


def test_a_sequence_written_by_hand_that_does_not_carry_its_cell_state_is_found():
    """The step is right, and only the loop over time forgets to add what comes from the step after."""
    lstm = layers.get("lstm")

    def backward(cotangents, saved):
        dh_all, dh, dc = cotangents
        steps, values, _ = saved
        found = {name: np.zeros_like(values[name]) for name in ("x", "W", "U", "b")}
        for t in reversed(range(len(steps))):
            dx, dh, dc, dW, dU, db = lstm_cell.backward((dh + dh_all[t], dc), steps[t])
            found["x"][t] = dx
            found["W"], found["U"], found["b"] = found["W"] + dW, found["U"] + dU, found["b"] + db
            last, dc = dc, np.zeros_like(dc)
        return {**found, "h0": dh, "c0": last if steps else cotangents[2]}

    report = unshrunk(lstm.derive(backward=backward))
    assert {"W", "U", "b"} <= {finding.primal for finding in report.findings if finding.kind == "wrong"}
