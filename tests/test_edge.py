"""A forward that does not return beyond the domain of its primals: differences step there, and that is no finding."""

import numpy as np
import pytest

import gradverify as gv
from gradverify.core.evaluate import LayerFailure, edge
from gradverify.core.nouns import Case
from gradverify.core.properties import properties
from gradverify.core.verify import examine

LIMIT = 2.0  # seconds of computing; a case of these takes a hundredth of one


def root(a):
    """Newton's iteration, which never ends where any a is negative."""
    x = np.ones_like(a)
    while True:
        new = 0.5 * (x + a / x)
        if np.all(np.abs(new - x) <= 1e-12 * new):
            return new, new
        x = new


def layer(slip=1.0, domain="positive"):
    def forward(a):  # one of its own: what hangs is remembered for a function
        return root(a)

    return gv.Layer(forward, lambda dy, y: slip * dy / (2 * y), a=f"N: {domain}")


def outcome(checked, *values):
    return examine(checked, Case("root", {"a": np.array(values)}, seed=1), properties.get("gradient"), LIMIT)


@pytest.mark.parametrize("values", [(1e-9, 4.0), (0.2, 100.0)])
def test_a_loop_that_never_ends_beyond_the_domain_is_no_finding_and_a_wrong_slope_is(values):
    right, wrong = layer(), layer(slip=1.001)
    assert not outcome(right, *values).findings
    assert [f.kind for f in outcome(wrong, *values).findings] == ["wrong"]


def test_what_hangs_there_is_not_called_there_again():
    right = layer()
    assert not edge.hangs(right)
    examine(right, Case("root", {"a": np.array([1e-9, 4.0])}, seed=1), properties.get("gradient"), LIMIT)
    assert edge.hangs(right)
    with pytest.raises(LayerFailure, match="does not return beyond its domain"):
        edge.entered(right, {"a": np.array([-1.0])}, {})
    edge.entered(right, {"a": np.array([1.0])}, {})


def test_a_loop_that_never_ends_within_the_domain_is_one():
    endless = layer(domain="real")
    (finding,) = outcome(endless, -1.0, 2.0).findings
    assert finding.kind == "timeout" and not edge.hangs(endless)
