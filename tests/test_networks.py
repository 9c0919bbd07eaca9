"""Objects with the loss inside, caches that forward returns, inputs that backward is given again, and functions that
build objects: a right one passes, and a weight gradient that is wrong is found, with x right or without one of x.
"""

from collections import namedtuple
from contextlib import nullcontext

import numpy as np
import pytest

import gradverify as gv
from gradverify import adapt

pytestmark = pytest.mark.usefixtures("as_drawn")


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def verdict(target, *more, **declaration):
    try:
        return gv.check(target, *more, examples=4, properties=("complete", "gradient"), quiet=True, **declaration)
    except gv.GradientMismatch as mismatch:
        return {finding.primal for finding in mismatch.report.findings}


class Network:
    """predict, loss and compute_gradients, as tutorials write it."""

    slip = 1

    def __init__(self, D=3, K=2):
        self.W, self.b = drawn(D, K), np.zeros(K)

    def predict(self, X):
        return np.tanh(X @ self.W + self.b)

    def loss(self, X, T):
        return ((self.predict(X) - T) ** 2).sum() / 2

    def compute_gradients(self, X, T):
        y = self.predict(X)
        d = (y - T) * (1 - y**2)
        return self.slip * X.T @ d, d.sum(0)


class ByName(Network):
    def compute_gradients(self, X, T):
        return dict(zip("Wb", super().compute_gradients(X, T)))


class InOne(Network):
    """loss gives the value and the gradients, as in CS231n."""

    compute_gradients = None

    def loss(self, X, T):
        return super().loss(X, T), dict(zip("Wb", Network.compute_gradients(self, X, T)))


class Params:
    """The same with a dict of parameters, labels, and a loss that gives scores where there are no labels."""

    slip = 1

    def __init__(self, D=3, K=4):
        self.params = {"W1": drawn(D, K), "b1": np.zeros(K)}

    def loss(self, X, y=None):
        scores = X @ self.params["W1"] + self.params["b1"]
        if y is None:
            return scores
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        value = -np.log(p[np.arange(len(X)), y]).mean()
        p[np.arange(len(X)), y] -= 1
        p /= len(X)
        return value, {"W1": self.slip * X.T @ p, "b1": p.sum(0)}


class Kept(Network):
    """Gradients stay on the object; backward takes nothing."""

    compute_gradients = None

    def loss(self, X, T):
        self.X, self.y = X, self.predict(X)
        self.d = (self.y - T) * (1 - self.y**2)
        return super().loss(X, T)

    def backward(self):
        self.dW, self.db = self.slip * self.X.T @ self.d, self.d.sum(0)


class TwoLayers(Network):
    """`gradient(x, t)` beside a numerical one that nobody wants."""

    compute_gradients = None

    def gradient(self, X, T):
        return dict(zip("Wb", Network.compute_gradients(self, X, T)))

    def numerical_gradient(self, X, T):
        raise NotImplementedError


