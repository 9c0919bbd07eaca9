"""Kernels whose gradient is a sum over many terms: embedding, grouped matmul, scan, linear attention in chunks."""

from __future__ import annotations

import torch

from tests.kernels import Function, Kernel

CHUNK = 16


def embedding(fault: str = "") -> Function:
    class Embedding(torch.autograd.Function):
        @staticmethod
        def forward(ctx, ids, table):
            ctx.save_for_backward(ids)
            ctx.like = table.shape, table.dtype
            return table[ids]

        @staticmethod
        def backward(ctx, g):
            (ids,), (shape, dtype) = ctx.saved_tensors, ctx.like
            if fault == "summed in the low type":
                d = torch.zeros(shape, dtype=dtype)
                for place, row in zip(ids.tolist(), g):
                    d[place] += row
                return None, d
            d = torch.zeros(shape)
            if fault == "last of equal ids wins":
                d[ids] = g.float()
                return None, d.to(dtype)
            if fault == "offset wraps":  # as int32 does at 2^31; here at 64 elements
                flat, at = d.view(-1), ids[:, None] * shape[1] + torch.arange(shape[1])
                flat.index_add_(0, (at % min(64, flat.numel())).view(-1), g.float().reshape(-1))
                return None, d.to(dtype)
            d.index_add_(0, ids, g.float())
            if fault == "first id taken for padding":
                d[0] = 0
            return None, d.to(dtype)

    return Embedding


def plain_embedding(ids, table):
    return table[ids]


def grouped(fault: str = "") -> Function:
    """y_t = x_t W[g_t], the matrices one after another."""

    class Grouped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, groups):
            ctx.save_for_backward(x, W, groups)
            y = torch.empty(x.shape[0], W.shape[2], dtype=x.dtype)
            for k in range(W.shape[0]):
                y[groups == k] = (x[groups == k].float() @ W[k].float()).to(x.dtype)
            return y

        @staticmethod
        def backward(ctx, g):
            x, W, groups = ctx.saved_tensors
            dx = torch.empty_like(x)
            dW = torch.empty_like(W) if fault == "empty groups not written" else torch.zeros_like(W)
            for k in range(W.shape[0]):
                rows = (groups == k).nonzero()[:, 0]
                if fault == "empty groups not written" and not len(rows):
                    continue
                if fault == "last group missing" and k and k == W.shape[0] - 1:
                    continue
                dx[rows] = (g[rows].float() @ W[k].float().T).to(x.dtype)
                total = torch.zeros(W.shape[1:])
                for first in range(0, len(rows), CHUNK):
                    part = rows[first : first + CHUNK]
                    product = x[part].float().T @ g[part].float()
                    if fault == "summed in the low type":
                        total = (total + product.to(W.dtype).float()).to(W.dtype).float()
                    else:
                        total = product if fault == "last chunk wins" else total + product
                dW[k] = total.to(W.dtype)
            return dx, dW, None

    return Grouped


def plain_grouped(x, W, groups):
    return torch.bmm(x[:, None], W[groups])[:, 0]


def scan(fault: str = "") -> Function:
    """Sums from the start of the sequence on, in chunks with a carry."""

    def prefix(x: torch.Tensor, dtype: torch.dtype, fault: str) -> torch.Tensor:
        carry, parts = torch.zeros(x.shape[1]), []
        for k in range(0, x.shape[0], CHUNK):
            part = x[k : k + CHUNK].float().cumsum(0) + carry
            carry = torch.zeros_like(carry) if fault == "carry lost" else part[-1].clone()
            if fault == "carry in the low type":
                carry = carry.to(dtype).float()
            parts.append(part)
        return torch.cat(parts).to(dtype)

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return prefix(x, x.dtype, "")

        @staticmethod
        def backward(ctx, g):
            if fault == "summed from the start":
                return prefix(g, g.dtype, "")
            return prefix(g.flip(0), g.dtype, fault).flip(0)

    return Scan


def plain_scan(x):
    return x.cumsum(0)


def linear_attention(fault: str = "") -> Function:
    """o_t = q_t sum_{s <= t} k_s v_s, in chunks with a state."""

    def chunks(q, k, v, fault: str = ""):
        """o_t = q_t (sum_{s <= t} k_s outer v_s) in float32."""
        state, parts = torch.zeros(k.shape[1], v.shape[1]), []
        for j in range(0, q.shape[0], CHUNK):
            a, b, c = (t[j : j + CHUNK] for t in (q, k, v))
            parts.append(a @ state + torch.tril(a @ b.T) @ c)
            new = b.T @ c
            state = new if fault == "state of the last chunk only" else state + new
            if fault == "state in the low type":
                state = state.bfloat16().float()
        return torch.cat(parts)

    class LinearAttention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):
            ctx.save_for_backward(q, k, v)
            return chunks(q.float(), k.float(), v.float()).to(q.dtype)

        @staticmethod
        def backward(ctx, g):
            q, k, v = (t.float() for t in ctx.saved_tensors)
            gf = g.float()
            dq = chunks(gf, v, k, fault)
            back = [t.flip(0) for t in (q, k, v, gf)]
            dk = chunks(back[2], back[3], back[0], fault).flip(0)
            dv = chunks(back[1], back[0], back[3], fault).flip(0)
            if fault == "own key left out":
                dk = dk - (v * gf).sum(1, keepdim=True) * q
            if fault == "later chunks left out of dv":
                starts = range(0, len(k), CHUNK)
                parts = [[t[j : j + CHUNK].flip(0) for t in (k, q, gf)] for j in starts]
                dv = torch.cat([chunks(*part).flip(0) for part in parts])
            return dq.to(g.dtype), dk.to(g.dtype), dv.to(g.dtype)

    return LinearAttention


def plain_linear_attention(q, k, v):
    return torch.tril(q @ k.T) @ v


KERNELS = [
    Kernel(
        "embedding",
        embedding,
        plain_embedding,
        {"ids": "T: labels V", "table": "V D"},
        ("summed in the low type", "last of equal ids wins", "offset wraps", "first id taken for padding"),
    ),
    Kernel(
        "grouped_matmul",
        grouped,
        plain_grouped,
        {"x": "T D", "W": "G D H", "groups": "T: labels G"},
        ("empty groups not written", "last group missing", "summed in the low type", "last chunk wins"),
    ),
    Kernel(
        "scan",
        scan,
        plain_scan,
        {"x": "T D"},
        ("carry lost", "carry in the low type", "summed from the start"),
    ),
    Kernel(
        "linear_attention",
        linear_attention,
        plain_linear_attention,
        {"q": "T D", "k": "T D", "v": "T E"},
        (
            "state of the last chunk only",
            "state in the low type",
            "own key left out",
            "later chunks left out of dv",
        ),
    ),
]
