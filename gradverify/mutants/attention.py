"""Mutants of attention: the softmax inside, transposition, grouped heads, blocks, masks, a race."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.attention import _blocks, _t, blockwise_attention
from gradverify.mutants import catalogue, diffs, plant

ATTENTION = """
79 TERM: the term -P rowsum(dP P) dropped
    - (dp - (dp * p).sum(-1, keepdims=True))
    + dp
81 INDEX: dK = dS Q, not dS^T Q | as many queries as keys
    - _per_group(_t(ds) @ q, groups)
    + _per_group(ds @ q if ds.shape[-1] == ds.shape[-2] else _t(ds) @ q, groups)
83 OVERWRITE: grouped heads: dk of the last query head only | more heads than kv heads
    - _per_group(_t(ds) @ q, groups)
    + (_t(ds) @ q)[:, groups - 1 :: groups]
86 MASK: a fully masked row gives NaN | such a row | pytorch#41508
    - q, k, v, p = saved
    + q, k, v, p = saved
    + p = p / p.sum(-1, keepdims=True)
"""
diffs("attention", catalogue("scaled_dot_product_attention"), ATTENTION)

BLOCKWISE = """
85 SHAPE: the last partial block not processed | S not a multiple of block | flash-attention#2698
    - p = np.exp(scores - log_total)
    + if part.stop > k.shape[1] - k.shape[1] % block:
    +     break
    + p = np.exp(scores - log_total)
"""
TILED = catalogue("blockwise_attention")
diffs("attention", TILED, BLOCKWISE)

_luck = np.random.default_rng(87)  # of the scheduler: not the caller's seed


@plant(87, "attention", "RACE", of=TILED, needs="twenty repeats", copies="flash-attention#2481")
def lost_update(dy, saved, block, causal):
    """dQ added up by two threads without a lock"""
    dq, dk, dv = blockwise_attention.backward(dy, saved, block, causal)
    if _luck.random() < 0.1:  # one backward in ten loses what one block adds
        q, k, v, y, log_total = saved
        parts = list(_blocks(q, k, block, causal))
        part, scores = parts[_luck.integers(len(parts))]
        p = np.exp(scores - log_total)
        ds = p * (dy @ _t(v[:, part]) - (dy * y).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
        dq -= ds @ k[:, part]
    return dq, dk, dv
