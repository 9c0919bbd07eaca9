"""Right layers of kinds that were once reported, each beside a wrong one of the same look, which still is."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer, adapt, check, verify
from gradverify.adapters._objects.instance import Original
from gradverify.core.draw.constants import constants


def cosine(wrong):
    """1 - cos of two rows: of a single number its gradient is 0, as a difference of terms that float32 rounds."""

    def loss(x, t):
        a, b = np.sqrt((x * x).sum(1)), np.sqrt((t * t).sum(1))
        c = (x * t).sum(1) / (a * b)
        return (1 - c).sum(), (0 if wrong else (c / a**2)[:, None] * x) - t / (a * b)[:, None]

    return adapt.loss(loss, x="N D: nonzero", t="N D: nonzero", wrt="x")


@pytest.mark.parametrize("wrong", [False, True])
def test_a_gradient_of_which_nothing_is_left_has_no_digits_to_lose(wrong):
    case = Case("loss", {"x": np.full((1, 1), 7.2877476e-05, np.float32), "t": np.ones((1, 1), np.float32)})
    found = verify(cosine(wrong), case, ["gradient", "precision"]).findings
    assert bool(found) is wrong


class Attention:
    """Scores of nearly equal rows, whose gradients cancel: what the object keeps of them is rounded."""

    slip = 1.0

    def __init__(self, D, H):
        self.W, self.a, self.b = np.ones((D, H)), np.ones(H), np.ones(H)

    def forward(self, x):
        h = x @ self.W
        e = (h @ self.a)[:, None] + h @ self.b
        p = np.exp(e - e.max(1, keepdims=True))
        p = p / p.sum(1, keepdims=True)
        self.kept = x, h, p
        return p @ h

    def backward(self, dy):
        x, h, p = self.kept
        dp = dy @ h.T
        de = p * (dp - self.slip * (dp * p).sum(1, keepdims=True))
        dh = p.T @ dy + np.outer(de.sum(1), self.a) + np.outer(de.sum(0), self.b)
        self.da, self.db, self.dW = h.T @ de.sum(1), h.T @ de.sum(0), x.T @ dh
        return dh @ self.W.T


class Slipped(Attention):
    slip = 0.99


@pytest.mark.parametrize("layer", [Attention, Slipped])
def test_what_an_object_keeps_is_rounded_as_what_a_function_saves(layer):
    x = [[4.9986, 4.996732, 4.999088], [4.9992547, 4.9994397, 4.9998455], [5.0002112, 5.001454, 4.999373]]
    arrays = {"x": x, "W": [[10.58087], [10.590938], [0.0]], "a": [1.0], "b": [0.0]}
    case = Case("Attention", {n: np.array(a, np.float32) for n, a in arrays.items()}, {})
    case = case.but(cotangents=(np.array([[1.0], [1.0], [0.0]], np.float32),))
    made = adapt.stateful(layer, x="N D", W="D H", a="H", b="H")
    assert layer is Slipped or not verify(made, case, "precision").findings
    assert bool(check(layer, x="N D", properties="gradient", examples=20, raises=False).findings) is (layer is Slipped)


def sparsemax(of):
    """The largest entry is not subtracted first: at 1e50 nothing is left of the 1 that the outputs add up to."""

    def forward(z):
        z = of(z)
        s = -np.sort(-z, axis=1)
        c, k = np.cumsum(s, 1), np.arange(1, z.shape[1] + 1)
        count = (1 + k * s > c).sum(1)
        p = np.maximum(z - ((c[np.arange(len(z)), count - 1] - 1) / count)[:, None], 0)
        return p, (z, p > 0)

    def backward(dp, saved):
        z, on = saved
        return on * (dp - ((dp * on).sum(1) / on.sum(1))[:, None])

    return Layer(forward, backward, name="sparsemax", x="N K")


@pytest.mark.parametrize("z", [[[1e50, 1e50]], [[0.0], [1e16]], [[100.0, 1e16]]])
def test_nothing_is_asked_of_backward_where_forward_loses_all(z):
    case = Case("sparsemax", {"x": np.array(z)})
    assert not verify(sparsemax(lambda z: z), case, "special").findings


@pytest.mark.parametrize("z", [[[1e50, 1e50]], [[100.0, 1e16]]])
def test_it_is_where_forward_loses_nothing(z):
    """A softmax whose largest entry is subtracted in forward alone."""

    def forward(x):
        p = np.exp(x - x.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True), x

    def backward(dp, x):
        with np.errstate(all="ignore"):
            p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
        return p * (dp - (dp * p).sum(1, keepdims=True))

    found = verify(Layer(forward, backward, x="N K"), Case("forward", {"x": np.array(z)}), "special").findings
    assert [f.kind for f in found] == ["nan"]


def test_what_stands_for_minus_infinity_is_no_value_to_draw():
    def forward(x):
        return np.where(x > 20, 0, x) + np.exp(np.where(x > 0, x, -1e9)) + 0 * 3e9, x

    assert {20.0, 3e9} & set(constants(Layer(forward, lambda dy, x: dy, x="N"))) == {20.0}
    assert 1e9 not in constants(Layer(forward, lambda dy, x: dy, x="N"))


class Memory:
    """An axis has the name of the attribute that has it: the object is built with its size."""

    def __init__(self, M, D):
        self.M = np.random.randn(M, D)

    def forward(self, k):
        self.k = k
        return self.M @ k

    def backward(self, dy):
        self.dM = np.outer(dy, self.k)
        return self.M.T @ dy


class Forgets(Memory):
    def backward(self, dy):
        self.dM = np.outer(dy, self.k)
        return self.M.T @ dy * (len(dy) > 1)


@pytest.mark.parametrize("layer", [Memory, Forgets])
def test_an_axis_and_an_array_of_one_name(layer):
    report = check(layer, k="D", M="M D", properties="gradient", examples=30, raises=False)
    assert bool(report.findings) is (layer is Forgets)


class Held:
    def __init__(self):
        self.flat = np.arange(4.0)
        self.view, self.me, self.parts, self.name = self.flat[1:3], self, [self.flat, {"w": np.ones(2)}], "held"


def test_a_copy_of_a_plain_object_keeps_what_is_one_and_shares_nothing():
    held = Held()
    made = Original(held).copy()
    assert type(made) is Held and made.me is made and made.parts[0] is made.flat and made.name == "held"
    made.flat[:] = 7
    made.parts[1]["w"][:] = 7
    assert made.view.tolist() == [7, 7] and held.flat.tolist() == [0, 1, 2, 3] and held.parts[1]["w"].tolist() == [1, 1]


def test_a_wrong_first_derivative_is_no_second_that_is_detached():
    """Backward reads an output, through which autograd takes the wrong backward once more."""
    torch = pytest.importorskip("torch")

    class Squashed(torch.autograd.Function):
        factor = 1.0

        @staticmethod
        def forward(ctx, x):
            y = torch.tanh(x)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            (y,) = ctx.saved_tensors
            return Squashed.factor * g * (1 - y * y)

    asked = dict(x="N", properties=["gradient", "second_order"], examples=10, raises=False)
    assert check(Squashed, **asked).ok
    Squashed.factor = 2.0
    findings = check(Squashed, **asked).findings
    assert [f.property for f in findings] == ["gradient"] and findings[0].diagnoses[0].bug_class == "FACTOR"
