"""What a target says of itself: a derivative, a loss with targets, outputs before a cache, a rate that it keeps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradverify import adapt, check
from gradverify.core.declare.held import arrays_of
from gradverify.core.errors import DeclarationError

ASKED = dict(examples=8, properties="gradient", raises=False)


def sound(*target, **declaration):
    """Whether a check of right code is silent, and of code that is wrong by a factor is not."""
    return check(*target, **declaration, **ASKED).ok


class Tanh:
    slip = 1.0

    def forward(self, z, *args, **kwargs):
        return np.tanh(z)

    def backward(self, z, *args, **kwargs):
        return self.slip * (1 - np.tanh(z) ** 2)


class Rectified:
    slip = 1.0

    def call(self, x):
        y = x.copy()
        y[y < 0] = 0
        return y

    def deriv(self, x):
        return self.slip * (x > 0).astype(np.float32)


class Step:
    """Its two functions are attributes, and of whole numbers."""

    slip = 1

    def __init__(self):
        self.func = lambda X: np.where(X >= 0, X, 0)
        self.dfunc = lambda X: self.slip * np.where(X >= 0, 1, 0)


class Cube:
    """Its backward takes an upstream gradient that is called as the input is: what forward kept tells."""

    slip = 1.0

    def __init__(self):
        self.kept = {}

    def forward(self, x):
        self.kept["x"] = x
        return x**3

    def backward(self, x):
        return self.slip * 3 * x * self.kept["x"] ** 2


class Doubled:
    """Linear, so that nothing needs to be kept."""

    slip = 1.0

    def forward(self, x):
        return 2 * x

    def backward(self, x):
        return self.slip * 2 * x


class Squared:
    slip = 1.0

    def call(self, prediction, target):
        return np.mean((target - prediction) ** 2)

    def deriv(self, prediction, target):
        return self.slip * 2 * (prediction - target) / prediction.size


@pytest.mark.parametrize(
    ("cls", "declaration"),
    [
        (Tanh, {"x": "N D"}),
        (Rectified, {"x": "N D"}),
        (Step, {"X": "N D", "methods": ("func", "dfunc")}),
        (Cube, {"x": "N D"}),
        (Doubled, {"x": "N D"}),
        (Squared, {"prediction": "N K", "target": "N K"}),
    ],
)
def test_a_derivative_is_told_from_a_backward_by_its_argument_and_what_forward_keeps(cls, declaration):
    assert sound(cls, **declaration)
    assert not sound(type("Wrong", (cls,), {"slip": 2}), **declaration)


def mse(y, y_pred):
    return np.sum((y - y_pred) ** 2) / len(y)


def test_a_loss_and_its_gradient_of_the_same_arguments_are_a_loss():
    dims = dict(y="N K", y_pred="N K")
    assert sound(mse, lambda y, y_pred: 2 * (y_pred - y) / len(y), **dims)
    assert not sound(mse, lambda y, y_pred: (y_pred - y) / len(y), **dims)


def squared(pred, y_true):
    d = pred - y_true
    return (d**2).mean(), d


def test_targets_of_a_loss_that_get_no_gradient_are_data_and_those_that_get_one_are_checked():
    dims = dict(pred="N K", y_true="N K")
    report = check(squared, lambda dl, d: 2 * dl * d / d.size, **dims, **ASKED)
    assert report.ok and "no gradient wanted: y_true" in report.declared
    assert not sound(squared, lambda dl, d: 2 * dl * d / len(d), **dims)
    both = check(squared, lambda dl, d: (2 * dl * d / d.size, 2 * dl * d / d.size), **dims, **ASKED)
    assert {finding.primal for finding in both.findings} == {"y_true"}


def step(x, h, c, W):
    z = np.tanh(x @ W + h)
    return z * c, 2 * c + z, (x, c, W, z)


def stepped(share):
    def backward(dh, dc, cache):
        x, c, W, z = cache
        dz = (dh * c + share * dc) * (1 - z * z)
        return dz @ W.T, dz, dh * z + 2 * dc, x.T @ dz

    return backward


def test_outputs_may_be_returned_one_by_one_before_the_cache():
    dims = dict(x="N D", h="N H", c="N H", W="D H")
    assert sound(step, stepped(1.0), **dims)
    assert not sound(step, stepped(0.0), **dims)


class Stepping:
    """Backward steps its weights at the rate of the network that it belongs to."""

    slip = 1.0

    def __init__(self, D, H):
        self.W, self.net = np.zeros((D, H)), SimpleNamespace(learning_rate=0.1)

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dy):
        dx = dy @ self.W.T
        self.W -= self.net.learning_rate * self.slip * self.x.T @ dy
        return dx


def test_a_rate_may_be_kept_by_what_an_object_belongs_to():
    assert sound(adapt.optimiser(Stepping, x="N D"))
    assert not sound(adapt.optimiser(type("Wrong", (Stepping,), {"slip": 0.5}), x="N D"))


class Answers:
    """Has something under every name, as what is loaded when it is first used."""

    def __getattr__(self, name):
        return lambda *a: None

    __dict__ = property(lambda self: lambda *a: None)


def test_what_has_something_under_every_name_holds_nothing():
    assert not arrays_of(SimpleNamespace(library=Answers()))


class Broken:
    def __init__(self, D, H):
        self.W, self.dW = np.zeros((D, H)), None

    def forward(self, x):
        return missing(x) @ self.W  # noqa: F821

    def backward(self, dy):
        return dy @ self.W.T


def test_an_object_that_breaks_down_as_it_is_looked_at_says_why():
    with pytest.raises(DeclarationError, match="no gradient was found: forward raised NameError: name 'missing'"):
        check(Broken, init=("D", "H"), x="N D")


def only_square(x):
    return x.sum(1), x.shape


def test_a_backward_that_fails_at_some_sizes_by_itself_is_not_said_to_keep_state():
    report = check(only_square, lambda dy, shape: np.ones(shape) * dy, x="N D", examples=8, raises=False)
    assert report.findings and not any(finding.property == "reusable" for finding in report.findings)
