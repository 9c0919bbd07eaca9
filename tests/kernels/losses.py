"""Softmax cross-entropy, fused: one loss for each row, the vocabulary in blocks."""

from __future__ import annotations

import torch

from tests.kernels import Function, Kernel

BLOCK = 32


def cross_entropy(fault: str = "") -> Function:
    def rows(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maximum and sum of exponentials of each row, block by block."""
        x, (n, v) = logits.float(), logits.shape
        top = torch.zeros(n) if fault == "no maximum" else torch.full((n,), -float("inf"))
        total = torch.zeros(n)
        for k in range(0, v, BLOCK):
            part = x[:, k : k + BLOCK]
            if fault == "tail block not masked" and part.shape[1] < BLOCK:
                part = torch.nn.functional.pad(part, (0, BLOCK - part.shape[1]))
            new = top if fault == "no maximum" else torch.maximum(top, part.amax(1))
            if fault != "sum not rescaled":
                total = total * torch.exp(top - new)
            total += torch.exp(part - new[:, None]).sum(1)
            top = new
        return top, total

    class CrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, labels):
            top, total = rows(logits)
            lse = top + total.log()
            kept = lse.to(logits.dtype) if fault == "lse saved in the low type" else lse
            ctx.save_for_backward(logits, labels, kept)
            return (lse - logits.float().gather(1, labels[:, None])[:, 0]).to(logits.dtype)

        @staticmethod
        def backward(ctx, g):
            logits, labels, lse = ctx.saved_tensors
            n, v = logits.shape
            dx = torch.empty_like(logits)
            g = torch.ones_like(g) if fault == "upstream gradient ignored" else g
            power = torch.exp2 if fault == "exp2 without log2 e" else torch.exp
            for k in range(0, v, BLOCK):
                if fault == "tail block not stored" and k + BLOCK > v > BLOCK:
                    break
                p = power(logits[:, k : k + BLOCK].float() - lse.float()[:, None])
                at = labels - k
                here = (at >= 0) & (at < p.shape[1])
                if fault == "label of the first block only":
                    here &= k == 0
                p[here.nonzero()[:, 0], at[here]] -= 1.0
                dx[:, k : k + BLOCK] = (p * g.float()[:, None]).to(dx.dtype)
            return dx, None

    return CrossEntropy


def plain_cross_entropy(logits, labels):
    return torch.logsumexp(logits, 1) - logits.gather(1, labels[:, None])[:, 0]


KERNELS = [
    Kernel(
        "cross_entropy",
        cross_entropy,
        plain_cross_entropy,
        {"logits": "N V", "labels": "N: labels V"},
        (
            "no maximum",
            "tail block not masked",
            "sum not rescaled",
            "lse saved in the low type",
            "upstream gradient ignored",
            "exp2 without log2 e",
            "tail block not stored",
            "label of the first block only",
        ),
    )
]