NETWORKS = {
    "tuple": (Network, dict(X="N 3", T="N 2"), "W"),
    "dict": (ByName, dict(X="N 3", T="N 2"), "W"),
    "in one": (InOne, dict(X="N 3", T="N 2"), "W"),
    "params": (Params, dict(X="N 3", y="N: labels 4"), "W1"),
    "kept": (Kept, dict(X="N 3", T="N 2"), "W"),
    "gradient": (TwoLayers, dict(X="N 3", T="N 2"), "W"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_the_loss_inside_takes_one_line(name):
    cls, sizes, weight = NETWORKS[name]
    report = verdict(cls(), **sizes)
    assert report.ok and {weight} < {share.name for share in report.verified_by.verified}
    assert verdict(type(cls.__name__, (cls,), {"slip": -7})(), **sizes) == {weight}


def test_its_methods_can_be_named_and_its_class_be_built():
    named = dict(X="N D", T="N K", methods=("loss", "compute_gradients"))
    assert verdict(Network, **named).ok
    assert verdict(type("Wrong", (Network,), {"slip": 2}), **named) == {"W"}
    assert verdict(InOne(), methods="loss", X="N 3", T="N 2").ok


def test_what_is_missing_is_named_with_the_line_that_adds_it():
    with pytest.raises(gv.DeclarationError, match='methods="loss"'):
        gv.check(Network().loss, X="N 3", T="N 2")
    with pytest.raises(gv.DeclarationError, match=r'methods=\("LOSS", "GRADIENT"\)'):
        gv.check(adapt.loss(Params(), X="N 3", y="N: labels 4"))
    with pytest.raises(gv.DeclarationError, match="methods: expected the names"):
        gv.check(Network(), methods=3, X="N 3", T="N 2")


class Cached:
    slip = 1

    def __init__(self):
        self.W = drawn(3, 4)

    def forward(self, x):
        return x @ self.W, x

    def backward(self, dy, cache):
        return dy @ self.W.T, self.slip * cache.T @ dy


class CachedAttribute(Cached):
    def backward(self, dy, x):
        dx, self.dW = super().backward(dy, x)
        return dx


class TwoOutputs(Cached):
    def forward(self, x):
        y = x @ self.W
        return y, 2 * y, x

    def backward(self, dy, dz, cache):
        return super().backward(dy + 2 * dz, cache)


class GivenAgain(Cached):
    """backward takes the input itself, in front."""

    def forward(self, x):
        return x @ self.W

    def backward(self, x, grad_output):
        return super().backward(grad_output, x)


@pytest.mark.parametrize("cls", [Cached, CachedAttribute, TwoOutputs, GivenAgain])
def test_methods_that_hand_a_cache_or_the_inputs_to_backward(cls):
    assert verdict(cls(), x="N 3").ok
    wrong = type(cls.__name__, (cls,), {"slip": -7})
    assert verdict(wrong(), x="N 3") == {"W"}
    with pytest.raises(gv.PartlyVerified, match=r"self\.W") if cls is CachedAttribute else nullcontext():
        assert verdict(wrong().forward, wrong().backward, x="N 3") != {"W"}  # of two objects: none is told of W
    layer = wrong()
    if cls is not GivenAgain:
        assert verdict(layer.forward, layer.backward, x="N 3") == {"W"}


class Predicts:
    """compute_gradients takes the upstream gradient, and gives those of the weights."""

    slip = 1

    def __init__(self):
        self.W, self.b = drawn(3, 2), np.zeros(2)

    def predict(self, X):
        self.X = X
        return X @ self.W + self.b

    def compute_gradients(self, dout):
        return {"W": self.slip * self.X.T @ dout, "b": dout.sum(0)}


def test_a_network_that_predicts_and_gives_gradients_for_an_upstream_one():
    report = verdict(Predicts(), X="N 3")
    assert report.ok
    assert "no gradient wanted: X" in report.declared
    assert verdict(type("Wrong", (Predicts,), {"slip": -7})(), X="N 3") == {"W"}

    class NoLoss(Predicts):
        def compute_gradients(self, X, T):
            return {}

    with pytest.raises(gv.DeclarationError, match=r"compute_gradients is that of a loss, .* does not have"):
        verdict(NoLoss(), X="N 3", T="N 2")


def test_a_value_for_each_column_is_told_with_its_shape():
    with pytest.raises(gv.DeclarationError, match=r"for p of shape \(2, 3\) the loss returns values of shape \(3,\)"):
        verdict(lambda p, y: (((p - y) ** 2).sum(0), 2 * (p - y)), p="N K", y="N K")
    assert verdict(lambda p, y: (((p - y) ** 2).sum(1), 2 * (p - y)), p="N K", y="N K").ok


def test_weights_in_a_named_tuple_are_set_as_one():
    Weights = namedtuple("Weights", "w b")

    class Dense:
        slip = 1

        def __init__(self):
            self.p = Weights(drawn(3, 4), np.zeros(4))

        def forward(self, x):
            self.x = x
            return x @ self.p.w + self.p.b

        def backward(self, dy):
            self.g = Weights(self.slip * self.x.T @ dy, dy.sum(0))
            return dy @ self.p.w.T

    assert verdict(Dense(), x="N 3").ok
    with pytest.raises(gv.PartlyVerified):
        verdict(type("Dense", (Dense,), {"slip": -7})(), x="N 3")


class Dense:
    def __init__(self, D, H):
        self.W = drawn(D, H)

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dy):
        self.dW = self.x.T @ dy
        return dy @ self.W.T


class Wrong(Dense):
    def backward(self, dy):
        dx = super().backward(dy)
        self.dW *= 2
        return dx


def test_a_function_that_builds_an_object_is_a_target():
    def builder(cls):
        def make(n_in, n_out):
            return cls(n_in, n_out)

        return make

    def by_sizes(cls):
        return lambda D, H: cls(D, 1 * H)

    for target, init in ((by_sizes, {}), (builder, {"init": ("D", "H")})):
        assert verdict(target(Dense), x="N D", **init).ok
        assert verdict(target(Wrong), x="N D", **init) == {"W"}
    assert verdict(lambda: Dense(3, 4), x="N 3").ok
    assert verdict(lambda: Wrong(3, 4), x="N 3") == {"W"}
    assert verdict(builder(Dense), x="N n_in").ok
    assert verdict(builder(Wrong), x="N n_in") == {"W"}


class Named(Dense):
    def __init__(self, kind):
        super().__init__(2, len({"tanh": 3}[kind]))


class Worded(Dense):
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)


