"""Kernels in JAX: what the trace of one tells of what it keeps, and what an attention may lose."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

from gradverify import check, verify  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.adapters._jax.engine import _precision  # noqa: E402
from gradverify.core import evaluate  # noqa: E402
from gradverify.core.declare.regime import Regime  # noqa: E402
from gradverify.core.draw import cases, each  # noqa: E402
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
        assert not verify(right, case, "reference").findings
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
    assert layer.hooks.reference.kept(saved, None, ()).least == told


def test_where_control_flow_on_values_hides_what_is_kept_it_may_be_rounded():
    def branching(x):
        return jnp.tanh(x) if x.sum() > 0 else -jnp.tanh(-x)

    layer = as_layer(branching, x="N D", kernel="bfloat16", reference=jnp.tanh)
    saved = evaluate.run(layer, {"x": np.ones((3, 4))}, {}).saved
    assert layer.hooks.reference.kept(saved, None, ()).least == 12


def kept_rounded(what, fault=""):
    """An activation, or a norm, whose backward has nothing but rounded values."""

    def forward(x):
        (wide_,) = wide(x)
        if what == "output":
            y = jnp.tanh(wide_).astype(x.dtype)
            return y, (y,)
        r = jax.lax.rsqrt((wide_ * wide_).mean(1, keepdims=True) + 1e-5)
        y = (wide_ * r).astype(x.dtype)
        return y, (y, r)

    def backward(saved, g):
        y, gf = wide(saved[0], g)
        if what == "output":
            return ((gf * (1 - y * y * (0 if fault else 1))).astype(g.dtype),)
        along = 0 if fault else y * (gf * y).mean(1, keepdims=True)
        return (((gf - along) * saved[1]).astype(g.dtype),)

    kernel = jax.custom_vjp(lambda x: forward(x)[0])
    kernel.defvjp(forward, backward)
    return kernel


def plain_tanh(x):
    return jnp.tanh(x)


def plain_norm(x):
    return x * jax.lax.rsqrt((x * x).mean(1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(("what", "plain"), [("output", plain_tanh), ("normalised", plain_norm)])
def test_a_kernel_may_lose_what_rounding_costs_of_all_that_it_keeps(what, plain):
    right, wrong = (
        as_layer(kept_rounded(what, fault), x="N D", kernel="bfloat16", reference=plain) for fault in ("", "wrong")
    )
    found = set()
    for seed in range(4):
        case = Case("kept", {"x": np.random.default_rng(seed).standard_normal((6, 3 if seed else 1))}, seed=seed)
        assert not verify(right, case, "reference").findings
        found |= {f.primal for f in verify(wrong, case, "reference").findings}
    assert found == {"x"}


def halved(wrong=False):
    def forward(x):
        return (x.astype("float32") * 2000).astype(x.dtype), ()

    def backward(_, g):
        return ((g.astype("float32") * (2001 if wrong else 2000)).astype(g.dtype),)

    kernel = jax.custom_vjp(lambda x: forward(x)[0])
    kernel.defvjp(forward, backward)
    return kernel


def test_a_gradient_that_leaves_float16_is_linear_all_the_same():
    layer = as_layer(halved(), x="N", kernel="float16", reference=lambda x: jnp.multiply(x, 2000))
    case = Case("halved", {"x": np.ones(2)}, seed=0)
    assert verify(layer, case.but(cotangents=(np.array([20.0, 1.0]),)), "linear").ok


def test_few_shapes_are_drawn_of_what_is_compiled_for_each():
    shapes = {}
    for seed in range(2):
        layer = as_layer(halved(), x="N D", kernel="bfloat16", reference=lambda x: jnp.multiply(x, 2000))
        drawn = []
        each(cases(layer, Regime(production=True)), 80, seed, drawn.append)
        shapes[seed] = [case.primals["x"].shape for case in drawn]
        assert len(shapes[seed]) == 80 and 12 <= len(set(shapes[seed])) <= 24
    assert set(shapes[0]) != set(shapes[1])


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: jax.nn.gelu(x @ w) * jax.nn.silu(x @ w),
        lambda x, w: jnp.einsum("nd,dh->hn", x, w)[:, ::-1] ** 3,
        lambda x, w: jax.nn.softmax(x @ w, -1) + jax.nn.log_softmax(x @ w, 0),
        lambda x, w: jnp.cumsum(x, 0) @ jnp.where(w > 0, w, 0.1 * w) / jnp.linalg.norm(x, axis=1, keepdims=True),
        lambda x, w: (
            jnp.concatenate([x.T, w], 1).max(1) - jnp.clip(x, -1, 1).mean() + jnp.take(w, jnp.array([0, 2]), 0).sum()
        ),
    ],
)
def test_without_compilation_values_and_gradients_are_those_of_jax(function):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 4)), rng.standard_normal((4, 3))
    reference = as_layer(function, x="N D", w="D H", kernel="float32", reference=function).hooks.reference
    outputs, truth = reference.forward(x, w)
    with _precision((x,)):
        expected, pull = jax.vjp(function, jnp.asarray(x), jnp.asarray(w))
        v = rng.standard_normal(expected.shape)
        gradients = pull(jnp.asarray(v))
    np.testing.assert_allclose(outputs, expected, rtol=1e-12, atol=1e-12)
    found = reference.backward(v, truth)
    for name, gradient in zip("xw", gradients):
        np.testing.assert_allclose(found[name], gradient, rtol=1e-11, atol=1e-12)


def rectified(fault=""):
    """Its mask is taken from the output, which is rounded: what is nearly zero may be zero there."""

    def forward(x, w):
        y = jnp.maximum((x.astype("float32") @ w.astype("float32")), 0).astype(x.dtype)
        return y, (x, w, y)

    def backward(saved, g):
        x, w, y = wide(*saved)
        g = g.astype("float32") if fault else jnp.where(y > 0, g.astype("float32"), 0)
        return (g @ w.T).astype(saved[0].dtype), (x.T @ g).astype(saved[0].dtype)

    kernel = jax.custom_vjp(lambda x, w: forward(x, w)[0])
    kernel.defvjp(forward, backward)
    return kernel


def test_a_mask_of_what_is_kept_may_be_that_of_rounded_values():
    dims = {"x": "N D", "w": "D H", "kernel": "float16", "reference": lambda x, w: jax.nn.relu(x @ w)}
    rng = np.random.default_rng(0)
    case = Case("rectified", {"x": 1e-4 * rng.standard_normal((6, 2)), "w": 1e-4 * rng.standard_normal((2, 3))}, seed=1)
    assert verify(as_layer(rectified(), **dims), case, "reference").ok
    large = case.but(primals={n: 1e4 * a for n, a in case.primals.items()})
    assert not verify(as_layer(rectified("no mask"), **dims), large, "reference").ok


def scaled(wrong=False):
    def forward(x, w):
        return (x.astype("float32") * w.astype("float32")).astype(x.dtype), (x, w)

    def backward(saved, g):
        x, w, gf = wide(*saved, g)
        dw = (gf * x)[: -1 if wrong else None].sum(0)
        return (gf * w).astype(g.dtype), dw.astype(g.dtype)

    kernel = jax.custom_vjp(lambda x, w: forward(x, w)[0])
    kernel.defvjp(forward, backward)
    return kernel


def in_numpy(x, w):
    return np.multiply(x, w)


@pytest.mark.parametrize("kernel", ["bfloat16", "float32"])
def test_a_reference_in_numpy_is_screened_for_a_kernel_in_jax(kernel):
    rng = np.random.default_rng(0)
    case = Case("scaled", {"x": rng.standard_normal((20, 3)), "w": rng.standard_normal(3)}, seed=0)
    dims = {"x": "N D", "w": "D", "kernel": kernel, "reference": in_numpy}
    assert not verify(as_layer(scaled(), **dims), case, "reference").findings
    assert {f.primal for f in verify(as_layer(scaled(True), **dims), case, "reference").findings} == {"w"}


def composed(fault=""):
    """A norm and a product, made in the type in forward and in backward."""

    @jax.custom_vjp
    def layer(x, g, w):
        return forward(x, g, w)[0]

    def forward(x, g, w):
        wide = x.astype(jnp.float32)
        r = jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)
        return (wide * r * g.astype(jnp.float32)).astype(x.dtype) @ w, (x, g, w, r)

    def backward(saved, dy):
        x, g, w, r = saved
        h, dh = x.astype(jnp.float32) * r, (dy @ w.T).astype(jnp.float32)
        t = dh * g.astype(jnp.float32)
        dx = r * (t - (0 if fault else h * (t * h).mean(-1, keepdims=True)))
        return dx.astype(x.dtype), (dh * h).sum(0).astype(x.dtype), (h * g.astype(jnp.float32)).astype(x.dtype).T @ dy

    layer.defvjp(forward, backward)
    return layer


@pytest.mark.parametrize("kernel", ["bfloat16", "float16"])
def test_products_that_a_kernel_makes_in_its_type_are_rounded(kernel):
    def plain(x, g, w):
        return (x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g) @ w

    asked = {"examples": 15, "raises": False, "properties": ["complete", "reference"], "seed": 0}
    declared = {"x": "N D", "g": "D", "w": "D H", "kernel": kernel, "reference": plain}
    assert check(composed(), **declared, **asked).ok
    assert [f.primal for f in check(composed("sum missing"), **declared, **asked)] == ["x"]


@pytest.mark.parametrize("factor", [1, 2])
def test_products_within_pallas_are_left_to_it(factor):
    """Its jaxpr reads references, and does not run by itself."""
    pallas = pytest.importorskip("jax.experimental.pallas")

    def body(x, w, y):
        y[...] = x[...] @ w[...]

    def times(x, w):
        shape = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype)
        return pallas.pallas_call(body, out_shape=shape, interpret=True)(x, w)

    @jax.custom_vjp
    def layer(x, w):
        return times(x, w)

    layer.defvjp(
        lambda x, w: (times(x, w), (x, w)),
        lambda saved, dy: (times(dy, saved[1].T), factor * times(saved[0].T, dy)),
    )
    asked = {"examples": 4, "raises": False, "properties": ["complete", "reference"], "seed": 0}
    report = check(layer, x="N D", w="D H", kernel="bfloat16", reference=lambda x, w: x @ w, **asked)
    assert [f.primal for f in report] == ["w"] * (factor - 1)
