"""Layer norm and RMS norm, with weight gradients by partial sums over blocks of rows."""

from __future__ import annotations

import torch

from tests.kernels import Function, Kernel

ROWS = 16  # of a block
EPS = 1e-5


def summed(products: torch.Tensor, fault: str, out: torch.dtype) -> torch.Tensor:
    """Sum over rows by partial sums of blocks; (N, D) to (D,)."""
    n = products.shape[0]
    if fault == "weight gradient summed in the low type":
        total = torch.zeros(products.shape[1:], dtype=out)
        for row in products:
            total += row.to(out)
        return total
    parts = [products[k : k + ROWS].sum(0) for k in range(0, n, ROWS)]
    if fault == "tail rows lost" and n % ROWS and n > ROWS:
        parts = parts[:-1]
    if fault == "partial sums lost":
        parts = parts[-1:]
    if fault == "partial sums in the low type":
        parts = [p.to(out).float() for p in parts]
    return torch.stack(parts).sum(0).to(out) if parts else torch.zeros(products.shape[1:], dtype=out)


def layer_norm(fault: str = "") -> Function:
    stale: dict[torch.Size, torch.Tensor] = {}

    class LayerNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, b):
            wide = x.float()
            mean = wide.mean(1, keepdim=True)
            if fault == "two moments":
                variance = (wide * wide).mean(1, keepdim=True) - mean * mean
            else:
                variance = ((wide - mean) ** 2).mean(1, keepdim=True)
            rstd = (variance + EPS).rsqrt()
            y = ((wide - mean) * rstd * w.float() + b.float()).to(x.dtype)
            if fault == "statistics saved in the low type":
                mean, rstd = mean.to(x.dtype), rstd.to(x.dtype)
            ctx.save_for_backward(x, w, b, mean, rstd, y)
            return y

        @staticmethod
        def backward(ctx, g):
            x, w, b, mean, rstd, y = ctx.saved_tensors
            mean, rstd, wide = mean.float(), rstd.float(), g.float()
            xhat = (x.float() - mean) * rstd
            if fault == "recomputed from the rounded output":
                xhat = (y.float() - b.float()) / w.float()
            gw = wide * w.float()
            middle = xhat * (gw * xhat).mean(1, keepdim=True)
            shift = 0.0 if fault == "mean term missing" else gw.mean(1, keepdim=True)
            dx = ((gw - shift - middle) * rstd).to(x.dtype)
            dw = summed(wide * xhat, fault, w.dtype)
            if fault == "stale buffer":
                dw = stale[dw.shape] = stale.get(dw.shape, torch.zeros_like(dw)) + dw
            if fault == "tail columns not stored" and x.shape[1] > 32:
                dw[x.shape[1] // 32 * 32 :] = 0
            return dx, dw, summed(wide, fault, b.dtype)

    return LayerNorm


def plain_layer_norm(x, w, b):
    centred = x - x.mean(1, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + EPS) * w + b


def rms_norm(fault: str = "") -> Function:
    class RMSNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            wide = x.float()
            rstd = ((wide * wide).mean(1, keepdim=True) + EPS).rsqrt()
            ctx.save_for_backward(x, w, rstd)
            return (wide * rstd * w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w, rstd = ctx.saved_tensors
            wide = g.float()
            xhat = x.float() * rstd
            gw = wide * w.float()
            count = 32.0 if fault == "mean over a block" and x.shape[1] > 32 else float(x.shape[1])
            middle = xhat * (gw * xhat).sum(1, keepdim=True) / count
            if fault == "projection missing":
                middle = torch.zeros_like(middle)
            return ((gw - middle) * rstd).to(x.dtype), summed(wide * xhat, fault, w.dtype)

    return RMSNorm


def plain_rms_norm(x, w):
    return x * torch.rsqrt((x * x).mean(1, keepdim=True) + EPS) * w


KERNELS = [
    Kernel(
        "layer_norm",
        layer_norm,
        plain_layer_norm,
        {"x": "N D", "w": "D", "b": "D"},
        (
            "two moments",
            "statistics saved in the low type",
            "recomputed from the rounded output",
            "mean term missing",
            "weight gradient summed in the low type",
            "tail rows lost",
            "partial sums lost",
            "stale buffer",
            "tail columns not stored",
        ),
    ),
    Kernel(
        "rms_norm",
        rms_norm,
        plain_rms_norm,
        {"x": "N D", "w": "D"},
        ("mean over a block", "projection missing", "weight gradient summed in the low type", "tail rows lost"),
    ),
]
