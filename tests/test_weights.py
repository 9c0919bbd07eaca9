"""Weights of objects: found with their gradients whatever they are called, or never a silent pass."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import gradverify as gv
from gradverify import adapt
from gradverify.adapters import as_layer
from gradverify.adapters._objects.names import NOT, OWN, PLACED, SAME, SHORT, fit
from gradverify.adapters._objects.pairs import parse
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.errors import DeclarationError, PartlyVerified

pytestmark = pytest.mark.usefixtures("as_drawn")


def check(target, **declaration):
    """The gradients alone, without shrinking."""
    settings = Settings(examples=3, shrink=False, properties=("complete", "gradient"))
    return check_layer(as_layer(target, **declaration), settings)


def wrong(report):
    return {f.primal for f in report.findings}


def left_out(report):
    return {item.name for item in report.blocking}


@pytest.mark.parametrize(
    ("value", "gradient", "equal", "fits"),
    [
        ("w", "grads['w']", False, OWN),
        ("w", "cache['dw']", False, OWN),
        ("params['W']", "dW", False, OWN),
        ("W.data", "W.grad", False, OWN),
        ("layers[0].W", "layers[0].dW", False, OWN),
        ("layers[0].params[0]", "layers[0].grads[0]", False, OWN),
        ("layers[0].W", "layers[1].dW", False, SAME),
        ("weights", "dL_dw", True, SHORT),
        ("weights", "dL_dw", False, NOT),
        ("bias1", "db1", True, SHORT),
        ("bias1", "db2", True, NOT),
        ("weights[1]", "nabla_w[1]", True, SHORT),
        ("W", "gradients[0]", True, PLACED),
        ("W", "gradients[0]", False, NOT),
        ("W", "out", True, NOT),
    ],
)
def test_names_of_gradients(value, gradient, equal, fits):
    assert fit(parse(value), parse(gradient), equal)[0] == fits


class Base:
    """y = x w + b; `slip` times the right gradients of the weights."""

    slip = 1.0

    def __init__(self, D, H):
        rng = np.random.default_rng(0)
        self.w, self.b = rng.normal(size=(D, H)), rng.normal(size=H)

    def forward(self, x):
        self.x = x
        return x @ self.w + self.b

    def slopes(self, dy):
        return self.slip * self.x.T @ dy, self.slip * dy.sum(0)


class InDict(Base):
    """Filled only by backward."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.grads = {}

    def backward(self, dy):
        self.grads["w"], self.grads["b"] = self.slopes(dy)
        return dy @ self.w.T


class InTuple(Base):
    def backward(self, dy):
        self.gradients = self.slopes(dy)
        return dy @ self.w.T


class Returned(Base):
    def backward(self, dy):
        return dy @ self.w.T, *self.slopes(dy)


class ReturnedInDict(Base):
    def backward(self, dy):
        return dy @ self.w.T, dict(zip(("dw", "db"), self.slopes(dy)))


class Sibling(Base):
    """Values in a dict, gradients beside it."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.values = {"w": self.w, "b": self.b}
        del self.w, self.b

    def forward(self, x):
        self.x = x
        return x @ self.values["w"] + self.values["b"]

    def backward(self, dy):
        self.dw, self.db = self.slopes(dy)
        return dy @ self.values["w"].T


class Losslike(Base):
    """Named after the loss, and abbreviated."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.weights, self.biases = self.w, self.b
        del self.w, self.b

    def forward(self, x):
        self.x = x
        return x @ self.weights + self.biases

    def backward(self, dy):
        self.dL_dw, self.dL_db = self.slopes(dy)
        return dy @ self.weights.T


class Parameter:
    def __init__(self, data):
        self.data, self.grad = data, None


class Torchlike(Base):
    def __init__(self, D, H):
        super().__init__(D, H)
        self.held = [Parameter(self.w), Parameter(self.b)]
        del self.w, self.b

    def forward(self, x):
        self.x = x
        return x @ self.held[0].data + self.held[1].data

    def backward(self, dy):
        for parameter, slope in zip(self.held, self.slopes(dy)):
            parameter.grad = slope
        return dy @ self.held[0].data.T


