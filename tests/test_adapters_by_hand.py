"""A backward written by hand on tensors is what is checked, and not what autograd makes of the forward."""

import time
from typing import Any

import numpy as np
import pytest

import gradverify as gv
from gradverify.adapters import _trial
from gradverify.core import verify

pytestmark = pytest.mark.usefixtures("as_drawn")
torch = pytest.importorskip("torch")

FEW: dict[str, Any] = {"examples": 10, "properties": ("complete", "gradient"), "quiet": True, "raises": False}


def wrong(target, /, *more, **declaration):
    """Names of the primals whose gradients are wrong."""
    return {finding.primal for finding in gv.check(target, *more, **FEW, **declaration).findings}


def forward(x, w, power=1):
    y = torch.tanh(x @ w) ** power
    return y, (x, w, y)


def backward(dy, saved, power):
    x, w, y = saved
    t = torch.tanh(x @ w)
    d = dy * power * t ** (power - 1) * (1 - t * t)
    return d @ w.T, x.T @ d


def slope_left_out(dy, saved):
    x, w, y = saved
    return dy @ w.T, x.T @ dy


def by_name(dy, saved):
    dx, dw = backward(dy, saved, 1)
    return {"grad_w": dw, "dx": dx}


def saved_first(saved, dout):
    return backward(dout, saved, 1)


SHAPES = {"x": "N D", "w": "D H"}


@pytest.mark.parametrize(
    ("back", "declared", "found"),
    [
        (backward, {"options": {"power": [1, 2]}}, set()),
        (slope_left_out, {}, {"x", "w"}),
        (by_name, {}, set()),
        (saved_first, {}, set()),
    ],
)
def test_two_functions_of_tensors(back, declared, found):
    assert wrong(forward, back, **SHAPES, **declared) == found


def rows(x, index):
    return x[index], (x.shape, index)


def rows_back(dy, saved):
    shape, index = saved
    return torch.zeros(shape, dtype=dy.dtype).index_add_(0, index, dy), None


def last_row_wins(dy, saved):
    shape, index = saved
    dx = torch.zeros(shape, dtype=dy.dtype)
    dx[index] = dy
    return dx, None


def test_a_backward_may_name_torch_where_forward_does_not():
    declared = {"x": "V D", "index": "N: indices V"}
    assert wrong(rows, rows_back, **declared) == set()
    assert wrong(rows, last_row_wins, **declared) == {"x"}


@pytest.mark.parametrize(("sign", "found"), [(1, set()), (-1, {"x", "w"})])
def test_outputs_may_come_one_by_one(sign, found):
    def both(x, w):
        return x @ w, torch.relu(x @ w), (x, w)

    def back(da, db, saved):
        x, w = saved
        d = da + sign * db * (x @ w > 0)
        return d @ w.T, x.T @ d

    assert wrong(both, back, **SHAPES) == found


@pytest.mark.parametrize(("slope", "found"), [(torch.cos, set()), (torch.sin, {"x"})])
def test_a_forward_without_a_cache(slope, found):
    assert wrong(lambda x: torch.sin(x), lambda dy, x: dy * slope(x), x="N D") == found  # noqa: PLW0108


def half(x, w):
    return torch.mul(x.float(), w.float()).to(x.dtype), (x, w)


@pytest.mark.parametrize(("factor", "found"), [(1, set()), (1.5, {"w"})])
def test_a_kernel_may_be_two_functions(factor, found):
    def back(dy, saved):
        x, w = saved
        return (dy.float() * w.float()).to(x.dtype), (factor * dy.float() * x.float()).sum(0).to(w.dtype)

    asked = {**FEW, "properties": ("complete", "reference")}
    kernel = {"kernel": "bfloat16", "reference": lambda x, w: x * w}
    assert {f.primal for f in gv.check(half, back, x="N D", w="D", **kernel, **asked).findings} == found


