"""Primals in dicts and lists, shared contexts, and pullbacks: right ones pass, a slip is found by its name."""

import numpy as np
import pytest

import gradverify as gv
from gradverify import adapt

pytestmark = pytest.mark.usefixtures("as_drawn")


def verdict(target, *more, **declaration):
    """The report if all is right, else the names of the primals that are not."""
    few = {"examples": 4, "properties": ("complete", "gradient"), "quiet": True, "raises": False}
    report = gv.check(target, *more, **few, **declaration)
    return report if report.ok else {finding.primal for finding in report.findings}


def forward(x, params):
    h = np.tanh(x @ params["W1"] + params["b1"])
    return h @ params["W2"], (x, h, params)


def slopes(dy, saved):
    x, h, params = saved
    dz = dy @ params["W2"].T * (1 - h * h)
    return dz @ params["W1"].T, x.T @ dz, dz.sum(0), h.T @ dy


def by_d(slip):
    def backward(dy, saved):
        dx, dW1, db1, dW2 = slopes(dy, saved)
        return {"dW2": dW2, "dW1": dW1, "db1": slip * db1, "dx": dx}

    return backward


def in_order(slip):
    def backward(dy, saved):
        dx, dW1, db1, dW2 = slopes(dy, saved)
        return dx, {"b1": slip * db1, "W1": dW1, "W2": dW2}

    return backward


def beside(slip):
    def backward(dy, saved):
        dx, dW1, db1, dW2 = slopes(dy, saved)
        return {"W1_grad": dW1, "b1_grad": slip * db1, "W2_grad": dW2}, dx

    return backward


@pytest.mark.parametrize("backward", [by_d, in_order, beside])
def test_parameters_in_a_dict_and_gradients_in_one(backward):
    declared = {"params": {"W1": "D H", "b1": "H", "W2": "H K"}, "x": "N D"}
    assert verdict(forward, backward(1.0), **declared).ok
    assert verdict(forward, backward(-7.0), **declared) == {"params_b1"}


def test_layers_in_a_list_keep_their_order():
    def run(x, layers):
        steps = [x]
        for W, b in layers:
            steps.append(np.tanh(steps[-1] @ W + b))
        return steps[-1], (steps, layers)

    def back(order):
        def backward(dy, saved):
            steps, layers = saved
            found = []
            for (W, _), before, after in zip(layers[::-1], steps[-2::-1], steps[::-1]):
                dz = dy * (1 - after**2)
                found.append((before.T @ dz, dz.sum(0)))
                dy = dz @ W.T
            return dy, found[::order]

        return backward

    declared = {"x": "N D", "layers": [("D D", "D"), ("D D", "D")]}
    assert verdict(run, back(-1), **declared).ok
    assert verdict(run, back(1), **declared) == {"layers_0_0", "layers_0_1", "layers_1_0", "layers_1_1"}


def test_a_gradient_that_is_missing_or_belongs_to_nothing_is_named():
    declared = {"params": {"W1": "D H", "b1": "H", "W2": "H K"}, "x": "N D"}

    def short(dy, saved):
        return {"dW1": slopes(dy, saved)[1]}

    def other(dy, saved):
        return {**by_d(1.0)(dy, saved), "dW3": dy}

    assert verdict(forward, short, **declared) == {"x", "params_b1", "params_W2"}
    report = gv.check(forward, other, **declared, examples=4, raises=False)
    assert "a gradient for 'dW3', which is no primal" in report.findings[0].message


def test_two_primals_of_one_name_are_refused():
    with pytest.raises(gv.DeclarationError, match="two primals would be called 'params_W'"):
        gv.check(lambda params, params_W: 0, by_d(1.0), params={"W": "D"}, params_W="D")


class Scale:
    """Keeps what backward needs in each of the ways that a context allows."""

    slip = 1.0

    @classmethod
    def forward(cls, ctx, x, w, power=2):
        ctx.save_for_backward(x, w)
        ctx.power, ctx.values = power, w
        ctx["sign"] = 1.0
        return x * w**power, w.sum()

    @classmethod
    def backward(cls, ctx, dy, dw):
        x, w = ctx.saved_tensors
        inner = cls.slip * (x * dy).sum(0) * ctx.power * ctx.values ** (ctx.power - 1)
        return ctx["sign"] * dy * w**ctx.power, inner + dw, None


def test_a_class_of_functions_that_share_a_context():
    declared = {"x": "N D", "w": "D: positive", "options": {"power": [2, 3]}}
    assert verdict(Scale, **declared).ok
    assert verdict(type("Slipped", (Scale,), {"slip": -2.0}), **declared) == {"w"}


def test_what_a_context_does_not_hold_is_named():
    class Forgets(Scale):
        @classmethod
        def forward(cls, ctx, x, w):
            return x * w, w.sum()

    report = gv.check(Forgets, x="N D", w="D", examples=4, raises=False)
    assert "forward has kept no 'saved_tensors' in its context" in report.findings[0].message


def pulling(slip):
    def product(x, w):
        def pull(upstream):
            dy, ds = upstream
            return dy * w + ds, slip * (x * dy).sum(0)

        return x * w, x.sum(), pull

    return product


def test_a_function_that_returns_its_pullback():
    assert verdict(pulling(1.0), x="N D", w="D").ok
    assert verdict(pulling(-2.0), x="N D", w="D") == {"w"}


