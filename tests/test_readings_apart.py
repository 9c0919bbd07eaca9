"""Readings that two causes could claim: of two sizes that go together, a mask or a transpose, a size or an option."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import check

ASKED = dict(examples=25, raises=False)


def positions(wrong):
    """Numbers read at places between -1 and 1; on plain cases there are as many places as gaps, by chance."""

    def forward(table, at):
        gaps = len(table) - 1
        k = np.clip(np.floor((at + 1) / 2 * gaps).astype(int), 0, gaps - 1)
        t = (at + 1) / 2 * gaps - k
        return table[k] * (1 - t) + table[k + 1] * t, (table, k, t)

    def backward(dy, saved):
        table, k, t = saved
        dtable = np.bincount(k, dy * (1 - t), len(table)) + np.bincount(k + 1, dy * t, len(table))
        return dtable, dy * (table[k + 1] - table[k]) / 2 * (1 if wrong else len(table) - 1)

    declared = {"table": "L", "at": "P: between -0.9 0.9", "assume": lambda L: L > 1}
    return forward, backward, declared, "at", "times 1/(L - 1)"


def neighbours(wrong):
    """The softmax over those that a node sees, and itself; its gradient goes to the others as well."""

    def forward(x, sees):
        keep = (sees > 0) | np.eye(len(x), dtype=bool)
        e = np.exp(x[None, :] - x.max()) * keep
        p = e / e.sum(1, keepdims=True)
        return p, (p, keep)

    def backward(dy, saved):
        p, keep = saved
        ds = (np.where(keep, p, 0.3) if wrong else p) * (dy - (dy * p).sum(1, keepdims=True))
        return ds.sum(0), None

    return forward, backward, {"x": "N", "sees": "N N: mask"}, "x", "where sees is 1 everywhere"


def shared(wrong):
    """What goes over a bound is divided among those that keep something, or among all."""

    def forward(x):
        order = -np.sort(-x, axis=1)
        over = np.cumsum(order, axis=1) - 2
        count = (order - over / np.arange(1, x.shape[1] + 1) > 0).sum(1)
        y = np.maximum(x - (over[np.arange(len(x)), count - 1] / count)[:, None], 0)
        return y, y > 0

    def backward(dy, kept):
        number = np.full((len(dy), 1), dy.shape[1]) if wrong else kept.sum(1, keepdims=True)
        return kept * (dy - (dy * kept).sum(1, keepdims=True) / number)

    return forward, backward, {"x": "N D"}, "x", "one number at some places and 0 at the others"


def heads(wrong):
    """Two outputs; what comes back for the second is not asked for."""

    def forward(x):
        return (np.sin(x), (x**2).sum(1)), x

    def backward(dys, x):
        of_sum = np.ones(len(x)) if wrong else dys[1]
        return dys[0] * np.cos(x) + 2 * x * of_sum[:, None]

    return forward, backward, {"x": "N D"}, "x", "ignores the upstream gradient of output 1"


def filtered(wrong):
    """A power after a complex gain, whose conjugate is forgotten."""

    def forward(z, gain):
        u = z @ gain
        return np.abs(u) ** 2, (z, gain, u)

    def backward(dy, saved):
        z, gain, u = saved
        du = 2 * dy * u
        return du @ (gain.T if wrong else np.conj(gain.T)), np.conj(z.T) @ du

    return forward, backward, {"z": "N D: complex", "gain": "D K: complex"}, "z", "right where gain is real"


def horner(wrong):
    """A polynomial whose exponents are counted from 0 in its slope: of the first two of them nothing is left."""

    def forward(x, c):
        powers = x[:, None] ** np.arange(len(c))
        return powers @ c, (powers, c)

    def backward(dy, saved):
        powers, c = saved
        k = np.arange(1, len(c)) - wrong
        return dy * (powers[:, :-1] @ (k * c[1:])), powers.T @ dy

    return forward, backward, {"x": "N", "c": "K"}, "x", "comes from the right places, and the derivative"


@pytest.mark.parametrize("kind", [positions, neighbours, shared, heads, filtered, horner])
def test_the_cause_is_told_and_the_right_layer_passes(kind):
    """The first sentence of the wrong layer is the one that holds."""
    forward, backward, declared, primal, words = kind(True)
    report = check(forward, backward, **declared, **ASKED)
    finding = next(f for f in report.findings if f.property == "gradient" and f.primal == primal)
    assert words in finding.diagnoses[0].text
    forward, backward, declared, *_ = kind(False)
    assert check(forward, backward, **declared, **ASKED).ok


def steep(wrong, sign=1.0):
    """A softplus whose slope overflows for large values; an option scales these."""

    def forward(x, *, beta):
        return np.logaddexp(0, beta * x), x

    def backward(dy, x, *, beta):
        e = np.exp(beta * x if wrong else -np.abs(beta * x))
        s = e / (1 + e) if wrong else np.where(x >= 0, 1 / (1 + e), e / (1 + e))
        return sign * dy * beta * s

    return forward, backward, {"x": "N", "options": {"beta": [1.0, 5.0]}}


def test_an_option_that_only_scales_what_overflows_is_no_cause():
    """NaN from some size on comes at the default as well, for larger values."""
    forward, backward, declared = steep(True)
    said = [d for f in check(forward, backward, **declared, **ASKED).findings for d in f.diagnoses]
    assert said
    assert said[0].bug_class == "TAIL"
    assert not any("right with the default" in d.text for d in said)
    forward, backward, declared = steep(False)
    assert check(forward, backward, **declared, **ASKED).ok


def test_a_finding_of_nan_is_not_explained_by_numbers_that_are_wrong_elsewhere():
    """A wrong sign does not give NaN: each of the two findings has its own reading."""
    forward, backward, declared = steep(True, sign=-1.0)
    classes = {f.kind: f.diagnoses[0].bug_class for f in check(forward, backward, **declared, **ASKED).findings}
    assert classes == {"nan": "TAIL", "wrong": "SIGN"}


def test_zero_is_no_proof_that_the_upstream_gradient_is_ignored():
    """A sum of probabilities is 1: its gradient for dy = 1 is zero, and so is one that is left out."""

    def forward(x, t):
        e = np.exp((x - x.max(1, keepdims=True)) * t)
        return e / e.sum(1, keepdims=True), (x, t, e / e.sum(1, keepdims=True))

    def backward(dy, saved):
        x, t, p = saved
        ds = p * (dy - (dy * p).sum(1, keepdims=True))
        return ds * t, np.zeros(())

    report = check(forward, backward, x="N K: between -3 3", t=": between 0.5 2", **ASKED)
    said = [d.text for f in report.findings for d in f.diagnoses]
    assert "exactly zero" in said[0]
    assert not any("ignores the upstream gradient" in text for text in said)


class Masked:
    """Weights of which some are dropped; backward keeps the mask of forward, or draws one."""

    again = True

    def __init__(self, D, H):
        self.W = np.random.randn(D, H)

    def forward(self, x):
        self.x, self.kept = x, np.random.rand(*self.W.shape) < 0.6
        return x @ (self.W * self.kept)

    def backward(self, dy):
        kept = np.random.rand(*self.W.shape) < 0.6 if self.again else self.kept
        self.dW = (self.x.T @ dy) * kept
        return dy @ (self.W * kept).T


class Kept(Masked):
    """The right one."""

    again = False


def test_a_mask_of_weights_that_is_drawn_again_is_told_by_their_gradient():
    """That of the input has no zeros; that of the weights has them in other places than forward."""
    finding = check(Masked, x="N D", **ASKED).findings[0]
    assert finding.diagnoses[0].bug_class == "RNG"
    assert "drawn again" in finding.diagnoses[0].text
    assert check(Kept, x="N D", **ASKED).ok


class Racing(Kept):
    """Some blocks are lost now and then."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.dW = self.dW * (np.random.rand(*self.W.shape) < 0.6)
        return dx