def test_code_that_takes_and_gives_arrays_may_use_tensors_inside():
    def inside(x):
        t = torch.from_numpy(np.ascontiguousarray(x))
        return torch.sin(t).numpy(), x

    assert wrong(inside, lambda dy, x: dy * np.cos(x), x="N D") == set()
    assert wrong(inside, lambda dy, x: dy * np.sin(x), x="N D") == {"x"}


class Scaled(torch.nn.Module):
    """A module with a backward of its own; autograd would never call it."""

    factor, beside = 1.0, False

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(3, 2))

    def forward(self, x):
        self.x = x
        return x @ self.w

    def backward(self, dy):
        gradient = self.factor * self.x.T @ dy
        if self.beside:
            self.dw = gradient
        else:
            self.w.grad = gradient
        return dy @ self.w.T


class Beside(Scaled):
    beside = True


class Doubled(Scaled):
    factor = 2.0


class Forgotten(Scaled):
    def backward(self, dy):
        return dy @ self.w.T


@pytest.mark.parametrize(("kind", "found"), [(Scaled, set()), (Beside, set()), (Doubled, {"w"}), (Forgotten, {"w"})])
def test_the_backward_of_a_module_is_the_one_that_its_author_wrote(kind, found):
    report = gv.check(kind(), x="N 3", **FEW)
    assert {finding.primal for finding in report.findings} == found
    assert "backward: the module's own method, and not autograd" in report.declared


def test_two_functions_of_arrays_of_jax():
    jnp = pytest.importorskip("jax").numpy

    def forward(x, w, power=1):
        y = jnp.tanh(x @ w) ** power
        return y, (x, w, x.shape, power)

    def backward(dy, saved):
        x, w, shape, power = saved
        t = jnp.tanh(x.reshape(shape) @ w)
        d = dy * power * t ** (power - 1) * (1 - t * t)
        return d @ w.T, x.T @ d

    def slip(dy, saved):
        x, w, _, power = saved
        t = jnp.tanh(x @ w)
        d = dy * power * (1 - t * t)
        return d @ w.T, x.T @ d

    declared = {**SHAPES, "options": {"power": [1, 2]}}
    assert wrong(forward, backward, **declared) == set()
    assert wrong(forward, slip, **declared) == {"x", "w"}


class Plain:
    """No module: tensors as attributes, gradients beside them."""

    factor = 1.0

    def __init__(self, n_in, n_out):
        self.weight, self.bias = torch.randn(n_in, n_out), torch.zeros(n_out)

    def forward(self, x):
        self.x = x
        return torch.matmul(x, self.weight) + self.bias

    def backward(self, dy):
        self.dweight, self.dbias = self.x.T @ dy, self.factor * dy.sum(0)
        return dy @ self.weight.T


class PlainSlip(Plain):
    factor = 0.5


class Together(Plain):
    """Parameters in a dict, and gradients in another."""

    def __init__(self, n_in, n_out):
        self.params = {"W": torch.randn(n_in, n_out), "b": torch.zeros(n_out)}
        self.grads = {}

    def forward(self, x):
        self.x = x
        return torch.matmul(x, self.params["W"]) + self.params["b"]

    def backward(self, dy):
        self.grads = {"W": self.x.T @ dy, "b": self.factor * dy.sum(0)}
        return dy @ self.params["W"].T


class TogetherSlip(Together):
    factor = 2.0


class Unsaid(Plain):
    """The gradient of the bias stands nowhere."""

    def backward(self, dy):
        self.dweight = self.x.T @ dy
        return dy @ self.weight.T


@pytest.mark.parametrize(
    ("kind", "found"),
    [(Plain, set()), (PlainSlip, {"bias"}), (Together, set()), (TogetherSlip, {"params_b"})],
)
def test_an_object_that_holds_tensors(kind, found):
    assert wrong(kind(3, 2), x="N 3") == found
    assert wrong(kind, x="N D", init=("D", "H")) == found


