"""The case that a report shows: small, with values that are no zeros, so that a factor or an axis can be read off."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose.telling import telling, tells
from gradverify.core.diagnose.variants import legal


def dense(x, W, b):
    return x @ W + b, (x, W)


def mean_over_batch(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.mean(0)


def stale_by_one(dy, n):
    return np.where(n == 1, 2.0 * dy, dy)


def found(layer):
    (finding,) = check_layer(layer, Settings(examples=40)).findings
    return finding


def test_the_smallest_case_stays_and_another_one_is_shown():
    finding = found(Layer(dense, mean_over_batch, name="dense", x="N D", W="D H", b="H"))
    assert finding.case.primals["W"].shape == (1, 1)
    shown = finding.shown
    assert shown.fingerprint == finding.fingerprint
    assert shown.comparison.wrong.sum() > 1
    assert all((a != 0).all() and (a == np.round(a)).all() for a in shown.case.primals.values())
    ratios = shown.comparison.analytic / shown.comparison.numerical
    assert np.allclose(ratios, 1 / len(shown.case.primals["x"]))  # the factor can be read off


def test_a_case_that_shows_the_fault_itself_is_shown():
    layer = Layer(lambda x: (x * x, x), lambda dy, x: dy * x * [[1.0], [2.0]], name="square", x="2 N")
    finding = found(layer)
    if tells(finding.case, int(finding.comparison.wrong.sum())):
        assert finding.telling is None
    assert tells(finding.shown.case, int(finding.shown.comparison.wrong.sum()))


def test_what_fails_at_one_size_only_is_shown_at_that_size():
    layer = Layer(lambda x: (2.0 * x, len(x)), stale_by_one, name="twice", x="N")
    finding = found(layer)
    assert finding.telling is None or np.size(finding.telling.case.primals["x"]) > 1


def test_one_axis_is_made_longer_where_sizes_that_all_differ_are_too_many_numbers():
    def gated(x, c, W):
        z = (x @ W).reshape(len(x), 8, -1).sum(1)
        return c * z, (x, c, W, z)

    def backward(dy, saved):
        x, c, W, z = saved
        dz = np.tile(dy * c, (1, 8))
        return dz @ W.T, 2 * dy * z, x.T @ dz

    finding = found(Layer(gated, backward, name="gated", x="N D", c="N H", W="D 8*H"))
    assert finding.case.primals["c"].size == 1
    assert finding.shown.comparison.wrong.sum() == 2
    assert all((a == np.round(a)).all() for a in finding.shown.case.primals.values())


@pytest.mark.parametrize("domain", ["real", "positive"])
def test_every_case_that_is_offered_is_legal_and_small(domain):
    layer = Layer(
        lambda x, k: (x.reshape(-1, k).sum(1) ** 2, x), lambda dy, x: x, name="groups", x=("N", domain),
        options={"k": [2, 3]},
        assume=lambda x, k: len(x) % k == 0,
    )  # fmt: skip
    finding = check_layer(layer, Settings(examples=40)).findings[0]
    offered = list(telling(layer, finding.case, "x"))
    assert offered
    for case in offered:
        assert legal(layer, case)
        assert case.size <= 40
        assert len(case.primals["x"]) % case.options["k"] == 0
        assert (case.primals["x"] != 0).all()


def test_where_the_smallest_case_hides_the_cause_it_is_looked_for_in_the_one_shown():
    """A norm over all places but the first axis: two equal rows of one entry tell nothing of the rank."""

    def forward(x):
        z = x - x.mean(-1, keepdims=True)
        return z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5), x

    def backward(dy, x):
        shape, x, dy = x.shape, x.reshape(x.shape[0], -1), dy.reshape(x.shape[0], -1)
        z = x - x.mean(-1, keepdims=True)
        r = 1 / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5)
        return (r * (dy - dy.mean(-1, keepdims=True) - z * r * (dy * z * r).mean(-1, keepdims=True))).reshape(shape)

    finding = found(Layer(forward, backward, name="norm", x="*batch D"))
    assert finding.diagnoses[0].name == "rank", [d.text for d in finding.diagnoses]
