"""Each property fires on a layer that breaks it, names the primal, and stays silent on the right layer."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.api import verify
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.nouns import Case
from gradverify.core.properties import properties

pytestmark = pytest.mark.usefixtures("as_drawn")

EXAMPLES = 40


def dense(x, W, b):
    return x @ W + b, (x, W)


def dense_back(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(0)


def a_dense(backward=dense_back, forward=dense, **changes):
    usual = {"name": "a_dense", "x": "N D", "W": "D H", "b": "H", "returns": "N H", "batch": "N"}
    return Layer(forward, backward, **usual | changes)


def relu_layer(slope_at_zero):
    def forward(x):
        return np.maximum(x, 0), x

    def backward(dy, x):
        return dy * np.where(x == 0, slope_at_zero, x > 0)

    return Layer(forward, backward, name="a_relu", x="*batch")


def row_maximum(share):
    def forward(x):
        top = x.max(-1, keepdims=True)
        return top[..., 0], x == top

    def backward(dy, ties):
        return dy[..., None] * (ties / ties.sum(-1, keepdims=True) if share else ties)

    return Layer(forward, backward, name="a_maximum", x="N D")


def mean_sum(dy, saved):
    dx, dW, db = dense_back(dy, saved)
    return dx, dW, db / len(dy)


def drops_bias(dy, saved):
    return dense_back(dy, saved)[:2]


def ignores_size(dy, saved):
    return dense_back(np.sign(dy), saved)


DICE = np.random.default_rng(2)


def noisy(dy, saved):
    dx, dW, db = dense_back(dy, saved)
    return dx, dW * (1 + 1e-3 * DICE.standard_normal()), db


def writes_cotangent(dy, saved):
    gradients = dense_back(dy, saved)
    dy *= 2
    return gradients


def remembers():
    last = []

    def forward(x, W, b):
        last[:] = [x]
        return x @ W + b, W

    def backward(dy, W):
        return dy @ W.T, last[0].T @ dy, dy.sum(0)

    return a_dense(backward, forward)


def row_major(dy, saved):
    flat = dy.ravel(order="K").reshape(dy.shape)
    return dense_back(flat, saved)


def leaves_holes(dy, saved):
    dx, dW, db = dense_back(dy, saved)
    held = np.empty(dW.shape)
    held[1:] = dW[1:]
    held[:1] += 0.0 * dW[:1]
    held[:1] = np.where(np.abs(held[:1]) < 1e300, dW[:1], held[:1])
    return dx, held, db


def keyed_by_identity():
    def forward(x, y):
        return x * y**2, (x, y)

    def backward(dz, saved):
        x, y = saved
        gradients = {id(x): dz * y**2, id(y): 2 * dz * x * y}
        return gradients[id(x)], gradients[id(y)]

    return Layer(forward, backward, name="by_id", x="N", y="N")


def wants_layer(right):
    def backward(dy, saved, wants=("x", "W", "b")):
        x, W = saved
        gradients = {"x": lambda: dy @ W.T, "W": lambda: x.T @ dy, "b": lambda: dy.sum(0)}
        scale = 1.0 if right or "x" in wants else 0.5
        return {name: scale * gradients[name]() for name in wants}

    return a_dense(backward)


def accumulating(right):
    def accumulate(cotangents, saved, buffers):
        for name, gradient in zip("xWb", dense_back(cotangents[0], saved)):
            if right:
                buffers[name] += gradient
            else:
                buffers[name][...] = gradient

    return a_dense(accumulate=accumulate)


def two_modes(right):
    seen = {}

    def forward(x, mask, mode="train"):
        seen["mode"] = mode
        return (x * mask if mode == "train" else x * 1.0), (mask, mode)

    def backward(dy, saved):
        mask, mode = saved
        mode = mode if right else seen["mode"]
        return dy * mask if mode == "train" else dy * 1.0

    return Layer(forward, backward, name="modal", x="N D", mask="N D: mask", options={"mode": ["train", "eval"]})


def centred(right):
    def forward(x):
        return (x - x.mean(0) if not right else x - x.mean(1, keepdims=True)), None

    def backward(dy, saved):
        return dy - (dy.mean(1, keepdims=True) if right else dy.mean(0))

    return Layer(forward, backward, name="centred", x="N D", returns="N D", batch="N")


def half_digits(right):
    def forward(x):
        return np.log1p(x), x

    def backward(dy, x):
        return dy / (1 + x) if right else (dy.astype(np.float16) / (1 + x).astype(np.float16)).astype(x.dtype)

    def exact_in_float64(dy, x):
        return dy / (1 + x) if x.dtype == np.float64 else backward(dy, x)

    return Layer(forward, exact_in_float64, name="halves", x="N: unit")


def second_order(right):
    def forward(x):
        return x**3, x

    def backward(dy, x):
        return 3 * x**2 * dy

    def second(primals, cotangents, weights):
        return {"x": (6.0 if right else 3.0) * primals["x"] * cotangents[0] * weights["x"]}

    return Layer(forward, backward, name="cube", x="N", second=second)


def forward_mode(right):
    def jvp(primals, tangents):
        return np.cos(primals["x"]) * tangents["x"] * (1.0 if right else -1.0)

    return Layer(lambda x: (np.sin(x), x), lambda dy, x: dy * np.cos(x), name="sine", x="N D", jvp=jvp)


def normalised(two_passes):
    """Rows with mean 0 and variance 1; one backward finds the variance again as a difference of large numbers."""

    def forward(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5), x

    def backward(dy, x):
        mean = x.mean(-1, keepdims=True)
        squares = (x - mean) ** 2 if two_passes else x * x - mean**2
        variance = squares.mean(-1, keepdims=True)
        scale = 1 / np.sqrt(variance + 1e-5)
        y = (x - mean) * scale
        return scale * (dy - dy.mean(-1, keepdims=True) - y * (dy * y).mean(-1, keepdims=True))

    return Layer(forward, backward, name="normalised", x="N D")


a_product = Layer(
    lambda x, y: (x * y**2, (x, y)), lambda dz, s: (dz * s[1] ** 2, 2 * dz * s[0] * s[1]), name="product", x="N", y="N"
)

WRONG = {
    "gradient": (a_dense(mean_sum), a_dense(), "b"),
    "complete": (a_dense(drops_bias), a_dense(), "b"),
    "linear": (a_dense(ignores_size), a_dense(), "x"),
    "repeatable": (a_dense(noisy), a_dense(), "W"),
    "pure": (a_dense(writes_cotangent), a_dense(), None),
    "reusable": (remembers(), a_dense(), "W"),
    "layout": (a_dense(row_major), a_dense(), None),
    "fresh": (a_dense(leaves_holes), a_dense(), "W"),
    "reuse": (keyed_by_identity(), a_product, None),
    "wants": (wants_layer(False), wants_layer(True), None),
    "accumulates": (accumulating(False), accumulating(True), None),
    "modes": (two_modes(False), two_modes(True), "x"),
    "batch": (centred(False), centred(True), "x"),
    "special": (relu_layer(2.0), relu_layer(0.3), "x"),
    "precision": (half_digits(False), half_digits(True), "x"),
    "second_order": (second_order(False), second_order(True), "x"),
    "second_special": (second_order(False), second_order(True), "x"),
    "forward_mode": (forward_mode(False), forward_mode(True), None),
}


def check(layer, *names):
    return check_layer(layer, Settings(examples=EXAMPLES, seed=5, properties=names or None, shrink=False))


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_property_fires_on_a_layer_that_breaks_it(name):
    wrong, _, primal = WRONG[name]
    findings = [f for f in check(wrong, name).findings if f.property == name]
    assert findings
    if primal is not None:
        assert primal in {f.primal for f in findings}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_property_is_silent_on_the_right_layer_and_was_tried(name):
    _, right, _ = WRONG[name]
    report = check(right, name)
    assert not report.findings
    assert report.tallies[name].cases > 0


def test_every_registered_property_is_tested_here():
    known = {name for name in properties.names() if properties.origin(name) is None}
    elsewhere = {"reference", "alias", "double_precision", "bound"}  # below, and in the tests of their adapters
    assert known - elsewhere <= set(WRONG)


def test_tied_maxima_that_each_claim_the_whole_gradient_are_found_by_moving_them_together():
    findings = check(row_maximum(share=False), "special").findings
    assert [f.kind for f in findings] == ["tie"]
    assert not check(row_maximum(share=True), "special").findings


def test_a_cotangent_returned_as_a_gradient_is_an_alias():
    identity = Layer(lambda x: (x * 1.0, None), lambda dy, saved: dy, name="identity", x="N D")
    assert {(f.kind, f.primal) for f in check(identity, "alias").findings} == {("aliases", "x")}
    assert not check(identity).findings  # strict, and only tried when asked for


def test_a_property_that_does_not_apply_says_why():
    report = check(a_dense(batch=None), "batch")
    assert "no batch axis" in report.tallies["batch"].reason
    assert report.tallies["batch"].cases == 0


def test_a_random_forward_is_reported_as_not_repeatable_and_not_as_wrong():
    rng = np.random.default_rng(1)
    report = check(Layer(lambda x: (x * rng.random(), None), lambda dy, s: dy * 1.0, name="dice", x="N D"))
    assert {f.property for f in report.findings} == {"repeatable"}


def test_one_mistake_is_one_finding():
    report = check(a_dense(mean_sum))
    assert [(f.property, f.primal) for f in report.findings] == [("gradient", "b")]


def test_two_mistakes_are_two_findings():
    def two(dy, saved):
        dx, dW, db = mean_sum(dy, saved)
        return dx, 2 * dW, db

    assert {f.primal for f in check(a_dense(two), "gradient").findings} == {"W", "b"}


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_any_slope_between_the_one_sided_ones_is_right_at_a_kink(slope):
    assert not check(relu_layer(slope)).findings


def test_a_declared_convention_is_stricter():
    strict = relu_layer(0.5).derive(declared=relu_layer(0.5).declared.__class__(kinks="left"))
    assert check(strict, "special").findings
    right = relu_layer(0.0).derive(declared=strict.declared)
    assert not check(right, "special").findings


def test_declared_exceptions_are_respected_and_reported():
    straight = Layer(
        lambda x: (np.round(x), None), lambda dy, s: dy * 1.0, name="rounds", x="N D", surrogate=lambda x, at: x * 1.0
    )
    report = check(straight, "gradient")
    assert not report.findings and "surrogate" in report.declared[0]
    ascent = a_dense(lambda dy, s: tuple(-g for g in dense_back(dy, s)), factor=-1)
    assert not check(ascent, "gradient").findings
    stopped = a_dense(lambda dy, s: (dense_back(dy, s)[0] * 0, *dense_back(dy, s)[1:]), zero="x")
    assert not check(stopped, "gradient").findings
    assert check(a_dense(zero="x"), "gradient").findings  # it is not zero
    fixed = a_dense(lambda dy, s: dense_back(dy, s)[:2], constants="b")
    report = check(fixed, "gradient")
    assert not report.findings and report.declared == ("no gradient wanted: b",)


def test_a_border_within_the_rounding_of_float32_is_no_loss_of_digits():
    x = np.array([[-0.3, 0.4]], np.float32)  # its length is 0.5 and an eighth of a unit in the last place
    for seed in range(40):
        case = Case("l2_normalise", {"x": x}, {"eps": 0.5}, (np.ones((1, 2), np.float32),), seed=seed)
        assert not verify(layers.get("l2_normalise"), case, ["precision"]).findings


def test_what_a_settled_softmax_leaves_is_no_loss_of_digits():
    x = np.array([0, 4, 0, 0, 0, -1, 1, -1, -2, 2, 2, -1, 2, 1, 0, 0, -1, 0, 0, 0, -2, 1, -1, 0])
    weights = {"Wq": [[0, 2, -1]], "Wk": [[-4]], "Wv": [[3]], "Wo": [[-1], [3], [0]]}
    primals = {"x": x.reshape(1, 24, 1), "mask": np.ones((1, 1, 24)), **weights}
    cotangent = np.zeros((1, 24, 1), np.float32)
    cotangent[0, 22] = 1
    case = Case(
        "multi_head_attention",
        {name: np.array(a, np.float32) for name, a in primals.items()},
        {"causal": False, "kv_heads": 1, "groups": 3},
        (cotangent,),
    )
    attention = layers.get("multi_head_attention")
    assert not verify(attention, case, ["precision"]).findings

    def halves(dy, saved):
        found = attention.backward(dy, saved)
        low = dy.dtype == np.float32
        return tuple(g.astype(np.float16).astype(g.dtype) if low else g for g in found)

    assert verify(attention.derive(backward=halves), case, ["precision"]).findings


def test_a_gradient_that_loses_what_its_loss_loses_is_no_finding():
    def loss(x, low=False):
        p = np.exp(x - x.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        d = p.astype(np.float16).astype(np.float32) if low and p.dtype == np.float32 else p.copy()
        d[:, 0] -= 1  # where p is nearly 1, log p and p - 1 have the digits that p has
        return -np.log(p[:, 0]).sum(), d

    def layer(low=False):
        return Layer(lambda x: loss(x, low), lambda dy, d: dy * d, name="loss", x="N C")

    rng = np.random.default_rng(3)
    for seed in range(20):
        x = np.append(rng.uniform(6.5, 7.5), rng.uniform(-1, 0, 2))[None].astype(np.float32)
        case = Case("loss", {"x": x}, cotangents=(np.float32(1.1),), seed=seed)
        assert not verify(layer(), case, ["precision"]).findings
        assert verify(layer(low=True), case, ["precision"]).findings


@pytest.mark.parametrize("wrong", [False, True])
def test_a_sort_may_put_equal_numbers_in_another_order_in_another_type(wrong):
    """One that is not stable does, by the width of a number; which of equal ones is the median is its to say."""

    def order(x):
        return len(x) - 1 - np.argsort(x[::-1]) if x.dtype == np.float16 else np.argsort(x)

    def middle(x):
        chosen = order(x)[len(x) // 2]
        return x[chosen], (chosen, x.shape)

    def backward(dy, saved):
        g = np.zeros(saved[1], dy.dtype)
        g[saved[0]] = dy * (0.9 if wrong and dy.dtype == np.float16 else 1)
        return g

    layer = Layer(middle, backward, name="middle", x="N")
    for seed in range(5):
        x = np.array([0, 0, 0, 0, -1, 0, 1] if not wrong else [0, 2, 1, 3, -1, 4], np.float16)
        case = Case("middle", {"x": x}, cotangents=(np.float16(1.5),), seed=seed)
        assert bool(verify(layer, case, ["precision"]).findings) == wrong


def test_a_gradient_that_is_no_number_in_float32_alone_has_lost_all_its_digits():
    """NaN is beyond any bound; nothing of ours warns, which a user's `-W error` would turn into an error of ours."""

    def holed(dy, x):
        return dy * np.cos(x) + (np.nan if dy.dtype == np.float32 else 0)

    layer = Layer(lambda x: (np.sin(x), x), holed, name="holed", x="N D")
    case = Case("holed", {"x": np.ones((1, 1), np.float32)}, cotangents=(np.ones((1, 1), np.float32),), seed=1)
    (finding,) = verify(layer, case, ["precision"]).findings
    assert finding.severity == np.inf


