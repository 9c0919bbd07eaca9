"""The comparison: bounds hold, verdicts do not depend on the step, right layers stay silent, wrong ones are found."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradverify import Case, Layer, Verdict, verify
from gradverify.core import evaluate, tuning
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.registry import layers
from gradverify.core.differentiate import ladder, screen
from gradverify.core.differentiate.central import best_step, central
from gradverify.core.differentiate.chain import chain
from gradverify.core.differentiate.complexstep import complex_step
from gradverify.core.differentiate.inner_precision import computes_in
from gradverify.core.differentiate.point import Point
from gradverify.core.judge.measure import UPWARD, nearest
from gradverify.core.judge.rules import cancelling
from gradverify.core.judge.sweep import sweep
from gradverify.core.judge.verdicts import judge
from gradverify.core.properties import gradient, special


def elementwise(forward, backward, **declaration):
    """A layer of one primal x of shape (N,), from plain functions."""
    return Layer(lambda x: (forward(x), x), backward, name="layer", x="N", **declaration)


def verdicts(layer, x, **case):
    """Verdicts of the gradient property on the one primal x."""
    outcome = gradient.holds(layer, Case("layer", {"x": np.asarray(x)}, **case))
    return outcome.compared[0].verdicts


def point_of(layer, primals, cotangents=None, dtype=None):
    """A Point, and the analytic gradient as a flat vector."""
    case, _ = evaluate.completed(layer, Case(layer.name, primals, dict(layer.default_options), cotangents))
    raw = evaluate.gradients(layer, case.primals, case.options, case.cotangents)
    point = Point(layer, case, dtype)
    return point, point.vector(evaluate.usable(layer, case, raw)[0])


SINE = elementwise(np.sin, lambda dy, x: dy * np.cos(x))
X = np.array([-2.3, -0.4, 0.0, 0.7, 1.9])


# -- bounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("aware", [False, True])
def test_the_true_derivative_lies_within_the_bound_of_an_estimate(offset, aware):
    rng = np.random.default_rng(5)
    layer = elementwise(lambda x: offset + np.sin(x), lambda dy, x: dy * np.cos(x))
    outside, open_ = 0, 0
    for _ in range(20):
        x = rng.uniform(-10, 10, 10)
        point, analytic = point_of(layer, {"x": x})
        v = point.weights
        estimate = ladder.entrywise(point, np.arange(10), analytic if aware else None)
        truth = np.array([float(mpmath.mpf(w) * mpmath.cos(mpmath.mpf(t))) for w, t in zip(v, x)])
        outside += int((np.abs(estimate.value - truth) > estimate.bound + 2e-16 * np.abs(truth)).sum())
        open_ += int((~np.isfinite(estimate.bound)).sum())
    assert outside == 0
    assert open_ <= 4  # of 200: most are claimed


def test_an_offset_costs_digits_and_the_bound_says_so():
    sharp, _ = point_of(SINE, {"x": X})
    blunt, _ = point_of(elementwise(lambda x: 1e4 + np.sin(x), lambda dy, x: dy * np.cos(x)), {"x": X})
    bounds = [np.median(ladder.entrywise(p, np.arange(X.size)).bound) for p in (sharp, blunt)]
    assert bounds[0] < 1e-11
    assert 1e2 < bounds[1] / bounds[0] < 1e6


@pytest.mark.parametrize("size", [1.0, 0.0])
def test_noise_that_grows_with_the_step_is_known_at_large_steps(size):
    """With a gain of 0 there is none at the point: all of it is multiplied by 0."""
    layer = layers.get("layer_norm")
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(30):
        gamma = size * rng.normal(size=5)
        primals = {"x": 1e3 + 1e-3 * rng.normal(size=(2, 5)), "gamma": gamma, "beta": rng.normal(size=5)}
        point, _ = point_of(layer, primals)
        wide = {n: a.astype(np.longdouble) for n, a in primals.items()}
        raw = evaluate.gradients(layer, wide, point.options, tuple(np.asarray(v) for v in point.cotangents))
        truth = np.asarray(raw["gamma"], float)
        estimate = ladder.entrywise(point, np.arange(10, 15))
        outside += int((np.abs(estimate.value - truth) > estimate.bound).sum())
    assert outside == 0


def test_a_slope_is_as_noisy_as_what_it_is_multiplied_by_also_where_that_adds_up_to_one():
    """Attention of equal values: weights p and 1 - p of scores near 1e4 are off by 1e-12, in opposite ways."""

    def weights(a, b):
        p = 1 / (1 + np.exp(a * a - b * b))
        return np.stack([p, 1 - p])

    def forward(a, b, v):
        return (weights(a, b) * v).sum(0), (a, b)

    layer = Layer(forward, lambda dy, saved: (None, None, dy * weights(*saved)), a="N", b="N", v="2 N")
    rng = np.random.default_rng(0)
    a = rng.uniform(100, 101, 40)
    primals = {"a": a, "b": np.sqrt(a**2 - rng.uniform(-3, 3, 40)), "v": np.full((2, 40), -3.0)}
    point, _ = point_of(layer, primals, cotangents=(np.ones(40),))
    estimate = ladder.entrywise(point, np.arange(80, 120))
    truth = weights(*(primals[name].astype(np.longdouble) for name in "ab"))[0]
    error = np.abs(estimate.value - truth)
    assert (error > 1e-13).any() and (error <= estimate.bound).all() and (estimate.bound < 1e-9).all()


def test_a_function_that_never_rises_above_its_magnified_noise_has_no_estimate():
    layer = layers.get("layer_norm")
    rng = np.random.default_rng(2)
    x = (1e3 + 1e-3 * rng.normal(size=(2, 5))).astype(np.float32)  # sixteen units in the last place
    ones = np.ones(5, np.float32)
    point, _ = point_of(layer, {"x": x, "gamma": ones, "beta": ones})
    estimate = ladder.entrywise(point, np.arange(10))
    wide = {"x": x.astype(float), "gamma": ones.astype(float), "beta": ones.astype(float)}
    truth = evaluate.gradients(layer, wide, point.options, tuple(v.astype(float) for v in point.cotangents))["x"]
    claimed = np.isfinite(estimate.bound)
    assert (np.abs(estimate.value - truth.ravel()) <= estimate.bound)[claimed].all()
    assert not claimed.all()


def test_constants_far_beyond_the_length_scale_are_no_plateau():
    """Beyond its length scale the difference quotient of a bounded function tends to 0, smoothly."""
    layer = elementwise(lambda x: np.sin(1e3 * x), lambda dy, x: 1e3 * dy * np.cos(1e3 * x))
    point, analytic = point_of(layer, {"x": X})
    estimate = ladder.entrywise(point, np.arange(X.size))
    assert (np.abs(estimate.value - analytic) <= estimate.bound + 1e-12).all()
    assert (estimate.bound < 1e-4).all()


# -- verdicts -------------------------------------------------------------------------------


@given(step=st.floats(1e-15, 0.5), wrong=st.booleans(), name=st.sampled_from(["sine", "offset", "cube", "exp"]))
def test_the_verdict_never_flips_between_agrees_and_disagrees_whatever_step_is_drawn(step, wrong, name):
    forward, slope = {
        "sine": (np.sin, np.cos),
        "offset": (lambda x: 1e4 + np.sin(x), np.cos),
        "cube": (lambda x: x * x * x, lambda x: 3 * x * x),
        "exp": (np.exp, np.exp),
    }[name]
    factor = 1.01 if wrong else 1.0
    found = verdicts(elementwise(forward, lambda dy, x: factor * dy * slope(x)), X, step=step)
    forbidden = Verdict.AGREES if wrong else Verdict.DISAGREES
    slopes_differ = np.abs(slope(X)) > 0
    assert not (found[slopes_differ] == forbidden).any()


@given(step=st.floats(1e-12, 0.1))
def test_central_differences_at_a_given_step_agree_or_abstain_on_a_right_layer(step):
    with tuning.using(tuning.Tuning(method="central", eps=step)):
        assert not (verdicts(SINE, X) == Verdict.DISAGREES).any()


def test_central_differences_at_the_tutorials_step_find_a_wrong_sign():
    with tuning.using(tuning.Tuning(method="central", eps=1e-5)):
        assert (verdicts(elementwise(np.sin, lambda dy, x: -dy * np.cos(x)), X) == Verdict.DISAGREES).all()
        assert (verdicts(SINE, X) == Verdict.AGREES).all()


def test_an_infinite_bound_is_unresolved_and_never_agrees():
    assert judge(np.ones(1), np.ones(1), np.full(1, np.inf), np.ones(1))[0] == Verdict.UNRESOLVED


def test_a_pass_states_its_resolution():
    compared = gradient.holds(SINE, Case("layer", {"x": X})).compared[0]
    assert 0 < compared.resolution < 1e-8


# -- right layers stay silent ----------------------------------------------------------------

AT_ZERO = np.array([0.0, 1.5, -0.5, 0.0])
NORMAL = np.random.default_rng(1).normal(size=5)


def split_max(x):
    top = x == x.max()
    return np.asarray(x.max()), top / top.sum()


def norm_sum(x):
    c = x - x.mean(-1, keepdims=True)
    return np.asarray((c / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)).sum())


RIGHT = {
    "relu at 0 with slope 0": (lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 0), AT_ZERO),
    "relu at 0 with slope 1": (lambda x: np.maximum(x, 0), lambda dy, x: dy * (x >= 0), AT_ZERO),
    "clip at its border": (
        lambda x: np.clip(x, -1, 1),
        lambda dy, x: dy * ((x >= -1) & (x <= 1)),
        np.array([-1, 0.3, 1.0]),
    ),
    "LayerNorm(x).sum()": (norm_sum, lambda dy, x: np.zeros_like(x), NORMAL),
    "float32 inside a float64 run": (
        lambda x: np.tanh(x.astype(np.float32)),
        lambda dy, x: (dy * (1 - np.tanh(x.astype(np.float32)) ** 2)).astype(x.dtype),
        NORMAL,
    ),
    "linear at 1e12": (lambda x: 1e12 * x, lambda dy, x: 1e12 * dy, NORMAL),
    "linear at 1e-12": (lambda x: 1e-12 * x, lambda dy, x: 1e-12 * dy, NORMAL),
    "x^3 at 0": (lambda x: x * x * x, lambda dy, x: 3 * x * x * dy, AT_ZERO),
    "1e4 + sin x": (lambda x: 1e4 + np.sin(x), lambda dy, x: dy * np.cos(x), NORMAL),
    "saturated sigmoid": (
        layers.get("sigmoid").forward,
        layers.get("sigmoid").backward,
        np.array([-800.0, -40, 40, 800]),
    ),
}


@pytest.mark.parametrize("name", [n for n in RIGHT if n != "saturated sigmoid"])
@pytest.mark.parametrize("step", [None, 1e-7, 1e-2])
@pytest.mark.parametrize("check", [gradient.holds, special.holds])
def test_right_layers_stay_silent(name, step, check):
    forward, backward, x = RIGHT[name]
    outcome = check(elementwise(forward, backward), Case("layer", {"x": x}, step=step))
    assert outcome.findings == ()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["1e4 + sin x", "x^3 at 0", "relu at 0 with slope 1"])
def test_right_layers_stay_silent_in_low_precision(name, dtype):
    forward, backward, x = RIGHT[name]
    report = verify(elementwise(forward, backward), Case("layer", {"x": x.astype(dtype)}), ["gradient", "special"])
    assert report.findings == ()


def test_a_sigmoid_stays_silent_in_both_tails():
    outcome = gradient.holds(layers.get("sigmoid"), Case("sigmoid", {"x": RIGHT["saturated sigmoid"][2]}))
    assert outcome.findings == ()


def test_a_maximum_that_splits_ties_evenly_stays_silent():
    layer = Layer(split_max, lambda dy, share: dy * share, name="max", x="N")
    for x in ([1.0, 2.0, 2.0], [3.0, 3.0, 3.0]):
        assert verify(layer, Case("max", {"x": np.array(x)}), ["gradient", "special"]).findings == ()


def test_two_maxima_that_both_claim_the_whole_gradient_are_found():
    layer = Layer(lambda x: (np.asarray(x.max()), x == x.max()), lambda dy, top: dy * top, name="max", x="N")
    assert verify(layer, Case("max", {"x": np.array([1.0, 2.0, 2.0])}), ["special"]).findings


HIDDEN = {  # what is added to a larger number inside is rounded away at small steps, and no output tells
    "log(1 + ab)": (
        Layer(
            lambda a, b: (np.log(1 + a * b), (a, b)),
            lambda dy, ab: (dy * ab[1] / (1 + ab[0] * ab[1]), dy * ab[0] / (1 + ab[0] * ab[1])),
            name="hidden",
            a="N",
            b="N",
        ),
        {"a": np.array([0.0, 1e-4, 1e-4]), "b": np.array([2e-12, 1e-4, -1e-4])},
    ),
    "a small term": (
        Layer(
            lambda x: (-0.5 * x * x + np.log(1 + 2e-12 * np.exp(x)), x),
            lambda dy, x: dy * (-x + 2e-12 * np.exp(x)),
            name="hidden",
            x="N",
        ),
        {"x": np.array([0.0059, 7.0])},
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_rounded_away_inside_raises_no_alarm(name):
    layer, primals = HIDDEN[name]
    for seed in range(5):
        assert gradient.holds(layer, Case("hidden", primals, seed=seed)).findings == ()


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("factor", [-1.0, 3.0])
def test_a_wrong_factor_is_found_where_something_is_rounded_away_inside(name, factor):
    layer, primals = HIDDEN[name]

    def backward(dy, saved):
        right = layer.backward(dy, saved)
        return tuple(factor * g for g in right) if isinstance(right, tuple) else factor * right

    assert gradient.holds(layer.derive(backward=backward), Case("hidden", primals)).findings


def test_a_larger_number_added_inside_takes_no_step_away():
    """1e3 + h keeps h only where h has few digits: every rung would be off by the same share."""

    def forward(x):
        c = (x + 1e3) - (x + 1e3).mean(-1, keepdims=True)
        s = 1 / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)
        return c * s, (c * s, s)

    def backward(dy, saved):
        y, s = saved
        return s * (dy - dy.mean(-1, keepdims=True) - y * (dy * y).mean(-1, keepdims=True))

    layer = Layer(forward, backward, name="norm", x="N D")
    for last in (5e-6, 1e-5, 1e-3):
        x = np.array([[last, 1.0], [0.0, 0.0]])
        assert gradient.holds(layer, Case("norm", {"x": x})).findings == ()


def test_a_transition_narrower_than_any_step_is_left_open():
    """A tie of scores in the millions: the slope at it is real, and no difference sees it."""
    steep = elementwise(
        lambda x: np.tanh(1e13 * x), lambda dy, x: dy * 1e13 / np.cosh(np.clip(1e13 * x, -300, 300)) ** 2
    )
    outcome = gradient.holds(steep, Case("layer", {"x": np.array([0.0, 1.0])}))
    assert outcome.findings == () and outcome.compared[0].verdicts[0] == Verdict.UNRESOLVED
    gentle = elementwise(lambda x: np.tanh(1e3 * x), lambda dy, x: dy * 1e4 / np.cosh(1e3 * x) ** 2)
    assert gradient.holds(gentle, Case("layer", {"x": np.array([0.0, 1e-3])})).findings


def test_every_output_may_choose_among_its_ties_for_itself():
    """No order of the entries gives one window its first tie and the next one its last."""
    windows = np.array([[0, 1, 2], [1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 3, 1]])

    def forward(x):
        return x[windows].max(-1), x

    def backward(dy, x, factor=1.0):
        g = np.zeros_like(x)
        for k, window in enumerate(windows):
            tied = window[x[window] == x[window].max()]
            g[tied[-1] if k % 2 else tied[0]] += factor * dy[k]
        return g

    layer = Layer(forward, backward, name="choices", x="4")
    case = Case("choices", {"x": np.full(4, -1.0)}, cotangents=(np.array([1.9, -1.6, -1.3, 0.4, 1.5]),))
    outcome = gradient.holds(layer, case)
    assert outcome.findings == () and (outcome.compared[0].verdicts == Verdict.KINK).any()
    thrice = layer.derive(backward=lambda dy, x: backward(dy, x, 3.0))
    assert gradient.holds(thrice, case).findings


def softmax_in_float32(x, W, v):
    z = (x @ W).astype(np.float32)
    e = np.exp(z - z.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return p.astype(x.dtype) @ v, (x, W, v, p)


def softmax_in_float32_backward(dy, saved):
    x, W, v, p = saved
    dp = (dy @ v.T).astype(np.float32)
    dz = (p * (dp - (dp * p).sum(-1, keepdims=True))).astype(x.dtype)
    return dz @ W.T, x.T @ dz, p.astype(x.dtype).T @ dy


def norm_in_float32(x):
    z = x.astype(np.float32)
    z = z - z.mean(-1, keepdims=True)
    s = 1 / np.sqrt((z * z).mean(-1, keepdims=True) + np.float32(1e-5))
    return (z * s).astype(x.dtype), (z * s, s)


def norm_in_float32_backward(dy, saved):
    y, s = saved
    g = dy.astype(np.float32)
    return (s * (g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True))).astype(dy.dtype)


@pytest.mark.parametrize(
    "layer",
    [
        Layer(softmax_in_float32, softmax_in_float32_backward, name="softmax", x="N D", W="D K", v="K H"),
        Layer(norm_in_float32, norm_in_float32_backward, name="norm", x="N D"),
    ],
    ids=lambda layer: layer.name,
)
def test_code_that_computes_in_float32_inside_a_float64_run_is_judged_as_such(layer):
    settings = Settings(examples=25, seed=2, properties=("gradient", "special"), shrink=False)
    assert check_layer(layer, settings).findings == ()
    wrong = layer.derive(backward=lambda dy, saved: _times(1.05, layer.backward(dy, saved)))
    assert check_layer(wrong, replace(settings, examples=5)).findings


def _times(factor, gradients):
    return tuple(factor * g for g in gradients) if isinstance(gradients, tuple) else factor * gradients


def test_the_precision_inside_is_seen_at_ordinary_values():
    for x in (np.array([[1.0, 2.0, 4.0]]), np.array([[0.0, 0.0, 1e9]])):
        for forward, told in (
            (norm_in_float32, np.float32),
            (lambda x: ((x.astype(np.float16) ** 2).astype(float), None), np.float16),
            (lambda x: (np.log(1 + 1e-6 * x * x), None), None),
            (lambda x: (x + 1e9, None), None),
            (lambda x: (np.rint(x), None), None),
        ):
            layer = Layer(forward, lambda dy, _: dy, name="inside", x="N D")
            case, _ = evaluate.completed(layer, Case("inside", {"x": x}))
            assert computes_in(Point(layer, case)) is told


def rounded_output(scale):
    return elementwise(lambda x: np.rint(scale * np.sin(x)) / scale, lambda dy, x: dy * np.cos(x))


def test_tied_entries_of_a_quantised_output_raise_no_alarm():
    for dtype in (np.float32, np.float64):
        tied = Case("layer", {"x": np.array([-1.0, -1.0], dtype)})
        assert special.holds(rounded_output(2.0**20), tied).findings == ()


@pytest.mark.parametrize(
    ("ties", "place", "value", "dtype"),
    [(23, place, 0.0, np.float64) for place in range(0, 23, 3)]
    + [(28, 9, -4.0, np.float16), (120, 40, -4.0, np.float64)],
)
def test_an_order_statistic_may_give_its_gradient_to_any_of_many_ties(ties, place, value, dtype):
    """Few of the orders of 23 ties put that entry where the 5th smallest is."""

    def select(x):
        return np.sort(x)[10], x

    def backward(dy, x):
        g = np.zeros_like(x)
        g[np.flatnonzero(x == np.sort(x)[10])[place]] = dy
        return g

    layer = Layer(select, backward, name="order", x="N")
    x = np.concatenate([np.full(ties, value), value + np.linspace(-2, -1, 6), value + np.array([1.0, 2.0])]).astype(
        dtype
    )
    assert gradient.holds(layer, Case("order", {"x": x})).findings == ()
    thrice = layer.derive(backward=lambda dy, x: 3 * backward(dy, x))
    assert gradient.holds(thrice, Case("order", {"x": x})).findings


def test_overlapping_windows_of_zeros_may_each_choose_any_of_their_ties():
    for turn in (1, -1):

        def forward(x, turn=turn):
            windows = np.lib.stride_tricks.sliding_window_view(x[::turn], 3)
            return windows.max(-1), (windows.argmax(-1), x.size)

        def backward(dy, saved, turn=turn):
            g = np.zeros(saved[1])
            np.add.at(g, np.arange(dy.size) + saved[0], dy)
            return g[::turn]

        layer = Layer(forward, backward, name="pool", x="N+2")
        for seed in range(10):
            assert gradient.holds(layer, Case("pool", {"x": np.zeros(9)}, seed=seed)).findings == ()


# -- wrong layers are found ------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e12])
def test_a_wrong_sign_is_found_at_any_scale(scale):
    wrong = elementwise(lambda x: scale * np.sin(x), lambda dy, x: -scale * dy * np.cos(x))
    assert (verdicts(wrong, X) == Verdict.DISAGREES).all()


def test_one_of_a_thousand_entries_zeroed_is_found_and_no_other():
    def forgetful(dy, x):
        g = dy * np.cos(x)
        g[417] = 0
        return g

    x = np.random.default_rng(4).normal(size=1000)
    assert np.flatnonzero(verdicts(elementwise(np.sin, forgetful), x) == Verdict.DISAGREES).tolist() == [417]


@pytest.mark.parametrize("share", [1e-8, 1e-6, 1e-3])
def test_an_error_far_below_the_largest_entry_is_found(share):
    def off(dy, x):
        g = dy * np.cos(x)
        g[3] += share * np.abs(g).max()
        return g

    x = np.random.default_rng(4).normal(size=1000)
    assert verdicts(elementwise(np.sin, off), x)[3] == Verdict.DISAGREES


def test_two_inputs_that_meet_in_one_kink_are_found_where_they_are_jointly_wrong():
    layer = Layer(
        lambda p, q: (np.abs(p - q), p - q),
        lambda dy, d: (dy * np.where(d >= 0, 1, -1), dy * np.where(d >= 0, 1, -1)),
        name="distance",
        p="N",
        q="N",
    )
    tied = Case("distance", {"p": np.array([1.0, 2.0]), "q": np.array([1.0, 2.0])})
    legal = gradient.holds(layer, tied)
    assert legal.findings == ()  # each entry alone lies between its one-sided slopes
    assert special.holds(layer, tied).findings


def test_a_declared_slope_at_a_kink_is_enforced():
    relu = elementwise(lambda x: np.maximum(x, 0), lambda dy, x: dy * (x >= 0), kinks="left")
    assert verdicts(relu, AT_ZERO)[0] == Verdict.DISAGREES
    fits = elementwise(lambda x: np.maximum(x, 0), lambda dy, x: dy * (x > 0), kinks="left")
    assert verdicts(fits, AT_ZERO)[0] == Verdict.KINK


# -- bad input -------------------------------------------------------------------------------


def test_a_forward_that_is_nan_at_the_point_is_reported_and_not_compared():
    outcome = gradient.holds(elementwise(np.log, lambda dy, x: dy / x), Case("layer", {"x": np.array([-1.0, 2.0])}))
    assert outcome.skipped
    assert "not finite" in outcome.skipped


def test_nothing_verified_is_no_pass():
    layer = elementwise(np.log, lambda dy, x: dy / x)
    assert not verify(layer, Case("layer", {"x": np.array([-1.0])}), ["gradient"]).ok


def test_a_forward_that_is_never_finite_verifies_nothing_whatever_else_holds():
    report = verify(elementwise(np.log, lambda dy, x: dy / x), Case("layer", {"x": np.array([-1.0])}))
    assert report.tallies["linear"].reason
    assert report.findings == ()
    assert not report.verified


@pytest.mark.parametrize("x", [0.5, 0.0])
def test_at_the_edge_of_a_domain_one_side_decides(x):
    def forward(x):
        return np.where(x >= 0, x * x + 3 * x, np.nan)

    right = elementwise(forward, lambda dy, x: dy * (2 * x + 3))
    wrong = elementwise(forward, lambda dy, x: dy * (2 * x + 4))
    assert verdicts(right, [x])[0] == Verdict.AGREES
    assert verdicts(wrong, [x])[0] == Verdict.DISAGREES


def test_a_forward_that_takes_no_stack_is_called_for_no_step_in_vain():
    calls = []

    def forward(x):
        calls.append(np.shape(x))
        (rows, columns) = np.shape(x)  # code of loops, as it refuses a leading axis
        return np.array([[np.sin(x[i, j]) for j in range(columns)] for i in range(rows)]), x

    layer = Layer(forward, lambda dy, x: dy * np.cos(x), name="loops", x="N D")
    for seed in range(2):  # the first case tells that it takes none
        calls.clear()
        gradient.holds(layer, Case("loops", {"x": np.random.default_rng(seed).standard_normal((6, 5))}))
    assert len(calls) <= 3 * 30, "two for each entry, and the noise"


def test_an_integer_primal_needs_no_gradient():
    layer = Layer(
        lambda w, idx: (w[idx], (w.shape, idx)),
        lambda dy, saved: np.bincount(saved[1], dy, saved[0][0]),
        name="take",
        w="V",
        idx="N: indices V",
        constants=("idx",),
    )
    outcome = gradient.holds(layer, Case("take", {"w": np.arange(3.0), "idx": np.array([0, 2, 2])}))
    assert [c.primal for c in outcome.compared] == ["w"]
    assert outcome.findings == ()


@pytest.mark.parametrize("size", [1e13, 1e308])
def test_a_wrong_sign_is_found_among_huge_primals(size):
    assert (verdicts(elementwise(lambda x: x / 4, lambda dy, x: -dy / 4), [size, -size]) == Verdict.DISAGREES).all()


@pytest.mark.parametrize("dtype", [np.int64, bool])
def test_integers_for_a_differentiable_primal_are_taken_as_floating_point(dtype):
    report = verify(SINE, Case("layer", {"x": np.ones(2, dtype)}))
    assert report.verified
    assert not report.findings


def test_an_empty_array_is_compared_with_nothing():
    outcome = gradient.holds(SINE, Case("layer", {"x": np.zeros(0)}))
    assert outcome.findings == ()
    assert outcome.entries == 0


@pytest.mark.parametrize("size", [1e308, 1e13, 1e16, 1e20, 1e-308, 5e-324])
def test_primals_at_the_ends_of_the_range_raise_no_alarm(size):
    for forward, backward in (
        (lambda x: x / 2, lambda dy, x: dy / 2),
        (np.tanh, lambda dy, x: dy * (1 - np.tanh(x) ** 2)),
        (np.sin, lambda dy, x: dy * np.cos(x)),
    ):
        assert not (verdicts(elementwise(forward, backward), [size, -size]) == Verdict.DISAGREES).any()


def test_a_random_forward_is_not_repeatable_and_not_called_wrong():
    rng = np.random.default_rng(0)
    noisy = elementwise(lambda x: np.sin(x) + rng.normal(size=x.shape), lambda dy, x: dy * np.cos(x))
    findings = verify(noisy, Case("layer", {"x": X}), ["gradient"]).findings
    assert all((f.property, f.kind) == ("repeatable", "random") for f in findings)
    assert verify(noisy, Case("layer", {"x": X}), ["repeatable"]).findings


# -- complex numbers -------------------------------------------------------------------------

Z = np.array([1.0 + 2.0j, -0.5 + 0.3j, 2.0 - 1.0j])
TIMES = {True: lambda dy, z: 2 * np.conj(z) * dy, False: lambda dy, z: 2 * z * dy}


@pytest.mark.parametrize("conjugate", [True, False])
def test_a_missing_conjugate_is_found_in_both_conventions(conjugate):
    for backward, right in ((TIMES[conjugate], True), (TIMES[not conjugate], False)):
        layer = Layer(lambda z: (z * z, z), backward, name="square", z="N: complex", conjugate=conjugate)
        outcome = gradient.holds(layer, Case("square", {"z": Z}))
        assert (outcome.findings == ()) is right


@pytest.mark.parametrize("conjugate", [True, False])
def test_a_real_loss_of_complex_primals_is_judged_in_both_conventions(conjugate):
    sign = 1 if conjugate else -1
    layer = Layer(
        lambda z: ((z * z.conj()).real, z),
        lambda dy, z: 2 * dy * (z.real + sign * 1j * z.imag),
        name="power",
        z="N: complex",
        conjugate=conjugate,
    )
    assert gradient.holds(layer, Case("power", {"z": Z})).findings == ()


def test_the_complex_step_is_exact_to_rounding():
    point, analytic = point_of(SINE, {"x": X})
    estimate = complex_step(point, np.arange(X.size))
    assert (np.abs(estimate.value - analytic) <= estimate.bound).all()
    assert (estimate.bound < 1e-12).all()


def test_the_complex_method_finds_a_wrong_factor_and_abstains_where_it_is_not_analytic():
    with tuning.using(tuning.Tuning(method="complex")):
        assert (verdicts(elementwise(np.sin, lambda dy, x: 1.001 * dy * np.cos(x)), X) == Verdict.DISAGREES).all()
        found = verdicts(elementwise(np.abs, lambda dy, x: dy * np.sign(x)), X[X != 0])
        assert (found == Verdict.UNRESOLVED).all()


# -- screen and localise ---------------------------------------------------------------------


def many(size, entry=None, factor=1.0):
    """tanh of a matrix summed along rows; one entry of the gradient may be wrong."""

    def backward(dy, w):
        g = dy[:, None] * (1 - np.tanh(w) ** 2)
        if entry is not None:
            g.reshape(-1)[entry] *= factor
        return g

    layer = Layer(lambda w: (np.tanh(w).sum(-1), w), backward, name="many", w="K M")
    return layer, np.random.default_rng(size).normal(size=(4, size // 4))


def test_screening_and_localising_finds_one_wrong_entry_in_a_hundred_thousand():
    layer, w = many(100_000, 54_321, 1.001)
    point, analytic = point_of(layer, {"w": w})
    told = screen.screen(point, analytic, seed=3)
    assert not told.agrees
    before = point.forwards
    assert screen.localise(point, analytic, seed=3).tolist() == [54_321]
    assert point.forwards - before <= 20
    (finding,) = gradient.holds(layer, Case("many", {"w": w})).findings
    assert finding.facts["wrong"] == 1


@pytest.mark.parametrize("wrong", [{0: 1.5}, {9_999: 0.5}, {7: 1.1}], ids=str)
def test_a_single_wrong_entry_is_weighed(wrong):
    point, analytic = point_of(*_with(many(10_000)))
    for entry, factor in wrong.items():
        analytic[entry] *= factor
    assert not screen.screen(point, analytic, seed=0).agrees
    before = point.forwards
    assert screen.localise(point, analytic, seed=0).tolist() == list(wrong)
    assert point.forwards - before <= 16


@pytest.mark.parametrize(
    "wrong",
    [
        {100: 1.5, 9_900: 1.5},
        {4_000: 1.2, 4_001: 0.8, 8_000: 1.3},
        {4_000: 1.5, 4_001: 1.5},
        dict.fromkeys(range(0, 10000, 1000), 2.0),
    ],
    ids=["two", "neighbours", "a pair", "ten"],
)
def test_several_wrong_entries_are_bisected(wrong):
    point, analytic = point_of(*_with(many(10_000)))
    for entry, factor in wrong.items():
        analytic[entry] *= factor
    assert screen.localise(point, analytic, seed=0).tolist() == list(wrong)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_step_that_is_best_along_one_direction_is_none_along_another(wrong):
    """Scores of hundreds turn a softmax within a step or not, as they move together or against each other."""

    def backward(dy, p):
        return p * (dy - (p * dy).sum(-1, keepdims=True)) * (1 + 1e-3 * wrong)

    def forward(x):
        p = np.exp(x - x.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return p, p

    layer = Layer(forward, backward, name="steep", x="N M")
    x = 300 + np.random.default_rng(0).normal(size=(40, 30))
    told = [screen.screen(*point_of(layer, {"x": x}), seed=seed) for seed in range(12)]
    assert [t.agrees for t in told] == [not wrong] * 12


def test_the_screen_passes_a_right_gradient_and_states_what_it_would_have_noticed():
    point, analytic = point_of(*_with(many(100_000)))
    told = screen.screen(point, analytic, seed=3)
    assert told.agrees
    assert 0 < told.power < 1e-5


@pytest.mark.parametrize("size", [100, 1_000, 10_000, 100_000])
def test_the_screen_costs_the_same_whatever_the_number_of_entries(size):
    layer, primals = _with(many(size))
    screen.screen(*point_of(layer, primals), seed=0)  # the first look at whether the code takes stacks
    point, analytic = point_of(layer, primals)
    screen.screen(point, analytic, seed=0)
    assert point.forwards == 40


def _with(pair):
    layer, w = pair
    return layer, {"w": w}


# -- one step, stacks ------------------------------------------------------------------------


def test_a_stack_through_one_call_gives_what_a_loop_gives():
    layer = layers.get("dense")
    rng = np.random.default_rng(0)
    primals = {"x": rng.normal(size=(3, 4)), "W": rng.normal(size=(4, 2)), "b": rng.normal(size=2)}
    point, analytic = point_of(layer, primals)

    def stubborn(x, W, b):
        assert x.ndim == 2
        return layer.forward(x, W, b)

    looped, _ = point_of(layer.derive(forward=stubborn), primals)
    entries = np.arange(point.size)
    for ours, theirs in zip(*(central(p, entries, best_step(p.eps), analytic)[:2] for p in (point, looped))):
        left = getattr(ours, "value", ours)
        right = getattr(theirs, "value", theirs)
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-9)


def test_a_forward_that_mixes_the_stack_is_evaluated_row_by_row():
    layer = elementwise(lambda x: x - x.mean(), lambda dy, x: dy - dy.mean())
    assert (verdicts(layer, X) == Verdict.AGREES).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scale", [0.1, 30.0])  # so large that most is saturated, and little tells of the rows
def test_a_forward_that_asks_for_its_number_of_rows_is_right_whatever_that_is(rows, scale):
    """`len(W)` of a stack of copies is their number, and right by accident where W has as many rows."""

    def forward(x, W):
        return np.tanh(x @ W / len(W) ** 0.5), (x, W)

    def backward(dy, saved, factor=1.0):
        x, W = saved
        dz = factor * dy * (1 - np.tanh(x @ W / len(W) ** 0.5) ** 2) / len(W) ** 0.5
        return dz @ W.T, x.T @ dz

    rng = np.random.default_rng(rows)
    for seed in range(3):  # what was tried of a shape is remembered
        primals = {"x": scale * rng.normal(size=(2, rows)), "W": rng.normal(size=(rows, 3))}
        case = Case("scaled", primals, seed=seed)
        assert verify(layer_of(forward, backward), case, ("gradient",)).ok
    wrong = layer_of(forward, lambda dy, saved: backward(dy, saved, 1.001))
    assert not verify(wrong, case.but(primals={**primals, "x": 0.1 * primals["x"] / scale}), ("gradient",)).ok


def layer_of(forward, backward):
    return Layer(forward, backward, name="scaled", x="N D", W="D H")


def test_memory_is_a_budget_and_changes_no_verdict():
    layer, w = many(2_000, 77, 1.001)
    found = []
    for budget in (1 << 12, 1 << 22):
        with tuning.using(tuning.Tuning(memory=budget)):
            found.append(gradient.holds(layer, Case("many", {"w": w})).compared[0].verdicts)
    np.testing.assert_array_equal(*found)


def test_memory_does_not_grow_with_the_square_of_the_entries():
    layer, w = many(4_000)
    case = Case("many", {"w": w})
    gradient.holds(layer, case)
    tracemalloc.start()
    with tuning.using(tuning.Tuning(memory=1 << 20, sweep_limit=1 << 20)):
        gradient.holds(layer, case)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * w.size**2 / 8  # all perturbed copies together


def test_entries_that_noise_alone_kept_open_are_decided_by_a_larger_step_not_by_a_ladder():
    layer = elementwise(lambda x: 30.0 + np.sin(x), lambda dy, x: dy * np.cos(x))
    point, analytic = point_of(layer, {"x": np.linspace(0.3, 1.2, 50)})
    before = point.forwards
    result = sweep(point, analytic)
    assert (result.verdicts == Verdict.AGREES).all()
    assert point.forwards - before < 10 * point.size


ROUNDED = {  # attention at points where gradients are nothing but rounding: terms cancel, or a softmax is saturated
    "terms that cancel": (
        {
            "x": np.zeros((1, 1, 1)),
            "mask": np.ones((1, 1, 1)),
            "Wq": np.zeros((1, 6)),
            "Wk": np.zeros((1, 2)),
            "Wv": np.array([[3.0, -3.0]]),
            "Wo": np.array([[1.0], [-1.0], [1.0], [2.0], [1.0], [-2.0]]),
        },
        {"causal": False, "kv_heads": 2, "groups": 3},
        np.array([[[-1.0]]]),
    ),
    "a saturated softmax": (
        {
            "x": np.array([[[100.78, 101.51], [102.0, 100.54]]]),
            "mask": np.ones((1, 1, 2)),
            "Wq": np.array([[0.0], [-4.0]]),
            "Wk": np.array([[2.998509792251702], [3.83]]),
            "Wv": np.array([[0.0], [1.0]]),
            "Wo": np.array([[1.0]]),
        },
        {"causal": False, "kv_heads": 1, "groups": 1},
        np.array([[[0.0], [1.0]]]),
    ),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_gradients_that_are_all_rounding_raise_no_alarm(name):
    primals, options, cotangent = ROUNDED[name]
    layer = layers.get("multi_head_attention")
    for seed in range(8):
        case = Case("multi_head_attention", primals, options, (cotangent,), seed=seed)
        assert verify(layer, case, ["gradient", "special", "linear"]).findings == ()


def test_a_border_just_beyond_the_smallest_step_raises_no_alarm():
    primals = {"a": np.array([[0.0, 0.0], [0.0, 1e-4]]), "b": np.array([[0.0, 43.0], [0.5, -1e-4]])}
    layer, cotangent = layers.get("cosine_similarity"), (np.array([0.0, 1.0]),)
    for seed in range(4):
        case = Case("cosine_similarity", primals, {"eps": 0.5}, cotangent, seed=seed)
        assert verify(layer, case, ["gradient", "special"]).findings == ()
    wrong = layer.derive(backward=lambda dy, s, eps: tuple(2 * g for g in layer.backward(dy, s, eps)))
    case = Case("cosine_similarity", primals, {"eps": 0.5}, cotangent)
    assert verify(wrong, case, ["gradient"]).findings


def test_kinks_that_cancel_are_not_looked_for_beyond_a_domain():
    def forward(x, w):
        if (x != 0).any():
            raise ValueError("outside")
        return x * w, (x, w)

    layer = Layer(forward, lambda g, s: (g * s[1], g * s[0]), name="edge", x="N", w="N")
    case = Case("edge", {"x": np.zeros(2), "w": np.ones(2)}, cotangents=(np.ones(2),))
    point = Point(layer, case)
    assert not cancelling.coincident_along(point, np.array([1.0, 1.0, 0.0, 0.0]))
    assert not cancelling.coincident(point, np.array([0, 1])).any()


# -- single steps ---------------------------------------------------------------------------


def _small_beside(offset):
    """x beside a constant that is so large that its rounding hides small steps; and steps from the best one upward."""
    layer = elementwise(lambda x: offset + x, lambda dy, x: np.array(dy))
    point, analytic = point_of(layer, {"x": np.ones(200)}, (np.ones(200),))
    point.memory = 1  # one step at a time, as where there are many entries
    return point, analytic, best_step(point.eps) * UPWARD


def test_steps_whose_noise_can_be_told_beforehand_are_left_out():
    point, analytic, steps = _small_beside(1e6)
    entries, before = np.arange(200), point.forwards
    found = chain(point, entries, analytic, steps, np.full(200, 1e-8))
    assert (found.noise <= 1e-8).all() and (np.abs(found.error) <= found.noise).all()
    every = [central(point, entries, step, analytic)[0].rounding for step in steps]
    needed = 1 + next(k for k, noise in enumerate(every) if (noise <= 1e-8).all())
    assert needed >= 7
    asked = (point.forwards - before) / 200 - 2 * len(steps)
    assert asked <= 2 * 4 + 1, "the first step, and two to three where the noise is about as small as was asked for"


def test_truncation_that_makes_up_for_an_error_at_one_step_passes_at_no_chain():
    """Between the first step and the one whose noise is small enough, none is asked but the one before that."""
    offset, error = 1e6, 1e-6
    steps = best_step(2.0**-52) * UPWARD
    for k in range(2, 6):
        curve = error / steps[k] ** 2  # of a cube: (x + curve x^3)' = 1 + 3 curve x^2, and h^2 curve at x = 0
        layer = elementwise(lambda x, c=curve: offset + x + c * x**3, lambda dy, x: dy * (1.0 + error))
        point, analytic = point_of(layer, {"x": np.zeros(200)}, (np.ones(200),))
        point.memory = 1
        point.scale[:] = 1.0
        found = chain(point, np.arange(200), analytic, steps, np.full(200, 1e-8))
        assert not (found.noise <= 1e-8).any(), k


@pytest.mark.parametrize("drawn", [None, 1e-7, 3e-6, 1e-4, 1e-2])
def test_a_drawn_step_stands_for_its_multiple_next_to_the_best_one(drawn):
    best = best_step(2.0**-52)
    near = nearest(best, drawn)
    assert 0.5 <= near / best <= 2.0
    turns = 0.0 if drawn is None else np.log(near / drawn) / np.log(ladder.RATIO)
    assert np.isclose(turns, np.rint(turns))
