"""Weights kept in the manner of others: a wrong gradient is found or the weight told; a right one has no finding."""

from __future__ import annotations

import array
from collections import ChainMap, OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from gradverify.adapters import as_layer
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings

pytestmark = pytest.mark.usefixtures("as_drawn")


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def examined(target, **declaration):
    settings = Settings(examples=4, shrink=False, properties=("complete", "gradient"))
    return check_layer(as_layer(target, **declaration), settings)


Weights = namedtuple("Weights", "W")


def objects(*values):
    held = np.empty(len(values), dtype=object)
    held[:] = list(values)
    return held


# how a weight is kept, how it is read, and how backward leaves its gradient
KEPT = {
    "ordered dict": (lambda w: OrderedDict(W=w), lambda p: p["W"], lambda g: {"grads": OrderedDict(W=g)}),
    "dict of dicts": (lambda w: {"enc": {"W": w}}, lambda p: p["enc"]["W"], lambda g: {"g": {"enc": {"W": g}}}),
    "flat tree": (lambda w: {("l1", "W"): w}, lambda p: p["l1", "W"], lambda g: {"grads": {("l1", "W"): g}}),
    "user dict": (lambda w: UserDict(W=w), lambda p: p["W"], lambda g: {"_g": UserDict(W=g)}),
    "chain map": (lambda w: ChainMap({"W": w}), lambda p: p["W"], lambda g: {"grads": {"W": g}}),
    "deque": (lambda w: deque([w]), lambda p: p[0], lambda g: {"dp": deque([g])}),
    "array of objects": (lambda w: objects(w, w + 1), lambda p: p[0] + p[1], lambda g: {"dp": objects(g, 1 * g)}),
    "namedtuple": (Weights, lambda p: p.W, lambda g: {"grads": Weights(g)}),
    "namespace": (lambda w: SimpleNamespace(W=w), lambda p: p.W, lambda g: {"dW": g}),
    "masked array": (np.ma.array, np.asarray, lambda g: {"dp": g}),
    "list of lists": (lambda w: w.tolist(), np.array, lambda g: {"dp": g.tolist()}),
    "another name": (lambda w: w, lambda p: p, lambda g: {"p_update": g}),
}


def dense(way, slip):
    keep, read, left = KEPT[way]

    class Dense:
        def __init__(self):
            self.p = keep(drawn(3, 2))

        def forward(self, x):
            self.x = x
            return x @ read(self.p)

        def backward(self, dy):
            vars(self).update(left(slip * self.x.T @ dy))
            return dy @ np.asarray(read(self.p)).T

    return Dense()


@pytest.mark.parametrize("way", KEPT)
def test_weights_in_containers(way):
    right, wrong = examined(dense(way, 1), x="N 3"), examined(dense(way, -7), x="N 3")
    assert right.ok
    assert len(right.verified_by.verified) >= 3  # x, the weight and y
    assert wrong.findings or wrong.blocking
    assert wrong.findings or way == "another name"


def embedding(slip):
    class Embedding:
        """No input has a gradient, and backward returns nothing."""

        def __init__(self):
            self.table = drawn(5, 3)

        def forward(self, ids):
            self.ids = ids
            return self.table[ids]

        def backward(self, dy):
            self.dtable = np.zeros_like(self.table)
            np.add.at(self.dtable, self.ids, slip * dy)

    return Embedding(), {"ids": "N T: indices 5"}


def private(slip):
    class Dense:
        def __init__(self):
            self.__W = drawn(3, 2)

        def forward(self, x):
            self.__x = x
            return x @ self.__W

        def backward(self, dy):
            self.__dW = slip * self.__x.T @ dy
            return dy @ self.__W.T

    return Dense(), {"x": "N 3"}


def flat_vector(slip):
    class Net:
        """Views of one vector come into being with each forward."""

        def __init__(self):
            self.theta = drawn(8)

        def forward(self, x):
            self.x, self.W = x, self.theta[:6].reshape(3, 2)
            return x @ self.W + self.theta[6:]

        def backward(self, dy):
            self.grad = np.concatenate([slip * (self.x.T @ dy).ravel(), dy.sum(0)])
            return dy @ self.W.T

    return Net(), {"x": "N 3"}


