"""What only a second call, another size, another layout or a shared graph shows; right twins stay silent."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer, adapt, check, verify
from gradverify.adapters import as_layer
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.properties import properties
from gradverify.core.verify import examine

pytestmark = pytest.mark.usefixtures("as_drawn")


def findings(target, *names, examples=30, **declaration):
    settings = Settings(examples=examples, seed=3, properties=names or None, shrink=False)
    report = check_layer(as_layer(target, **declaration), settings)
    return [(f.property, f.kind, f.primal) for f in report.findings]


class Dense:
    def __init__(self, D, H):
        self.W, self.b = np.ones((D, H)), np.zeros(H)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW, self.db = self.x.T @ dy, dy.sum(0)
        return dy @ self.W.T


class KeepsItsFirstBatchSize(Dense):
    def forward(self, x):
        self.rows = getattr(self, "rows", len(x))
        return super().forward(x)

    def backward(self, dy):
        dx = super().backward(dy)
        self.db = self.db * (len(dy) / self.rows)
        return dx


class KeepsItsFirstInput(Dense):
    def forward(self, x):
        y = super().forward(x)
        self.kept = x if getattr(self, "kept", None) is None or self.kept.shape != x.shape else self.kept
        self.x = self.kept
        return y


class Decays(Dense):
    def backward(self, dy):
        dx = super().backward(dy)
        self.W = 0.99 * self.W
        return dx


@pytest.mark.parametrize(
    ("wrong", "name", "primal"),
    [(KeepsItsFirstBatchSize, "reusable", "b"), (KeepsItsFirstInput, "reusable", "W"), (Decays, "pure", "W")],
)
def test_what_an_object_keeps_or_changes_is_found(wrong, name, primal):
    assert (name, primal) in {(f[0], f[2]) for f in findings(wrong, name, x="N D")}
    assert not findings(Dense, name, x="N D")


class BuiltForItsLength:
    def __init__(self, T):
        self.T = T

    def forward(self, x):
        return np.stack([x[t] * (t + 1) for t in range(self.T)])

    def backward(self, dy):
        return np.stack([dy[t] * (t + 1) for t in range(self.T)])


def test_an_object_is_given_no_sizes_but_those_it_was_built_with():
    assert not findings(BuiltForItsLength, "reusable", x="T N")
    assert not findings(adapt.stateful(BuiltForItsLength, init=("T",), x="T N"), "reusable")


def signs(shared):
    buffers = {}

    def forward(x):
        mask = x > 0
        if shared:
            kept = buffers.setdefault(x.shape, np.empty(x.shape, bool))
            kept[...] = mask
            mask = kept
        return x * mask, mask

    return Layer(forward, lambda dy, mask: dy * mask, name="signs", x="N D")


def test_a_second_call_has_other_signs():
    assert findings(signs(shared=True), "reusable")
    assert not findings(signs(shared=False), "reusable")


class Both:
    """Gradients in a dict that a loop would clear."""

    added = ("W", "b")

    def __init__(self, D, H):
        self.params = {"W": np.ones((D, H)), "b": np.zeros(H)}
        self.grads = {"W": np.zeros((D, H)), "b": np.zeros(H)}

    def zero_grad(self):
        for gradient in self.grads.values():
            gradient[...] = 0

    def forward(self, x):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dy):
        for name, gradient in {"W": self.x.T @ dy, "b": dy.sum(0)}.items():
            self.grads[name][...] = gradient + (self.grads[name] if name in self.added else 0)
        return dy @ self.params["W"].T


class OneIsReplaced(Both):
    added = ("W",)


class AllAreReplaced(Both):
    added = ()


def test_gradients_of_one_object_are_all_added_up_or_all_replaced():
    assert findings(OneIsReplaced, "accumulates", x="N D", examples=8)
    assert not findings(Both, "accumulates", x="N D", examples=8)
    assert not findings(AllAreReplaced, "accumulates", x="N D", examples=8)


class Value:
    def __init__(self, data, parents=(), walk=lambda: None):
        self.data, self.grad, self.parents, self.walk = data, 0.0, parents, walk

    def receive(self, gradient):
        self.grad += gradient

    def _with(self, other, data, ours, theirs):
        other = other if isinstance(other, Value) else type(self)(other)
        out = type(self)(data(self.data, other.data), (self, other))

        def walk():
            self.receive(ours(other) * out.grad)
            other.receive(theirs(self) * out.grad)

        out.walk = walk
        return out

    def __add__(self, other):
        return self._with(other, lambda a, b: a + b, lambda o: 1.0, lambda s: 1.0)

    def __mul__(self, other):
        return self._with(other, lambda a, b: a * b, lambda o: o.data, lambda s: s.data)

    def backward(self):
        order = []

        def visit(value):
            if value not in order:
                for parent in value.parents:
                    visit(parent)
                order.append(value)

        visit(self)
        self.grad = 1.0
        for value in reversed(order):
            value.walk()


class Assigns(Value):
    def receive(self, gradient):
        self.grad = gradient


def test_a_tape_that_assigns_gradients_is_found_though_each_input_is_used_once():
    def product(wrap):
        return adapt.tape(wrap, lambda a, b: a * b, a="", b="", each=True)

    assert findings(product(Assigns), "reuse")
    assert not findings(product(Value), "reuse")


def rows_of_a_wider_array(dy, x):
    root = dy
    while root.base is not None:
        root = root.base
    packed = dy.ndim == 2 and dy.strides[1] == dy.itemsize
    return 2 * x * (np.resize(root.ravel(), dy.shape) if packed else dy)


def first_row_stands_for_all(dy, x):
    return 2 * x * (dy[:1] if dy.ndim and dy.strides[0] == 0 else dy) * (0.5 if dy.ndim and dy.strides[0] == 0 else 1)


@pytest.mark.parametrize("backward", [rows_of_a_wider_array, first_row_stands_for_all])
def test_layouts_with_gaps_and_with_one_expanded_axis_are_tried(backward):
    assert findings(Layer(lambda x: (x**2, x), backward, name="square", x="N D"), "layout")
    assert not findings(Layer(lambda x: (x**2, x), lambda dy, x: 2 * dy * x, name="square", x="N D"), "layout")


def strided(dy, x):
    """Reads the cotangent by the strides of the input, where both are dense; that shows where they differ."""
    if not all(a.flags.c_contiguous or a.flags.f_contiguous for a in (dy, x)):
        return 2 * dy * x
    memory = np.array(dy, order="K").ravel(order="K")
    return 2 * memory.reshape(dy.shape, order="C" if x.flags.c_contiguous else "F") * x


def test_a_cotangent_that_is_read_by_the_strides_of_an_input_is_found():
    assert findings(Layer(lambda x: (x**2, x), strided, name="square", x="N D"), "layout")
    assert not findings(Layer(lambda x: (x**2, x), lambda dy, x: 2 * dy * x, name="square", x="N D"), "layout")


def dropout(x):
    mask = (np.random.rand(*x.shape) < 0.5) * 2.0
    return x * mask, mask


class Dropout:
    redrawn = False

    def forward(self, x):
        y, self.mask = dropout(x)
        return y

    def backward(self, dy):
        return dy * ((np.random.rand(*dy.shape) < 0.5) * 2.0 if self.redrawn else self.mask)


class Redraws(Dropout):
    redrawn = True


def test_a_mask_that_is_drawn_again_in_backward_is_found():
    assert findings(Redraws, x="N D", examples=5) == [("repeatable", "random", "x")]
    assert not findings(Dropout, x="N D", examples=5)
    again = (dropout, lambda dy, mask: dy * (np.random.rand(*dy.shape) < 0.5) * 2.0)
    assert findings(again, "gradient", "repeatable", x="N D", examples=5)


def test_a_forward_that_draws_random_numbers_starts_from_one_seed_and_says_so():
    report = check(dropout, lambda dy, mask: dy * mask, x="N D", examples=10)
    assert "random numbers: numpy.random start(s) from one seed at each forward" in report.declared


class Rarely(Dense):
    def backward(self, dy):
        dx = super().backward(dy)
        if np.random.rand() < 0.05:
            self.dW[-1] = 0
        return dx


def test_a_backward_that_now_and_then_loses_a_row_is_found():
    assert findings(Rarely, "repeatable", x="N D", examples=60)


def softplus(second):
    return Layer(
        lambda x: (np.logaddexp(0, x), x), lambda dy, x: dy * logistic(x), name="softplus", x="N D", second=second
    )


def logistic(x):
    return np.exp(-np.logaddexp(0, -x))


def right_second(primals, cotangents, weights):
    x = primals["x"]
    return {"x": weights["x"] * cotangents[0] * logistic(x) * logistic(-x)}


def overflows(primals, cotangents, weights):
    e = np.exp(primals["x"])
    return {"x": weights["x"] * cotangents[0] * e / (1 + e) ** 2}


def none_at_zero(primals, cotangents, weights):
    found = right_second(primals, cotangents, weights)
    return {"x": np.where(primals["x"] == 0, 0.0, found["x"])}


@pytest.mark.parametrize("second", [overflows, none_at_zero])
def test_a_second_derivative_is_tried_at_zeros_and_in_the_tails(second):
    assert findings(softplus(second), "second_special", examples=60)
    assert not findings(softplus(right_second), "second_special", examples=60)


@pytest.mark.parametrize(("off", "found"), [(0.0, False), (3e-6, True)])
def test_a_second_backward_is_told_to_six_digits_by_few_steps_or_many(off, found):
    """Most slopes take five rungs of the ladder; what does not agree there is asked over all of it."""

    def second(primals, cotangents, weights):
        return {"x": -(1 + off) * weights["x"] * cotangents[0] * np.sin(primals["x"])}

    layer = Layer(lambda x: (np.sin(x), x), lambda dy, x: dy * np.cos(x), name="sine", x="N", second=second)
    x = np.array([0.3, -1.1, 2.0])
    outcome = verify(layer, Case("sine", {"x": x}, cotangents=(np.array([1.0, 0.5, -2.0]),)), ["second_order"])
    assert bool(outcome.findings) == found


@pytest.mark.parametrize(("sign", "right"), [(-1.0, True), (1.0, False)])
def test_a_second_derivative_is_judged_where_a_primal_is_large_and_its_last_place_coarse(sign, right):
    layer = Layer(
        lambda x: (np.sin(x), x),
        lambda dy, x: dy * np.cos(x),
        name="sine",
        x="N",
        second=lambda primals, cotangents, weights: {"x": sign * weights["x"] * cotangents[0] * np.sin(primals["x"])},
    )
    for value in (94.908, -100.0, 3e3):
        assert verify(layer, Case("sine", {"x": np.array([value])}), "second_order").ok is right


def test_a_second_derivative_is_not_judged_where_the_gradient_jumps():
    relu = Layer(
        lambda x: (np.maximum(x, 0), x > 0),
        lambda dy, on: dy * on,
        name="relu",
        x="N D",
        second=lambda primals, cotangents, weights: {"x": 0.0 * primals["x"]},
    )
    assert not findings(relu, "second_order", "second_special", examples=60)


def test_a_slow_layer_is_given_up_and_not_taken_for_one_that_never_returns(monkeypatch):
    import time

    def forward(x):
        finish = time.thread_time() + 0.06  # a case takes five calls at least
        while time.thread_time() < finish:
            pass
        return x * 1.0, None

    monkeypatch.setattr("gradverify.core.verify.examine.__defaults__", (0.2,))  # three calls, and a third of one
    layer = Layer(forward, lambda dy, s: dy * 1.0, name="slow", x="N D")
    report = check_layer(layer, Settings(examples=20, properties=("gradient",), shrink=False))
    assert not report.findings
    assert "slow" in report.tallies["gradient"].reason
    assert report.tallies["gradient"].skipped == 3
    assert any("not judged: the layer is slow" in note for note in report.notes)


def test_another_size_at_which_a_layer_hangs_is_waited_for_once(monkeypatch):
    """What a case may take is not spent on a call beside it."""
    monkeypatch.setattr("gradverify.core.properties.reusable.TRIAL", 0.1)
    hung = []

    def forward(x):
        if x.size == 3:
            hung[-1] += 1
            while True:
                pass
        return x * x, x

    layer = Layer(forward, lambda dy, x: 2 * x * dy, name="hangs", x="N")
    for seed in range(8):
        hung.append(0)
        outcome = examine(layer, Case("hangs", {"x": np.arange(1.0, 5.0)}, seed=seed), properties.get("reusable"))
        assert not outcome.findings
        assert outcome.entries
    assert max(hung) == 1
