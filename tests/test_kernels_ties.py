"""At a kink or a tie a kernel may take another side than its reference: unresolved there, and judged elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.adapters import as_layer
from gradverify.core.nouns import Case
from gradverify.core.properties import reference

TIED = np.array([[2.0, 2.0, 2.0, -1.0], [0.0, 0.0, 1.0, 1.0], [-1.0, 3.0, 0.5, 3.0], [1.5, 4.0, -2.0, 0.5]])


def kinds(target, plain, primals, **declared):
    """Kinds of findings in eight draws of the upstream gradient."""
    layer = as_layer(target, kernel="bfloat16", reference=plain, **declared)
    cases = (Case("tied", primals, seed=seed) for seed in range(8))
    return {f.kind for case in cases for f in reference.holds(layer, case).findings}


def of_torch(forward, backward):
    torch = pytest.importorskip("torch")

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            y, kept = forward(torch, *given)
            ctx.save_for_backward(*kept)
            return y

        @staticmethod
        def backward(ctx, g):
            return backward(torch, g, *ctx.saved_tensors)

    return Kernel


def first(torch, x):
    """The largest two of each row, the first of those that tie."""
    left, at = x.float(), []
    for _ in range(2):
        at.append((left == left.amax(-1, keepdim=True)).int().argmax(-1, keepdim=True))
        left = left.scatter(-1, at[-1], -float("inf"))
    at = torch.cat(at, -1)
    return x.gather(-1, at), (x, at)


def put(torch, g, x, at):
    return torch.zeros_like(x).scatter(-1, at, g)


def whole(torch, x):
    y, at = x.max(-1)
    return y, (x, at)


def put_one(torch, g, x, at):
    return torch.zeros_like(x).scatter(-1, at[..., None], g[..., None])


def last_of_two(torch, x):
    pairs = x.unflatten(-1, (-1, 2))
    return pairs.amax(-1), (x, (pairs[..., 1:] >= pairs[..., :1]).long())


def put_in_pairs(torch, g, x, at):
    return torch.zeros_like(x).unflatten(-1, (-1, 2)).scatter(-1, at, g[..., None]).flatten(-2)


ONE = {
    "relu": (lambda t, x: (t.relu(x), (x,)), lambda t, g, x: g * (x >= 0), lambda t: t.relu),
    "relu as a mask": (lambda t, x: (t.relu(x), (x,)), lambda t, g, x: g * (x >= 0), lambda t: lambda x: x * (x > 0)),
    "abs": (lambda t, x: (x.abs(), (x,)), lambda t, g, x: t.where(x >= 0, g, -g), lambda t: t.abs),
    "clip": (
        lambda t, x: (x.clamp(-1, 1), (x,)),
        lambda t, g, x: g * ((x > -1) & (x < 1)),
        lambda t: lambda x: x.clamp(-1, 1),
    ),
    "amax": (whole, put_one, lambda t: lambda x: x.amax(-1)),
    "topk": (first, put, lambda t: lambda x: x.topk(2, -1).values),
    "a pool": (last_of_two, put_in_pairs, lambda t: lambda x: t.nn.functional.max_pool1d(x, 2)),
}


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("wrong", [False, True])
def test_the_other_side_is_no_fault_in_torch(name, wrong):
    forward, backward, plain = ONE[name]
    torch = pytest.importorskip("torch")
    kernel = of_torch(forward, (lambda t, g, *kept: backward(t, 1.5 * g, *kept)) if wrong else backward)
    assert kinds(kernel, plain(torch), {"x": TIED}, x="N D") == ({"wrong"} if wrong else set())


def test_the_larger_of_two_goes_to_either_in_torch():
    forward = lambda t, x, y: (t.maximum(x, y), (x, y))  # noqa: E731
    for share, expected in ((1.0, set()), (0.5, {"wrong"})):
        kernel = of_torch(forward, lambda t, g, x, y, share=share: (g * (x >= y), share * g * (x < y)))
        primals = {"x": TIED, "y": np.array([[2.0, 1.0, 3.0, -1.0]] * 4)}
        plain = pytest.importorskip("torch").maximum
        assert kinds(kernel, plain, primals, x="N D", y="N D") == expected


def test_a_mask_that_gets_no_gradient_is_told_as_it_stands():
    """Half of its zeros would be taken for ones otherwise, and nothing be decided."""
    forward = lambda t, x, m: (x * (m > 0), (m,))  # noqa: E731
    kernel = of_torch(forward, lambda t, g, m: (g, None))
    primals = {"x": TIED, "m": np.array([[0.0, 1.0, 0.0, 1.0]] * 4)}
    found = kinds(kernel, lambda x, m: x * (m > 0), primals, x="N D", m="N D", constants=("m",))
    assert found == {"wrong"}


@pytest.mark.parametrize("name", ["relu", "maximum", "clip", "max", "top_k"])
@pytest.mark.parametrize("wrong", [False, True])
def test_the_other_side_is_no_fault_in_jax(name, wrong):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    rows = np.arange(len(TIED))[:, None]

    def one(axis_value, at):
        return jnp.zeros(TIED.shape, axis_value.dtype).at[rows, at].add(axis_value)

    made = {
        "relu": (lambda x: jnp.maximum(x, 0), lambda g, x: g * (x >= 0), jax.nn.relu),
        "maximum": (lambda x: jnp.maximum(x, 0), lambda g, x: g * (x >= 0), lambda x: jnp.maximum(x, 0)),
        "clip": (lambda x: jnp.clip(x, -1, 1), lambda g, x: g * ((x > -1) & (x < 1)), lambda x: jnp.clip(x, -1, 1)),
        "max": (lambda x: x.max(-1), lambda g, x: one(g[:, None], x.argmax(-1)[:, None]), lambda x: x.max(-1)),
        "top_k": (
            lambda x: jax.lax.top_k(x, 2)[0],
            lambda g, x: one(g, jnp.argsort(-x, -1)[:, :2]),
            lambda x: jax.lax.top_k(x, 2)[0],
        ),
    }
    forward, backward, plain = made[name]
    kernel = jax.custom_vjp(forward)
    kernel.defvjp(lambda x: (forward(x), x), lambda x, g: ((backward(g, x) * (1.5 if wrong else 1)).astype(g.dtype),))
    assert kinds(kernel, plain, {"x": TIED}, x="4 4") == ({"wrong"} if wrong else set())


def masked(jnp, h, w):
    s = h @ w.T
    return jnp.where(jnp.arange(s.shape[1]) > 4, -jnp.inf, s)


@pytest.mark.parametrize("fault", [False, True])
def test_any_of_unsure_scores_may_be_the_largest_in_jax(fault):
    """As in torch: two scores of some 1e8 that are less than a rounding apart."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def high(h, w):
        return h.astype("float32"), w.astype("float32")

    def forward(h, w):
        return jax.nn.softmax(masked(jnp, *high(h, w)), -1).astype(h.dtype)

    def backward(kept, g):
        h, w = high(*kept)
        p = jax.nn.softmax(masked(jnp, h, w), -1)
        ds = p * (g - (0 if fault else (g * p).sum(-1, keepdims=True)))
        return (ds @ w).astype(g.dtype), (ds.T @ h).astype(g.dtype)

    kernel = jax.custom_vjp(forward)
    kernel.defvjp(lambda h, w: (forward(h, w), (h, w)), backward)
    found = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        h, w = rng.standard_normal((2, 16)), rng.standard_normal((6, 16))
        if not fault:
            h, w = 4096 * h, 4096 * w
            w[1] = w[0] * (1 + 2.0**-7)
        plain = lambda h, w: jax.nn.softmax(masked(jnp, h, w), -1)  # noqa: E731
        found |= kinds(kernel, plain, {"h": h, "w": w}, h="N D", w="V D") if seed < 2 or not fault else set()
    assert found == ({"wrong"} if fault else set())
