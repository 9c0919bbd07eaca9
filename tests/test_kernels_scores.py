"""Scores that are masked, biased or tied, rows that are constant, and outputs of which others are made."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gradverify as gv  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.adapters._torch.noise import noise  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402
from gradverify.core.properties import reference  # noqa: E402


def residual(fault=""):
    """A sum with a residual, and its norm, as of the sum that is stored: both are outputs."""

    class Residual(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, res, w):
            s = x + res
            r = torch.rsqrt(s.float().pow(2).mean(-1, keepdim=True) + 1e-6)
            ctx.save_for_backward(s, w, r)
            return (s.float() * r * w.float()).to(x.dtype), s

        @staticmethod
        def backward(ctx, dy, ds):
            s, w, r = (t.float() for t in ctx.saved_tensors)
            h, m = s * r, dy.float() * w
            dx = r * (m - (0 if fault == "sum missing" else h * (m * h).mean(-1, keepdim=True)))
            dx = (dx + (0 if fault == "residual missing" else ds.float())).to(dy.dtype)
            return dx, dx, (dy.float() * h).sum(0).to(dy.dtype)

    return Residual


def plain_residual(x, res, w):
    s = x + res
    return s * torch.rsqrt(s.pow(2).mean(-1, keepdim=True) + 1e-6) * w, s


def biased(n):
    at = torch.arange(n)
    return -0.25 * (at[:, None] - at).abs(), at > at[:, None]


def attention(fault=""):
    """Causal, with a bias by distance; scores and probabilities are stored in the type."""

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):
            bias, mask = biased(len(q))
            s = ((q @ k.T).float() * q.shape[-1] ** -0.5 + bias).masked_fill(mask, -float("inf"))
            p = torch.softmax(s, -1).to(q.dtype)
            ctx.save_for_backward(q, k, v, p)
            return p @ v

        @staticmethod
        def backward(ctx, g):
            q, k, v, p = ctx.saved_tensors
            dp = (g @ v.T).float()
            ds = p.float() * (dp - (dp * p.float()).sum(-1, keepdim=True))
            ds = (ds * (1 if fault == "scale missing" else q.shape[-1] ** -0.5)).to(q.dtype)
            return ds @ k, ds.T @ q, p.T @ (g * (torch.arange(g.shape[1]) < 1) if fault == "one column" else g)

    return Attention


def plain_attention(q, k, v):
    bias, mask = biased(len(q))
    s = q @ k.T * q.shape[-1] ** -0.5 + bias
    return torch.softmax(s.masked_fill(mask, -float("inf")), -1) @ v


def entropy(fault=""):
    """The entropy of a linear layer's softmax, from log-probabilities; the logits are stored in the type."""

    class Entropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h, w):
            ls = torch.log_softmax((h @ w.T).float(), -1)
            ctx.save_for_backward(h, w)
            return -(ls.exp() * ls).sum(-1).to(h.dtype)

        @staticmethod
        def backward(ctx, g):
            h, w = ctx.saved_tensors
            ls = torch.log_softmax((h @ w.T).float(), -1)
            mean = 0 if fault == "sum missing" else (ls.exp() * ls).sum(-1, keepdim=True)
            ds = (ls.exp() * (mean - ls) * g.float()[:, None]).to(h.dtype)
            return ds @ w, ds.T @ h

    return Entropy


def plain_entropy(h, w):
    ls = torch.log_softmax(h @ w.T, -1)
    return -(ls.exp() * ls).sum(-1)


RESIDUAL = {"x": "N D", "res": "N D", "w": "D", "reference": plain_residual}
ATTENTION = {"q": "T D", "k": "T D", "v": "T E", "reference": plain_attention}
ENTROPY = {"h": "N D", "w": "V D", "reference": plain_entropy}
ASKED = {"properties": ["complete", "reference"], "raises": False}


def judged(target, declared, primals, seed=0, kernel="bfloat16"):
    """Kinds of findings at a point, and the share of entries that are decided."""
    outcome = reference.holds(as_layer(target, kernel=kernel, **declared), Case("scores", primals, seed=seed))
    decided = [float((c.verdicts != 2).mean()) for c in outcome.compared]
    return {(f.kind, f.primal) for f in outcome.findings}, min(decided, default=0.0)


@pytest.mark.parametrize("kernel", ["bfloat16", "float16"])
def test_the_norm_of_an_output_as_it_is_stored_is_right(kernel):
    report = gv.check(residual(), kernel=kernel, examples=40, seed=1, **RESIDUAL, **ASKED)
    assert report.ok, report


@pytest.mark.parametrize("fault", ["sum missing", "residual missing"])
def test_a_wrong_one_of_it_is_found(fault):
    report = gv.check(residual(fault), kernel="bfloat16", examples=40, seed=1, **RESIDUAL, **ASKED)
    assert {(f.property, f.kind) for f in report} == {("reference", "wrong")}