class Pulling:
    slip = 1.0

    def __init__(self, n_in, n_out):
        self.W = np.ones((n_in, n_out))

    def __call__(self, x):
        def pull(dy):
            self.d_W = self.slip * x.T @ dy
            return dy @ self.W.T

        return x @ self.W, pull


def test_an_object_whose_forward_returns_its_pullback():
    assert verdict(Pulling, x="N n_in", methods="__call__").ok
    assert verdict(type("Slipped", (Pulling,), {"slip": 0.5}), x="N n_in", methods="__call__") == {"W"}


def test_a_forward_alone_is_told_as_such_whatever_it_keeps_for_backward():
    for saved in (lambda x, w: (x, w), lambda x, w: [x, w]):
        with pytest.raises(gv.DeclarationError, match="a forward alone has no backward"):
            gv.check(lambda x, w, saved=saved: (x * w, saved(x, w)), x="N D", w="D")


class Tanh:
    """A function of its input, with the derivative there: the argument of both has one name."""

    def forward(self, x):
        return np.tanh(x)

    def grad(self, x):
        return 1 - np.tanh(x) ** 2


class TanhKept:
    """The same as a pullback."""

    def forward(self, x):
        self.y = np.tanh(x)
        return self.y

    def grad(self, dy):
        return dy * (1 - self.y**2)


class SquaredError:
    """A loss that is called, whose gradient reads what the call has kept."""

    def __call__(self, y, y_pred):
        self.y, self.y_pred = y, y_pred
        return np.sum((y_pred - y) ** 2) / len(y)

    def gradient(self):
        return 2 * (self.y_pred - self.y) / len(self.y)


class MSE(SquaredError):
    """By another name."""


class Flat(MSE):
    """Not divided by the number of rows."""

    def gradient(self):
        return 2 * (self.y_pred - self.y)


@pytest.mark.parametrize(
    ("target", "dims"),
    [(Tanh, {"x": "N D"}), (TanhKept, {"x": "N D"}), (SquaredError, {"y": "N D", "y_pred": "N D"})],
)
def test_a_gradient_may_be_called_so(target, dims):
    assert gv.check(target, **dims, examples=15).ok


def test_a_gradient_that_is_called_so_is_found_wrong():
    assert gv.check(MSE, y="N D", y_pred="N D", examples=10).ok
    report = gv.check(Flat, y="N D", y_pred="N D", examples=15, raises=False)
    assert {f.primal for f in report.findings} == {"y_pred"}

    class Sharp(Tanh):
        def grad(self, x):
            return 1 - np.tanh(x)

    assert gv.check(Sharp, x="N D", examples=15, raises=False).findings


class Lazy:
    """Its weights are drawn at the first forward, and nothing after that."""

    def __init__(self, n_out):
        self.n_out, self.params, self.grads = n_out, {"w": None}, {}

    def forward(self, x):
        if self.params["w"] is None:
            self.params["w"] = np.random.normal(size=(x.shape[1], self.n_out))
        self.x = x
        return x @ self.params["w"]

    def backward(self, dy):
        self.grads["w"] = self.x.T @ dy
        return dy @ self.params["w"].T


class Dropping(Lazy):
    """A mask is drawn at each forward besides."""

    def forward(self, x):
        y = super().forward(x)
        self.mask = np.random.uniform(size=y.shape) > 0.5
        return y * self.mask

    def backward(self, dy):
        return super().backward(dy * self.mask)


class Undropped(Dropping):
    """The mask is forgotten in the gradient of the weights."""

    def backward(self, dy):
        return Lazy.backward(self, dy) * 1.0


def test_weights_that_are_drawn_at_the_first_forward_are_no_random_numbers_of_each():
    told = [
        gv.check(made, x="N D", examples=10).declared for made in (lambda M: Lazy(n_out=M), lambda M: Dropping(n_out=M))
    ]
    assert [any("random numbers" in line for line in lines) for lines in told] == [False, True]
    assert gv.check(lambda M: Undropped(n_out=M), x="N D", examples=10, raises=False).findings


class Traced:
    """An array on a tape whose backward takes flags and no upstream gradient; products and sums are not traced."""

    power = 2

    def __init__(self, data, source=None):
        self.data, self.grad, self.source = data, None, source

    def squared(self):
        return type(self)(self.data**2, self)

    def backward(self, retain_graph=False):
        if self.grad is None:
            self.grad = type(self)(np.ones_like(self.data))
        self.source.grad = type(self)(self.power * self.source.data * self.grad.data)


class Summed(Traced):
    """One that knows of them."""

    def __mul__(self, other):
        return _Sum(self, other)

    def sum(self):
        return self


class _Sum:
    def __init__(self, one, other):
        self.one, self.other = one, other

    def sum(self):
        return self

    def backward(self):
        self.one.grad = self.other
        self.one.backward()


@pytest.mark.parametrize("kind", [Traced, Summed])
def test_a_tape_whose_backward_takes_no_upstream_gradient(kind):
    assert gv.check(adapt.tape(kind, kind.squared, x="N D"), examples=10).ok
    slip = type("Slip", (kind,), {"power": 3})
    assert gv.check(adapt.tape(slip, slip.squared, x="N D"), examples=10, raises=False).findings
