"""Conventions that take one line, each with a right layer and a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv


def check(*target, **declaration):
    settings = dict(examples=8, raises=False, properties=["gradient", "complete"])
    return gv.check(*target, **settings, **declaration)


def halves(x):
    return x.reshape(len(x), 2, -1).sum(1), x.shape


def halves_back(dy, shape):
    return np.repeat(dy[:, None], 2, 1).reshape(shape)


def test_a_predicate_may_ask_for_sizes():
    seen = []

    def even(D, x):
        seen.append((D, x.shape))
        return D % 2 == 0

    assert check(halves, halves_back, x="N D", assume=even).ok
    assert seen and all(shape[1] == D for D, shape in seen)
    assert not check(halves, lambda dy, s: 2 * halves_back(dy, s), x="N D", assume=lambda D: D % 2 == 0).ok


def test_a_predicate_that_asks_for_what_is_not_there_is_told():
    with pytest.raises(gv.DeclarationError, match="takes 'Q'"):
        gv.Layer(halves, halves_back, x="N D", assume=lambda Q: True)


@pytest.mark.parametrize(
    ("f", "f_grad"),
    [
        (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
        (np.tanh, lambda x, dy: dy * (1 - np.tanh(x) ** 2)),
        (np.tanh, lambda dy, x: dy * (1 - np.tanh(x) ** 2)),
    ],
)
def test_a_function_and_its_gradient_are_a_pair(f, f_grad):
    assert check(f, f_grad, x="N").ok
    assert not check(f, lambda x: 1 - np.tanh(x), x="N").ok


def test_several_arguments_and_their_gradients_are_a_pair():
    def f(a, b):
        return a * b**2

    assert check(f, lambda a, b: (b**2, 2 * a * b), a="N", b="N").ok
    assert check(f, lambda a, b, dy: (b**2 * dy, 2 * a * b * dy), a="N", b="N").ok
    assert not check(f, lambda a, b: (b**2, a * b), a="N", b="N").ok


def test_cotangents_of_outputs_before_a_cache_may_come_as_one():
    def outputs(x, h):
        return h, x, (x, h)

    assert check(outputs, lambda dy, saved: dy[::-1], x="N", h="N").ok
    assert not check(outputs, lambda dy, saved: dy, x="N", h="N").ok


@pytest.mark.parametrize(
    ("domain", "f", "slope"),
    [
        ("above 1", np.arccosh, lambda z: 1 / np.sqrt(z * z - 1)),
        ("below -1", lambda z: np.arccosh(-z), lambda z: -1 / np.sqrt(z * z - 1)),
    ],
)
def test_open_bounds(domain, f, slope):
    assert check(f, slope, z=f"N: {domain}").ok
    assert not check(f, lambda z: 2 * slope(z), z=f"N: {domain}").ok


def test_complex_numbers_that_are_not_zero():
    assert check(lambda z: (1 / z, z), lambda dy, z: -dy / np.conj(z) ** 2, z="N: complex nonzero").ok
    assert not check(lambda z: (1 / z, z), lambda dy, z: -dy / z**2, z="N: complex nonzero").ok


def test_a_module_class_with_what_it_is_built_with():
    torch = pytest.importorskip("torch")

    class Affine(torch.nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.inner = torch.nn.Linear(inputs, outputs)

        def forward(self, x):
            return self.inner(x)

    assert check(Affine, init=(3, 2), x="N 3").ok
    assert check(Affine, init={"inputs": 3, "outputs": 2}, x="N 3").ok
    with pytest.raises(gv.DeclarationError, match=r"init=\(3, 4\)"):
        check(Affine, x="N 3")


def test_a_function_of_torch_may_be_given_by_its_apply():
    torch = pytest.importorskip("torch")

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            return 3 * g * ctx.saved_tensors[0]

    assert not check(Square.apply, x="N").ok