@pytest.mark.parametrize("nans", [0.0, 0.3])
def test_what_fresh_memory_happens_to_hold_is_told_as_that_and_not_as_chance(nans):
    junk = np.random.default_rng(0)

    def holed(dy, saved):
        dx, dW, db = dense_back(dy, saved)
        buffer = np.empty_like(dW)
        if dW.size and not (np.isnan(buffer).all() or (buffer == 0).all()):  # what a long run would have left there
            buffer[...] = junk.normal(size=dW.shape) if junk.random() >= nans else np.nan
        return dx, dW + buffer, db

    findings = check(a_dense(holed)).findings
    assert [(f.property, f.kind, f.primal) for f in findings] == [("fresh", "uninitialised", "W")]
    assert [(f.property, f.kind) for f in check(a_dense(noisy)).findings] == [("repeatable", "random")]


@pytest.mark.told
def test_a_backward_that_is_random_is_shown_on_a_small_case():
    report = check_layer(a_dense(noisy), Settings(examples=EXAMPLES, seed=5))
    assert [(f.property, f.kind) for f in report.findings] == [("repeatable", "random")]
    assert report.findings[0].case.size <= 5


@pytest.mark.told
@pytest.mark.parametrize("seed", range(3))
def test_what_goes_wrong_by_chance_in_few_calls_is_one_finding(seed):
    luck = np.random.default_rng(seed)

    def lossy(dy, saved):
        dx, dW, db = dense_back(dy, saved)
        return dx, dW if luck.random() < 0.85 else dW * 0.5, db

    report = check_layer(a_dense(lossy), Settings(examples=EXAMPLES, seed=seed))
    assert [(f.property, f.kind, f.primal) for f in report.findings] == [("repeatable", "random", "W")]
    assert report.findings[0].case.size <= 7