def data(slip):
    @dataclass
    class Dense:
        W: np.ndarray
        gW: np.ndarray | None = None

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, dy):
            self.gW = slip * self.x.T @ dy
            return dy @ self.W.T

    return Dense(drawn(3, 2)), {"x": "N 3"}


def slotted(slip):
    class Dense:
        __slots__ = ("_w", "grad", "x")

        def __init__(self):
            self._w = drawn(3, 2)

        @property
        def weight(self):
            return self._w

        def forward(self, x):
            self.x = x
            return x @ self.weight

        def backward(self, dy):
            self.grad = slip * self.x.T @ dy
            return dy @ self.weight.T

    return Dense(), {"x": "N 3"}


def attributes_by_name(slip):
    class Dense:
        def __init__(self):
            self._p, self._g = {"W": drawn(3, 2)}, {}

        def __getattr__(self, name):
            if name != "_p" and name in self._p:
                return self._p[name]
            raise AttributeError(name)

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, dy):
            self._g["W"] = slip * self.x.T @ dy
            return dy @ self.W.T

    return Dense(), {"x": "N 3"}


def running_statistics(slip):
    class Norm:
        def __init__(self):
            self.gamma, self.mean = 1 + 0.1 * drawn(3), np.zeros(3)

        def forward(self, x):
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            self.centred = x - x.mean(0)
            return self.gamma * self.centred

        def backward(self, dy):
            self.dgamma = slip * (dy * self.centred).sum(0)
            return self.gamma * (dy - dy.mean(0))

    return Norm(), {"x": "N 3"}


def frozen(slip):
    class Adapter:
        def __init__(self):
            self.W0, self.A, self.B = drawn(3, 2), drawn(3, 1), drawn(1, 2)

        def forward(self, x):
            self.x = x
            return x @ (self.W0 + self.A @ self.B)

        def backward(self, dy):
            self.dA, self.dB = slip * self.x.T @ dy @ self.B.T, (self.x @ self.A).T @ dy
            return dy @ (self.W0 + self.A @ self.B).T

    return Adapter(), {"x": "N 3", "constants": "W0"}


STYLES = [embedding, private, flat_vector, data, slotted, attributes_by_name, running_statistics, frozen]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_weights_in_the_manner_of_others(style):
    target, declaration = style(1)
    assert examined(target, **declaration).ok
    target, declaration = style(-7)
    assert examined(target, **declaration).findings


def test_numbers_in_an_array_of_python_are_told_where_their_gradient_is_an_array():
    class Dense:
        def __init__(self):
            self.W = array.array("d", [1.0, 2.0])

        def forward(self, x):
            self.x = x
            return x @ np.array(self.W)

        def backward(self, dy):
            self.dW = self.x.T @ dy
            return np.outer(dy, self.W)

    report = examined(Dense(), x="N 2")
    assert not report.findings
    assert {item.name for item in report.blocking} == {"W_0", "W_1"}


class Heads:
    """Splits D among heads, so that it can be built and called at few sizes."""

    def __init__(self, D, F, heads=4):
        self.heads, self.params, self.grads = heads, {"W": drawn(D, D), "V": drawn(D, F)}, {}

    def forward(self, x):
        split = (x @ self.params["W"]).reshape(len(x), self.heads, -1)
        self.x, self.y = x, np.tanh(split).reshape(x.shape)
        return self.y @ self.params["V"]

    def backward(self, dy):
        d = (dy @ self.params["V"].T) * (1 - self.y**2)
        self.grads = {"V": self.y.T @ dy, "W": self.x.T @ d}
        return d @ self.params["W"].T


class HeadsWrong(Heads):
    def backward(self, dy):
        dx = super().backward(dy)
        self.grads["V"] = self.grads["V"] / self.heads
        return dx


@pytest.mark.parametrize(("kind", "wrong"), [(Heads, set()), (HeadsWrong, {"V"})])
def test_sizes_of_weights_are_seen_where_an_axis_is_split_among_heads(kind, wrong):
    report = examined(kind, x="N D", assume="D % 4 == 0")
    assert {f.primal for f in report.findings if f.property == "gradient"} == wrong
    assert {"x", "W", "V"} - wrong <= {share.name for share in report.verified_by.verified}
