"""A matrix product of operands in eight bits, each with its scale; sums in float32, the output in bfloat16."""

from __future__ import annotations

import torch

from tests.kernels import Function, Kernel

BLOCK = 16


def cast(x: torch.Tensor, dtype: torch.dtype, saturating: bool) -> torch.Tensor:
    """To eight bits and back; where it does not saturate, what is beyond the range is no number, as on some GPUs."""
    limit = torch.finfo(dtype).max
    return (
        x.clamp(-limit, limit).to(dtype).float()
        if saturating or not (x.abs() > limit).any()
        else x.where(x.abs() <= limit, torch.nan)
    )


def scaled_product(fault: str = "", dtype: torch.dtype = torch.float8_e4m3fn) -> Function:
    """y = (x s) (w t): x and w have eight bits."""

    class ScaledProduct(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, s, t):
            x8, w8 = x.to(dtype), w.to(dtype)  # exact: such values come in
            ctx.save_for_backward(x8, w8, s, t)
            total = torch.zeros(x.shape[0], w.shape[1])
            for k in range(0, x.shape[1], BLOCK):
                total += x8[:, k : k + BLOCK].float() @ w8[k : k + BLOCK].float()
            return (total * (s.float() * t.float())).bfloat16()

        @staticmethod
        def backward(ctx, g):
            x8, w8, s, t = ctx.saved_tensors
            s, t, x, w, wide = s.float(), t.float(), x8.float(), w8.float(), g.float()
            if fault == "saturation as NaN":
                w, t = cast(w * t, dtype, saturating=False), torch.ones(1)
            dx, dw = wide @ w.T * (s * t), x.T @ wide * (s * t)
            if fault == "scale forgotten in dx":
                dx = dx / s
            if fault == "scales swapped in dw":
                dw = x.T @ wide * (t * t)
            if fault == "gradient in eight bits":
                dw = dw.to(dtype).float()
            if fault == "summed in bfloat16":
                total = torch.zeros(dw.shape, dtype=torch.bfloat16)
                for a, b in zip(x, wide):
                    total += (a[:, None] * b).bfloat16()
                dw = total.float() * (s * t)
            return dx.bfloat16(), dw.bfloat16(), None, None

    return ScaledProduct


def scaled_product_e5m2(fault: str = "") -> Function:
    return scaled_product(fault, torch.float8_e5m2)


def plain(x, w, s, t):
    return (x * s) @ (w * t)


_DECLARED = {"x": "N K", "w": "K M", "s": "1: between 0.25 16", "t": "1: between 0.25 16", "constants": ("s", "t")}
_FAULTS = (
    "scale forgotten in dx",
    "scales swapped in dw",
    "saturation as NaN",
    "gradient in eight bits",
    "summed in bfloat16",
)

KERNELS = [
    Kernel("product_e4m3", scaled_product, plain, _DECLARED, _FAULTS, types=("float8_e4m3fn",)),
    Kernel(
        "product_e5m2",
        scaled_product_e5m2,
        plain,
        _DECLARED,
        tuple(f for f in _FAULTS if f != "saturation as NaN"),  # values stay far below its largest number
        types=("float8_e5m2",),
    ),
]
