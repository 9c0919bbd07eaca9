"""Kernels over sequences of unequal lengths: padded ones with their lengths, and packed ones with their starts."""

from __future__ import annotations

from itertools import pairwise

import torch

from tests.kernels import Function, Kernel

BLOCK = 16


def pooling(fault: str = "") -> Function:
    """y_b = sum_t softmax_t(s_bt) x_bt over the first lengths_b places, in blocks with an online softmax."""

    class Pooling(torch.autograd.Function):
        @staticmethod
        def forward(ctx, s, x, lengths):
            y, lse = torch.zeros(x.shape[0], x.shape[2]), torch.zeros(x.shape[0])
            for b, n in enumerate(lengths.tolist()):
                top, total, out = torch.tensor(-1e30), torch.tensor(0.0), torch.zeros(x.shape[2])
                for j in range(0, n, BLOCK):
                    part = s[b, j : min(j + BLOCK, n)].float()
                    new = torch.maximum(top, part.max())
                    p, shrink = (part - new).exp(), (top - new).exp()
                    total = total * shrink + p.sum()
                    out = out * shrink + (p[:, None] * x[b, j : min(j + BLOCK, n)].float()).sum(0)
                    top = new
                y[b], lse[b] = out / total, top + total.log()
            ctx.save_for_backward(s, x, lengths, lse)
            return y.to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            s, x, lengths, lse = ctx.saved_tensors
            ds, dx = torch.zeros(s.shape), torch.zeros(x.shape)
            for b, n in enumerate(lengths.tolist()):
                if fault == "length of the longest":
                    n = int(lengths.max())
                if fault == "sequences shorter than a block skipped" and n < BLOCK:
                    continue
                last = (n + BLOCK - 1) // BLOCK * BLOCK if fault == "tail of a short sequence not masked" else n
                last = n // BLOCK * BLOCK if fault == "tail of a sequence lost" and n > BLOCK else last
                p = (s[b, :last].float() - lse[b]).exp()
                dp = (x[b, :last].float() * g[b].float()).sum(1)
                dx[b, :last] = p[:, None] * g[b].float()
                ds[b, :last] = p * (dp - (p * dp).sum())
            return ds.to(s.dtype), dx.to(x.dtype), None

    return Pooling


def plain_pooling(s, x, lengths):
    seen = torch.arange(s.shape[1])[None] < lengths[:, None]
    p = torch.softmax(s.masked_fill(~seen, -1e30), 1) * seen
    return (p[..., None] * x).sum(1)


def packed(fault: str = "") -> Function:
    """Sums from the start of each sequence on; the sequences lie one after another, from starts_k to starts_k+1."""

    def prefix(x: torch.Tensor, starts: list[int], fault: str) -> torch.Tensor:
        out = torch.zeros(x.shape)
        for k, (first, last) in enumerate(pairwise(starts)):
            if fault == "last sequence lost" and k and last == x.shape[0]:
                continue
            carry = torch.zeros(x.shape[1])
            if fault == "carry kept over the border" and first:
                carry = out[first - 1]
            for j in range(first, last, BLOCK):
                part = x[j : min(j + BLOCK, last)].float()
                out[j : j + len(part)] = part.cumsum(0) + carry
                carry = torch.zeros_like(carry) if fault == "second block starts anew" else carry + part.sum(0)
        return out

    class Packed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, starts):
            ctx.starts = starts.tolist()
            return prefix(x, ctx.starts, "").to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            starts = ctx.starts
            if fault == "offset of the next sequence":
                starts = [*starts[:1], *(min(n + 1, len(g)) for n in starts[1:-1]), *starts[-1:]]
            turned = [len(g) - n for n in reversed(starts)]
            return prefix(g.flip(0), turned, fault).flip(0).to(g.dtype), None

    return Packed


def plain_packed(x, starts):
    at = torch.arange(x.shape[0])
    number = (at[:, None] >= starts[None, 1:-1]).sum(1)
    seen = (number[:, None] == number[None]) & (at[None] <= at[:, None])
    return (x[None] * seen[..., None]).sum(1)


KERNELS = [
    Kernel(
        "pooling",
        pooling,
        plain_pooling,
        {"s": "B T", "x": "B T D", "lengths": "B: lengths T"},
        (
            "tail of a short sequence not masked",
            "tail of a sequence lost",
            "length of the longest",
            "sequences shorter than a block skipped",
        ),
    ),
    Kernel(
        "packed",
        packed,
        plain_packed,
        {"x": "T D", "starts": "B+1: offsets T"},
        (
            "offset of the next sequence",
            "carry kept over the border",
            "second block starts anew",
            "last sequence lost",
        ),
    ),
]
