"""Mutants of attention: the softmax inside, transposition, grouped heads, blocks, masks, a race."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.attention import _blocks, _per_group, _t, blockwise_attention
from gradverify.mutants import catalogue, plant

ATTENTION, BLOCKWISE = catalogue("scaled_dot_product_attention"), catalogue("blockwise_attention")


def _scores(dy, q, v, p):
    """Gradient of the scores: ds = p (dp - rowsum(dp p)) / sqrt(E)."""
    dp = dy @ _t(v)
    return p * (dp - (dp * p).sum(-1, keepdims=True)) * max(q.shape[-1], 1) ** -0.5


@plant(79, "attention", "TERM", of=ATTENTION)
def row_sum_dropped(dy, saved, groups):
    """the term -P rowsum(dP P) dropped"""
    q, k, v, p = saved
    ds = p * (dy @ _t(v)) * max(q.shape[-1], 1) ** -0.5
    return ds @ k, _per_group(_t(ds) @ q, groups), _per_group(_t(p) @ dy, groups)


@plant(81, "attention", "INDEX", of=ATTENTION, needs="as many queries as keys")
def scores_untransposed(dy, saved, groups):
    """dK = dS Q, not dS^T Q"""
    q, k, v, p = saved
    ds = _scores(dy, q, v, p)
    dk = ds @ q if ds.shape[-1] == ds.shape[-2] else _t(ds) @ q  # any other shape would raise
    return ds @ k, _per_group(dk, groups), _per_group(_t(p) @ dy, groups)


@plant(83, "attention", "OVERWRITE", of=ATTENTION, needs="more heads than kv heads")
def last_head(dy, saved, groups):
    """grouped heads: dk of the last query head only"""
    q, k, v, p = saved
    ds = _scores(dy, q, v, p)
    return ds @ k, (_t(ds) @ q)[:, groups - 1 :: groups], _per_group(_t(p) @ dy, groups)


@plant(85, "attention", "SHAPE", of=BLOCKWISE, needs="S not a multiple of block", copies="flash-attention#2698")
def tail_block_skipped(dy, saved, block, causal):
    """the last partial block not processed"""
    q, k, v, y, log_total = saved
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    whole = k.shape[1] - k.shape[1] % block
    mean = (dy * y).sum(-1, keepdims=True)
    for part, scores in _blocks(q, k, block, causal):
        if part.stop > whole:
            break
        p = np.exp(scores - log_total)
        ds = p * (dy @ _t(v[:, part]) - mean) * q.shape[-1] ** -0.5
        dq += ds @ k[:, part]
        dk[:, part] = _t(ds) @ q
        dv[:, part] = _t(p) @ dy
    return dq, dk, dv


@plant(86, "attention", "MASK", of=ATTENTION, needs="such a row", copies="pytorch#41508")
def masked_row(dy, saved, groups):
    """a fully masked row gives NaN"""
    q, k, v, p = saved
    p = p / p.sum(-1, keepdims=True)
    ds = _scores(dy, q, v, p)
    return ds @ k, _per_group(_t(ds) @ q, groups), _per_group(_t(p) @ dy, groups)


_luck = np.random.default_rng(87)  # of the scheduler: not the caller's seed


@plant(87, "attention", "RACE", of=BLOCKWISE, needs="twenty repeats", copies="flash-attention#2481")
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