class InPlainTuple(Base):
    """Weights in a tuple, which cannot be assigned to."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.weights = (self.w, self.b)
        del self.w, self.b

    def forward(self, x):
        self.x = x
        return x @ self.weights[0] + self.weights[1]

    def backward(self, dy):
        self.d_weights = self.slopes(dy)
        return dy @ self.weights[0].T


CONVENTIONS = [InDict, InTuple, Returned, ReturnedInDict, Sibling, Losslike, Torchlike, InPlainTuple]


@pytest.mark.parametrize("kind", CONVENTIONS)
def test_gradients_are_found_wherever_they_stand(kind):
    report = check(kind, init=("D", "H"), x="N D")
    assert report.ok, report
    assert [s.kind for s in report.verified_by.verified] == ["primal", "primal", "primal", "output"]
    assert len(wrong(check(type("Slip", (kind,), {"slip": -7.0}), init=("D", "H"), x="N D"))) == 2


@pytest.mark.parametrize("kind", CONVENTIONS[:4])
def test_so_they_are_on_an_object(kind):
    report = check(kind(3, 2), x="N 3")
    assert report.ok, report
    assert wrong(check(type("Slip", (kind,), {"slip": 2.0})(3, 2), x="N 3")) == {"w", "b"}


class Network:
    def __init__(self, *layers):
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy


class DictSlip(InDict):
    slip = 3.0


def test_the_layers_of_a_network_count():
    report = check(Network(InDict(3, 4), Losslike(4, 2)), x="N 3")
    assert report.ok, report
    names = {s.name for s in report.verified_by.verified if s.kind == "primal"}
    assert names == {"x", "layers_0_w", "layers_0_b", "layers_1_weights", "layers_1_biases"}
    assert wrong(check(Network(InDict(3, 4), DictSlip(4, 2)), x="N 3")) == {"layers_1_w", "layers_1_b"}


class Silent(Base):
    """No gradient of the weights at all."""

    def backward(self, dy):
        return dy @ self.w.T


class Nameless(Base):
    """An array of the right shape that says nothing of being a gradient."""

    def backward(self, dy):
        self.first, self.second = self.slopes(dy)
        return dy @ self.w.T


class NamelessSlip(Nameless):
    slip = 2.0


def test_weights_without_a_gradient_are_no_pass():
    report = check(Silent(3, 2), x="N 3")
    assert not report.findings
    assert not report.ok
    assert left_out(report) == {"w", "b"}
    assert 'pairs={"w": "dw", "b": "db"}' in str(report)
    with pytest.raises(PartlyVerified, match=r"no gradient was found for [wb], [wb]"):
        gv.check(Silent(3, 2), x="N 3", examples=3, properties="gradient")


def test_an_array_without_a_name_is_taken_only_if_it_is_right():
    assert check(Nameless(3, 2), x="N 3").ok
    report = check(NamelessSlip(3, 2), x="N 3")
    assert left_out(report) == {"w", "b"}
    assert 'pairs={"w": "first", "b": "second"}' in str(report)
    assert wrong(check(NamelessSlip(3, 2), x="N 3", pairs={"w": "first", "b": "second"})) == {"w", "b"}


def test_constants_may_be_attributes():
    report = check(Silent(3, 2), x="N 3", constants=("w", "b"))
    assert report.ok
    assert {item.reason for item in report.verified_by.missing} == {"declared constant"}
    assert left_out(check(Silent(3, 2), x="N 3", constants="b")) == {"w"}
    with pytest.raises(DeclarationError, match="'v' is neither a primal nor an array of the object"):
        as_layer(Silent(3, 2), x="N 3", constants="v")


class Square:
    """Two weights of one shape, whose gradients are returned in an order of the author's own."""

    order = (0, 1)

    def __init__(self, D):
        self.U, self.V = np.random.default_rng(1).normal(size=(2, D, D))

    def forward(self, x):
        self.x, self.h = x, np.tanh(x @ self.U)
        return self.h @ self.V

    def backward(self, dy):
        d = (dy @ self.V.T) * (1 - self.h**2)
        slopes = self.x.T @ d, self.h.T @ dy
        return d @ self.U.T, *(slopes[k] for k in self.order)