def test_contributions_that_are_lost_by_chance_are_no_mask():
    """Nothing is there that forward does not have."""
    report = check(Racing, x="N D", **ASKED)
    assert {d.bug_class for f in report.findings for d in f.diagnoses} == {"RACE"}


def summed(wrong):
    """A leaky sum; its gradient is carried in float32."""

    def forward(x, keep):
        y = np.empty_like(x)
        s = np.zeros_like(x[0])
        for t in range(len(x)):
            s = keep * s + x[t]
            y[t] = s
        return y, (keep, y)

    def backward(dy, saved):
        keep, y = saved
        dx, g, dkeep = np.empty_like(y), np.zeros(y.shape[1:], np.float32 if wrong else float), 0.0
        for t in reversed(range(len(y))):
            g += dy[t]
            dx[t] = g + 0 * y[t]
            dkeep += (g * y[t - 1]).sum() if t else 0.0
            g *= keep
        return dx * 3 / 3, dkeep

    return forward, backward, {"x": "T N", "keep": ": unit"}, "x", "float32"


def contrasts(wrong):
    """Distances of one point to two others; that to the second is left out of its gradient."""

    def forward(a, b, c):
        near, far = (a - b) ** 2, np.abs(a - c) ** 3
        return (near + far).sum(1), (a, b, c)

    def backward(dy, saved):
        a, b, c = saved
        near = 2 * dy[:, None] * (a - b)
        far = 3 * dy[:, None] * (a - c) * np.abs(a - c)
        return near if wrong else near + far, -near, -far

    return forward, backward, {"a": "N D", "b": "N D", "c": "N D"}, "a", "is the right gradient of c"


def votes(wrong):
    """Numbers of classes, which are 1 or 2; of one that comes twice the last vote counts alone."""

    def forward(w, chosen):
        return (w[:, chosen] ** 2).sum(0), (w, chosen)

    def backward(dy, saved):
        w, chosen = saved
        dw = np.zeros_like(w)
        if wrong:
            dw[:, chosen] = 2 * w[:, chosen] * dy
        else:
            np.add.at(dw, (slice(None), chosen), 2 * w[:, chosen] * dy)
        return dw, None

    declared = {"w": "N K", "chosen": "L: integers 1 2", "assume": lambda K: K > 2}
    return forward, backward, declared, "w", "no value is repeated"


@pytest.mark.parametrize("kind", [summed, contrasts, votes])
def test_a_kind_of_its_own_is_told_and_the_right_layer_passes(kind):
    """What is rounded, what two primals have in common, and indices that begin at 1."""
    forward, backward, declared, primal, words = kind(True)
    finding = next(f for f in check(forward, backward, **declared, **ASKED).findings if f.primal == primal)
    assert any(words in d.text for d in finding.diagnoses)
    assert not any("approximation" in d.text for d in finding.diagnoses)
    forward, backward, declared, *_ = kind(False)
    assert check(forward, backward, **declared, **ASKED).ok
