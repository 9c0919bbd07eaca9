"""A backward written by hand on tensors is what is checked, and not what autograd makes of the forward."""

from typing import Any

import numpy as np
import pytest

import gradverify as gv

pytestmark = pytest.mark.usefixtures("as_drawn")
torch = pytest.importorskip("torch")

FEW: dict[str, Any] = {"examples": 10, "properties": ("complete", "gradient"), "quiet": True, "raises": False}


def wrong(target, *more, **declaration):
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
