"""Attention in blocks of keys, with an online softmax, causal and sliding masks, and heads that share keys."""

from __future__ import annotations

import math

import torch

from tests.kernels import Function, Kernel

BLOCK = 16


def mask_of(queries: int, first: int, last: int, causal: bool, window: int, fault: str = "") -> torch.Tensor:
    """Which keys from `first` to `last` each query sees."""
    i, j = torch.arange(queries)[:, None], torch.arange(first, last)[None]
    seen = torch.ones(queries, last - first, dtype=torch.bool)
    if causal:
        seen &= (j < i) if fault == "causal mask one off" else (j <= i)
    if window:
        wide = window + 1 if fault == "other window in backward" else window
        seen &= (i - j).abs() < wide
    return seen


def attention(fault: str = "") -> Function:
    def wide(q, k, v):
        """Float32, and keys and values for each head of the queries."""
        group = q.shape[0] // k.shape[0]
        return q.float(), k.float().repeat_interleave(group, 0), v.float().repeat_interleave(group, 0)

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, causal=False, window=0):
            qf, kf, vf = wide(q, k, v)
            (heads, n, d), m = qf.shape, kf.shape[1]
            out = torch.zeros(heads, n, v.shape[2])
            top, total = torch.full((heads, n), -1e30), torch.zeros(heads, n)
            for j in range(0, m, BLOCK):
                end = min(j + BLOCK, m)
                s = qf @ kf[:, j:end].transpose(1, 2) / math.sqrt(d)
                s = s.masked_fill(~mask_of(n, j, end, causal, window), -float("inf"))
                new = torch.maximum(top, s.amax(2))
                p = torch.exp(s - new[..., None])
                shrink = torch.exp(top - new)
                total = total * shrink + p.sum(2)
                if fault != "output not rescaled":
                    out = out * shrink[..., None]
                out = out + p.to(q.dtype).float() @ vf[:, j:end]
                top = new
            out = out / total.clamp_min(1e-30)[..., None]
            lse = top + total.clamp_min(1e-30).log()
            y = out.to(q.dtype)
            ctx.save_for_backward(q, k, v, y, lse.to(q.dtype) if fault == "lse saved in the low type" else lse)
            ctx.mask = causal, window
            return y

        @staticmethod
        def backward(ctx, g, *_):
            q, k, v, y, lse = ctx.saved_tensors
            if fault == "upstream gradient taken as contiguous":
                g = g.as_strided(g.shape, torch.empty(g.shape).stride()) if g.storage_offset() == 0 else g
            qf, kf, vf = wide(q, k, v)
            (heads, n, d), m = qf.shape, kf.shape[1]
            causal, window = ctx.mask
            gf = g.float()
            delta = (gf * y.float()).sum(2, keepdim=True)
            if fault == "delta missing":
                delta = torch.zeros_like(delta)
            dq, dk, dv = torch.zeros_like(qf), torch.zeros_like(kf), torch.zeros_like(vf)
            scale = 1 / math.sqrt(d)
            power = torch.exp2 if fault == "exp2 without log2 e" else torch.exp
            low = q.dtype
            for j in range(0, m, BLOCK):
                if fault == "tail block of keys skipped" and j + BLOCK > m > BLOCK:
                    break
                end = min(j + BLOCK, m)
                s = qf @ kf[:, j:end].transpose(1, 2) * scale
                if not (fault == "no mask after the first block" and j):
                    s = s.masked_fill(~mask_of(n, j, end, causal, window, fault), -float("inf"))
                p = power(s - lse.float()[..., None])
                dv[:, j:end] = p.to(low).float().transpose(1, 2) @ gf
                ds = (p * (gf @ vf[:, j:end].transpose(1, 2) - delta)).to(low).float()
                part = ds @ kf[:, j:end] * (1.0 if fault == "scale missing in dq" else scale)
                dq = part.to(low).float() + dq.to(low).float() if fault == "dq summed in the low type" else dq + part
                dk[:, j:end] = ds.transpose(1, 2) @ qf * (1.0 if fault == "scale missing in dk" else scale)
            if fault == "scale in dv":
                dv = dv * scale
            group = heads // k.shape[0]
            dk, dv = (t.view(k.shape[0], group, *t.shape[1:]) for t in (dk, dv))
            if fault == "one head of the group":
                dk, dv = dk[:, 0], dv[:, 0]
            else:
                dk, dv = dk.sum(1), dv.sum(1)
            if fault == "odd head size":
                dq[..., d // 2 * 2 :] = 0
            return dq.to(low), dk.to(low), dv.to(low), None, None

    return Attention


def plain_attention(q, k, v, causal=False, window=0):
    group, (n, d), m = q.shape[0] // k.shape[0], q.shape[1:], k.shape[1]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    s = q @ k.transpose(1, 2) / math.sqrt(d)
    s = s.masked_fill(~mask_of(n, 0, m, causal, window), -1e30)
    seen = mask_of(n, 0, m, causal, window)
    return (torch.softmax(s, 2) * seen) @ v


KERNELS = [
    Kernel(
        "attention",
        attention,
        plain_attention,
        {
            "q": "2*H T D",
            "k": "H T D",
            "v": "H T E",
            "options": {"causal": [False, True], "window": [0, 5]},
        },
        (
            "output not rescaled",
            "lse saved in the low type",
            "upstream gradient taken as contiguous",
            "delta missing",
            "exp2 without log2 e",
            "tail block of keys skipped",
            "no mask after the first block",
            "causal mask one off",
            "other window in backward",
            "scale missing in dq",
            "scale missing in dk",
            "scale in dv",
            "one head of the group",
            "odd head size",
        ),
    )
]