class SquareReversed(Square):
    order = (1, 0)


class SquareSlip(Square):
    def backward(self, dy):
        dx, du, dv = super().backward(dy)
        return dx, du, 2 * dv


def test_gradients_of_one_shape_are_told_apart_by_trying():
    assert check(Square, x="N D").ok
    assert check(SquareReversed, x="N D").ok
    assert wrong(check(SquareSlip, x="N D")) == {"V"}


class Running:
    """A running mean is state, which no gradient is due for; a scale is a weight."""

    def __init__(self, D):
        self.mean, self.scale, self.momentum, self.training = np.zeros(D), np.ones(D), 0.1, True

    def forward(self, x):
        centre = x.mean(0) if self.training else self.mean
        if self.training:
            self.mean = (1 - self.momentum) * self.mean + self.momentum * centre
        self.x = x - centre
        return self.x * self.scale

    def backward(self, dy):
        self.dscale = (dy * self.x).sum(0)
        g = dy * self.scale
        return g - g.mean(0) if self.training else g


def test_state_is_said_and_does_not_block():
    report = check(Running, x="N D", options={"training": [True, False]})
    assert report.ok, report
    assert "not verified: mean: state of the object" in str(report)


class Online(Base):
    """Backward applies the update; the bias three times."""

    def backward(self, dy, lr=0.1):
        dx = dy @ self.w.T
        dw, db = self.slopes(dy)
        self.w -= lr * dw
        self.b -= lr * self.times * db
        return dx

    times = 1.0


class OnlineSlip(Online):
    times = 3.0


def by_function(cls):
    return lambda D, H: cls(D, H)  # noqa: PLW0108  what is tried is a function


@pytest.mark.parametrize("build", [lambda cls: cls, by_function])
def test_parameters_that_backward_updates_are_found_by_themselves(build):
    settings = Settings(examples=4, shrink=False, properties=("gradient",))
    right = adapt.optimiser(build(Online), init=("D", "H"), x="N D")
    assert check_layer(right, settings).ok
    assert {p.name: p.dims.text for p in right.primals} == {"x": "N D", "w": "D H", "b": "H"}
    slip = adapt.optimiser(build(OnlineSlip), init=("D", "H"), x="N D", w="D H")  # nobody asked for b
    assert wrong(check_layer(slip, settings)) == {"b"}


def test_updates_are_no_pass_where_gradients_are_looked_for():
    for target, declared in ((Online(3, 2), {"x": "N 3"}), (Online, {"init": ("D", "H"), "x": "N D"})):
        with pytest.raises(DeclarationError, match=r"changes w, b and keeps no gradient.*adapt.optimiser\(Online"):
            as_layer(target, **declared)


