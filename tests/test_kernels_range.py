"""What leaves float32's range on the way of a reference may be infinite in a good kernel, and NaN what comes of it."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.adapters import as_layer
from gradverify.core.nouns import Case
from gradverify.core.properties import properties


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
