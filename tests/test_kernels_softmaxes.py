"""A softmax that a reference writes by hand is one operation, which kernels take from a rounded log-sum-exp."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.adapters._torch.softmaxes import fused  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402
from gradverify.core.properties import reference  # noqa: E402


def attention(fault=""):
    """With a sink: a score for each query that takes a share and has no value."""

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, sink):
            scores = torch.cat([q.float() @ k.float().T, sink.float()[:, None]], 1)
            lse = torch.logsumexp(scores, 1)
            p = torch.exp(scores - lse[:, None])[:, :-1]
            out = (p.to(q.dtype).float() @ v.float()).to(q.dtype)
            ctx.save_for_backward(q, k, v, sink, out, lse)
            return out

        @staticmethod
        def backward(ctx, g):
            q, k, v, sink, out, lse = (t.float() for t in ctx.saved_tensors)
            dtype, g = g.dtype, g.float()
            p = torch.exp(q @ k.T - lse[:, None])
            delta = (g * out).sum(1) * (0 if fault == "delta" else 1)
            ds = (p * (g @ v.T - delta[:, None])).to(dtype).float()
            found = ds @ k, ds.T @ q, p.to(dtype).float().T @ g, -torch.exp(sink - lse) * delta
            return tuple(t.to(dtype) for t in found)

    return Attention


def by_hand(q, k, v, sink):
    scores = torch.cat([q @ k.T, sink[:, None]], 1)
    e = torch.exp(scores - scores.amax(1, keepdim=True))
    return (e / e.sum(1, keepdim=True))[:, :-1] @ v


def wrong(fault, kernel, scale):
    layer = as_layer(attention(fault), q="T D", k="S D", v="S E", sink="T", kernel=kernel, reference=by_hand)
    found = set()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        shapes = {"q": (40, 6), "k": (24, 6), "v": (24, 5), "sink": (40,)}
        primals = {n: scale * rng.normal(size=shape) for n, shape in shapes.items()}
        primals["v"], primals["sink"] = rng.normal(size=(24, 5)), scale * primals["sink"]
        case = Case("attention", primals, cotangents=(rng.normal(size=(40, 5)),), seed=seed)
        found |= {f.primal or f.kind for f in reference.holds(layer, case).findings}
    return found


@pytest.mark.parametrize(("kernel", "scale"), [("float32", 20.0), ("bfloat16", 2.0)])
def test_a_kernel_is_right_whose_reference_writes_its_softmax_by_hand(kernel, scale):
    assert wrong("", kernel, scale) == set()


def test_what_such_a_kernel_leaves_out_is_found():
    assert wrong("delta", "bfloat16", 1.0) >= {"q", "k", "sink"}


def total_detached(x):
    e = torch.exp(x)
    return e / e.sum(1, keepdim=True).detach()


def written_into(x):
    e = torch.exp(x - x.max(1, keepdim=True).values)
    e[:, 0] = 0
    return e / e.sum(1, keepdim=True)


def added_to(x):
    e = torch.exp(x)
    total = e.sum(1, keepdim=True)
    return e / total.add_(1)


def over_another_axis(x):
    e = torch.exp(x)
    return e / e.sum(0, keepdim=True)


def less_another_largest(x):
    e = torch.exp(x - x.amax(0, keepdim=True))
    return e / e.sum(1, keepdim=True)


@pytest.mark.parametrize("function", [total_detached, added_to, over_another_axis, less_another_largest])
def test_what_is_no_softmax_stays_what_it_is(function):
    x = torch.tensor(np.random.default_rng(0).normal(size=(4, 5)), requires_grad=True)
    v = torch.tensor(np.random.default_rng(1).normal(size=(4, 5)))
    plain, found = function(x), fused(function)(x)
    assert torch.allclose(plain, found, rtol=1e-14, atol=0)
    one, other = (torch.autograd.grad(y, x, v)[0] for y in (plain, found))
    assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_an_exponential_that_is_written_into_is_another_one():
    with torch.no_grad():
        x = torch.tensor(np.random.default_rng(0).normal(size=(4, 5)))
        assert torch.equal(written_into(x), fused(written_into)(x))
