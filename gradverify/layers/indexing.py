"""Rows picked by integers, and sums over rows picked by integers: repeated indices add up."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register


def add_at(shape, index, values):
    """Zeros of `shape` with `values` added at `index`; sums are kept in double precision or better."""
    total = np.zeros(shape, np.result_type(values, np.float64))
    np.add.at(total, index, values)
    return total.astype(values.dtype)


@register
class embedding:
    """y_nt = table[ids_nt]; positions that hold `padding_idx` give 0 and pass no gradient."""

    ids, table = "N T: indices V", "V D"
    returns = "N T D"
    batch = "N"
    options = {"padding_idx": [None, 0, 1]}

    @staticmethod
    def forward(ids, table, padding_idx):
        keep = np.ones(ids.shape, bool) if padding_idx is None else ids != padding_idx
        rows = np.take(table, ids, axis=-2)
        return np.where(keep[..., None], rows, 0), (ids, keep, table.shape)

    @staticmethod
    def backward(dy, saved):
        ids, keep, shape = saved
        return add_at(shape, ids[keep], dy[keep])


@register
class gather:
    """y_ntd = x_n(index_ntd)d, as take_along_axis does along the middle axis."""

    x, index = "N V D", "N T D: indices V"
    returns = "N T D"
    batch = "N"

    @staticmethod
    def forward(x, index):
        leading = (1,) * (x.ndim - index.ndim)
        return np.take_along_axis(x, index.reshape(leading + index.shape), axis=-2), (x.shape, index)

    @staticmethod
    def backward(dy, saved):
        shape, index = saved
        rows, columns = np.arange(shape[0])[:, None, None], np.arange(shape[2])
        return add_at(shape, (rows, index, columns), dy)


@register
class segment_sum:
    """y_k = sum of the x_n with segments_n = k; a segment without rows gives 0."""

    x, segments = "N D", "N: labels K"
    returns = "K D"
    options = {"K": [1, 2, 3, 5]}

    @staticmethod
    def forward(x, segments, K):
        shape = (*x.shape[:-2], K, x.shape[-1])
        return add_at(shape, (..., segments, slice(None)), x), segments

    @staticmethod
    def backward(dy, segments):
        return dy[segments]


@register
class scatter_add:
    """y = base, with values_n added to row index_n."""

    base, index, values = "K D", "N: indices K", "N D"
    returns = "K D"

    @staticmethod
    def forward(base, index, values):
        return base + add_at(base.shape, (..., index, slice(None)), values), index

    @staticmethod
    def backward(dy, index):
        return dy.copy(), dy[index]
