"""References whose arguments cannot be named."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv


def only(x, /):
    import torch

    return torch.tanh(x)


def star(*arrays):
    import torch

    return torch.tanh(arrays[0])


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("plain", [only, star, np.tanh, "tanh"])
def test_in_torch(plain, wrong):
    torch = pytest.importorskip("torch")

    class Tanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.tanh(x.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            y = torch.tanh(ctx.saved_tensors[0].float())
            return (g.float() * (1 - (y if wrong else y * y))).to(g.dtype)

    found = checked(Tanh, torch.tanh if plain == "tanh" else plain)
    assert bool(found) == wrong and found <= {"wrong"}


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("plain", ["tanh", "star", np.tanh])
def test_in_jax(plain, wrong):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    tanh = jax.custom_vjp(lambda x: jnp.tanh(x.astype("float32")).astype(x.dtype))

    def backward(x, g):
        y = jnp.tanh(x.astype("float32"))
        return ((g.astype("float32") * (1 - (y if wrong else y * y))).astype(g.dtype),)

    tanh.defvjp(lambda x: (tanh(x), x), backward)
    found = checked(tanh, {"tanh": jnp.tanh, "star": lambda *arrays: jnp.tanh(arrays[0])}.get(str(plain), plain))
    assert bool(found) == wrong and found <= {"wrong"}


def checked(target, plain):
    """Kinds of findings."""
    asked = {"properties": ["complete", "reference"], "raises": False, "seed": 1, "examples": 12}
    return {f.kind for f in gv.check(target, x="4 3", kernel="bfloat16", reference=plain, **asked)}
