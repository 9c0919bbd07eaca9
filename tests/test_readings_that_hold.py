"""What a reading says holds: slips of code that no signature was written for, and what must not be said of them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gradverify import Layer, check
from gradverify.core.diagnose import variants
from gradverify.core.nouns import Case

ASKED = dict(examples=25, raises=False)


def turned(slip):
    """Pairs turned by an angle that goes with the place; places have no part in one another."""

    def forward(x, theta):
        angle = np.arange(x.shape[1])[:, None] * theta
        c, s = np.cos(angle), np.sin(angle)
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * c - b * s, a * s + b * c], -1), (a, b, c, s)

    def backward(dy, saved):
        a, b, c, s = saved
        da, db = np.split(dy, 2, axis=-1)
        place = np.arange(a.shape[1])[:, None] + (slip == "late")
        dangle = (da * (-a * s - b * c) + db * (a * c - b * s)) * place
        sign = -1 if slip == "forwards" else 1
        dx = np.concatenate([da * c + sign * db * s, db * c - sign * da * s], -1)
        return dx, dangle.sum((0, 1))

    return forward, backward, {"x": "N T 2*D", "theta": "D"}


def steep(slip):
    """Slopes of two sizes: a probe cannot see that the small ones are wrong as well."""

    def forward(x):
        slope = np.where(x > 0, 1e9, 1.0)
        return slope * np.sin(x), (x, slope)

    def backward(dy, saved):
        x, slope = saved
        return dy * slope * (np.cos(x) + (0.3 if slip else 0))

    return forward, backward, {"x": "N D: between -2 2"}


def neighbours(slip):
    """The mean over those that point to a node, or twice that of others: all of them are added up."""

    def forward(x, source, target):
        count = np.maximum(np.bincount(target, minlength=len(x)), 1)[:, None]
        y = np.zeros_like(x)
        np.add.at(y, target, x[source])
        return y / count, (source, target, count)

    def backward(dy, saved):
        source, target, count = saved
        dx = np.zeros_like(dy)
        if slip == "other count":
            np.add.at(dx, source, dy[target] / count[target] ** 2)
        elif slip == "other end":
            np.add.at(dx, target, (dy / count)[source])
        else:
            np.add.at(dx, source, (dy / count)[target])
        return dx

    return forward, backward, {"x": "N D", "source": "E: indices N", "target": "E: indices N"}


def windows(slip):
    """A causal convolution, whose taps write over one another."""

    def forward(x, w):
        padded = np.pad(x, ((0, 0), (len(w) - 1, 0)))
        return sum(w[k] * padded[:, k : k + x.shape[1]] for k in range(len(w))), (padded, w)

    def backward(dy, saved):
        padded, w = saved
        d, dw = np.zeros_like(padded), np.zeros_like(w)
        for k in range(len(w)):
            at = slice(k, k + dy.shape[1])
            d[:, at] = (0 if slip else d[:, at]) + w[k] * dy
            dw[k] = (dy * padded[:, at]).sum()
        return d[:, len(w) - 1 :], dw

    return forward, backward, {"x": "N T", "w": "3"}


def scaled(slip):
    def forward(x, s):
        return np.sin(x) * s, (x, s)

    def backward(dy, saved):
        x, s = saved
        return dy * s * np.cos(x), (dy * np.sin(x) * (s if slip else 1)).sum()

    return forward, backward, {"x": "N D", "s": ""}


def smoothed(slip):
    """A running mean with a share that is learnt; what the share does to the input is left out."""

    def forward(x, a):
        y, state = np.zeros_like(x), np.zeros(x.shape[1])
        for t in range(len(x)):
            state = y[t] = a * state + (1 - a) * x[t]
        return y, (x, a, y)

    def backward(dy, saved):
        x, a, y = saved
        dx, da, g = np.zeros_like(x), np.zeros_like(a), np.zeros(x.shape[1])
        for t in reversed(range(len(x))):
            g = g + dy[t]
            da = da + g * ((y[t - 1] if t else 0) - (0 if slip else x[t]))
            dx[t], g = g * (1 - a), g * a
        return dx, da

    return forward, backward, {"x": "T D", "a": "D: between 0.2 0.8"}


def reduced(slip):
    """An option that is called a mode, and is none of training."""

    def forward(x, mode="sum"):
        y = np.sin(x).sum(1)
        return (y / x.shape[1] if mode == "mean" else y), x

    def backward(dy, x, mode="sum"):
        d = dy[:, None] * np.cos(x)
        return d / x.shape[1] if mode == "mean" and not slip else d

    return forward, backward, {"x": "N D", "options": {"mode": ["sum", "mean"]}}


def dropped(slip):
    """A mask that is drawn anew in backward."""

    def drawn(x):
        return 2.0 * (np.random.rand(*x.shape) < 0.5)

    def forward(x):
        mask = drawn(x)
        return x * mask, mask

    return forward, lambda dy, mask: dy * (drawn(dy) if slip else mask), {"x": "N D"}


def beside(slip):
    """A second path for the same input, which is left out."""

    def forward(x, W, A, B):
        return x @ W + x @ A @ B, (x, W, A, B)

    def backward(dy, saved):
        x, W, A, B = saved
        low = dy @ B.T
        return dy @ W.T + (0 if slip else low @ A.T), x.T @ dy, x.T @ low, (x @ A).T @ dy

    return forward, backward, {"x": "N D", "W": "D H", "A": "D 2", "B": "2 H"}


@pytest.mark.parametrize(
    ("of", "slip", "bug_class", "said", "never"),
    [
        (turned, "forwards", "INDEX", r"J dy where it must be J\^T dy", "passed back"),
        (turned, "late", "INDEX", "terms from outputs in which some entries have no part", ""),
        (steep, "factor", "TERM|UNKNOWN", "", "branch of the derivative"),
        (neighbours, "other count", "TERM", "all that they contribute is there", "must be added up"),
        (neighbours, "other end", "INDEX", "source and target are the same", ""),
        (windows, "written", "OVERWRITE", "first place that an entry reaches", "carried on"),
        (scaled, "twice", "FACTOR", "a factor s too many", ""),
        (smoothed, "input", "TERM", "lacks what some of the outputs contribute", ""),
        (reduced, "mode", "OPTION", "mode='mean'", "the mode of forward"),
        (dropped, "anew", "RNG", "drawn again in backward", ""),
        (beside, "path", "TERM", "not counted|left out", ""),
    ],
)
def test_a_reading_says_what_holds(of, slip, bug_class, said, never):
    right, wrong = of(""), of(slip)
    assert check(*right[:2], **right[2], **ASKED).ok
    report = check(*wrong[:2], **wrong[2], **ASKED)
    told = report.findings[0].diagnoses
    assert re.fullmatch(bug_class, told[0].bug_class), told
    assert re.search(said, told[0].text), told
    assert not never or not any(re.search(never, d.text) for finding in report.findings for d in finding.diagnoses)


def test_a_mask_of_a_plain_case_keeps_most_and_not_all():
    layer = Layer(lambda x, m: (x * m, m), lambda dy, m: dy * m, name="masked", x="N", m="N: mask", constants="m")
    case = Case("masked", {"x": np.ones(2), "m": np.ones(2)})
    masks = [variants.plain(layer, case, {}, draw, {"N": 4}).primals["m"] for draw in range(6)]
    assert all(not m.all() and m.any() for m in masks)
