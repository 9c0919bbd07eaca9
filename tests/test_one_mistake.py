"""One mistake is told once: what is of the same kind, on the same primal or built on a wrong part stands behind it."""

from __future__ import annotations

import io

import numpy as np
import pytest

from gradverify.cli import _show
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.properties import explained
from gradverify.recurrent import as_cell, unroll
from gradverify.report import terminal

SETTINGS = Settings(seed=3, properties=("complete", "gradient"), examples=30)


def mlp(x, W, b, y):
    z = np.tanh(x @ W + b)
    return np.mean((z - y) ** 2), (x, W, z, y)


def mlp_backward(factor=2.0, bias=1.0):
    def backward(dE, saved):
        x, W, z, y = saved
        e = factor * dE * (z - y) / z.size
        dz = e * (1 - z * z)
        return dz @ W.T, x.T @ dz, bias * dz.sum(0), -e

    return backward


def report_on(backward):
    return check_layer(Layer(mlp, backward, name="mlp", x="N D", W="D H", b="H", y="N H"), SETTINGS)


@pytest.fixture(scope="module")
def halved():
    return report_on(mlp_backward(factor=1.0))


def test_one_factor_in_every_gradient_is_one_finding_with_the_others_behind_it(halved):
    lead, *behind = halved.findings
    assert {f.primal for f in halved.findings} == {"x", "W", "b", "y"}
    assert lead.follows is None and {f.follows for f in behind} == {lead.fingerprint}
    assert {f.diagnoses[0].name for f in halved.findings} == {"factor"}


def test_it_is_told_on_one_page(halved):
    text = terminal.render(halved)
    assert text.count("import numpy as np") == 1 and text.count("\n") < 55
    assert "as well:\n    the gradient of" in text


def test_what_follows_is_as_small(halved):
    assert max(f.case.size for f in halved.findings) <= 2 * halved.findings[0].case.size


def test_a_mistake_of_another_look_says_what_it_looks_like():
    report = report_on(mlp_backward(bias=3.0))
    assert [f.primal for f in report.findings] == ["b"]
    both = check_layer(
        Layer(lambda x, w: (x * w, (x, w)), lambda dy, s: (2 * dy * s[1], -dy * s[0]), name="both", x="N", w="N"),
        SETTINGS,
    )
    first, second = both.findings
    assert second.follows == first.fingerprint and first.diagnoses[0].text != second.diagnoses[0].text
    assert second.diagnoses[0].text in " ".join(terminal.render(both).split())


def attend(X, Q, K):
    q, k = X @ Q, X @ K
    e = np.exp(q @ k.T - (q @ k.T).max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return p @ X, (X, Q, K, q, k, p)


def attend_backward(factor):
    def backward(dy, saved):
        X, Q, K, q, k, p = saved
        dp = dy @ X.T
        ds = p * (dp - (dp * p).sum(-1, keepdims=True))
        dq, dk = ds @ k, factor * ds.T @ q
        return dq @ Q.T + dk @ K.T + p.T @ dy, X.T @ dq, X.T @ dk

    return backward


def test_the_weight_that_a_law_explains_is_told_before_the_input_that_its_error_reaches():
    lead, behind = check_layer(Layer(attend, attend_backward(2.0), X="T 3", Q="3 3", K="3 3"), SETTINGS).findings
    assert (lead.primal, behind.primal) == ("K", "X")
    assert lead.diagnoses[0].name == "factor" and behind.follows == lead.fingerprint
    assert not check_layer(Layer(attend, attend_backward(1.0), X="T 3", Q="3 3", K="3 3"), SETTINGS).findings


def test_a_crash_does_not_carry_the_reading_of_another_finding():
    def forward(x):
        return np.zeros((len(x) - 2,)) + np.sum(x[:-2] * x[2:]), x  # no array has -1 entries

    def backward(dy, x):
        dx = np.zeros_like(x)
        dx[2:] = dy.sum() * x[:-2]
        dx[:-2] = dy.sum() * x[2:]  # assigned where it must be added
        return dx

    layer = Layer(forward, backward, name="windows", x="N")
    report = check_layer(layer, SETTINGS)
    readings = {f.kind: [d.name for d in f.diagnoses] for f in report.findings}
    assert readings["wrong"] and readings["crash"] == []


def step(x, h, W):
    y = np.tanh(x @ W + h)
    return y, (x, W, y)


def step_backward(dy, saved):
    x, W, y = saved
    return dy @ W.T, dy, x.T @ dy  # without the slope of tanh


@pytest.fixture(scope="module")
def cell():
    return as_cell((step, step_backward), name="my_cell", x="N D", h="N H", W="D H", states="h", batch="N")


def test_a_sequence_whose_step_is_wrong_tells_the_step_first(cell):
    report = check_layer(unroll(cell), SETTINGS)
    assert report.findings[0].case.layer == "my_cell"
    ours = [f for f in report.findings if f.case.layer == report.layer]
    assert ours and all(f.follows == report.findings[0].fingerprint for f in ours)
    assert f"{report.layer} fails as well, which this explains" in terminal.render(report)


def test_a_sequence_that_is_wrong_by_itself_does_not_blame_the_step():
    right = as_cell(
        (step, lambda dy, s: ((d := dy * (1 - s[2] ** 2)) @ s[1].T, d, s[0].T @ d)),
        name="right_cell",
        x="N D",
        h="N H",
        W="D H",
        states="h",
        batch="N",
    )
    steps = unroll(right)
    wrong = steps.derive(backward=lambda dy, saved: {n: 3 * g for n, g in steps.backward(dy, saved).items()})
    report = check_layer(wrong, SETTINGS)
    assert report.findings and {f.case.layer for f in report.findings} == {wrong.name}


def test_where_step_and_sequence_are_both_checked_the_sequence_is_one_line(cell):
    reports = [check_layer(unroll(cell), SETTINGS), check_layer(cell, SETTINGS)]
    out = io.StringIO()
    _show.show(reports, {}, out, False)
    assert out.getvalue().count("import numpy as np") == 1
    assert f"{reports[0].layer} fails as well, which my_cell explains" in out.getvalue()


@pytest.mark.parametrize(
    ("finding", "others", "expected"),
    [
        (("special", "wrong", "W"), [("gradient", "wrong", "W")], True),
        (("special", "wrong", "W"), [("gradient", "wrong", "b")], False),
        (("special", "tie", "W"), [("gradient", "wrong", "b")], True),
        (("gradient", "wrong", "W"), [("repeatable", "random", "")], True),
        (("complete", "crash", ""), [("repeatable", "random", "")], False),
        (("gradient", "wrong", "W"), [("fresh", "uninitialised", "W")], True),
        (("gradient", "wrong", "W"), [("fresh", "uninitialised", "b")], False),
        (("gradient", "wrong", "W"), [("gradient", "wrong", "W")], False),
        (("of somebody else", "wrong", "W"), [("gradient", "wrong", "W")], False),
    ],
)
def test_what_explains_what_is_declared_by_the_properties(finding, others, expected):
    assert explained(finding, [finding, *others]) is expected
