"""Mutants of losses: the softmax and its cross-entropy, Huber, cosine similarity."""

from gradverify.mutants import catalogue, diffs

SOFTMAX = """
66 TERM: backward is p (1 - p) dy | | ML-From-Scratch#71
    - return y * (d - np.sum(d * y, axis=axis, keepdims=True))
    + return y * (1 - y) * dy
"""
diffs("softmax", catalogue("softmax"), SOFTMAX)

ENTROPY = """
67 TAIL: exp once more, without the shift by the maximum | logits near 1e3
    - (p, q, target, norm)
    + (x, q, target, norm)
    - p, q, target, norm = saved
    + x, q, target, norm = saved
    + p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
69 MASK: the mean divides by N, not by the kept rows | ignore_index
    - (p, q, target, norm)
    + (p, q, target, max(weight[labels].sum(), 1e-300) if reduction == "mean" else norm)
71 OPTION: class weights missing in backward | weights
    - (p, q, target, norm)
    + (p, q, keep * (hit * (1 - smoothing) + smoothing / classes), norm)
72 OPTION: label smoothing missing in backward | smoothing > 0 | Liger#243
    - (p, q, target, norm)
    + (p, q, keep * hit * weight, norm)
"""
diffs("softmax-ce", catalogue("softmax_cross_entropy"), ENTROPY)

HUBER = """
96 UPSTREAM: ignores dy | dy not 1 | chainer#1178
    - shared(dE, d.shape, reduction)
    + shared(np.ones_like(dE), d.shape, reduction)
97 FACTOR: forward halved, backward not | | dynet#1310
    - np.clip(d, -delta, delta)
    + np.clip(2 * d, -2 * delta, 2 * delta)
99 TERM: compares d < delta, not |d| | d < -delta | attorch#13
    - np.clip(d, -delta, delta)
    + np.where(d < delta, d, delta)
"""
diffs("huber", catalogue("huber"), HUBER)

COSINE = """
100 TERM: norms treated as constants
    - dy * (v - np.where(p > eps, y * u, 0)) / np.maximum(p, eps)
    + dy * v / np.maximum(p, eps)
    - dy * (u - np.where(q > eps, y * v, 0)) / np.maximum(q, eps)
    + dy * u / np.maximum(q, eps)
102 SINGULAR: no guard eps | a zero vector | pytorch#3264
    - y * u, 0)) / np.maximum(p, eps)
    + y * u, 0)) / np.where(p > 0, np.maximum(p, eps), p)
    - y * v, 0)) / np.maximum(q, eps)
    + y * v, 0)) / np.where(q > 0, np.maximum(q, eps), q)
"""
diffs("cosine", catalogue("cosine_similarity"), COSINE)
