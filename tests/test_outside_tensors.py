"""Tensors of torch and arrays of JAX that a function takes from outside are tried like arrays of NumPy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

from gradverify import verify  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.check.search import check_layer  # noqa: E402
from gradverify.core.check.settings import Settings  # noqa: E402
from gradverify.core.errors import DeclarationError  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402

W = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
ONLY_ITS_SIZE = torch.ones(3)
HALF = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
NET = torch.nn.Linear(2, 3)
J = jnp.array([[1.0, -2.0], [0.5, 3.0]])
TABLES = {"scale": (jnp.array([1.0, 2.0], jnp.bfloat16),)}


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x @ W.to(x.dtype) + len(ONLY_ITS_SIZE)

    @staticmethod
    def backward(ctx, g):
        return g @ W.to(g.dtype).T


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.w.to(x.dtype)


def halves(x):
    return x * HALF.to(x.dtype)


def network(x):
    return torch.nn.functional.linear(x, NET.weight.to(x.dtype), NET.bias.to(x.dtype))


@jax.custom_vjp
def of_module(x):
    return x @ J


of_module.defvjp(lambda x: (x @ J, None), lambda _, g: (g @ J.T,))


def of_closure():
    K = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    unused = jnp.ones(3)

    @jax.custom_vjp
    def product(x):
        return x @ K + unused.size

    product.defvjp(lambda x: (x @ K, None), lambda _, g: (g @ K.T,))
    return product


@jax.jit
def of_default(x, w=J + 1.0):
    return x @ w


def of_dict(x):
    return jnp.asarray(x) * TABLES["scale"][0]


HELD = [
    (Product, {"W"}),
    (halves, {"HALF"}),
    (network, {"NET.weight", "NET.bias"}),
    (of_module, {"J"}),
    (of_closure(), {"K"}),
    (of_default, {"w"}),
    (of_dict, {"TABLES['scale'][0]"}),
]


@pytest.mark.parametrize(("target", "names"), HELD, ids=lambda v: getattr(v, "__name__", ""))
def test_a_tensor_from_outside_is_no_pass(target, names):
    before = [jnp.array(J), torch.clone(W), torch.clone(HALF), torch.clone(NET.weight)]
    layer = as_layer(target, x="N 2")
    case = Case(layer.name, {"x": np.ones((3, 2))})
    report = verify(layer, case, "gradient")
    assert not report.findings and {item.name for item in report.blocking} == names
    constants = tuple(name.partition("[")[0] for name in names)
    assert not verify(as_layer(target, x="N 2", constants=constants), case, "gradient").blocking
    assert all((a == b).all() for a, b in zip(before, (J, W, HALF, NET.weight)))


def test_parameters_of_the_module_that_is_checked_are_primals():
    layer = as_layer(Scaled(), x="N 2")
    report = check_layer(layer, Settings(examples=2, properties=("gradient",)))
    assert report.ok and not report.blocking and set(layer.primal_names) == {"x", "w"}


class Loose(Scaled):
    """Keeps tensors that are neither parameters nor buffers, and a buffer that is not finite."""

    def __init__(self):
        super().__init__()
        self.s = torch.ones(2)
        self.parts = [{"shift": torch.zeros(2)}]
        self.unused = torch.ones(2)
        self.register_buffer("mask", torch.tensor([0.0, float("inf")]))

    def forward(self, x):
        shifted = super().forward(x) * self.s.to(x.dtype) + self.parts[0]["shift"].to(x.dtype)
        return torch.minimum(shifted, self.mask.to(x.dtype) + 100)


def test_tensors_of_a_module_that_are_neither_parameters_nor_buffers_are_no_pass():
    case = Case("Loose", {"x": np.ones((3, 2)), "w": np.ones(2)})
    report = verify(as_layer(Loose(), x="N 2"), case, "gradient")
    assert {item.name for item in report.blocking} == {"Loose.s", "Loose.parts[0]['shift']"}
    assert [item.name for item in report.verified_by.missing if "finite" in item.reason] == ["Loose.mask"]
    declared = as_layer(Loose(), x="N 2", constants=("Loose.s", "Loose.parts"))
    assert not verify(declared, case, "gradient").blocking


@pytest.mark.parametrize("shapes", [{}, {"x": "N 2", "profile": "D"}])
@pytest.mark.parametrize("target", [Scaled(), halves, of_module, of_dict])
def test_shapes_that_forward_does_not_take_are_refused(target, shapes):
    with pytest.raises(DeclarationError, match="forward takes x, declared are"):
        as_layer(target, **shapes)
