"""SwiGLU, rotary embedding, dropout by a counter, and quantisation with a straight-through gradient."""

from __future__ import annotations

import torch

from tests.kernels import Function, Kernel

BLOCK = 32


def swiglu(fault: str = "") -> Function:
    class SwiGLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            wide = a.float()
            return (wide * torch.sigmoid(wide) * b.float()).to(a.dtype)

        @staticmethod
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            if fault == "upstream gradient taken as contiguous":
                g = g.as_strided(g.shape, torch.empty(g.shape).stride()) if g.storage_offset() == 0 else g
            wide, gf = a.float(), g.float()
            s = torch.sigmoid(wide)
            slope = s if fault == "sigmoid for its product rule" else s * (1 + wide * (1 - s))
            da, db = gf * b.float() * slope, gf * wide * s
            if fault == "gate and value swapped":
                da, db = db, da
            if fault == "tail not stored":
                da[:, a.shape[1] // BLOCK * BLOCK :] *= float(a.shape[1] < BLOCK)
            return da.to(a.dtype), db.to(b.dtype)

    return SwiGLU


def plain_swiglu(a, b):
    return a * torch.sigmoid(a) * b


def angles(n: int, half: int, offset: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, (n, half); taken in float64 by both, for large angles lose digits in float32."""
    rate = 100.0 ** (-torch.arange(half, dtype=torch.float64) / max(1, half))
    angle = (torch.arange(n, dtype=torch.float64) + offset)[:, None] * rate
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotary(fault: str = "") -> Function:
    def turned(x: torch.Tensor, offset: int, sign: float) -> torch.Tensor:
        half = x.shape[1] // 2
        cos, sin = angles(x.shape[0], half, offset, torch.float32)
        a, b, rest = x.float()[:, :half], x.float()[:, half : 2 * half], x.float()[:, 2 * half :]
        return torch.cat([a * cos - sign * b * sin, b * cos + sign * a * sin, rest], 1).to(x.dtype)

    class Rotary(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, offset=0):
            ctx.offset = offset
            return turned(x, offset, 1.0)

        @staticmethod
        def backward(ctx, g):
            sign = 1.0 if fault == "turned the same way" else -1.0
            dx = turned(g, 0 if fault == "offset forgotten" else ctx.offset, sign)
            if fault == "odd column lost":
                dx[:, g.shape[1] // 2 * 2 :] = 0
            return dx, None

    return Rotary


def plain_rotary(x, offset=0):
    half = x.shape[1] // 2
    cos, sin = angles(x.shape[0], half, offset, x.dtype)
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[:, 2 * half :]], 1)


def kept(count: int, seed: int, start: int = 0) -> torch.Tensor:
    """A mask by a counter, which backward can make again: place and seed decide, as Philox does on a GPU."""
    place = (torch.arange(count) + start) * 2654435761 + seed * 40503 + 12345
    return ((place >> 7) ^ (place >> 13)) % 4 != 0


def dropout(fault: str = "") -> Function:
    class Dropout(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, seed=1):
            ctx.seed = seed
            return (x.float() * kept(x.numel(), seed).view(x.shape) / 0.75).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            n = g.numel()
            mask = kept(n, ctx.seed)
            if fault == "another seed in backward":
                mask = kept(n, ctx.seed + 1)
            if fault == "offset starts again in each block":
                mask = kept(BLOCK, ctx.seed).repeat(n // BLOCK + 1)[:n]
            scale = 1.0 if fault == "scale missing" else 0.75
            return (g.float() * mask.view(g.shape) / scale).to(g.dtype), None

    return Dropout


def plain_dropout(x, seed=1):
    return x * kept(x.numel(), seed).view(x.shape) / 0.75


def quantise(fault: str = "") -> Function:
    """Multiples of a scale within [-8, 7], with the gradient of a clamp."""

    class Quantise(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x, scale)
            return ((x.float() / scale.float()).round().clamp(-8, 7) * scale.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, scale = ctx.saved_tensors
            if fault == "clamp forgotten":
                return g.clone(), None
            steps = x.float() / scale.float()
            inside = (steps > -8) & (steps < (8 if fault == "other border" else 7))
            if fault == "gradient of round":
                inside = torch.zeros_like(inside)
            return torch.where(inside, g, torch.zeros_like(g)), None

    return Quantise


def plain_quantise(x, scale):
    steps = x / scale
    inside = steps.clamp(-8, 7)
    return (inside + (steps.round().clamp(-8, 7) - inside).detach()) * scale


def straight_through(x, scale):
    return (x / scale).clamp(-8, 7) * scale


def off_the_grid(x, scale):
    """Rounding and clamping decide alike in every precision: not next to a half or a border."""
    import numpy as np

    low = (
        torch.tensor(np.array(x, float)).bfloat16().double()  # a copy: torch knows no negative strides
        / torch.tensor(np.array(scale, float)).bfloat16().double()
    )
    return bool(
        (((low % 1) - 0.5).abs() > 0.02).all() and ((low - 7).abs() > 0.02).all() and ((low + 8).abs() > 0.02).all()
    )


KERNELS = [
    Kernel(
        "swiglu",
        swiglu,
        plain_swiglu,
        {"a": "N D", "b": "N D"},
        (
            "upstream gradient taken as contiguous",
            "sigmoid for its product rule",
            "gate and value swapped",
            "tail not stored",
        ),
    ),
    Kernel(
        "rotary",
        rotary,
        plain_rotary,
        {"x": "T D", "options": {"offset": [0, 7]}},
        ("turned the same way", "offset forgotten", "odd column lost"),
    ),
    Kernel(
        "dropout",
        dropout,
        plain_dropout,
        {"x": "N D", "options": {"seed": [1, 2, 77]}},
        ("another seed in backward", "offset starts again in each block", "scale missing"),
    ),
    Kernel(
        "quantise",
        quantise,
        plain_quantise,
        {
            "x": "N D",
            "scale": "1: between 0.5 2",
            "constants": "scale",
            "surrogate": straight_through,
            "assume": off_the_grid,
        },
        ("clamp forgotten", "gradient of round"),
        types=("bfloat16",),
    ),
]
