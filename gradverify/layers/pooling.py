"""Pooling and resampling: windows of any stride, padded and overhanging, and interpolation along an axis."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register
from gradverify.layers.conv import frame, overlap_add, windows
from gradverify.layers.indexing import add_at


def _count(size, kernel, stride, padding, ceil_mode):
    """Windows along one axis; with `ceil_mode` the last one may overhang, but starts inside (torch's rule)."""
    count = (size + 2 * padding - kernel + (stride - 1) * ceil_mode) // stride + 1
    return count - (ceil_mode and (count - 1) * stride >= size + padding)


def _cut(x, outside, kernel, stride, padding, ceil_mode):
    """Windows (..., P, Q, kh, kw) of the image with the value `outside` around it."""
    margins, counts = [], []
    for size, k, s, p in zip(x.shape[-2:], kernel, stride, padding):
        counts.append(_count(size, k, s, p, ceil_mode))
        margins.append((p, max(p, (counts[-1] - 1) * s + k - size - p)))
    return windows(frame(x, margins, outside), kernel, stride, (1, 1))[..., : counts[0], : counts[1], :, :]


def _paste(parts, sizes, stride, padding):
    """The transpose of `_cut`: add windows into an image of those sizes."""
    counts, kernel = parts.shape[-4:-2], parts.shape[-2:]
    framed = [max(p + n, (c - 1) * s + k) for n, c, k, s, p in zip(sizes, counts, kernel, stride, padding)]
    (top, left), (height, width) = padding, sizes
    return overlap_add(parts, framed, stride, (1, 1))[..., top : top + height, left : left + width]


def _poolable(x, kernel, padding):
    return all(n > 0 and 2 * p <= k <= n + 2 * p for n, k, p in zip(x.shape[-2:], kernel, padding))


WINDOWS = {
    "kernel": ([2, 3], [2, 3, 1]),
    "stride": ([1, 2, 3], [1, 2, 3]),
    "padding": ([0, 1], [0, 1]),
    "ceil_mode": [False, True],
}


@register
class max_pool2d:
    """The maximum of each window; of equal maxima the first, row by row, takes the gradient."""

    x = "N C H W"
    batch = "N"
    empty = True
    options = WINDOWS
    assume = staticmethod(_poolable)

    @staticmethod
    def forward(x, kernel, stride, padding, ceil_mode):
        cut = _cut(x, -np.inf, kernel, stride, padding, ceil_mode)
        flat = cut.reshape(*cut.shape[:-2], kernel[0] * kernel[1])
        winner = flat.argmax(-1)[..., None]
        return np.take_along_axis(flat, winner, -1)[..., 0], (winner, x.shape[-2:])

    @staticmethod
    def backward(dy, saved, kernel, stride, padding):
        winner, sizes = saved
        parts = np.zeros((*dy.shape, kernel[0] * kernel[1]), dy.dtype)
        np.put_along_axis(parts, winner, dy[..., None], -1)
        return _paste(parts.reshape(*dy.shape, *kernel), sizes, stride, padding)


def _covered(size, kernel, stride, padding, ceil_mode, margin):
    """How many positions each window has within `margin` of the image."""
    start = np.arange(_count(size, kernel, stride, padding, ceil_mode)) * stride - padding
    return np.minimum(start + kernel, size + margin) - np.maximum(start, -margin)


@register
class avg_pool2d:
    """The mean of each window; padding counts as zeros, or not at all, and what overhangs never counts."""

    x = "N C H W"
    batch = "N"
    empty = True
    options = {**WINDOWS, "count_include_pad": [True, False]}
    assume = staticmethod(_poolable)

    @staticmethod
    def forward(x, kernel, stride, padding, ceil_mode, count_include_pad):
        rows, columns = (
            _covered(n, k, s, p, ceil_mode, p if count_include_pad else 0)
            for n, k, s, p in zip(x.shape[-2:], kernel, stride, padding)
        )
        area = np.multiply.outer(rows, columns).astype(x.dtype)
        return _cut(x, 0, kernel, stride, padding, ceil_mode).sum((-2, -1)) / area, (area, x.shape[-2:])

    @staticmethod
    def backward(dy, saved, kernel, stride, padding):
        area, sizes = saved
        parts = np.broadcast_to((dy / area)[..., None, None], (*dy.shape, *kernel))
        return _paste(parts, sizes, stride, padding)


@register
class upsample_nearest:
    """y_i = x(floor(i / scale)) along the last axis."""

    x = "N C L"
    batch = "N"
    options = {"scale": [2, 1, 3, 1.25, 1.5]}

    @staticmethod
    def forward(x, scale):
        source = np.arange(int(x.shape[-1] * scale)) / scale
        source = np.minimum(source.astype(int), x.shape[-1] - 1)
        return x[..., source], (source, x.shape)

    @staticmethod
    def backward(dy, saved):
        source, shape = saved
        return add_at(shape, (..., source), dy)


@register
class upsample_linear:
    """y_i = x interpolated at (i + 1/2) / scale - 1/2 along the last axis, or with the end points aligned."""

    x = "N C L"
    batch = "N"
    options = {"scale": [2, 1, 3, 1.25, 1.5], "align_corners": [False, True]}

    @staticmethod
    def forward(x, scale, align_corners):
        size = x.shape[-1]
        count = int(size * scale)
        place = np.arange(count) * (size - 1) / max(count - 1, 1)
        if not align_corners:
            place = np.clip((np.arange(count) + 0.5) / scale - 0.5, 0, size - 1)
        left = place.astype(int)
        right, weight = np.minimum(left + 1, size - 1), (place - left).astype(x.dtype)
        return x[..., left] * (1 - weight) + x[..., right] * weight, (left, right, weight, x.shape)

    @staticmethod
    def backward(dy, saved):
        left, right, weight, shape = saved
        return add_at(shape, (..., left), dy * (1 - weight)) + add_at(shape, (..., right), dy * weight)