def test_what_an_object_is_built_with_is_a_size_or_is_asked_for():
    """Words of `init` that name nothing are texts; where none can be built, the message says which they are."""
    with pytest.raises(gv.DeclarationError, match=r"'m' is given as a text: .* one capital letter"):
        gv.check(Dense, init=("D", "m"), x="N D")
    with pytest.raises(gv.DeclarationError, match=r'Named cannot be built: KeyError.* init=\("D", "H"\)'):
        gv.check(Named, x="N D")
    with pytest.raises(gv.DeclarationError, match=r'built with n_in, .*Call a dimension so, .*init=\{"n_in": "D"\}'):
        gv.check(Worded, x="N D")


class Stack:
    """Weights in two lists; the loss's gradients come as two lists."""

    slip = 1.0

    def __init__(self):
        self.Ws, self.bs = [drawn(3, 4), drawn(4, 2)], [drawn(4), drawn(2)]

    def cost(self, X, Y):
        return ((np.tanh(X @ self.Ws[0] + self.bs[0]) @ self.Ws[1] + self.bs[1] - Y) ** 2).sum()

    def compute_gradients(self, X, Y):
        h = np.tanh(X @ self.Ws[0] + self.bs[0])
        d = 2 * (h @ self.Ws[1] + self.bs[1] - Y)
        dh = d @ self.Ws[1].T * (1 - h * h)
        return [X.T @ dh, h.T @ d], [dh.sum(0), self.slip * d.sum(0)]


def test_gradients_in_lists_within_what_backward_returns():
    given = {"X": "N 3", "Y": "N 2", "methods": ("cost", "compute_gradients")}
    assert verdict(Stack(), **given).ok
    assert verdict(type("Slipped", (Stack,), {"slip": 0.5})(), **given) == {"bs_1"}


def outside(slip, place):
    """A pair of functions around a weight that is no argument; backward leaves its gradient in `place`."""
    W, held = drawn(3, 4), {"params": drawn(3, 4)}

    def forward(x):
        return x @ (W + held["params"]), x

    def backward(dy, x):
        if place is not None:
            place["W"] = slip * x.T @ dy
        return dy @ (W + held["params"]).T

    return forward, backward


def test_a_weight_from_outside_whose_gradient_is_left_outside_is_no_pass():
    for slip in (1, -7):
        with pytest.raises(gv.PartlyVerified, match=r"leaves what may\s+be its gradient in place\['W'\]"):
            verdict(*outside(slip, {}), x="N 3")
    assert verdict(*outside(-7, {}), x="N 3", constants=("W", "held['params']")).ok
    with pytest.raises(gv.PartlyVerified, match=r"not verified: W, held\['params'\]"):
        verdict(*outside(1, None), x="N 3")


def test_buffers_and_saved_gradients_outside_are_no_weights_and_a_table_is_declared():
    table, seen = np.linspace(0, 1, 5), {}

    def forward(x):
        seen["x"] = x
        return x * table[1], x

    def backward(dy, x):
        seen["dx"] = dy * table[1]
        return seen["dx"]

    with pytest.raises(gv.PartlyVerified, match='constants="table"'):
        verdict(forward, backward, x="5")
    assert verdict(forward, backward, x="5", constants="table").ok
    assert table[1] == 0.25


def test_an_object_whose_methods_close_over_a_weight():
    def make(slip):
        W, grads = drawn(3, 4), {}

        class Layer:
            def forward(self, x):
                self.x = x
                return x @ W

            def backward(self, dy):
                grads["W"] = slip * self.x.T @ dy
                return dy @ W.T

        return Layer()

    with pytest.raises(gv.PartlyVerified, match="not verified: W"):
        verdict(make(-7), x="N 3")
    assert verdict(make(1), x="N 3", constants="W").ok


