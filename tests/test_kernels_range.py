"""What leaves float32's range on the way of a reference may be infinite in a good kernel, and NaN what comes of it."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.adapters import as_layer
from gradverify.core.nouns import Case
from gradverify.core.properties import properties, reference
from tests.test_kernels_ties import of_torch


def kinds(target, plain, x):
    layer = as_layer(target, x=f"{len(x)} {len(x[0])}", kernel="bfloat16", reference=plain)
    case = Case("range", {"x": np.array(x)}, seed=1)
    return {f.kind for name in ("complete", "reference") for f in properties.get(name).holds(layer, case).findings}


FAR, NEAR = [[100.0, 0.0, 3.0]], [[1.0, 0.0, 3.0]]


def carried(exp, x):
    """A state that grows by exp(x), from nothing."""
    return exp(x) * (x - x) + x


@pytest.mark.parametrize(("x", "fault", "expected"), [(FAR, 1.0, set()), (NEAR, 1.0, set()), (NEAR, 1.5, {"wrong"})])
def test_an_exponential_beyond_it_is_skipped(x, fault, expected):
    torch = pytest.importorskip("torch")

    class Carried(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return carried(torch.exp, x.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            return g * fault

    assert kinds(Carried, lambda x: carried(torch.exp, x), x) == expected


@pytest.mark.parametrize(("x", "fault", "expected"), [(FAR, 1.0, set()), (NEAR, 1.0, set()), (NEAR, 1.5, {"wrong"})])
def test_so_it_is_in_jax(x, fault, expected):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    kernel = jax.custom_vjp(lambda x: carried(jnp.exp, x.astype("float32")).astype(x.dtype))
    kernel.defvjp(lambda x: (kernel(x), None), lambda _, g: ((g * fault).astype(g.dtype),))
    assert kinds(kernel, lambda x: carried(jnp.exp, x), x) == expected


def test_a_softmax_without_its_maximum_is_wrong_beyond_it():
    torch = pytest.importorskip("torch")

    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            e = torch.exp(x.float())
            p = (e / e.sum(-1, keepdim=True)).to(x.dtype)
            ctx.save_for_backward(p)
            return p

        @staticmethod
        def backward(ctx, g):
            p, g = ctx.saved_tensors[0].float(), g.float()
            return (p * (g - (g * p).sum(-1, keepdim=True))).to(torch.bfloat16)

    assert kinds(Softmax, lambda x: torch.softmax(x, -1), FAR) == {"forward"}


# the least number that a kernel tells from zero, a factor that is right or wrong, and what is said
@pytest.mark.parametrize(
    ("least", "factor", "expected"),
    [
        (2.0**-126, 1.0, set()),
        (0.0, 1.0, set()),
        (2.0**-24, 1.0, {"wrong"}),
        (2.0**-110, 1.0, {"wrong"}),
        (0.0, 1.1, {"wrong"}),
    ],
)
@pytest.mark.parametrize("kernel", ["float32", "bfloat16"])
def test_a_factor_may_be_flushed_where_float32_has_no_normal_number_and_not_before(kernel, least, factor, expected):
    """Of x * sigmoid(x) * b: dy times the sigmoid is below 1e-38 at -85, what x and b make of it above 1e-35."""
    torch = pytest.importorskip("torch")

    def forward(t, x, b):
        return (x.float() * t.sigmoid(x.float()) * b.float()).to(x.dtype), (x, b)

    def backward(t, g, x, b):
        s, x = t.sigmoid(x.float()), x.float()
        first = g.float() * s
        first = t.where(first.abs() < least, 0.0, first)
        return (first * (1 + factor * x * (1 - s)) * b.float()).to(g.dtype), (first * x).to(g.dtype)

    primals = {"x": np.array([[-85.0, -88.0, -95.0], [-75.0, -40.0, 1.0]]), "b": np.full((2, 3), 300.0)}
    cotangents = (np.full((2, 3), 2.0**-7),)
    for plain in (lambda x, b: x * torch.sigmoid(x) * b, lambda x, b: torch.nn.functional.silu(x) * b):
        layer = as_layer(of_torch(forward, backward), kernel=kernel, reference=plain, x="N D", b="N D")
        cases = [Case("far", primals, seed=seed, cotangents=cotangents) for seed in range(4)]
        assert {f.kind for c in cases for f in reference.holds(layer, c).findings} == expected


@pytest.mark.parametrize("factor", [1.0, 1.2])
@pytest.mark.parametrize("fill", [-1e4, -1e9, -3e38])
def test_the_fill_of_a_mask_excuses_no_gradient(fill, factor):
    """What is added to hide a place is no factor of what was flushed, however large it is."""
    torch = pytest.importorskip("torch")

    def forward(t, x, mask):
        p = (x.float() + mask.float()).softmax(-1)
        return p.to(x.dtype), (p,)

    def backward(t, g, p):
        v = g.float()
        return (factor * p * (v - (v * p).sum(-1, keepdim=True))).to(g.dtype), None

    plain = lambda x, mask: torch.softmax(x + mask, -1)  # noqa: E731
    declared = {"x": "N D", "mask": "N D", "constants": ("mask",), "kernel": "bfloat16", "reference": plain}
    x = np.array([[0.5, -1.0, 0.25, 2.0], [1.0, 1.5, -0.75, 0.0]])
    mask = np.where(np.tri(2, 4, 1) > 0, 0.0, fill)
    layer = as_layer(of_torch(forward, backward), **declared)
    found = reference.holds(layer, Case("masked", {"x": x, "mask": mask}, seed=1))
    assert {f.kind for f in found.findings} == ({"wrong"} if factor > 1 else set())