def test_a_tensor_without_a_gradient_is_not_passed_in_silence():
    report = gv.check(Unsaid(3, 2), x="N 3", **FEW)
    assert not report.ok and any(item.name == "bias" for item in report.unverified)


class Tanh:
    def forward(self, x):
        self.y = torch.tanh(x)
        return self.y

    def backward(self, dy):
        return dy * (1 - self.y**2)


def test_an_object_without_tensors_may_take_them():
    assert wrong(Tanh, x="N D") == wrong(Tanh(), x="N D") == set()


class Inside:
    """Takes and gives arrays of NumPy."""

    def forward(self, x):
        self.x = x
        return torch.sin(torch.from_numpy(np.ascontiguousarray(x))).numpy()

    def backward(self, dy):
        return dy * np.cos(self.x)


def test_an_object_that_converts_arrays_itself_is_left_to():
    assert wrong(Inside, x="N D") == set()


class Raises(Plain):
    def forward(self, x):
        raise torch.cuda.OutOfMemoryError("no such shape")


def test_an_object_that_does_not_run_is_refused_with_what_it_raised():
    with pytest.raises(gv.DeclarationError, match="does not run on tensors: OutOfMemoryError: no such shape"):
        gv.check(Raises(3, 2), x="N 3")


class Named(Scaled):
    def backward(self, dy):
        return {"dx": dy @ self.w.T, "grad_w": self.factor * self.x.T @ dy}


class Kept(Scaled):
    """Keeps its result and the gradient of its input; was called once before."""

    def __init__(self):
        super().__init__()
        self(torch.ones(1, 3))

    def forward(self, x):
        self.y = super().forward(x)
        return self.y

    def backward(self, dy):
        self.dx = super().backward(dy)