@pytest.mark.parametrize(("bend", "found"), [(1e-7, True), (1e-11, False)])
def test_a_pullback_may_bend_by_its_arithmetic(bend, found):
    """As that of a matrix exponential does, whose series ends where the size of the cotangent says."""
    layer = Layer(
        lambda x: (np.sin(x), x),
        lambda dy, x: dy * np.cos(x) * (1 + bend * np.tanh(np.abs(dy).max(initial=0.0))),
        name="bent",
        x="N D",
    )
    assert bool(check(layer, "linear").findings) is found


def test_the_gradient_that_a_settled_softmax_leaves_need_not_be_linear():
    weights = {
        "Wq": [[0, 0, 0, 0], [0, 0, -2, 0]],
        "Wk": [[-2, 0], [-9, 0]],
        "Wv": [[2, 46], [0, 0]],
        "Wo": [[0, 0], [0, 0], [167, 0], [0, 2]],
    }
    primals = {"x": [[[0, 0], [0, 0]], [[-74, 0.2], [0, -29]]], "mask": np.ones((2, 1, 2)), **weights}
    cotangent = np.array([[[0, 0], [0, 0]], [[1.3, -0.4], [0, 0]]])
    options = {"causal": False, "kv_heads": 1, "groups": 2}
    attention = layers.get("multi_head_attention")
    for seed in range(10):
        given = {name: np.array(a, float) for name, a in primals.items()}
        case = Case("multi_head_attention", given, options, (cotangent,), seed=seed)
        assert not verify(attention, case, ["linear"]).findings
    bent = attention.derive(backward=lambda dy, saved: attention.backward(np.sign(dy), saved))
    assert verify(bent, case, ["linear"]).findings


