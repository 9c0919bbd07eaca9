"""Where a right layer has no value, or none that small differences can tell, nothing is called wrong."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv


def inverse(A):
    B = np.linalg.inv(A)
    return B, B


def inverse_back(dB, B, sign=-1.0, turned=True):
    return sign * B.T @ dB @ (B.T if turned else B)


def solved(A, y):
    x = np.linalg.solve(A, y)
    return x, (A, x)


def solved_back(dx, saved, turned=True):
    A, x = saved
    u = np.linalg.solve(A.T if turned else A, dx)
    return -np.outer(u, x), u


def factored(A):
    L = np.linalg.cholesky(A @ A.T + np.eye(len(A)))
    return L, (A, L)


def factored_back(dL, saved, halved=True):
    A, L = saved
    P = np.tril(L.T @ np.tril(dL))
    P[np.diag_indices(len(P))] *= 0.5 if halved else 1.0
    back = np.linalg.inv(L)
    S = back.T @ P @ back
    return (S + S.T) @ A


LAYERS = {
    "inverse": (inverse, inverse_back, {"A": "N N"}, {"turned": False}),
    "solution": (solved, solved_back, {"A": "N N", "y": "N"}, {"turned": False}),
    "factor": (factored, factored_back, {"A": "N N"}, {"halved": False}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_singular_matrix_is_told_and_is_no_finding(name):
    forward, backward, dims, slip = LAYERS[name]
    report = gv.check(forward, backward, examples=40, **dims)
    notes = " ".join(report.remarks)
    assert report.ok and (name == "factor" or "linear algebra has no answer: forward raised LinAlgError" in notes)
    wrong = gv.check(forward, lambda dy, saved: backward(dy, saved, **slip), examples=10, raises=False, **dims)
    assert {f.kind for f in wrong.findings} == {"wrong"}


def test_a_backward_that_inverts_what_has_no_inverse_is_found():
    def backward(dy, saved):
        x, W = saved
        return dy @ np.linalg.inv(np.zeros((W.shape[1], W.shape[1]))) @ W.T, x.T @ dy

    report = gv.check(lambda x, W: (x @ W, (x, W)), backward, x="N D", W="D H", examples=5, raises=False)
    assert any(f.kind == "crash" and "Singular matrix" in f.message for f in report.findings)


def stages(y, A):
    """The four slopes of a step of Runge and Kutta for y' = tanh(y A)."""
    k1 = np.tanh(y @ A)
    k2 = np.tanh((y + k1 / 8) @ A)
    k3 = np.tanh((y + k2 / 8) @ A)
    return k1, k2, k3, np.tanh((y + k3 / 4) @ A)


def runge_kutta(y, A):
    """Four steps: where A is large, the slope at 0 is 1e24, and 1e-20 beside it all is flat."""
    seen = [y]
    for _ in range(4):
        k1, k2, k3, k4 = stages(seen[-1], A)
        seen.append(seen[-1] + (k1 + 2 * k2 + 2 * k3 + k4) / 24)
    return seen[-1], (seen, A)


@pytest.mark.parametrize("last", [1 / 24, 1 / 12])
def test_a_slope_steeper_than_the_usual_steps_tell(last):
    def backward(dy, saved):
        seen, A = saved
        dA = np.zeros_like(A)
        for y in seen[-2::-1]:
            k1, k2, k3, k4 = stages(y, A)
            d4 = last * dy * (1 - k4**2)
            d3 = (dy / 12 + d4 @ A.T / 4) * (1 - k3**2)
            d2 = (dy / 12 + d3 @ A.T / 8) * (1 - k2**2)
            d1 = (dy / 24 + d2 @ A.T / 8) * (1 - k1**2)
            dA += y.T @ d1 + (y + k1 / 8).T @ d2 + (y + k2 / 8).T @ d3 + (y + k3 / 4).T @ d4
            dy = dy + (d1 + d2 + d3 + d4) @ A.T
        return dy, dA

    layer = gv.Layer(runge_kutta, backward, name="steep", y="N D", A="D D")
    primals = {"y": np.array([[3.0], [0.0]]), "A": np.array([[305.0]])}
    case = gv.Case("steep", primals, cotangents=(np.array([[0.0], [1.0]]),))
    right = last == 1 / 24
    assert gv.verify(layer, case, "gradient").ok is right
    assert gv.check(layer, properties="gradient", examples=10, raises=False).ok is right


def equilibrium(W, x):
    z = np.zeros_like(x)
    for _ in range(500):
        new = np.tanh(0.4 * np.tanh(W) @ z / len(W) + x)
        if np.abs(new - z).max() < 1e-8:
            break
        z = new
    return new, (W, new)


@pytest.mark.parametrize(("implicit", "ok"), [(True, True), (False, False)])
def test_outputs_below_the_tolerance_of_an_iteration(implicit, ok):
    def backward(dz, saved):
        W, z = saved
        slope = 1 - z**2
        J = slope[:, None] * 0.4 * np.tanh(W) / len(W)
        u = (np.linalg.solve(np.eye(len(W)) - J.T, dz) if implicit else dz) * slope
        return np.outer(u, z) * 0.4 / len(W) * (1 - np.tanh(W) ** 2), u

    layer = gv.Layer(equilibrium, backward, name="equilibrium", W="N N", x="N")
    case = gv.Case("equilibrium", {"W": np.zeros((1, 1)), "x": np.array([-5.5e-9])}, cotangents=(np.ones(1),))
    assert gv.verify(layer, case, "gradient").ok or not implicit
    few = layer.derive(assume=lambda N: N <= 3)  # a jump of 1e-10 is lost among the curves of many entries
    assert gv.check(few, properties="gradient", examples=30, raises=False).ok is ok
