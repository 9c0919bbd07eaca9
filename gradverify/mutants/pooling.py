"""Mutants of pooling and resampling: overlapping windows, ties, overhang, the scale."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.indexing import add_at
from gradverify.layers.pooling import _count, _cut, _paste, max_pool2d
from gradverify.mutants import catalogue, plant, remembering

MAX, AVG = catalogue("max_pool2d"), catalogue("avg_pool2d")


@plant(43, "maxpool", "OVERWRITE", of=MAX, needs="stride < kernel", copies="Flux.jl#1197")
def winners_overwrite(dy, saved, kernel, stride, padding):
    """dx[idx] = dy in place of +="""
    winner, (height, width) = saved
    at = np.indices(dy.shape)
    row = at[-2] * stride[0] - padding[0] + winner[..., 0] // kernel[1]
    column = at[-1] * stride[1] - padding[1] + winner[..., 0] % kernel[1]
    dx = np.zeros((*dy.shape[:-2], height, width), dy.dtype)
    dx[at[0], at[1], row, column] = dy
    return dx


@plant(44, "maxpool", "TIE", of=remembering("max_pool2d"), needs="ties", copies="Liger#1373")
def tied_maxima(dy, saved, kernel, stride, padding, ceil_mode):
    """all tied maxima get the full dy"""
    (_, sizes), (x,) = saved
    cut = _cut(x, -np.inf, kernel, stride, padding, ceil_mode)
    parts = np.where(cut == cut.max((-2, -1), keepdims=True), dy[..., None, None], 0)
    return _paste(parts, sizes, stride, padding)


@plant(46, "maxpool", "OPTION", of=MAX, needs="an overhang")
def tail_skipped(dy, saved, kernel, stride, padding, ceil_mode):
    """the tail window of ceil_mode skipped"""
    _, sizes = saved
    kept = [_count(n, k, s, p, False) for n, k, s, p in zip(sizes, kernel, stride, padding)]
    inside = np.zeros_like(dy)
    inside[..., : kept[0], : kept[1]] = dy[..., : kept[0], : kept[1]]
    return max_pool2d.backward(inside, saved, kernel, stride, padding)


@plant(49, "avgpool", "FACTOR", of=AVG)
def not_averaged(dy, saved, kernel, stride, padding):
    """1/k^2 forgotten"""
    _, sizes = saved
    return _paste(np.broadcast_to(dy[..., None, None], (*dy.shape, *kernel)), sizes, stride, padding)


@plant(115, "upsample", "OPTION", of=remembering("upsample_nearest"), needs="scale 1.25", copies="pytorch#97135")
def inverse_map(dy, saved, scale):
    """a scale that is no integer uses the inverse map"""
    (_, shape), _ = saved
    starts = (np.arange(shape[-1] + 1) * scale).astype(int)  # the first copy of x_j is at ceil(j scale), not floor
    starts[-1] = dy.shape[-1]
    source = np.searchsorted(starts, np.arange(dy.shape[-1]), side="right") - 1
    return add_at(shape, (..., source), dy)