def test_a_forward_may_round_otherwise_each_time():
    """As sums do whose order depends on threads or on where memory lies."""
    times = iter(range(10**9))

    def rounds(scale):
        def forward(x):
            return np.sin(x) * (1 + scale * (next(times) % 2)), x

        return Layer(forward, lambda dy, x: dy * np.cos(x), name="rounds", x="N D")

    assert check(rounds(1e-15), "repeatable").ok
    assert check(rounds(1e-9), "repeatable").findings


def test_a_forward_mode_rule_at_the_end_of_a_domain_is_no_crash():
    def forward(t):
        if (t < 0).any():
            raise ValueError("all elements should be at least 0")
        return t * t, t

    layer = Layer(
        forward, lambda dy, t: 2 * t * dy, name="edge", t="N: between 0 1", jvp=lambda p, v: (2 * p["t"] * v["t"],)
    )
    outcome = verify(layer, Case("edge", {"t": np.zeros(6)}), ["forward_mode"])
    assert not outcome.findings


def test_float64_is_judged_against_more_digits_where_that_is_asked_for():
    x = 1e5 + np.array([[0.3, -1.2, 0.8, 0.1], [1.5, -0.4, -0.9, 0.7]]) - 1.0
    case = Case("normalised", {"x": np.minimum(x, 99999.0)}, cotangents=(np.array([[1.0, -0.5, 0.3, 2.0]] * 2),))
    double = properties.get("double_precision")
    assert not double.default
    assert [f.primal for f in double.holds(normalised(False), case).findings] == ["x"]
    outcome = double.holds(normalised(True), case)
    assert outcome.compared and not outcome.findings


@pytest.mark.parametrize(("narrow", "kinds"), [(np.float32, {"dtype"}), (np.float64, set())])
def test_a_gradient_that_is_narrower_than_its_primal_and_the_output_is_low(narrow, kinds):
    layer = Layer(lambda x: (2 * x, None), lambda dy, saved: (2 * dy).astype(narrow), x="N")
    case = Case(layer.name, {"x": np.array([1.0, 2.0])}, seed=1)
    assert {f.kind for f in verify(layer, case, "complete").findings} == kinds
