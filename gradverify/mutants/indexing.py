"""Mutants of embedding and gather: repeated indices, the padding row, the precision of the sum."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.indexing import add_at
from gradverify.mutants import catalogue, plant

EMBEDDING = catalogue("embedding")


@plant(74, "embedding", "REPEAT-IDX", of=EMBEDDING, needs="repeats", copies="pytorch#1631")
def rows_overwrite(dy, saved):
    """dW[idx] = dy"""
    ids, keep, shape = saved
    dW = np.zeros(shape, dy.dtype)
    dW[ids[keep]] = dy[keep]
    return dW


@plant(76, "embedding", "MASK", of=EMBEDDING, needs="padding drawn", copies="pytorch#3842")
def padding_counts(dy, saved):
    """the padding row gets a gradient"""
    ids, _, shape = saved
    return add_at(shape, ids, dy)


@plant(77, "embedding", "PRECISION", of=EMBEDDING, needs="many repeats, float16", copies="mxnet#17703")
def half_sum(dy, saved):
    """the sum kept in float16"""
    ids, keep, shape = saved
    total = np.zeros(shape, np.float16)
    np.add.at(total, ids[keep], dy[keep].astype(np.float16))
    return total.astype(dy.dtype)


@plant(78, "gather", "REPEAT-IDX", of=catalogue("gather"), needs="sizes that differ", copies="AiDotNet.Tensors#894")
def gathers_again(dy, saved):
    """backward uses gather"""
    shape, index = saved
    reach = np.minimum(np.resize(index, shape), dy.shape[1] - 1)
    return np.take_along_axis(dy, reach, axis=1)
