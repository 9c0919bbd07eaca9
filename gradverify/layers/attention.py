"""Attention: masked, causal, with grouped heads, block by block, and rotary positions."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register


def _t(a):
    return np.swapaxes(a, -1, -2)


def masked_softmax(scores, keep):
    """Softmax over the last axis among the kept entries; a row that keeps none is 0."""
    scores = np.where(keep, scores, -np.inf)
    peak = scores.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isfinite(peak), peak, 0))
    total = e.sum(-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


@register
class scaled_dot_product_attention:
    """y = softmax(q k^T / sqrt(E)) v over the keys that `mask` keeps; `causal`: query t sees keys 0 to t.

    Each head of k and v serves `groups` heads of q. A query that sees no key gives 0.
    """

    q, k, v, mask = "N groups*G T E", "N G S E", "N G S F", "N 1 1 S: mask"
    returns = "N groups*G T F"
    batch = "N"
    empty = True
    options = {"causal": [False, True], "groups": [1, 2, 3]}

    @staticmethod
    def forward(q, k, v, mask, causal, groups):
        keep = (mask != 0) & np.tri(q.shape[-2], k.shape[-2], dtype=bool) if causal else mask != 0
        k, v = np.repeat(k, groups, axis=-3), np.repeat(v, groups, axis=-3)
        p = masked_softmax(q @ _t(k) * max(q.shape[-1], 1) ** -0.5, keep)
        return p @ v, (q, k, v, p)

    @staticmethod
    def backward(dy, saved, groups):
        q, k, v, p = saved
        dp = dy @ _t(v)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * max(q.shape[-1], 1) ** -0.5
        return ds @ k, _per_group(_t(ds) @ q, groups), _per_group(_t(p) @ dy, groups)


def _per_group(gradient, groups):
    """Sum over the query heads that shared one head of k and v."""
    n, heads, *rest = gradient.shape
    return gradient.reshape(n, heads // groups, groups, *rest).sum(2)


def _split_heads(x, heads):
    """(..., T, heads E) to (..., heads, T, E)."""
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -2, -3)


def _join_heads(x):
    """(..., heads, T, E) to (..., T, heads E)."""
    x = np.swapaxes(x, -2, -3)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


@register
class multi_head_attention:
    """Self-attention y = attend(x Wq, x Wk, x Wv) Wo with `groups` query heads for each of `kv_heads`."""

    x, mask = "N T D", "N 1 T: mask"
    Wq, Wk, Wv = "D groups*kv_heads*E", "D kv_heads*E", "D kv_heads*E"
    Wo = "groups*kv_heads*E M"
    returns = "N T M"
    batch = "N"
    empty = True
    options = {"causal": [False, True], "kv_heads": [1, 2], "groups": [1, 2, 3]}

    @staticmethod
    def forward(x, mask, Wq, Wk, Wv, Wo, causal, kv_heads, groups):
        heads = (_split_heads(x @ W, n * kv_heads) for W, n in ((Wq, groups), (Wk, 1), (Wv, 1)))
        a, inner = scaled_dot_product_attention.forward(*heads, mask[..., None, :], causal, groups)
        a = _join_heads(a)
        return a @ Wo, (x, Wq, Wk, Wv, Wo, a, inner)

    @staticmethod
    def backward(dy, saved, kv_heads, groups):
        x, Wq, Wk, Wv, Wo, a, inner = saved
        da = _split_heads(dy @ Wo.T, kv_heads * groups)
        dq, dk, dv = map(_join_heads, scaled_dot_product_attention.backward(da, inner, groups))
        dx = dq @ Wq.T + dk @ Wk.T + dv @ Wv.T
        return dx, *(np.tensordot(u, du, ((0, 1), (0, 1))) for u, du in ((x, dq), (x, dk), (x, dv), (a, dy)))


def _blocks(q, k, block, causal):
    """Slices of the keys, the last one shorter if `block` does not divide, each with its scores."""
    visible = np.tri(q.shape[-2], k.shape[-2], dtype=bool) if causal else np.ones((1, k.shape[-2]), bool)
    for start in range(0, k.shape[-2], block):
        part = slice(start, start + block)
        scores = q @ _t(k[..., part, :]) * q.shape[-1] ** -0.5
        yield part, np.where(visible[:, part], scores, -np.inf)


@register
class blockwise_attention:
    """Attention over blocks of keys with a running softmax (Dao et al., FlashAttention, 2022).

    Only the logarithm of each softmax's denominator is kept; backward computes the scores once more.
    """

    q, k, v = "N T E", "N S E", "N S F"
    returns = "N T F"
    batch = "N"
    options = {"block": [2, 1, 3], "causal": [False, True]}

    @staticmethod
    def forward(q, k, v, block, causal):
        y = peak = total = None
        for part, scores in _blocks(q, k, block, causal):
            highest = scores.max(-1, keepdims=True)
            new = highest if peak is None else np.maximum(peak, highest)
            e = np.exp(scores - new)
            fade = 0 if peak is None else np.exp(peak - new)
            y = e @ v[..., part, :] + (0 if y is None else fade * y)
            total = e.sum(-1, keepdims=True) + (0 if total is None else fade * total)
            peak = new
        y = y / total
        return y, (q, k, v, y, peak + np.log(total))

    @staticmethod
    def backward(dy, saved, block, causal):
        q, k, v, y, log_total = saved
        dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
        mean = (dy * y).sum(-1, keepdims=True)  # = sum_s p_s dp_s, without the whole of p
        for part, scores in _blocks(q, k, block, causal):
            p = np.exp(scores - log_total)
            ds = p * (dy @ _t(v[..., part, :]) - mean) * q.shape[-1] ** -0.5
            dq += ds @ k[..., part, :]
            dk[..., part, :] = _t(ds) @ q
            dv[..., part, :] = _t(p) @ dy
        return dq, dk, dv


def _turn(x, sign, base, interleaved):
    """Rotate pairs of features by position times frequency, forwards or backwards."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[-2])[:, None] * float(base) ** (-np.arange(half) / max(half, 1))
    cos, sin = np.cos(angle).astype(x.dtype), (sign * np.sin(angle)).astype(x.dtype)
    first = (..., slice(0, None, 2)) if interleaved else (..., slice(0, half))
    second = (..., slice(1, None, 2)) if interleaved else (..., slice(half, None))
    y = np.empty(x.shape, x.dtype)
    y[first] = x[first] * cos - x[second] * sin
    y[second] = x[first] * sin + x[second] * cos
    return y


@register
class rotary:
    """Rotary positions (Su et al., RoFormer, 2021): pairs of features turn by t base^(-i/E)."""

    x = "*batch T 2*E"
    returns = "*batch T 2*E"
    empty = True
    options = {"base": [10000, 10], "interleaved": [False, True]}

    @staticmethod
    def forward(x, base, interleaved):
        return _turn(x, 1, base, interleaved), None

    @staticmethod
    def backward(dy, saved, base, interleaved):
        return _turn(dy, -1, base, interleaved)