class Driven(Base):
    """Calls an optimiser in one of many ways."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.opt = None

    def initialize(self, opt):
        self.opt = opt

    def backward(self, dy):
        dx = dy @ self.w.T
        self.update(*self.slopes(dy))
        return dx


def added(self, dw, db):
    self.w += self.opt(dw)
    self.b += self.opt(db)


def subtracted(self, dw, db):
    self.w -= self.opt.step(dw)
    self.b -= self.opt.step(grad=db)


def by_name(self, dw, db):
    self.w = self.opt.update(param=self.w, grad=dw)
    self.b = self.opt.update(grad=db, param=self.b)


def together(self, dw, db):
    self.w, self.b = self.opt.step([self.w, self.b], [dw, db])


def in_pairs(self, dw, db):
    self.opt.step([(self.w, dw), (self.b, db)])


def at_its_rate(self, dw, db):
    self.w -= self.opt.lr * dw
    self.b -= self.opt.lr * db


WAYS = [added, subtracted, by_name, together, in_pairs, at_its_rate]


@pytest.mark.parametrize(
    ("way", "setup"),
    [*((way, None) for way in WAYS), (WAYS[-1], lambda layer, opt: layer.initialize(opt))],
)
def test_the_recording_optimiser_takes_any_call(way, setup):
    settings = Settings(examples=3, shrink=False, properties=("gradient",))
    right, slip = (type("Layer", (Driven,), {"update": way, "slip": slip}) for slip in (1.0, 5.0))
    declaration = {"init": ("D", "H"), "x": "N D", "w": "D H", "b": "H", "setup": setup}
    assert check_layer(adapt.optimiser(right, **declaration), settings).ok
    assert wrong(check_layer(adapt.optimiser(slip, **declaration), settings)) == {"w", "b"}


class Descent:
    def __call__(self, gradient):
        return -0.5 * gradient


def test_an_optimiser_that_setup_put_there_stays():
    kind = type("Layer", (Driven,), {"update": added})
    setup = lambda layer, _: layer.initialize(Descent())  # noqa: E731
    layer = adapt.optimiser(kind, setup=setup, rate=0.5, init=("D", "H"), x="N D")
    assert check_layer(layer, Settings(examples=3, properties=("gradient",))).ok


def test_a_call_that_cannot_be_read_is_no_finding():
    kind = type("Layer", (Driven,), {"update": lambda self, dw, db: self.opt(np.ones(7), dw, np.ones(5))})
    with pytest.raises(DeclarationError, match=r"(?s)opt\(array \(7,\), array .*setup=.*pairs="):
        adapt.optimiser(kind, init=("D", "H"), x="N D", w="D H", b="H")


class Configured(InDict):
    def __init__(self, config):
        super().__init__(config["in"], config["out"])


class Shaped(InDict):
    def __init__(self, shape):
        super().__init__(*shape)


@pytest.mark.parametrize(
    ("target", "init"),
    [
        (by_function(InDict), ("D", "H")),
        (by_function(InDict), None),
        (lambda: InDict(3, 2), None),
        (partial(InDict, H=2), ("D",)),
        (Configured, {"config": {"in": "D", "out": "H"}}),
        (Configured, ({"in": "D", "out": "H"},)),
        (Shaped, (("D", "H"),)),
    ],
)
def test_ways_to_build_an_object(target, init):
    sizes = "N 3" if getattr(target, "__code__", None) and not target.__code__.co_argcount else "N D"
    layer = adapt.stateful(target, init=init, x=sizes)
    report = check_layer(layer, Settings(examples=3, shrink=False, properties=("gradient",)))
    assert report.ok, report
    assert len(report.verified_by.verified) == 4


class Transposed(Base):
    """Uses a view of its weights."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.turned = self.w.T

    def forward(self, x):
        self.x = x
        return (self.turned @ x.T).T + self.b

    def backward(self, dy):
        self.dw, self.db = self.slopes(dy)
        return dy @ self.turned


class TransposedSlip(Transposed):
    slip = 2.0


@pytest.mark.parametrize("build", [lambda cls: (cls, "N D"), lambda cls: (cls(3, 2), "N 3")])
def test_a_view_of_a_weight_stays_one_in_every_copy(build):
    target, sizes = build(Transposed)
    report = check(target, x=sizes)
    assert report.ok, report
    assert {s.name for s in report.verified_by.verified} == {"x", "w", "b", "y"}
    assert wrong(check(build(TransposedSlip)[0], x=sizes)) == {"w", "b"}


class Single(InDict):
    """Weights and gradients of low precision."""

    def __init__(self, D, H):
        super().__init__(D, H)
        self.w, self.b = self.w.astype(np.float32), self.b.astype(np.float32)

    def backward(self, dy):
        dx = super().backward(dy)
        self.grads = {key: value.astype(np.float32) for key, value in self.grads.items()}
        return dx


