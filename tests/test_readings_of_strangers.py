"""What a reading names of layers that others wrote, and what it must not say of them; the right twin has no finding."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gradverify import check


def onto_the_simplex(over_all):
    """The nearest point of the simplex in each row: the derivative takes the mean over the support from each place."""

    def forward(x):
        u = -np.sort(-x, axis=1)
        least = (np.cumsum(u, axis=1) - 1) / np.arange(1, x.shape[1] + 1)
        count = (u > least).sum(1)
        y = np.maximum(x - least[np.arange(len(x)), count - 1][:, None], 0)
        return y, y > 0

    def backward(dy, support):
        n = support.shape[1] if over_all else support.sum(1, keepdims=True)
        return (dy - (dy * support).sum(1, keepdims=True) / n) * support

    return forward, backward, {"x": "N D"}


def quantile(one_sided):
    """One number of all entries: an error that is alike in some of them is no sum over them."""

    def forward(pred, target):
        e = target - pred
        return np.where(e > 0, 0.9 * e, -0.1 * e).mean(), e

    def backward(dout, e):
        d = np.where(e > 0, -0.9, -0.9 if one_sided else 0.1) * dout / e.size
        return d, -d

    return forward, backward, {"pred": "N K", "target": "N K"}


def modulated(unconjugated):
    def forward(z, w):
        u = z * w
        return np.abs(u) ** 2, (z, w, u)

    def backward(dy, saved):
        z, w, u = saved
        du = 2 * dy * u
        return du * (w if unconjugated else np.conj(w)), (du * np.conj(z)).sum(0)

    return forward, backward, {"z": "N D: complex", "w": "D: complex"}


def looked_up(unscaled):
    """Between the points of a table: K - 1 intervals, not as many as there are places to look at."""

    def forward(table, at):
        n = len(table) - 1
        k = np.minimum((at * n).astype(int), n - 1)
        t = at * n - k
        return table[k] * (1 - t) + table[k + 1] * t, (table, k, t)

    def backward(dy, saved):
        table, k, t = saved
        n = len(table) - 1
        dtable = np.zeros_like(table)
        np.add.at(dtable, k, dy * (1 - t))
        np.add.at(dtable, k + 1, dy * t)
        return dtable, dy * (table[k + 1] - table[k]) * (1 if unscaled else n)

    return forward, backward, {"table": "K", "at": "P: between 0.02 0.98", "assume": lambda K: K > 1}


def penalised(ignoring):
    """Two outputs, a sample and a penalty; the upstream gradient of the second is forgotten."""

    def forward(x, s):
        return (x * np.exp(s), (s**2).sum(1)), (x, s)

    def backward(dys, saved):
        (dy, dpenalty), (x, s) = dys, saved
        return dy * np.exp(s), dy * x * np.exp(s) + 2 * s * (1 if ignoring else dpenalty[:, None])

    return forward, backward, {"x": "N D", "s": "N D"}


def overflowing(carelessly):
    """A softplus of a sharpness that is an option: where it overflows is no matter of the option."""

    def forward(x, *, sharpness):
        z = sharpness * x
        return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), z

    def backward(dy, z, *, sharpness):
        small = np.exp(-np.abs(z))
        s = np.exp(z) / (1 + np.exp(z)) if carelessly else np.where(z >= 0, 1, small) / (1 + small)
        return dy * sharpness * s

    return forward, backward, {"x": "N D", "options": {"sharpness": [1.0, 5.0]}}


def attending(everywhere):
    """A softmax over the edges of a graph, each node joined to itself; edges that are not there get a share.

    Where all others are there it is right, and such a graph is its own transpose.
    """

    def forward(s, v, edges):
        keep = (edges > 0) | np.eye(len(s), dtype=bool)
        e = np.exp(s - s.max(1, keepdims=True)) * keep
        p = e / e.sum(1, keepdims=True)
        return p @ v, (p, v, keep)

    def backward(dy, saved):
        p, v, keep = saved
        dp = dy @ v.T
        ds = p * (dp - (dp * p).sum(1, keepdims=True))
        return np.where(keep, ds, dp) if everywhere else ds, p.T @ dy, None

    return forward, backward, {"s": "N N: between -2 2", "v": "N D", "edges": "N N: mask"}


def smoothed(narrowly):
    """A running mean whose backward adds up in float32."""

    def forward(x, a):
        y, s = np.empty_like(x), np.zeros_like(x[0])
        for t in range(len(x)):
            y[t] = s = a * s + (1 - a) * x[t]
        return y, (x, a, y)

    def backward(dy, saved):
        x, a, y = saved
        dx, da = np.empty_like(x), 0.0
        g = np.zeros(x.shape[1:], np.float32 if narrowly else float)
        for t in reversed(range(len(x))):
            g += dy[t]
            da += (g * ((y[t - 1] if t else 0) - x[t])).sum()
            dx[t] = g * (1 - a)
            g *= a
        return dx, da

    return forward, backward, {"x": "T N", "a": ": unit"}


def approximated(slightly):
    """A term that is missing, as small as a rounding of float32."""

    def forward(x):
        return np.sin(x) + 3e-8 * np.sin(3 * x), x

    def backward(dy, x):
        return dy * (np.cos(x) + (0 if slightly else 9e-8 * np.cos(3 * x)))

    return forward, backward, {"x": "N D: between -2 2"}


@pytest.mark.parametrize(
    ("of", "bug_class", "said", "never"),
    [
        (onto_the_simplex, "TERM", "one number at some places and 0 at the others", ""),
        (quantile, "TERM", "a branch of the derivative", "a sum or a mean"),
        (modulated, "COMPLEX", "right where w is real", ""),
        (looked_up, "FACTOR", r"times 1/\(K - 1\)", "1/P"),
        (penalised, "UPSTREAM", "ignores the upstream gradient of output 1", "weight decay"),
        (overflowing, "TAIL", "for large values only", "does not follow forward"),
        (attending, "MASK", "right where edges is 1 everywhere", "transpose"),
        (smoothed, "PRECISION", "summed in float32", ""),
        (approximated, "TERM", "a small term that is missing", "float32"),
    ],
)
def test_a_reading_names_it(of, bug_class, said, never):
    forward, backward, dims = of(False)
    assert check(forward, backward, **dims, examples=25, raises=False).ok
    forward, backward, dims = of(True)
    report = check(forward, backward, **dims, examples=25, raises=False)
    told = report.findings[0].diagnoses
    assert told[0].bug_class == bug_class, told
    assert re.search(said, told[0].text), told
    assert not never or not any(re.search(never, d.text) for finding in report.findings for d in finding.diagnoses)
