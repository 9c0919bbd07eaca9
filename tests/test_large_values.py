"""Values that absorb what is added to them: a right layer is never wrong there, and a wrong one is found."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer, verify
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.registry import layers
from gradverify.core.properties import gradient, special
from gradverify.core.tuning import Tuning, using

ABSORBING = (1e16, -1e16, 1e50)


def absorbing(rng, shape):
    """Ties, saturated values, or ties on an offset that absorbs them."""
    ties, kind = np.floor(3 * rng.uniform(size=shape)) - 1, rng.integers(6)
    if kind == 2:
        return rng.choice([0.0, 40.0, -100.0, 1e3, -1e3, 1.0, -1.0], size=shape)
    return ties if kind < 2 else rng.choice(ABSORBING) + ties


SHAPES = {
    "blockwise_attention": {"q": (2, 3, 2), "k": (2, 4, 2), "v": (2, 4, 2)},
    "bilstm": {
        name + suffix: shape
        for suffix in ("", "_reverse")
        for name, shape in {"h0": (2, 2), "c0": (2, 2), "W": (2, 8), "U": (2, 8), "b": (8,)}.items()
    }
    | {"x": (2, 2, 2)},
}
OPTIONS = {"blockwise_attention": {"block": 2, "causal": False}, "bilstm": {}}


def slipping(name):
    """The layer with its first gradient a thousandth too large."""
    layer = layers.get(name)
    first = layer.primals[0].name

    def backward(cotangents, saved):
        raw = layer.backward(cotangents, saved, **OPTIONS[name])
        found = dict(raw) if isinstance(raw, dict) else dict(zip((p.name for p in layer.primals), raw))
        return {**found, first: 1.001 * found[first]}

    return Layer(
        lambda *arrays: layer.forward(*arrays, **OPTIONS[name]),
        backward,
        name=name,
        primals={p.name: p.dims.text for p in layer.primals},
    )


def drawn(name, rng, of):
    primals = {p.name: of(rng, SHAPES[name][p.name]) for p in layers.get(name).primals}
    return Case(name, primals, OPTIONS[name], seed=int(rng.integers(1000)))


@pytest.mark.parametrize("name", SHAPES)
def test_offsets_that_absorb_leave_entries_open_and_none_wrong(name):
    rng = np.random.default_rng(0)
    for _ in range(25):
        case = drawn(name, rng, absorbing)
        assert not verify(name, case, ("gradient", "special")).findings, case


@pytest.mark.parametrize("name", SHAPES)
def test_a_slip_of_a_thousandth_is_found_in_the_same_layers_at_ordinary_values(name):
    case = drawn(name, np.random.default_rng(1), lambda rng, shape: rng.normal(size=shape))
    assert verify(name, case).ok
    found = verify(slipping(name), case.but(options={}), "gradient").findings
    assert [f.primal for f in found] == [layers.get(name).primals[0].name]


NORMED = {
    "a large beta": ([[3e10 + 1, 3e10 - 1, 3e10 - 1, 3e10 - 1]], [-0.34, 0.71, -1.16, 1.71], [-1.0, 40.0, 1.0, 1e10]),
    "ties": ([[1e10 + 1, 1e10 + 1, 1e10], [1e10 + 1, 1e10 + 1, 1e10 - 1]], [-1.11, -1.65, -0.01], [1.0, 1e3, -1.0]),
    "equal": (np.full((2, 3), 1e10), [1.0, -2.0, 0.5], [0.0, 1.0, 2.0]),
    "ordinary": ([[0.3, -1.0, 0.7, 2.0]], [-0.34, 0.71, -1.16, 1.71], [-1.0, 40.0, 1.0, 3.0]),
}


@pytest.mark.parametrize("values", NORMED)
def test_a_norm_of_what_differs_by_less_than_any_step_is_left_open(values):
    norm = layers.get("layer_norm")

    def judged(slip):
        layer = Layer(
            lambda x, gamma, beta: norm.forward(x, gamma, beta, eps=1e-5),
            lambda dy, saved: (slip * (found := norm.backward(dy, saved))[0], *found[1:]),
            name="norm",
            primals={"x": "N D", "gamma": "D", "beta": "D"},
        )
        primals = dict(zip(("x", "gamma", "beta"), map(np.array, NORMED[values])))
        return [verify(layer, Case("norm", primals, seed=seed), "gradient").ok for seed in (28, 148, 3)]

    assert all(judged(1.0))
    if values == "ordinary":
        assert not any(judged(1.001))


def test_a_backward_that_differs_by_as_much_one_unit_in_the_last_place_away_says_so():
    """A gate that is open at one number alone: either side of it, and by any step, nothing passes."""

    def gated(slip, scale):
        def forward(x, w):
            a = scale * x * w
            return np.exp(-a * a), (x, w, a)

        def backward(dy, saved):
            x, w, a = saved
            da = -2 * a * np.exp(-a * a) * dy + slip * dy * (a == 0)
            return scale * da * w, scale * da * x

        return Layer(forward, backward, name="gated", x="N", w="N")

    case = Case("gated", {"x": np.array([1e16]), "w": np.array([0.0])})
    assert gradient.holds(gated(1.0, 1e34), case).compared[1].because() == {("unresolved", "apart"): 1}
    ordinary = Case("gated", {"x": np.array([0.7]), "w": np.array([0.0])})
    assert gradient.holds(gated(1.0, 1.0), ordinary).compared[1].wrong.all()


@pytest.mark.parametrize("value", [1e12, 1e16, 1e50])
def test_large_values_excuse_no_wrong_formula(value):
    def squared(slip):
        return Layer(lambda x: (x * x, x), lambda dy, x: slip * 2 * x * dy, name="squared", x="N")

    case = Case("squared", {"x": np.array([value, -value, 3.0])})
    assert verify(squared(1.0), case).ok
    assert not verify(squared(1.001), case, "gradient").ok


def test_tied_entries_under_weights_of_a_billion_are_no_finding():
    """A gate that is open over 1e-9 of the joint direction, and looks flat at every larger step."""
    case = Case(
        "lstm",
        {
            "x": np.full((2, 1, 1), -40.0),
            "h0": np.zeros((1, 2)),
            "c0": np.full((1, 2), 3.0),
            "W": np.array([[0.0, -1.0, -1.0, 1.0, 0.0, 1.0, 1.0, 0.0]]),
            "U": np.array([[1, 1e5, 34, 16300, 9631, -1e5, 4414, -1e5], [3, 2e9, 13852, 2e9, 2e9, 1e4, -1601, 1e4]]),
            "b": np.array([0.0, 0.0, 0.0, 0.0, 0.0, -10.0, 0.0, 0.0]),
        },
        cotangents=(np.array([[[-1.7, -1.5]], [[1.4, 1.0]]]), np.array([[0.7, 1.8]]), np.array([[1.5, 0.7]])),
    )
    assert not special.holds(layers.get("lstm"), case).findings


def test_tied_entries_that_claim_too_much_are_found_at_steep_slopes_too():
    """Both of two equal maxima claim the whole gradient, and the output is a billion times as large."""
    twice = Layer(lambda x: (1e9 * x.max(), x), lambda dy, x: 1e9 * dy * (x == x.max()), name="maximum", x="N")
    case = Case("maximum", {"x": np.array([2.0, 2.0, -1.0])})
    assert [finding.kind for finding in special.holds(twice, case).findings] == ["tie"]


def test_a_root_beside_much_larger_numbers_is_not_told_by_steps_that_move_only_these():
    """Over steps of 1e50 a root of 2 looks flat, and over its own the others lend but their rounding."""
    root = layers.get("sqrt")
    case = Case("sqrt", {"x": np.array([[1e50] * 3, [1e50, 2.0, 1e50]])}, seed=2884, step=3e-4)
    assert not verify(root, case, ["gradient", "special"]).findings
    wrong = root.derive(backward=lambda dy, saved: 1.001 * root.backward(dy, saved))
    assert verify(wrong, case.but(primals={"x": np.array([[3.0, 2.0]])}), "gradient").findings


@pytest.mark.parametrize("large", [1e6, 1e16, 1e50])
def test_entries_beside_much_larger_ones_are_not_judged_by_steps_of_those(large):
    def layer(factor):
        return Layer(
            lambda x: (x + 0.5 * np.sin(x), x), lambda dy, x: dy * (1 + factor * np.cos(x)), name="waves", x="N"
        )

    beside = Case("waves", {"x": np.array([large, -100.0, large])}, cotangents=(np.array([1.0, 2.0, 1.1]),), seed=1)
    assert not verify(layer(0.5), beside, "gradient").findings
    assert verify(layer(0.51), beside.but(primals={"x": np.array([3.0, -1.0, 2.0])}), "gradient").findings


@pytest.mark.parametrize(("size", "rows"), [(3, 1), (3, 2), (3, 3), (5, 1), (6, 2), (7, 3)])
@pytest.mark.parametrize("wrong", [0.0, 1e-6])
def test_what_rounds_in_proportion_to_the_step_around_zeros_is_no_slope(size, rows, wrong):
    """Steps that are powers of two times one number round alike, and show no noise."""

    def forward(x):
        c = x - x.mean(-1, keepdims=True)
        return (c / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)).sum(), x

    layer = Layer(forward, lambda dy, x: np.zeros_like(x) + wrong * dy, name="centred", x="N D")
    case = Case("centred", {"x": np.zeros((rows, size))}, cotangents=(np.array(-1.5),))
    with using(Tuning(vain={"stopped"})):  # as in a search that has seen no jump of this layer
        assert bool(gradient.holds(layer, case).findings) == bool(wrong)


@pytest.mark.parametrize(("offset", "factor", "blind"), [(5e14, 1.0, True), (5e14, 7.0, True), (5e2, 1.0, False)])
def test_a_primal_of_which_any_gradient_would_pass_is_not_verified(offset, factor, blind):
    layer = Layer(lambda x: (offset + x, None), lambda dy, _: factor * dy, name="offset", x="N: between -1 1")
    report = check_layer(layer, Settings(examples=20))
    assert not report.findings and report.ok == (not blind)
    assert [item.name for item in report.blocking] == (["x"] if blind else [])
    assert not blind or "times the gradient passes" in report.blocking[0].reason