class Adds(torch.nn.Module):
    """Adds to a buffer, and takes the gradients of two outputs as one tuple, and the input again."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(3))
        self.register_buffer("dw", torch.zeros(3))

    def forward(self, x):
        return x * self.w, x + self.w

    def backward(self, dys, x):
        self.dw += (self.factor * dys[0] * x + dys[1]).sum(0)
        return dys[0] * self.w + dys[1]


class Beforehand(Scaled):
    """Adds to what it made as it was built, in the type of then."""

    def __init__(self):
        super().__init__()
        self.w.grad = torch.ones(3, 2)

    def backward(self, dy):
        self.w.grad += self.factor * self.x.T @ dy
        return dy @ self.w.T


class Zeroed(Scaled):
    def zero_grad(self, set_to_none=True):
        self.dw = 0 * self.w

    def backward(self, dy):
        self.dw += self.factor * self.x.T @ dy
        return dy @ self.w.T


class Together(Scaled):
    """Adds to what it holds of all gradients, which is not zero."""

    def __init__(self):
        super().__init__()
        self.grads = {"w": torch.ones(3, 2)}

    def backward(self, dy):
        self.grads["w"] = self.grads["w"] + self.factor * self.x.T @ dy
        return dy @ self.w.T


class Squares(torch.nn.Module):
    factor = 1.0

    def forward(self, x, target):
        self.d = x - target
        return (self.d**2).sum()

    def backward(self, dy=1.0):
        return 2 * self.factor * dy * self.d


@pytest.mark.parametrize(
    ("kind", "declared", "slipped"),
    [
        (Named, {"x": "N 3"}, "w"),
        (Kept, {"x": "N 3"}, "w"),
        (Adds, {"x": "N 3"}, "w"),
        (Beforehand, {"x": "N 3"}, "w"),
        (Zeroed, {"x": "N 3"}, "w"),
        (Together, {"x": "N 3"}, "w"),
        (Squares, {"x": "N D", "target": "N D"}, "x"),
    ],
)
def test_gradients_of_a_module_are_found_wherever_it_leaves_them(kind, declared, slipped):
    assert wrong(kind(), **declared) == set()
    module = kind()
    module.factor = 2.0
    assert wrong(module, **declared) == {slipped}


class Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        return dy


@pytest.mark.parametrize(("inside", "found"), [(lambda x: 2 * x, set()), (Cut.apply, {"x"})])
def test_a_method_that_calls_autograd_is_no_backward_of_a_layer(inside, found):
    class Trained(torch.nn.Module):
        def forward(self, x):
            return inside(x)

        def backward(self, loss):
            loss.backward()

    report = gv.check(Trained(), x="N 3", **FEW)
    assert {finding.primal for finding in report.findings} == found
    assert any("takes no upstream gradient" in line for line in report.declared)


@pytest.mark.parametrize(("factor", "found"), [(1.0, set()), (2.0, {"w"})])
def test_pairs_of_tensors_are_called_as_their_names_say(factor, found):
    def product(x, w):
        return torch.mul(x, w)

    def rows(i, w):
        return torch.index_select(w, 0, i), (i, w)

    def both(x, w):
        return torch.mul(x, w), x + w, (x, w)

    def rows_back(dy, saved):  # of the one primal that has a gradient
        return factor * torch.zeros_like(saved[1]).index_add(0, saved[0], dy)

    def both_back(dys, saved):
        return dys[0] * saved[1] + dys[1], factor * dys[0] * saved[0] + dys[1]

    def distance(w, target):
        return torch.sum((w - target) ** 2)

    def total(w):
        return torch.sum(w, 0)

    pair = {"x": "N", "w": "N"}
    assert wrong(product, lambda dy, x, w: (dy * w, factor * dy * x), **pair) == found
    assert wrong(rows, rows_back, i="N: indices V", w="V D") == found
    assert wrong(both, both_back, **pair) == found
    assert wrong(distance, lambda w, target: 2 * factor * (w - target), w="N", target="N") == found
    assert wrong(total, lambda dy, w_shape: factor * dy.expand(w_shape).clone(), w="N D") == found


def test_a_pair_of_tensors_that_cannot_be_called_is_refused():
    with pytest.raises(gv.DeclarationError, match="returns an array and no cache"):
        gv.check(lambda x: torch.sin(2 * x), lambda dy, saved: dy, x="N")


@pytest.mark.parametrize(("factor", "found"), [(1.0, set()), (2.0, {"w"})])
def test_pairs_of_arrays_of_jax_are_called_as_their_names_say(factor, found):
    jnp = pytest.importorskip("jax").numpy

    def product(x, w):
        return jnp.multiply(x, w), (x, w)

    def by_name(dy, saved):
        x, w = saved
        return {"dw": factor * dy * x, "dx": dy * w}

    def rows(w, i):  # runs on arrays of NumPy as well, and its backward does not
        return w[i], (w.shape, i)

    def rows_back(dy, saved):
        return factor * jnp.zeros(saved[0]).at[saved[1]].add(dy)

    pair = {"x": "N", "w": "N"}
    assert wrong(product, by_name, **pair) == found
    assert wrong(lambda x, w: jnp.multiply(x, w) + w, lambda dy, x, w: (dy * w, dy * (factor * x + 1)), **pair) == found
    assert wrong(rows, rows_back, w="V D", i="N: indices V") == found


def never(x):
    while torch.ones(1) > 0:
        time.sleep(0.01)


class Never(Tanh):
    def forward(self, x):
        return never(x)


@pytest.mark.parametrize("target", [(never, lambda dy, saved: dy), Never, Never()], ids=["pair", "class", "object"])
def test_what_never_returns_is_found(target, monkeypatch):
    monkeypatch.setattr(_trial, "_SECONDS", 0.3)
    monkeypatch.setattr(verify.examine, "__defaults__", (0.3,))
    with pytest.raises(gv.GradientMismatch, match="did not return"):
        gv.check(target, x="N 3", examples=2, properties=("complete", "gradient"))
