"""Declarations that cannot be used, and layers that leave nothing to verify: never a traceback, never "ok"."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

import gradverify as gv
from gradverify import casefile
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.errors import CaseFileError, DeclarationError, TargetError, UsageError
from gradverify.report.terminal import undecided


def forward(x, W, b):
    return x @ W + b, (x, W)


def backward(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(0)


DIMS = dict(x="N D", W="D H", b="H")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"btach": "N"}, "did you mean the setting batch"),
        ({"options": {"p": [1, 2]}}, "unexpected keyword argument 'p'"),
        ({"options": {"p": []}}, "option 'p': the list of its choices is empty"),
        ({"options": "p"}, "options: expected a dict by name"),
        ({"returns": ("N H", "N")}, "returns: expected a dict by name"),
        ({"returns": 7}, "returns: expected a dict by name"),
        ({"primals": ["N"]}, "primals: expected a dict by name"),
        ({"primals": {"x": "N D"}}, "'x' is declared twice"),
        ({"x": "N D: between 3 -3"}, "primal 'x': nothing lies between 3 and -3"),
        ({"x": "N D: integers 3 2"}, "primal 'x': nothing lies between 3 and 2"),
        ({"x": "N D: labels 0"}, "must be at least 1"),
        ({"factor": "a"}, "factor: expected a number that is not zero"),
        ({"factor": 0}, "factor: expected a number that is not zero"),
        ({"assume": 3}, "assume is not callable"),
        ({"assume": lambda q: True}, "assume: it takes 'q'"),
        ({"reference": 3}, "reference is not callable"),
        ({"surrogate": "a"}, "surrogate is not callable"),
        ({"x": ["N", "D"]}, "every keyword that is no setting names a primal"),
    ],
)
def test_a_declaration_is_refused_before_anything_is_drawn(changes, says):
    with pytest.raises(DeclarationError, match=says) as caught:
        gv.Layer(forward, backward, name="mine", **{**DIMS, **changes})
    assert "'mine'" in str(caught.value)


def test_a_primal_that_forward_needs_and_nobody_declared_is_named():
    with pytest.raises(DeclarationError, match=r"forward takes x, W, b, declared are x, W .*'b'"):
        gv.Layer(forward, backward, x="N D", W="D H")


def test_a_function_that_takes_anything_is_not_asked_for_its_names():
    assert gv.Layer(lambda *a, **o: forward(*a), backward, **DIMS, options={"p": [1]}).primal_names == ("x", "W", "b")


@pytest.mark.parametrize(
    ("changes", "says"), [({"bakward": backward}, "no field 'bakward'"), ({"forward": 3}, "callable")]
)
def test_derive_takes_the_fields_of_a_layer_only(changes, says):
    with pytest.raises(DeclarationError, match=says):
        gv.Layer(forward, backward, **DIMS).derive(**changes)


@pytest.mark.parametrize(
    "make", [lambda: gv.Layer(forward, backward, name=3, **DIMS), lambda: gv.register("a", name=3)]
)
def test_a_name_is_a_string(make):
    with pytest.raises(DeclarationError):
        make()
    assert layers.names()


def failing(assume):
    return gv.Layer(forward, backward, name="mine", **DIMS, assume=assume)


def test_what_an_assume_or_a_strategy_does_wrong_is_told_as_the_authors():
    with pytest.raises(DeclarationError, match="layer 'mine': assume raised ZeroDivisionError"):
        gv.check(failing(lambda x: 1 / 0), properties="gradient")
    with pytest.raises(DeclarationError, match="must give single numbers"):
        gv.check(forward, backward, properties="gradient", **{**DIMS, "x": ("N D", st.text())})


# -- nothing to verify ---------------------------------------------------------------------------


def nowhere(x, W, b):
    return np.full((len(x), len(b)), np.nan), (x, W)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (failing(lambda x: False), "assume refused all"),
        (gv.Layer(forward, backward, x="N 0", W="0 H", b="H"), "empty=True"),
        (gv.Layer(forward, backward, **{**DIMS, "x": ("N D", st.nothing())}), "the strategy of x"),
        (gv.Layer(nowhere, backward, **DIMS), "not finite"),
        (gv.Layer(lambda x: (x * 1.0, None), lambda dy, s: (), x="N: labels 3"), "no primal is differentiable"),
    ],
)
def test_a_layer_of_which_nothing_can_be_verified_is_not_ok_and_says_why(layer, says):
    report = gv.check(layer, examples=2, properties="gradient", raises=False)
    assert not report.findings and not report.verified and not report.ok
    assert says in undecided(report)
    assert report.cases == 0 or "assume" not in says


def test_a_check_that_verifies_nothing_raises():
    with pytest.raises(gv.NothingVerified, match="not finite"):
        gv.check(gv.Layer(nowhere, backward, **DIMS), examples=2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda x, W, b: ((x @ W + b).astype(int), (x, W)), "have no derivative"),
        (lambda x, W, b: ((x @ W + b) > 0, (x, W)), "have no derivative"),
        (lambda x, W, b: (x @ W, (x, W)), "output 'y' of forward of .* is not as declared"),
        (lambda x, W, b: ((x @ W + b, b), (x, W)), "2 output"),
    ],
)
def test_outputs_that_are_not_as_declared_are_a_finding(wrong, says):
    returns = "N H" if "as declared" not in says else "H N H"
    report = gv.check(wrong, backward, **DIMS, returns=returns, examples=2, raises=False)
    assert [(f.property, f.kind) for f in report.findings] == [("complete", "outputs")]
    report.findings[0].message.index(says.partition(" of .*")[0])


@pytest.mark.parametrize("raw", [{0: 1.0}, {"w": 1.0}, None, 3.0])
def test_gradients_that_cannot_be_told_apart_are_a_finding(raw):
    report = gv.check(forward, lambda dy, s: raw, **DIMS, examples=2, raises=False)
    assert {f.property for f in report.findings} == {"complete"}


# -- one concrete Case ---------------------------------------------------------------------------

PRIMALS = {"x": np.ones((2, 3)), "W": np.ones((3, 1)), "b": np.zeros(1)}


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (None, "expected a gradverify.Case"),
        (gv.Case("dense", {**PRIMALS, "q": np.ones(1)}), "primal 'q'"),
        (gv.Case("dense", PRIMALS, {"p": 3}), "option 'p'"),
        (gv.Case("dense", {**PRIMALS, "b": np.array(["a"])}), "primal 'b' .* is no array of numbers"),
        (gv.Case("dense", {**PRIMALS, "x": [[1.0], [2.0, 3.0]]}), "primal 'x' .* is no array"),
        (gv.Case("dense", PRIMALS, step=float("nan")), "the step nan"),
        (gv.Case("dense", PRIMALS, seed=-1), "the seed -1"),
    ],
)
def test_a_case_that_does_not_fit_is_refused(case, says):
    with pytest.raises(UsageError, match=says):
        gv.verify("dense", case)


def test_a_case_may_be_written_with_lists_and_whole_numbers():
    case = gv.Case("dense", {"x": [[1, 2]], "W": [[1.0], [2.0]], "b": [0]}, cotangents=([[1.0]],))
    assert gv.verify("dense", case, "gradient").ok
    with pytest.raises(TargetError, match="no layer 'densee'"):
        gv.verify("densee", case)


def test_any_damage_to_a_case_file_is_called_damage():
    data = casefile.dumps(gv.Case("dense", PRIMALS, {"a": (1, 2.5)}, (np.ones((2, 1)),), 1e-5, 7, "dense"))
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            casefile.loads(bytes(damaged))
        except CaseFileError:
            continue


def test_a_gradient_that_is_all_rounding_agrees():
    """Two sums of the same terms in different order: their difference, zero on paper, is one unit in the last place."""
    q = np.array([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1000.0, 0.0]]])
    k = np.array([[[-100.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    v = np.array([[[1000.0, -1000.0], [-100.0, -40.0]], [[0.0, 0.0], [0.0, 0.0]]])
    dy = np.array([[[0.4, 1.4], [1.6, -1.7]], [[0.4, -1.6], [-1.4, 1.9]]])
    for seed in range(8):
        case = gv.Case("", {"q": q, "k": k, "v": v}, {"block": 2, "causal": True}, (dy,), seed=seed)
        assert not gv.verify("blockwise_attention", case, "gradient").findings


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({}, "declares no primals"),
        ({"x": "N D)"}, "layer 'f', primal 'x'"),
        ({"x": 3}, "expected a dimension string"),
        ({"x": "N", "stride": [1, 2]}, r"an option is declared as options=\{'stride': \[1, 2\]\}"),
        ({"x": "N", "training": True}, r"with its choices, as options=\{'training': \[True\]\}"),
        ({"x": "N: labels Q"}, "'Q'"),
        ({"x": "N", "zero": "w"}, "no primal 'w'"),
        ({"x": "N", "batch": "B"}, "no primal has an axis 'B'"),
        ({"x": "N", "kinks": "up"}, "'up'"),
        ({"x": "N", "options": {"x": [1]}}, "both as a primal and as an option"),
    ],
)
def test_a_declaration_that_cannot_be_used_names_the_layer_and_the_argument(keywords, match):
    with pytest.raises(DeclarationError, match=match) as caught:
        Layer(lambda x: (x, None), lambda dy, s: dy, name="f", **keywords)
    assert "'f'" in str(caught.value)
