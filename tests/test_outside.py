"""Arrays that functions take from outside are tried, and are no pass: no gradient of them is asked for."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import gradverify as gv
from gradverify import Layer, adapt
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.errors import DeclarationError, PartlyVerified
from gradverify.core.evaluate.outside import DATA, STATE

pytestmark = pytest.mark.usefixtures("as_drawn")

W = np.array([[1.0, -2.0], [0.5, 3.0]])
LOCKED = np.array([0.5, 2.0])
LOCKED.flags.writeable = False
NET = {"layers": [{"W": np.array([[1.0, -2.0], [0.5, 3.0]])}]}
GRADS = {}
LATE = {}
RUNNING = {"mean": np.zeros(2)}
UNUSED = np.ones(3)


class Weights:
    W = np.array([[1.0, -2.0], [0.5, 3.0]])


class Dense:
    def __init__(self):
        self.W = np.array([[1.0, -2.0], [0.5, 3.0]])

    def forward(self, x):
        return x @ self.W, None

    def backward(self, dy, saved):
        return dy @ self.W.T

    def of(self, x):
        return x @ self.W


NETWORK = Dense()


def left_out(layer, **more):
    report = check_layer(layer, Settings(examples=4, shrink=False, properties=("complete", "gradient"), **more))
    assert not report.findings
    return {item.name for item in report.blocking}


def product(x, W):
    return x @ W, W


def product_back(dy, W):
    return dy @ W.T


def from_module():
    return lambda x: (x @ W, None), lambda dy, saved: dy @ W.T


def from_closure():
    W = np.array([[1.0, -2.0], [0.5, 3.0]])
    return lambda x: (x @ W, None), lambda dy, saved: dy @ W.T


def from_default():
    return lambda x, W=W: (x @ W, W), product_back


def from_partial():
    return partial(product, W=np.array(W)), product_back


def from_helper():
    W = np.array([[1.0, -2.0], [0.5, 3.0]])

    def helper(x):
        return x @ W

    return lambda x: (helper(x), None), lambda dy, saved: dy @ W.T


def from_dicts_and_lists():
    return lambda x: (x @ NET["layers"][0]["W"], None), lambda dy, saved: dy @ NET["layers"][0]["W"].T


def from_class():
    return lambda x: (x @ Weights.W, None), lambda dy, saved: dy @ Weights.W.T


def from_object():
    return lambda x: (NETWORK.of(x), None), lambda dy, saved: dy @ NETWORK.W.T


def from_namespace():
    held = SimpleNamespace(W=np.array(W))
    return lambda x: (x @ held.W, None), lambda dy, saved: dy @ held.W.T


def from_function():
    def forward(x):
        return x @ forward.W, None

    forward.W = np.array(W)
    return forward, lambda dy, saved: dy @ forward.W.T


def from_list_of_numbers():
    w = [2.0, 3.0]
    return lambda x: (w[0] * x + w[1], None), lambda dy, saved: w[0] * dy


def from_first_forward():
    def forward(x):
        if "W" not in LATE:
            LATE["W"] = np.random.default_rng(0).normal(size=(2, 2))
        return x @ LATE["W"], None

    return forward, lambda dy, saved: dy @ LATE["W"].T


def read_only():
    return lambda x: (x * LOCKED, None), lambda dy, saved: dy * LOCKED


SOURCES = {
    from_module: {"W"},
    from_closure: {"W"},
    from_default: {"W"},
    from_partial: {"W"},
    from_helper: {"W"},
    from_dicts_and_lists: {"NET['layers'][0]['W']"},
    from_class: {"Weights.W"},
    from_object: {"NETWORK.W"},
    from_namespace: {"held.W"},
    from_function: {"forward.W"},
    from_list_of_numbers: {"w[0]", "w[1]"},
    from_first_forward: {"LATE['W']"},
    read_only: {"LOCKED"},
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a_weight_from_outside_is_no_pass_wherever_it_stands(source):
    forward, backward = source()
    layer = Layer(forward, backward, x="N 2")
    assert left_out(layer) == SOURCES[source]
    constants = tuple(name.partition("[")[0] for name in SOURCES[source])
    assert not left_out(Layer(forward, backward, x="N 2", constants=constants))
    with pytest.raises(PartlyVerified, match="constants="):
        gv.check(forward, backward, x="N 2", examples=3)
    case = gv.Case(layer.name, {"x": np.ones((3, 2))})
    assert gv.verify(layer, case).blocking


def test_it_is_put_back():
    before, numbers = W.copy(), Weights.W.copy()
    for source in (from_module, from_class, read_only):
        forward, backward = source()
        left_out(Layer(forward, backward, x="N 2"))
    assert np.array_equal(W, before)
    assert np.array_equal(Weights.W, numbers)
    assert not LOCKED.flags.writeable


def cached():
    return adapt.cached(lambda x: (x @ W, x), lambda dy, x: (dy @ W.T,), x="N 2")


def made():
    return adapt.vjp_maker(lambda x: x @ W, lambda ans, x: lambda g: g @ W.T, x="N 2")


def a_loss():
    return adapt.loss(lambda x, y: (((x @ W - y) ** 2).sum(), 2 * (x @ W - y) @ W.T), x="N 2", y="N 2")


def two_functions():
    w = np.array([1.0, 2.0])
    return adapt.loss(lambda x: (w * x**2).sum(), lambda x: 2 * w * x, x="N 2")


def elementwise():
    slope = np.array([0.25])
    return adapt.elementwise(lambda x: np.where(x > 0, x, slope * x), lambda x: np.where(x > 0, 1.0, slope))


def methods():
    net = Dense()
    return Layer(net.forward, net.backward, x="N 2")


def of_an_object():
    class Scaled:
        def forward(self, x):
            return x * LOCKED

        def backward(self, dy):
            return dy * LOCKED

    return adapt.stateful(Scaled(), x="N 2")


def a_class():
    class product:
        x = "N 2"

        def forward(x):
            return x @ W, None

        def backward(dy, saved):
            return dy @ W.T

    from gradverify.adapters import as_layer

    return as_layer(product)


CONVENTIONS = {
    cached: "W",
    made: "W",
    a_loss: "W",
    two_functions: "w",
    elementwise: "slope",
    methods: "self.W",
    of_an_object: "LOCKED",
    a_class: "W",
}


@pytest.mark.parametrize("build", CONVENTIONS, ids=lambda build: build.__name__)
def test_so_it_is_in_every_convention(build):
    assert left_out(build()) == {CONVENTIONS[build]}


def test_of_an_objective_it_is_data():
    layer = adapt.objective(lambda p: (0.5 * p @ W @ p, 0.5 * (W + W.T) @ p), n=2)
    report = check_layer(layer, Settings(examples=3, properties=("gradient",)))
    assert report.ok
    assert [(i.name, i.reason) for i in report.verified_by.missing] == [("W", DATA)]


def test_state_that_forward_changes_is_no_weight():
    def forward(x, mode):
        if mode == "train":
            RUNNING["mean"] = 0.9 * RUNNING["mean"] + 0.1 * x.sum(0)
            return x - x.sum(0), mode
        return x - RUNNING["mean"], mode

    def backward(dy, saved):
        return dy - dy.sum(0) if saved == "train" else dy

    layer = Layer(forward, backward, x="N 2", options={"mode": ["train", "eval"]})
    report = check_layer(layer, Settings(examples=12, properties=("gradient",)))
    assert report.verified
    assert {(i.name, i.reason) for i in report.verified_by.missing} <= {("RUNNING['mean']", STATE)}


def test_what_forward_does_not_read_is_not_named():
    def forward(x):
        UNUSED.sum()
        return 2 * x, None

    assert not left_out(Layer(forward, lambda dy, saved: 2 * dy, x="N"))


def test_what_only_an_option_reaches_is_found():
    layer = Layer(
        lambda x, plain: ((x if plain else x * W[0]), plain),
        lambda dy, saved: dy if saved else dy * W[0],
        x="N 2",
        options={"plain": [True, False]},
    )
    assert left_out(layer) == {"W"}


def test_where_backward_leaves_what_may_be_its_gradient_it_is_named():
    def backward(dy, x):
        GRADS["W"] = x.T @ dy
        return dy @ W.T

    report = gv.check(lambda x: (x @ W, x), backward, x="N 2", examples=4, raises=False, properties="gradient")
    assert "GRADS['W']" in report.blocking[0].reason


def test_constants_that_nobody_knows_are_refused():
    with pytest.raises(DeclarationError, match=r"no primal 'V'.*take W"):
        gv.check(lambda x: (x @ W, None), lambda dy, saved: dy @ W.T, x="N 2", constants="V")


@pytest.mark.parametrize("constant", [np.sqrt(2 / np.pi), 0.5, np.float32(0.25)])
def test_a_number_is_a_setting_whatever_made_it(constant):
    def forward(x):
        return np.tanh(constant * x), x

    def backward(dy, x):
        return dy * constant * (1 - np.tanh(constant * x) ** 2)

    assert not check_layer(Layer(forward, backward, x="N D"), Settings(examples=10)).unverified


def test_an_array_of_one_number_is_asked_for():
    scale = np.array(0.5)
    report = check_layer(Layer(lambda x: (scale * x, x), lambda dy, x: scale * dy, x="N D"), Settings(examples=10))
    assert [item.name for item in report.unverified] == ["scale"]
