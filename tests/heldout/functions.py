"""Functions and modules of torch."""

from __future__ import annotations

from gradverify.core.declare.layer import Layer
from tests.heldout import put


def _functions() -> dict[str, tuple]:
    import torch

    class Detached(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return torch.sin(x) * w

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g * torch.cos(x.detach()) * w, (g * torch.sin(x)).sum(0)

    class AsIfContiguous(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 3

        @staticmethod
        def backward(ctx, g):
            return torch.as_strided(g, g.shape, (g.shape[1], 1)) * 3

    class OnlyIfBoth(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g @ w.T, x.T @ g if ctx.needs_input_grad[0] else torch.zeros_like(w)

    class HardTanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(-1, 1)

        @staticmethod
        def backward(ctx, g):
            return g.clone()

    class RowMean(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.size = x.shape
            return x.mean(1)

        @staticmethod
        def backward(ctx, g):
            return (g / ctx.size[0])[:, None].expand(ctx.size)

    class OnClass(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            OnClass.x = x
            return x**3

        @staticmethod
        def backward(ctx, g):
            return 3 * g * OnClass.x**2 if OnClass.x.shape == g.shape else g * 0

    matrix, pair = {"x": "N D"}, {"x": "N D", "w": "D"}
    return {
        "Detached": (Detached, pair, "ORDER2", "the second derivative lacks what flows through x"),
        "AsIfContiguous": (AsIfContiguous, matrix, "LAYOUT", "counts on a contiguous upstream gradient"),
        "OnlyIfBoth": (OnlyIfBoth, {"x": "N D", "w": "D H"}, "MODE", "w gets no gradient unless x wants one"),
        "HardTanh": (HardTanh, matrix, "TERM", "passes the gradient where forward is flat"),
        "RowMean": (RowMean, matrix, "INDEX FACTOR", "divided by N instead of D"),
        "OnClass": (OnClass, matrix, "STALE", "x of the last call is kept on the class"),
    }


def _build(name: str) -> Layer:
    from gradverify.adapters import as_layer

    target, declaration, *_ = _functions()[name]
    return as_layer(target, name=name, **declaration)


for _name, (_, _, _classes, _sentence) in _functions().items():
    put(f"torch_{_name}", _classes, _sentence, lambda n=_name: _build(n))  # type: ignore[misc]
