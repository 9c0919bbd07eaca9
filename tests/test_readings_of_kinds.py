"""Readings of kinds of slips, each on a layer that was written for it: what is said is what was done."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gradverify import adapt, check

ASKED = dict(properties="gradient", examples=25, raises=False)


def solved(wrong):
    """Two systems one after the other, whose transposes are solved in the other order."""

    def forward(A, B, x):
        A, B = (M + 3 * np.eye(len(M)) for M in (A, B))
        u = np.linalg.solve(A, x)
        y = np.linalg.solve(B, u)
        return y, (A, B, u, y)

    def backward(dy, saved):
        A, B, u, y = saved
        first, second = (A, B) if wrong else (B, A)
        du = np.linalg.solve(first.T, dy)
        dx = np.linalg.solve(second.T, du)
        return -np.outer(dx, u), -np.outer(du, y), dx

    return forward, backward, {"A": "N N: between -1 1", "B": "N N: between -1 1", "x": "N"}


def skew(wrong):
    """A matrix that counts by A - A.T alone."""

    def forward(A, x):
        return np.tanh((A - A.T) @ x), (A, x)

    def backward(dy, saved):
        A, x = saved
        d = dy * (1 - np.tanh((A - A.T) @ x) ** 2)
        dS = np.outer(d, x)
        return dS if wrong else dS - dS.T, (A - A.T).T @ d

    return forward, backward, {"A": "N N", "x": "N"}


def contrastive(wrong):
    """Scores of all pairs of rows, whose gradient stands untransposed in that of the second."""

    def forward(a, b):
        s = a @ b.T
        p = np.exp(s - s.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return -np.log(np.diag(p)), (a, b, p)

    def backward(dy, saved):
        a, b, p = saved
        ds = (p - np.eye(len(a))) * dy[:, None]
        return ds @ b, (ds if wrong else ds.T) @ a

    return forward, backward, {"a": "N D: between -1 1", "b": "N D: between -1 1"}


def scores(wrong):
    """The same of queries and keys, in stacks."""

    def forward(q, k):
        s = np.tanh(q @ np.swapaxes(k, 1, 2))
        return s, (q, k, s)

    def backward(dy, saved):
        q, k, s = saved
        ds = dy * (1 - s * s)
        return ds @ k, (ds if wrong else np.swapaxes(ds, 1, 2)) @ q

    return forward, backward, {"q": "B T E", "k": "B T E"}


def running(slip):
    """log of a running sum of exponentials."""

    def forward(x):
        y = np.logaddexp.accumulate(x, axis=1)
        return y, (x, y)

    def backward(dy, saved):
        x, y = saved
        dx = np.zeros_like(x)
        for t in range(x.shape[1]):
            taken = {"": slice(t, None), "before": slice(None, t + 1), "own": slice(t + 1, None)}[slip]
            dx[:, t] = (dy[:, taken] * np.exp(x[:, t : t + 1] - y[:, taken])).sum(1)
        return dx

    return forward, backward, {"x": "N T"}


def leaky(slope):
    """Scores with a slope of their own below 0, in a product."""

    def forward(x, w):
        s = np.outer(x, w)
        y = np.where(s > 0, s, 0.2 * s)
        return y @ y.T, (x, w, s, y)

    def backward(dy, saved):
        x, w, s, y = saved
        ds = ((dy + dy.T) @ y) * np.where(s > 0, 1.0, slope)
        return ds @ w, ds.T @ x

    return forward, backward, {"x": "N", "w": "K"}


def haar(wrong):
    """One sign of a transform whose lengths are powers of 2: no matter of sizes."""

    def forward(x):
        parts = []
        while x.shape[1] > 1:
            parts.append(x[:, 0::2] - x[:, 1::2])
            x = x[:, 0::2] + x[:, 1::2]
        return np.concatenate([x, *parts[::-1]], 1), None

    def backward(dy, _):
        a, k = dy[:, :1], 1
        while k < dy.shape[1]:
            d, b = dy[:, k : 2 * k], np.empty((len(dy), 2 * k))
            b[:, 0::2], b[:, 1::2] = a + d, d - a if wrong else a - d
            a, k = b, 2 * k
        return a

    return forward, backward, {"x": "N T", "assume": lambda T: T & (T - 1) == 0}


def filtered(wrong):
    """A variance that is carried on, and no input is: what the steps give is added up rightly."""

    def forward(y, f, q):
        p, out, tape = 1.0, [], []
        for t in range(len(y)):
            tape.append(p)
            p = f * f * p / (1 + p) + q * q
            out.append(y[t] * p)
        return np.array(out), (y, f, q, tape)

    def backward(dout, saved):
        y, f, q, tape = saved
        dy, df, dq, dp = np.zeros_like(y), 0.0, 0.0, 0.0
        for t in reversed(range(len(y))):
            p = tape[t]
            dy[t] = dout[t] * (f * f * p / (1 + p) + q * q)
            dp = dp + dout[t] * y[t]
            df, dq = df + 2 * f * p / (1 + p) * dp, dq + 2 * q * dp
            dp = dp * f * f / (1 if wrong else (1 + p) ** 2)
        return dy, df, dq

    return forward, backward, {"y": "T", "f": ": between 0.5 1", "q": ": between 0.5 1"}


def averaged(wrong):
    """The mean over neighbours in a graph, whose transpose is missing where the graph is not regular."""

    def forward(x, A):
        S = (A + np.eye(len(A))) / (A.sum(1) + 1)[:, None]
        return S @ x, S

    def backward(dy, S):
        return (S if wrong else S.T) @ dy

    return forward, backward, {"x": "V D", "A": "V V: mask", "constants": "A"}


def settled(wrong):
    """A softmax over segments: where no segment has two members, its gradient is 0, whatever backward does."""

    def forward(x, segment):
        e = np.exp(x)
        s = np.bincount(segment, e)
        return e / s[segment], (e / s[segment], segment)

    def backward(dy, saved):
        p, segment = saved
        return p * (dy - np.bincount(segment, dy if wrong else dy * p)[segment]), None

    return forward, backward, {"x": "N: between -1 1", "segment": "N: indices 4"}


def negatives(wrong):
    """Rows that are taken by two indices each: distinct ones are found where there is room for them."""

    def forward(U, ids):
        return np.tanh(U[ids]), (U, ids)

    def backward(dy, saved):
        U, ids = saved
        d, dU = dy * (1 - np.tanh(U[ids]) ** 2), np.zeros_like(U)
        if wrong:
            dU[ids] += d
        else:
            np.add.at(dU, ids, d)
        return dU, None

    return forward, backward, {"U": "6 D", "ids": "N K: indices 6"}


def likelihood(wrong):
    """What is masked is 0 by itself, and tells no branch of the derivative."""

    def forward(z, mask):
        return (mask * (z + np.exp(-z))).sum(1), (z, mask)

    def backward(dy, saved):
        z, mask = saved
        return dy[:, None] * mask * ((0.0 if wrong else 1.0) - np.exp(-z)), None

    return forward, backward, {"z": "N K: between -1 1", "mask": "N K: mask"}


def ranked(wrong):
    """Soft ranks: with the upstream gradient of the own place in all terms, the sum cancels."""

    def forward(x):
        s = 1 / (1 + np.exp(x[:, None, :] - x[:, :, None]))
        return s.sum(2), s

    def backward(dy, s):
        slope = s * (1 - s)
        return dy * slope.sum(2) - ((dy[:, None, :] if wrong else dy[:, :, None]) * slope).sum(1)

    return forward, backward, {"x": "N K: between -1 1"}


def rotated(wrong):
    """Two outputs, one of which sends back what the other should subtract."""

    def forward(x, A, B):
        return (x @ A, x @ B), (x, A, B)

    def backward(dy, saved):
        x, A, B = saved
        dr, di = dy
        return dr @ A.T + (-di if wrong else di) @ B.T, x.T @ dr, x.T @ di

    return forward, backward, {"x": "N D", "A": "D H", "B": "D H"}


def ordered(wrong):
    """Entries put in their order, and back again by the order itself where its inverse belongs; one row of them."""

    def forward(x):
        order = np.argsort(x, kind="stable")
        return (np.arange(1.0, len(x) + 1) * x[order] ** 2).sum(), (x, order)

    def backward(dy, saved):
        x, order = saved
        d = dy * np.arange(1.0, len(x) + 1)
        back = order if wrong else np.argsort(order, kind="stable")
        return 2 * (d * x[order])[back]

    return forward, backward, {"x": "N: distinct"}


def shaped(wrong):
    """Two parameters of one function, the one taken for the other in the gradient of the second."""

    def forward(a, b):
        return a**2 * np.sin(b) + np.sin(a * b), (a, b)

    def backward(dy, saved):
        a, b = saved
        return dy * (2 * a * np.sin(b) + b * np.cos(a * b)), dy * (a**2 * np.cos(a if wrong else b) + a * np.cos(a * b))

    return forward, backward, {"a": "N: positive", "b": "N: positive"}


def pooled(wrong):
    """h_t = f_t h_(t-1) + (1 - f_t) z_t, with the gate of another step in backward."""

    def forward(z, f):
        h, p = np.zeros_like(z), np.zeros_like(z[0])
        for t in range(len(z)):
            p = h[t] = f[t] * p + (1 - f[t]) * z[t]
        return h, (z, f, h)

    def backward(dh, saved):
        z, f, h = saved
        dz, df, g = np.zeros_like(z), np.zeros_like(f), np.zeros_like(z[0])
        for t in reversed(range(len(z))):
            g = g + dh[t]
            dz[t] = g * (1 - f[t - 1 if wrong else t])
            df[t] = g * ((h[t - 1] if t else 0) - z[t])
            g = g * f[t]
        return dz, df

    return forward, backward, {"z": "T H", "f": "T H: unit"}


@pytest.mark.parametrize(
    ("of", "slip", "bug_class", "said", "never"),
    [
        (solved, True, "INDEX", "where A and B commute .* in the wrong order", ""),
        (skew, True, "TERM", "this one minus its own transpose", ""),
        (contrastive, True, "INDEX", r"d @ a where it must be d\.T @ a, with d the gradient of a @ b\.T", ""),
        (scores, True, "INDEX", r"d @ q where it must be d\.T @ q", ""),
        (running, "before", "INDEX", "takes from outputs before it, the right one from outputs behind it", ""),
        (running, "own", "INDEX", "lacks what comes from outputs at its own place along T", "overwritten"),
        (leaky, 1.0, "TERM", "right where no primal is negative", ""),
        (haar, True, "SIGN", "wrong sign", "multiple of"),
        (filtered, True, "TERM|GATE", "", "not added up"),
        (averaged, True, "INDEX", r"J dy where it must be J\^T dy", "is 1 everywhere"),
        (settled, True, "TERM|UNKNOWN", "", "must be added up"),
        (negatives, True, "REPEAT-IDX", "where in ids no value is repeated", ""),
        (likelihood, True, "TERM", "", "branch of the derivative"),
        (ranked, True, "TERM", "zero, but for rounding.* cancels", "dependency is dropped"),
        (shaped, True, "INDEX", "where a and b are the same", ""),
        (pooled, True, "INDEX", "where f is the same at all places along T", ""),
        (rotated, True, "SIGN", "output 1 sends back to x has the wrong sign", ""),
        (ordered, True, "INDEX", "right numbers in other places|another order", ""),
    ],
)
def test_a_reading_tells_the_slip_and_nothing_else(of, slip, bug_class, said, never):
    right, wrong = of("" if isinstance(slip, str) else 0.2 if of is leaky else False), of(slip)
    assert check(*right[:2], **right[2], **ASKED).ok
    report = check(*wrong[:2], **wrong[2], **ASKED)
    told = report.findings[0].diagnoses
    assert re.fullmatch(bug_class, told[0].bug_class), told
    assert re.search(said, told[0].text), told
    assert not never or not any(re.search(never, d.text) for finding in report.findings for d in finding.diagnoses)


class Online:
    """A layer that steps its weights in backward, before or after it has used them."""

    early = False

    def __init__(self, D, H):
        self.W = np.random.randn(D, H)

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dy, learning_rate):
        W = self.W.copy()
        self.W -= learning_rate * self.x.T @ dy
        return dy @ (self.W if self.early else W).T


class Early(Online):
    early = True


def test_weights_that_are_updated_before_they_are_used_are_told_by_the_square_of_the_upstream_gradient():
    assert check(adapt.optimiser(Online, x="N D"), **ASKED).ok
    told = check(adapt.optimiser(Early, x="N D"), **ASKED).findings[0].diagnoses[0]
    assert told.bug_class == "MUTATE" and "what it has changed by then" in told.text


def squeezed(wrong):
    """One factor is wrong in what two weights get, and through them in the input: the factor is told first."""

    def forward(x, W):
        g = np.tanh(x.mean(1) @ W)
        return x * g[:, None, :], (x, W, g)

    def backward(dy, saved):
        x, W, g = saved
        dg = ((dy * x).mean(1) if wrong else (dy * x).sum(1)) * (1 - g * g)
        return dy * g[:, None, :] + (dg @ W.T)[:, None, :] / x.shape[1], x.mean(1).T @ dg

    return forward, backward, {"x": "N L C", "W": "C C"}


def test_a_law_of_one_gradient_is_told_before_the_form_of_another():
    right, wrong = squeezed(False), squeezed(True)
    assert check(*right[:2], **right[2], **ASKED).ok
    first = check(*wrong[:2], **wrong[2], **ASKED).findings[0]
    assert (first.primal, first.diagnoses[0].bug_class) == ("W", "FACTOR") and "1/L" in first.diagnoses[0].text


@pytest.mark.parametrize("part", [1e-7, 1e-8])
def test_an_error_that_probes_cannot_see_is_right_nowhere(part):
    """A term that fades towards 0, too small for the cases that a reading tries: only its size is told."""

    def forward(x):
        return np.sin(x) + part * x**4 / 4, x

    report = check(forward, lambda dy, x: dy * np.cos(x), x="N D", properties="gradient", raises=False)
    names = {diagnosis.name for finding in report.findings for diagnosis in finding.diagnoses}
    assert report.findings and names == {"small_error"}
