"""What a kernel keeps for backward in its type: that it is rounded costs digits that a good one may lose, too."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradverify import verify  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core import evaluate  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402


def gate(fault=""):
    """y = silu(x w) (x v); both products are stored in the kernel's type, and forward goes on from there."""

    class Gate(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, v):
            a, b = ((x.float() @ t.float()).to(x.dtype) for t in (w, v))
            ctx.save_for_backward(x, w, v, a, b)
            y = a.float() * torch.sigmoid(a.float()) * b.float()
            return (y * (1.01 if fault == "forward" else 1)).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w, v, a, b = (t.float() for t in ctx.saved_tensors)
            s, gf = torch.sigmoid(a), g.float()
            da = gf * b * s * (1 + a * (1 - s) * (0 if fault == "backward" else 1))
            da, db = (t.to(g.dtype).float() for t in (da, gf * a * s))
            return tuple(t.to(g.dtype) for t in (da @ w.T + db @ v.T, x.T @ da, x.T @ db))

    return Gate


def plain_gate(x, w, v):
    return (x @ w) * torch.sigmoid(x @ w) * (x @ v)


def norm(fault=""):
    """What is normal is kept, and the input is not."""

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            r = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-5)
            h = x.float() * r
            ctx.save_for_backward(h.to(x.dtype), w, r.to(x.dtype) if fault == "statistics" else r)
            return (h * w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            h, w, r = (t.float() for t in ctx.saved_tensors)
            gw = g.float() * w
            along = 0 if fault == "backward" else h * (gw * h).mean(1, keepdim=True)
            return ((gw - along) * r).to(g.dtype), (g.float() * h).sum(0).to(g.dtype)

    return Norm


def plain_norm(x, w):
    return x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-5) * w


SHAPES = {"x": (3, 5), "w": (5, 2), "v": (5, 2)}
GATE = {"x": "N D", "w": "D H", "v": "D H", "reference": plain_gate}
NORM = {"x": "N D", "w": "D", "reference": plain_norm}


def wrong(make, fault, declared, kernel, scale=1.0):
    """Primals and kinds of the findings at a few points."""
    found, shapes = set(), SHAPES if "v" in declared else {"x": (4, 1), "w": (1,)}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        primals = {n: scale * rng.standard_normal(shape) for n, shape in shapes.items()}
        layer = as_layer(make(fault), kernel=kernel, **declared)
        found |= {(f.kind, f.primal) for f in verify(layer, Case("kept", primals, seed=seed), "reference").findings}
    return found


@pytest.mark.parametrize("kernel", ["bfloat16", "float16"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_value_that_is_kept_is_rounded_where_it_is_made(kernel, scale):
    """Its relative error grows with the argument of an exponential, in outputs as in gradients."""
    assert not wrong(gate, "", GATE, kernel, scale)
    assert ("forward", None) in wrong(gate, "forward", GATE, kernel, scale) or kernel == "bfloat16"
    assert {primal for _, primal in wrong(gate, "backward", GATE, kernel, scale)} >= {"x", "w"}


@pytest.mark.parametrize("kernel", ["bfloat16", "float16"])
def test_a_primal_that_is_not_kept_is_known_by_what_is(kernel):
    assert not wrong(norm, "", NORM, kernel)
    assert ("wrong", "x") in wrong(norm, "backward", NORM, kernel)
    assert wrong(norm, "statistics", NORM, kernel) <= {("wrong", "x")}


def test_operations_are_counted_alike_where_autograd_saves_them():
    """A loss that keeps its gradients, next to a fused reference."""

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, labels):
            z = (x.float() @ W.float().T).to(x.dtype)
            p = torch.softmax(z.float(), 1)
            ctx.save_for_backward(x, W, z)
            ctx.labels = labels.tolist()
            return -p.log().gather(1, labels[:, None]).mean().to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            (x, W, z), labels = ctx.saved_tensors, torch.tensor(ctx.labels)
            d = torch.softmax(z.float(), 1) - torch.nn.functional.one_hot(labels, z.shape[1])
            d = (d * g.float() / len(x)).to(x.dtype).float()
            return (d @ W.float()).to(x.dtype), (d.T @ x.float()).to(x.dtype), None

    def plain(x, W, labels):
        z = x @ W.T
        return torch.nn.functional.cross_entropy(z + 0 * torch.nn.functional.gelu(z), labels)

    layer = as_layer(Loss, x="N D", W="V D", labels="N: labels V", kernel="bfloat16", reference=plain)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        primals = {"x": rng.standard_normal((6, 4)), "W": rng.standard_normal((5, 4)), "labels": rng.integers(0, 5, 6)}
        assert not verify(layer, Case("loss", primals, seed=seed), "reference").findings


def test_what_is_kept_is_told():
    layer = as_layer(norm(), kernel="bfloat16", **NORM)
    primals = {"x": np.arange(12.0).reshape(3, 4), "w": np.ones(4)}
    reference = layer.hooks.reference
    held = reference.kept(evaluate.run(layer, primals, {}).saved, reference.watching(), ())
    assert (held.least, held.lost, [v.shape for v in held.values]) == (12, {"x"}, [(3, 4)])
    layer = as_layer(gate(), kernel="bfloat16", **GATE)
    saved = evaluate.run(layer, {n: np.ones(s) for n, s in SHAPES.items()}, {}).saved
    held = layer.hooks.reference.kept(saved, reference.watching(), ())
    assert (held.least, held.lost, [v.shape for v in held.values]) == (6, set(), [(3, 2), (3, 2)])
