"""RMS norm in Triton, forward and backward, with its weight gradient: right, and wrong in ways that Triton invites.

Import it with TRITON_INTERPRET=1 in the environment where there is no GPU: it is read when a kernel is declared.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tests.kernels import Function, Kernel

BLOCK = 16  # columns
ROWS = 16
EPS = 1e-5


@triton.jit
def normalised(x, w, y, rstd, D, eps, BLOCK: tl.constexpr):
    """A row for each program."""
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        part = tl.load(x + row * D + at, mask=at < D, other=0.0).to(tl.float32)
        total += part * part
    r = 1.0 / tl.sqrt(tl.sum(total, axis=0) / D + eps)
    tl.store(rstd + row, r)
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        part = tl.load(x + row * D + at, mask=at < D, other=0.0).to(tl.float32)
        weight = tl.load(w + at, mask=at < D, other=0.0).to(tl.float32)
        tl.store(y + row * D + at, part * r * weight, mask=at < D)


@triton.jit
def of_rows(x, w, g, rstd, dx, D, BLOCK: tl.constexpr, TAIL: tl.constexpr, PROJECTED: tl.constexpr):
    """dx, a row for each program."""
    row = tl.program_id(0)
    r = tl.load(rstd + row)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < D
        part = tl.load(x + row * D + at, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
        total += part * r * weight * tl.load(g + row * D + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / D * PROJECTED
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        inside = at < D
        part = tl.load(x + row * D + at, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(g + row * D + at, mask=inside, other=0.0).to(tl.float32)
        if TAIL:
            tl.store(dx + row * D + at, (v * weight - part * r * mean) * r, mask=inside)
        elif first + BLOCK <= D:
            tl.store(dx + row * D + at, (v * weight - part * r * mean) * r)


@triton.jit
def of_columns(x, g, rstd, dw, N, D, BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, MASKED: tl.constexpr):
    """dw, a block of columns for each program, in tiles of rows."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), WIDE)
    for first in range(0, N, ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < N)[:, None] & (at < D)[None]
        place = rows[:, None] * D + at[None]
        part = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        v = tl.load(g + place, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(rstd + rows, mask=rows < N, other=0.0)
        if MASKED or first + ROWS <= N:
            total += tl.sum(part * r[:, None] * v, axis=0).to(WIDE)
    tl.store(dw + at, total, mask=at < D)


def rms_norm(fault: str = "") -> Function:
    class RMSNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            x, (n, d) = x.contiguous(), x.shape
            y, rstd = torch.empty_like(x), torch.empty(n, dtype=torch.float32, device=x.device)
            normalised[(n,)](x, w.contiguous(), y, rstd, d, EPS, BLOCK=BLOCK)
            ctx.save_for_backward(x, w, rstd)
            return y

        @staticmethod
        def backward(ctx, g):
            x, w, rstd = ctx.saved_tensors
            n, d = x.shape
            w = w.contiguous()
            g = g if fault == "upstream gradient taken as contiguous" else g.contiguous()
            dx = torch.zeros_like(x) if fault == "tail block not stored" else torch.empty_like(x)
            dw = torch.empty(d, dtype=w.dtype, device=x.device)
            tail, projected = fault != "tail block not stored", float(fault != "projection missing")
            of_rows[(n,)](x, w, g, rstd, dx, d, BLOCK=BLOCK, TAIL=tail, PROJECTED=projected)
            wide = tl.float16 if fault == "accumulator in float16" else tl.float32
            masked = fault != "tail rows lost"
            grid = (triton.cdiv(d, BLOCK),)
            of_columns[grid](x, g, rstd, dw, n, d, BLOCK=BLOCK, ROWS=ROWS, WIDE=wide, MASKED=masked)
            return dx, dw

    return RMSNorm


def plain_rms_norm(x, w):
    return x * torch.rsqrt((x * x).mean(1, keepdim=True) + EPS) * w


KERNELS = [
    Kernel(
        "rms_norm in Triton",
        rms_norm,
        plain_rms_norm,
        {"x": "N D", "w": "D"},
        (
            "tail block not stored",
            "upstream gradient taken as contiguous",
            "accumulator in float16",
            "tail rows lost",
            "projection missing",
        ),
    )
]
