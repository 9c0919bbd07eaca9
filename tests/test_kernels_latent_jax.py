"""In JAX: attention that absorbs weights, so that it rounds other products, and a softmax of a rounded log-sum-exp."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402
from gradverify.core.properties import reference  # noqa: E402


def plain(q, c, w, u):
    return jax.nn.softmax(jnp.einsum("ntd,nsd->nts", q, c @ w), -1) @ (c @ u)


def short(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def flipped(x):
    return x.swapaxes(1, 2)


def latent(fault=""):
    @jax.custom_vjp
    def attention(q, c, w, u):
        return ahead(q, c, w, u)[0]

    def ahead(q, c, w, u):
        q, c, w, u = (a.astype(jnp.float32) for a in (q, c, w, u))
        absorbed = short(q @ w.T)
        p = jax.nn.softmax(absorbed @ flipped(c), -1)
        mean = short(short(p) @ c)
        saved = [a.astype(jnp.bfloat16) for a in (q, c, w, u, absorbed, mean)]
        return (mean @ u).astype(jnp.bfloat16), (*saved, p)

    def back(saved, g):
        q, c, w, u, absorbed, mean, p = (a.astype(jnp.float32) for a in saved)
        g = g.astype(jnp.float32)
        up = short(g @ u.T)
        delta = (up * mean).sum(-1, keepdims=True) * (0 if fault == "delta" else 1)
        ds = short(p * (up @ flipped(c) - delta))
        dq = short(ds @ c)
        dc = flipped(ds) @ absorbed + (0 if fault == "values" else flipped(short(p)) @ up)
        found = dq @ w, dc, (flipped(dq) @ q).sum(0), (flipped(mean) @ g).sum(0)
        return tuple(a.astype(jnp.bfloat16) for a in found)

    attention.defvjp(ahead, back)
    return attention


def sinks(fault=""):
    @jax.custom_vjp
    def attention(q, k, v, sink):
        return ahead(q, k, v, sink)[0]

    def ahead(q, k, v, sink):
        scores = q @ k.T
        lse = jax.scipy.special.logsumexp(jnp.concatenate([scores, sink[:, None]], 1), axis=1)
        out = jnp.exp(scores - lse[:, None]) @ v
        return out, (q, k, v, sink, out, lse)

    def back(saved, g):
        q, k, v, sink, out, lse = saved
        p = jnp.exp(q @ k.T - lse[:, None])
        delta = (g * out).sum(1) * (0 if fault == "delta" else 1)
        ds = p * (g @ v.T - delta[:, None])
        return ds @ k, ds.T @ q, p.T @ g, -jnp.exp(sink - lse) * delta

    attention.defvjp(ahead, back)
    return attention


def plain_sinks(q, k, v, sink):
    return jax.nn.softmax(jnp.concatenate([q @ k.T, sink[:, None]], 1), 1)[:, :-1] @ v


def found(layer, shapes, scale, like, seeds=3):
    wrong = set()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: scale * rng.normal(size=shape)  # noqa: E731, B023
        primals = {n: draw(*shape) for n, shape in shapes.items()}
        case = Case("attention", primals, cotangents=(draw(*like),), seed=seed)
        wrong |= {f.primal or f.kind for f in reference.holds(layer, case).findings}
    return wrong


def of_latent(fault, scale, widths):
    d, width, e = widths
    layer = as_layer(
        latent(fault), q="N T D", c="N T L", w="L D", u="L E", kernel="bfloat16", reference=plain, name="latent"
    )
    return found(layer, {"q": (40, 6, d), "c": (40, 6, width), "w": (width, d), "u": (width, e)}, scale, (40, 6, e))


def of_sinks(fault, scale):
    layer = as_layer(
        sinks(fault), q="T D", k="S D", v="S E", sink="T", kernel="float32", reference=plain_sinks, name="sinks"
    )
    return found(layer, {"q": (40, 6), "k": (24, 6), "v": (24, 5), "sink": (40,)}, scale, (40, 5))


@pytest.mark.parametrize(("scale", "widths"), [(10.0, (1, 2, 2)), (1.5, (5, 8, 1))])
def test_a_kernel_that_absorbs_its_weights_is_right(scale, widths):
    assert of_latent("", scale, widths) == set()


@pytest.mark.parametrize(("fault", "expected"), [("delta", {"q", "c", "w"}), ("values", {"c"})])
def test_what_it_leaves_out_is_found(fault, expected):
    assert of_latent(fault, 1.0, (5, 8, 3)) == expected


def test_a_softmax_of_a_rounded_log_sum_exp_is_right():
    assert of_sinks("", 10.0) == set()


def test_what_a_softmax_leaves_out_is_found():
    assert of_sinks("delta", 1.0) >= {"q", "k", "sink"}