def test_all_of_a_constant_row_is_rounded_one_way():
    """The mean of its squares is off by as much as each of them, and not by what is left of many signs."""
    rng = np.random.default_rng(0)
    for seed in range(12):
        x, res, w = np.full((1, 256), 2.1484375), np.full((1, 256), 0.003 * seed), rng.standard_normal(256)
        assert not judged(residual(), RESIDUAL, {"x": x, "res": res, "w": w}, seed)[0]


def points(scale, seeds=8):
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        yield seed, {n: (1 if n == "v" else scale) * rng.standard_normal((6, 4)) for n in "qkv"}


def test_what_a_mask_leaves_out_is_decided():
    for seed, primals in points(1.0):
        found, decided = judged(attention(), ATTENTION, primals, seed)
        assert not found and decided > 0.9


@pytest.mark.parametrize(("fault", "primals"), [("scale missing", {"q", "k"}), ("one column", {"v"})])
def test_a_wrong_masked_one_is_found_at_every_point(fault, primals):
    for seed, point in points(1.0, 4):
        found, _ = judged(attention(fault), ATTENTION, point, seed)
        assert {n for kind, n in found if kind == "wrong"} == primals


def test_a_bias_leaves_scores_as_unsure_as_they_are():
    for seed, primals in points(40.0, 12):
        assert not judged(attention(), ATTENTION, primals, seed)[0]


def test_nothing_is_nan_of_what_is_masked():
    s = torch.randn(4, 4, dtype=torch.float64)
    mask = torch.ones(4, 4).triu(1).bool()
    for seed in range(4):
        with noise(torch.bfloat16, torch.bfloat16, seed):
            masked = (s @ s.T + torch.zeros(4, 4, dtype=torch.float64)).masked_fill(mask, -float("inf"))
            p, logs = torch.softmax(masked, -1), torch.log_softmax(masked, -1)
        assert p.isfinite().all() and (p[mask] == 0).all() and (logs[mask] == -float("inf")).all()


@pytest.mark.parametrize("fault", ["", "sum missing"])
def test_any_of_logits_that_are_unsure_may_be_the_largest(fault):
    """Its logarithm is 0 then, and what comes of the others may be as large: no few samples would hear of a tie."""
    kinds = set()
    for seed in range(20):
        rng, scale = np.random.default_rng(seed), 0.5 if fault else 40.0
        primals = {"h": scale * rng.standard_normal((2, 16)), "w": scale * rng.standard_normal((6, 16))}
        kinds |= judged(entropy(fault), ENTROPY, primals, seed)[0]
    assert kinds == ({("wrong", "h"), ("wrong", "w")} if fault else set())


def sinks(fault=""):
    """Attention in which a score of its own takes what no key has; outputs are saved in float16."""

    class Sinks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, sink):
            s = q.float() @ k.float().mT
            lse = torch.logaddexp(s.logsumexp(-1), sink.float())
            o = ((s - lse[..., None]).exp() @ v.float()).to(v.dtype)
            ctx.save_for_backward(q, k, v, sink, o, lse)
            return o

        @staticmethod
        def backward(ctx, g):
            q, k, v, sink, o, lse = (t.float() for t in ctx.saved_tensors)
            p, g = (q @ k.mT - lse[..., None]).exp(), g.float()
            delta = (g * o).sum(-1)
            ds = p * (g @ v.mT - delta[..., None])
            share = (sink - lse).exp() * (-1 if fault == "sign" else 1)
            found = ds @ k, ds.mT @ q, p.mT @ g, -(share * delta).sum()[None]
            return tuple(a.to(torch.float16) for a in found)

    return Sinks


def plain_sinks(q, k, v, sink):
    s = q @ k.mT
    s = torch.cat([s, sink.expand(*s.shape[:-1], 1)], -1)
    return torch.softmax(s, -1)[..., :-1] @ v


@pytest.mark.parametrize(("fault", "expected"), [("", set()), ("sign", {"sink"})])
@pytest.mark.parametrize("size", [4e-4, 1.0])
def test_outputs_that_a_sink_makes_small(size, fault, expected):
    shapes = {"q": "N 6 5", "k": "N 6 5", "v": "N 6 5", "sink": "1"}
    layer = as_layer(sinks(fault), **shapes, kernel="float16", reference=plain_sinks)
    found = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        q, k, v = (np.float16(size * rng.normal(size=(4, 6, 5))).astype(float) for _ in "qkv")
        primals, dy = {"q": q, "k": k, "v": v, "sink": np.array([7.0])}, (rng.normal(size=(4, 6, 5)),)
        outcome = reference.holds(layer, Case("sinks", primals, cotangents=dy, seed=seed))
        found |= {f.primal for f in outcome.findings}
    assert found == expected
