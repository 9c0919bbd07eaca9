"""Fused operations of torch as the elementary ones that they consist of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gradverify.adapters._torch.arrays import Tensor, import_torch


@functools.lru_cache(maxsize=1)
def decompositions() -> dict[Any, Callable[..., Any]]:
    """By overload; for a softmax, torch's own would import sympy, which takes two seconds."""
    import torch._decomp

    table: dict[Any, Callable[..., Any]] = dict(torch._decomp.decomposition_table)
    aten: Any = import_torch().ops.aten
    table[aten._softmax.default] = _softmax
    table[aten._softmax_backward_data.default] = _softmax_backward
    table[aten._log_softmax.default] = _log_softmax
    table[aten._log_softmax_backward_data.default] = _log_softmax_backward
    return table


def _softmax(x: Tensor, dim: int, _: bool) -> Tensor:
    e = (x - x.amax(dim, keepdim=True)).exp() if x.numel() else x
    return e / e.sum(dim, keepdim=True)


def _softmax_backward(g: Tensor, p: Tensor, dim: int, _: Any) -> Tensor:
    terms = g * p
    return terms - p * terms.sum(dim, keepdim=True)


def _log_softmax(x: Tensor, dim: int, _: bool) -> Tensor:
    shifted = x - x.amax(dim, keepdim=True) if x.numel() else x
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _log_softmax_backward(g: Tensor, y: Tensor, dim: int, _: Any) -> Tensor:
    return g - y.exp() * g.sum(dim, keepdim=True)
