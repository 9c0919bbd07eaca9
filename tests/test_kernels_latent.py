"""Attention over latents: a kernel that absorbs weights into queries and outputs never makes keys and values."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402
from gradverify.core.properties import reference  # noqa: E402

SHAPES = {"q": "N T D", "c": "N T L", "w": "L D", "u": "L E"}


def plain(q, c, w, u):
    return torch.softmax(torch.einsum("ntd,nsd->nts", q, c @ w), -1) @ (c @ u)


def short(x):
    return x.to(torch.bfloat16).float()


def latent(fault=""):
    class Latent(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, c, w, u):
            q, c, w, u = (t.float() for t in (q, c, w, u))
            absorbed = short(q @ w.T)
            p = torch.softmax(absorbed @ c.mT, -1)
            mean = short(short(p) @ c)
            saved = q, c, w, u, absorbed, mean
            ctx.save_for_backward(*(t.to(torch.bfloat16) for t in saved), p)
            return (mean @ u).to(torch.bfloat16)

        @staticmethod
        def backward(ctx, g):
            q, c, w, u, absorbed, mean, p = (t.float() for t in ctx.saved_tensors)
            g = g.float()
            up = short(g @ u.T)
            delta = (up * mean).sum(-1, keepdim=True) * (0 if fault == "delta" else 1)
            ds = short(p * (up @ c.mT - delta))
            dq = short(ds @ c)
            dc = ds.mT @ absorbed + (0 if fault == "values" else short(p).mT @ up)
            found = dq @ w, dc, (dq.mT @ q).sum(0), (mean.mT @ g).sum(0)
            return tuple(a.to(torch.bfloat16) for a in found)

    return Latent


def wrong(fault, scale, widths):
    d, width, e = widths
    layer, found = as_layer(latent(fault), **SHAPES, kernel="bfloat16", reference=plain), set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shapes = {"q": (40, 6, d), "c": (40, 6, width), "w": (width, d), "u": (width, e)}
        draw = lambda *shape: torch.tensor(scale * rng.normal(size=shape)).bfloat16().double().numpy()  # noqa: E731, B023
        primals = {n: draw(*shape) for n, shape in shapes.items()}
        case = Case("latent", primals, cotangents=(draw(40, 6, e),), seed=seed)
        found |= {f.primal for f in reference.holds(layer, case).findings}
    return found


# scores of a hundred with one feature; scores of ten with a value that cancels
@pytest.mark.parametrize(("scale", "widths"), [(10.0, (1, 2, 2)), (1.5, (5, 8, 1))])
def test_a_kernel_that_absorbs_its_weights_is_right(scale, widths):
    assert wrong("", scale, widths) == set()


@pytest.mark.parametrize(("fault", "expected"), [("delta", {"q", "c", "w"}), ("values", {"c"})])
def test_what_it_leaves_out_is_found(fault, expected):
    assert wrong(fault, 1.0, (5, 8, 3)) == expected
