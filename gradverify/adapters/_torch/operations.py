"""Operations of torch by what they lose, how many terms each sum has, and what fused ones consist of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from gradverify.adapters._engines.lossy import FEW, UNIT
from gradverify.adapters._torch.arrays import Tensor, import_torch

FUSED = {
    "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "logsumexp",
    "native_layer_norm", "native_layer_norm_backward", "native_group_norm", "native_group_norm_backward",
    "native_batch_norm", "native_batch_norm_backward", "nll_loss_forward", "nll_loss_backward", "mse_loss",
    "silu", "silu_backward", "gelu", "gelu_backward", "sigmoid_backward", "_fused_rms_norm",
    "_fused_rms_norm_backward", "log_sigmoid_forward", "log_sigmoid_backward",
}  # fmt: skip
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "convolution", "convolution_backward"}
_SCATTERS = {"index_add", "scatter_add", "index_put", "_index_put_impl", "embedding_dense_backward"}
FOURIER = {"_fft_r2c", "_fft_c2c", "_fft_c2r"}
SUMS = {"sum", "mean", "cumsum", "nansum", *PRODUCTS, *_SCATTERS}
EXACT = {
    "copy", "fill", "zero", "zeros_like", "ones_like", "full", "arange", "clone", "_to_copy", "cat", "stack", "index",
    "gather", "embedding", "where", "masked_fill", "neg", "abs", "relu", "threshold_backward", "amax", "max", "amin",
    "min", "maximum", "minimum", "index_select", "select_backward", "slice_backward", "constant_pad_nd", "sign",
    "new_zeros", "new_empty_strided", "empty_like", "empty_strided", "ones", "zeros", "scalar_tensor", "scatter",
    "topk", "sort", "flip", "roll", "tril", "triu", "repeat", "clamp", "ge", "_local_scalar_dense", "round", "floor",
    "_unsafe_view",
}  # fmt: skip
CUT = {"relu", "clamp"}  # what they change has no terms
TF32 = "tf32"  # in which a GPU multiplies float32: eleven bits of significand


def rounded(value: Tensor, dtype: Any) -> Tensor:
    """As it comes back from another type."""
    return value.to(dtype).to(value.dtype)


def unit_of(dtype: Any) -> float:
    """Unit roundoff of a type."""
    return 2.0**-11 if dtype == TF32 else float(import_torch().finfo(dtype).eps) / 2


def spans(factor: Tensor, axes: int) -> list[bool]:
    """Along which of so many axes a factor has entries of its own, and not one that is repeated."""
    own = [size > 1 and step != 0 for size, step in zip(factor.shape, factor.stride())]
    return [False] * (axes - len(own)) + own


def terms_of(name: str, args: Any, result: Tensor) -> float:
    """Number of terms of each sum, at most."""
    tensors = [a for a in args if isinstance(a, import_torch().Tensor)]
    if name in ("mm", "bmm", "mv", "dot"):
        return int(tensors[0].shape[-1])
    if name in ("addmm", "baddbmm", "addmv"):
        return int(tensors[1].shape[-1]) + 1
    if name == "convolution":
        return int(tensors[1].numel() // max(1, tensors[1].shape[0])) + 1
    if name == "convolution_backward":
        return int(tensors[0].numel())
    if name == "cumsum":
        return int(tensors[0].shape[args[1]]) if tensors[0].ndim else 1
    if name in _SCATTERS:
        index = args[1] if name in ("embedding_dense_backward", "index_put", "_index_put_impl") else args[2]
        parts = index if isinstance(index, (tuple, list)) else (index,)
        return max((int(part.numel()) for part in parts if part is not None), default=int(result.numel()))
    return float(max(1, tensors[0].numel() // max(1, result.numel())))


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


def of_transform(count: int) -> float:
    """What a Fourier transform loses, as a share of the root mean square: a few roundings in each of log2 n steps."""
    return FEW * UNIT * math.log2(max(2, count))