@pytest.mark.told
def test_gradients_that_a_loss_returns_beyond_its_primals_are_not_dropped():
    W = drawn(3, 2)

    def loss(slip, form):
        def value(x, y):
            d = x @ W - y
            dx, dW = 2 * d @ W.T / d.size, slip * 2 * x.T @ d / d.size
            return (d**2).mean(), *form(dx, dW)

        return value

    for form in (lambda dx, dW: (dx, dW), lambda dx, dW: ({"x": dx, "W": dW},)):
        assert verdict(loss(-7, form), x="N 3", y="N 2") == {None}
    assert verdict(loss(1, lambda dx, dW: (dx,)), x="N 3", y="N 2", constants="W").ok


def test_an_object_that_applies_updates_is_told_with_the_line_that_declares_it():
    class Online(Dense):
        lr = 0.1

        def backward(self, dy):
            dx = dy @ self.W.T
            self.W -= self.lr * self.x.T @ dy
            return dx

    class Given(Online):
        def backward(self, dy, learning_rate):
            self.lr = learning_rate
            return super().backward(dy)

    for target, sizes, match in (
        (Online(3, 4), "N 3", r"changes W and keeps no gradient"),
        (Online, "N D", r"changes W and keeps no gradient"),
        (Given(3, 4), "N 3", r'extra=\{"learning_rate": \.\.\.\}'),
    ):
        with pytest.raises(gv.DeclarationError, match=rf"{match}|adapt.optimiser\(.*{match}"):
            gv.check(target, x=sizes)
        assert verdict(adapt.optimiser(target, x=sizes)).ok


class Scores:
    """Softmax scores of a hidden layer, with the loss inside; the number of classes is in no input."""

    def __init__(self, D, H, K):
        rng = np.random.default_rng(3)
        self.params = {"W1": rng.normal(size=(D, H)), "W2": rng.normal(size=(H, K))}

    def loss(self, X, y, penalty=0.1):
        W1, W2 = self.params["W1"], self.params["W2"]
        h = np.tanh(X @ W1)
        p = np.exp(h @ W2)
        p /= p.sum(1, keepdims=True)
        d = (p - np.eye(W2.shape[1])[y]) / len(X)
        value = -np.log(p[np.arange(len(X)), y]).mean() + 0.5 * penalty * (W1**2).sum()
        return value, {"W2": h.T @ d, "W1": X.T @ (d @ W2.T * (1 - h**2)) + self.penalty(penalty) * W1}

    @staticmethod
    def penalty(given):
        return given


class PenaltyTwice(Scores):
    @staticmethod
    def penalty(given):
        return 2 * given


@pytest.mark.told
def test_labels_of_as_many_classes_as_the_object_is_built_with():
    declared = dict(X="N D", y="N: labels K", init=("D", "H", "K"), examples=8, raises=False)
    assert gv.check(Scores, **declared).ok
    assert [f.primal for f in gv.check(PenaltyTwice, **declared).findings] == ["W1"]


def contrast(a, b, t):
    s = np.exp(t) * a @ b.T
    p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    ds = (p - np.eye(len(a))) / len(a)
    return -np.log(np.diag(p)).mean(), {"a": np.exp(t) * ds @ b, "b": np.exp(t) * ds.T @ a, "t": (ds * s).sum()}


def test_a_primal_with_the_name_of_a_target_is_none_where_a_gradient_of_it_is_given():
    declared = dict(a="N D: between -2 2", b="N D: between -2 2", t=": between -1 1", examples=8, raises=False)
    assert gv.check(contrast, **declared).ok

    def by_the_temperature(a, b, t):
        value, gradients = contrast(a, b, t)
        return value, {**gradients, "t": gradients["t"] / np.exp(t)}

    assert [f.primal for f in gv.check(by_the_temperature, **declared).findings] == ["t"]


def test_a_function_says_of_what_its_gradients_are():
    def rank(s, y):
        p, q = (np.exp(v) / np.exp(v).sum() for v in (s, y))
        return -(q * np.log(p)).sum(), p - q

    declared = dict(s="N: between -2 2", y="N: between -2 2", wrt="s", examples=8, raises=False)
    assert gv.check(rank, **declared).ok
    assert not gv.check(lambda s, y: (rank(s, y)[0], -rank(s, y)[1]), **declared).ok
