"""Kernels in JAX: what the trace of one tells of what it keeps, and what an attention may lose."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

from gradverify import verify  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core import evaluate  # noqa: E402
from gradverify.core.draw.kernels import _activations  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402


def wide(*arrays):
    return tuple(a.astype("float32") for a in arrays)


def seen(scores):
    i, j = (jnp.arange(n) for n in scores.shape)
    return j[None] <= i[:, None]


def attention(fault=""):
    """Causal; backward computes scores again and takes the sum of the softmax's gradient from the rounded output."""

    def forward(q, k, v):
        qf, kf, vf = wide(q, k, v)
        s = qf @ kf.T / q.shape[1] ** 0.5
        s = jnp.where(seen(s), s, -jnp.inf)
        top = s.max(1, keepdims=True)
        p = jnp.exp(s - top)
        total = p.sum(1, keepdims=True)
        y = (p.astype(q.dtype).astype("float32") @ vf / total).astype(q.dtype)
        return y, (q, k, v, y, top + jnp.log(total))

    def backward(saved, g):
        q, k, v, y, lse = saved
        qf, kf, vf, yf, gf = wide(q, k, v, y, g)
        scale = 1 / q.shape[1] ** 0.5
        s = qf @ kf.T * scale
        p = jnp.where(seen(s), jnp.exp(s - lse), 0)
        ds = (p * (gf @ vf.T - (gf * yf).sum(1, keepdims=True))).astype(q.dtype).astype("float32")
        dk = ds.T @ qf * (1 if fault == "scale missing in dk" else scale)
        dv = p.astype(q.dtype).astype("float32").T @ gf
        return (ds @ kf * scale).astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype)

    kernel = jax.custom_vjp(lambda q, k, v: forward(q, k, v)[0])
    kernel.defvjp(forward, backward)
    return kernel


def plain_attention(q, k, v):
    s = q @ k.T / q.shape[1] ** 0.5
    return jax.nn.softmax(jnp.where(seen(s), s, -jnp.inf), 1) @ v


@pytest.mark.parametrize("kernel", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("manner", ["normal", "outliers", "constant rows", "offset"])
def test_an_attention_is_right_and_one_without_its_scale_is_wrong(kernel, manner):
    shapes = {"q": (64, 3), "k": (64, 3), "v": (64, 5)}
    dims = {"q": "T D", "k": "T D", "v": "T E", "kernel": kernel, "reference": plain_attention}
    right, wrong = (as_layer(attention(fault), **dims) for fault in ("", "scale missing in dk"))
    found = set()
    for seed in range(4):
        primals = {n: _activations(manner, seed, at, shape) for at, (n, shape) in enumerate(shapes.items())}
        case = Case("attention", primals, seed=seed)
        assert verify(right, case, "reference").ok
        found |= {f.primal for f in verify(wrong, case, "reference").findings}
    assert found == {"k"}


def keeping(what):
    """A gate that keeps its primals besides `what` for backward."""

    def forward(x):
        mean = x.astype("float32").mean(1, keepdims=True)
        kept = {"nothing": (), "statistics": (mean.astype(x.dtype),), "values": (jnp.tanh(x),), "wide": (mean + x,)}
        return jnp.tanh(x), (x, *kept[what])

    def backward(saved, g):
        return ((g * (1 - jnp.tanh(saved[0]) ** 2)).astype(g.dtype),)

    kernel = jax.custom_vjp(lambda x: forward(x)[0])
    kernel.defvjp(forward, backward)
    return kernel


@pytest.mark.parametrize(("what", "told"), [("nothing", None), ("statistics", None), ("values", 12), ("wide", None)])
def test_the_trace_of_a_kernel_tells_what_it_keeps_in_its_type(what, told):
    layer = as_layer(keeping(what), x="N D", kernel="bfloat16", reference=jnp.tanh)
    saved = evaluate.run(layer, {"x": np.ones((3, 4))}, {}).saved
    assert layer.hooks.reference.kept(saved) == told


def test_where_control_flow_on_values_hides_what_is_kept_it_may_be_rounded():
    def branching(x):
        return jnp.tanh(x) if x.sum() > 0 else -jnp.tanh(-x)

    layer = as_layer(branching, x="N D", kernel="bfloat16", reference=jnp.tanh)
    saved = evaluate.run(layer, {"x": np.ones((3, 4))}, {}).saved
    assert layer.hooks.reference.kept(saved) == 12