class SingleSlip(Single):
    slip = 1.5


def test_an_object_in_single_precision_is_run_in_it():
    report = check(Single, x="N D")
    assert report.ok, report
    assert "parameters and gradients are float32" in "\n".join(report.declared)
    assert wrong(check(SingleSlip, x="N D")) == {"w", "b"}


class OfTheClass(InDict):
    """All objects share one array, which must stay as it is."""

    scale = np.full(3, 2.0)

    def forward(self, x):
        self.unscaled = x
        return super().forward(x * self.scale)

    def backward(self, dy):
        dx = super().backward(dy)
        self.grads["scale"] = self.slip * (dx * self.unscaled).sum(0)
        return dx * self.scale


class OfTheClassSlip(OfTheClass):
    slip = 2.0


def test_arrays_of_the_class_count_and_are_left_alone():
    report = check(OfTheClass(3, 2), x="N 3")
    assert report.ok, report
    assert "scale" in {s.name for s in report.verified_by.verified}
    assert (OfTheClass.scale == 2.0).all()
    assert "scale" in wrong(check(OfTheClassSlip(3, 2), x="N 3"))
    mute = type("Mute", (OfTheClass,), {"backward": lambda self, dy: InDict.backward(self, dy) * self.scale})
    assert left_out(check(mute(3, 2), x="N 3")) == {"scale"}


def test_what_gives_names_need_not_be_declared():
    class Turned(Returned):
        def backward(self, dy):
            return *self.slopes(dy)[::-1], dy @ self.w.T

    assert left_out(check(Turned, init=("D", 3), x="N D", constants=())) == set()
    report = check(Turned(3, 2), x="N 3", gives=("b", "w", "x"))
    assert report.ok, report
    assert len(report.verified_by.verified) == 4


class InLists:
    """Plain numbers in lists."""

    slip = 1.0

    def __init__(self):
        self.w = [0.5, -2.0]

    def forward(self, x):
        self.x = x
        return x[:, 0] * self.w[0] + x[:, 1] * self.w[1]

    def backward(self, dy):
        self.dw = [self.slip * float(dy @ self.x[:, 0]), float(dy @ self.x[:, 1])]
        return np.outer(dy, self.w)


def test_numbers_in_lists_are_weights():
    assert check(InLists(), x="N 2").ok
    assert wrong(check(type("Slip", (InLists,), {"slip": 2.0})(), x="N 2")) == {"w_0"}
    mute = type("Mute", (InLists,), {"backward": lambda self, dy: np.outer(dy, self.w)})
    assert left_out(check(mute(), x="N 2")) == {"w_0", "w_1"}
    assert check(mute(), x="N 2", constants="w").ok


class Picky(Silent):
    """Takes only what no example has."""

    def forward(self, x):
        if len(x) < 20:
            raise ValueError("more rows, please")
        return super().forward(x)


def test_what_could_not_be_tried_is_no_pass_either():
    layer = as_layer(Picky(3, 2), x="N 3", assume=lambda x: len(x) >= 20)
    assert {item.name for item in layer.unverified if item.blocks} == {"w", "b"}
    assert "could not be tried" in layer.unverified[0].reason
    assert not as_layer(Picky(3, 2), x="N 3", assume=lambda x: len(x) >= 20, constants=("w", "b")).unverified


class Sum:
    """Two weights of which both gradients are the same array."""

    factor = 1.0

    def __init__(self):
        self.w, self.v, self.grads = np.array([1.0, -2.0]), np.array([0.5, 2.0]), {}

    def forward(self, x):
        return x + self.w + self.v

    def backward(self, dy):
        self.grads["w"] = self.grads["v"] = self.factor * dy.sum(0)
        return dy


def test_one_array_may_be_two_gradients():
    assert check(Sum(), x="N 2").ok
    assert wrong(check(type("Slip", (Sum,), {"factor": 2.0})(), x="N 2")) == {"w", "v"}
