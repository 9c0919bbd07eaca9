"""What objects leave behind: sums over micro-batches, caches on the class, calls that fail at times, updates."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Layer, adapt
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings

pytestmark = pytest.mark.usefixtures("as_drawn")


def found(layer, *properties, examples=12):
    report = check_layer(layer, Settings(examples=examples, shrink=False, properties=properties))
    return {(f.property, f.primal) for f in report}


class Summing:
    """Adds its gradients up, as declared; `last` overwrites from that backward on, `first` before it."""

    overwrites_from = 10**6

    def __init__(self, D, H):
        self.W, self.dW, self.count = np.zeros((D, H)), np.zeros((D, H)), 0

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dy):
        g, self.count = self.x.T @ dy, self.count + 1
        self.dW = g if self.count >= self.overwrites_from else self.dW + g
        return dy @ self.W.T


class OverwritesLater(Summing):
    overwrites_from = 3


class OverwritesAlways(Summing):
    overwrites_from = 1


class AddsTwoThings(Summing):
    """Adds the square of what it has, which nobody sees on one batch."""

    def backward(self, dy):
        held, g = self.dW, self.x.T @ dy
        self.dW = held + g + held * g
        return dy @ self.W.T


@pytest.mark.parametrize(
    ("cls", "right"), [(Summing, True), (OverwritesLater, False), (OverwritesAlways, False), (AddsTwoThings, False)]
)
def test_what_is_declared_to_accumulate_is_the_sum_over_micro_batches_in_every_order(cls, right):
    layer = adapt.stateful(cls, accumulates=True, init=("D", "H"), x="N D", W="D H")
    assert bool(found(layer, "accumulates")) is not right


class TwoParameters:
    """Replaces both gradients, or adds to them at first only, without a word about it."""

    adds = 0

    def __init__(self, D, H):
        self.W, self.b, self.dW, self.db, self.count = np.zeros((D, H)), np.zeros(H), 0.0, 0.0, 0

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        self.count += 1
        keep = 1.0 if 1 < self.count <= self.adds else 0.0
        self.dW, self.db = keep * self.dW + self.x.T @ dy, keep * self.db + dy.sum(0)
        return dy @ self.W.T


class AddsAtFirst(TwoParameters):
    adds = 2


@pytest.mark.parametrize(("cls", "right"), [(TwoParameters, True), (AddsAtFirst, False)])
def test_what_adds_up_at_first_and_replaces_later_is_found(cls, right):
    assert bool(found(adapt.stateful(cls, x="N D"), "accumulates")) is not right


class Appends(TwoParameters):
    """Keeps what forward saw until it is flushed, so that no other batch may come before; its gradients add up."""

    bias = 1.0

    def __init__(self, D, H):
        super().__init__(D, H)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW, self.db = self.dW + self.seen[0].T @ dy, self.bias * self.db + dy.sum(0)
        return dy @ self.W.T

    def flush_gradients(self):
        self.seen, self.dW, self.db = [], np.zeros_like(self.W), np.zeros_like(self.b)


class AppendsAndReplacesOne(Appends):
    bias = 0.0


@pytest.mark.parametrize(("cls", "right"), [(Appends, True), (AppendsAndReplacesOne, False)])
def test_what_keeps_every_batch_until_it_is_flushed_is_held_to_equal_batches_alone(cls, right):
    assert bool(found(adapt.stateful(cls, x="N D"), "accumulates")) is not right


class Own:
    def forward(self, x):
        self.x = x
        return x**2

    def backward(self, dy):
        return 2 * self.x * dy


class OnTheClass(Own):
    def forward(self, x):
        OnTheClass.kept = x
        return x**2

    def backward(self, dy):
        x = OnTheClass.kept
        return 2 * dy * (x if x.shape == dy.shape else x[: len(dy)])


_CACHE = {}


class InTheModule(Own):
    def forward(self, x):
        _CACHE["x"] = x
        return x**2

    def backward(self, dy):
        return 2 * dy * _CACHE["x"]


@pytest.mark.parametrize(("cls", "right"), [(Own, True), (OnTheClass, False), (InTheModule, False)])
def test_two_objects_of_one_class_do_not_share_what_they_keep(cls, right):
    assert bool(found(adapt.stateful(cls, x="N D"), "reusable")) is not right


class Seldom:
    """Wrong in one call of two hundred."""

    def __init__(self, forward):
        self.in_forward, self.calls = forward, 0

    def forward(self, x):
        self.calls += self.in_forward
        return x**2 + (1e-3 if self.in_forward and self.calls % 200 == 199 else 0), x

    def backward(self, dy, x):
        self.calls += not self.in_forward
        return 2 * x * dy * (1.5 if not self.in_forward and self.calls % 200 == 199 else 1)


@pytest.mark.parametrize("in_forward", [True, False])
def test_what_fails_one_call_of_two_hundred_is_found_over_a_check(in_forward):
    seldom = Seldom(in_forward)
    layer = Layer(seldom.forward, seldom.backward, x="N")
    assert found(layer, "repeatable", examples=100)


def test_what_never_fails_is_not():
    assert not found(Layer(lambda x: (x**2, x), lambda dy, x: 2 * x * dy, x="N"), "repeatable", examples=40)


class Small:
    """Updates by a rate of its own, so small that the weight rounds the gradient away in part."""

    factor = 1.0

    def __init__(self, D, H):
        self.W = np.zeros((D, H))

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dy):
        dx = dy @ self.W.T
        self.W = self.W - 1e-4 * self.factor * self.x.T @ dy
        return dx


class TooLarge(Small):
    factor = 1.0001


@pytest.mark.parametrize(("cls", "wrong"), [(Small, set()), (TooLarge, {("gradient", "W")})])
def test_a_gradient_read_from_an_update_carries_the_rounding_of_the_weight(cls, wrong):
    layer = adapt.optimiser(cls, rate=1e-4, x="N D", W="D H")
    assert found(layer, "gradient", "linear", "repeatable", "reusable", "layout") == wrong


class Momentum(Small):
    """Each step repeats a share of the one before."""

    share = 0.9

    def __init__(self, D, H):
        super().__init__(D, H)
        self.velocity = np.zeros((D, H))

    def backward(self, dy, lr):
        dx = dy @ self.W.T
        self.velocity = self.share * self.velocity - lr * self.x.T @ dy
        self.W = self.W + self.velocity
        return dx


class AddsUp(Momentum):
    share = 1.0


@pytest.mark.parametrize(("cls", "wrong"), [(Momentum, set()), (AddsUp, {("reusable", "W")})])
def test_momentum_is_no_state_of_another_call_and_gradients_that_add_up_are(cls, wrong):
    layer = adapt.optimiser(cls, x="N D", W="D H")
    assert found(layer, "gradient", "linear", "repeatable", "reusable", "layout", "fresh") == wrong


class Asks:
    """Calls its optimiser in a way of its own."""

    def __init__(self, D, H):
        self.W, self.opt = np.zeros((D, H)), None

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dy):
        dx = dy @ self.W.T
        self.step(self.x.T @ dy)
        return dx

    def step(self, g):
        self.W += self.opt(g)


class Subtracts(Asks):
    def step(self, g):
        self.W -= self.opt.get_update(g)


class ByName(Asks):
    def step(self, g):
        self.W = self.opt.update(grad=g, param=self.W)


class GradientFirst(Asks):
    def step(self, g):
        self.W = self.opt.step(grads={"W": g}, params={"W": self.W})["W"]


class Wrong(Asks):
    def step(self, g):
        self.W += self.opt(-g)


@pytest.mark.parametrize("cls", [Asks, Subtracts, ByName, GradientFirst])
def test_the_recorder_takes_any_call(cls):
    assert not found(adapt.optimiser(cls, x="N D", W="D H"), "gradient", "complete", "linear")


def test_a_wrong_sign_is_found_through_the_recorder():
    assert found(adapt.optimiser(Wrong, x="N D", W="D H"), "gradient") == {("gradient", "W")}


class Descent:
    def __call__(self, g):
        return -0.5 * g


def test_the_recorder_stands_aside_where_setup_puts_another():
    layer = adapt.optimiser(Asks, setup=lambda made, ours: setattr(made, "opt", Descent()), rate=0.5, x="N D", W="D H")
    assert not found(layer, "gradient", "linear")


def cleared(dy, x):
    dx = 2 * x * dy
    dy[...] = 0
    return dx


def cleared_and_by_memory(dy, x):
    dx = 2 * x * dy.ravel(order="K").reshape(dy.shape)
    dy[...] = 0
    return dx


def test_one_mutation_is_one_finding():
    layer = Layer(lambda x: (x**2, x), cleared, x="N D")
    assert {name for name, _ in found(layer, *ASKED)} == {"pure"}


def test_a_mutation_does_not_hide_what_is_wrong_with_a_layout():
    layer = Layer(lambda x: (x**2, x), cleared_and_by_memory, x="N D")
    assert {name for name, _ in found(layer, *ASKED)} == {"pure", "layout"}


ASKED = ("gradient", "complete", "pure", "layout", "linear", "repeatable", "reusable", "special")
