"""Convolutions, built on `windows` (an image to its windows) and `overlap_add` (its transpose)."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gradverify.adapters import register


def windows(x, kernel, stride, dilation):
    """A view of every window over the last axes: (..., L1, L2) to (..., P1, P2, k1, k2)."""
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation))
    view = sliding_window_view(x, reach, axis=tuple(range(-len(reach), 0)))
    return view[(..., *(slice(None, None, step) for step in (*stride, *dilation)))]


def overlap_add(parts, shape, stride, dilation):
    """The transpose of `windows`: add (..., P1, P2, k1, k2) into zeros of (..., *shape)."""
    rank = len(shape)
    counts, kernel = parts.shape[-2 * rank : -rank], parts.shape[-rank:]
    x = np.zeros((*parts.shape[: -2 * rank], *shape), parts.dtype)
    for at in np.ndindex(*kernel):
        place = (slice(k * d, k * d + s * n, s) for k, d, s, n in zip(at, dilation, stride, counts))
        x[(..., *place)] += parts[(..., *at)]
    return x


def frame(x, margins, outside=0.0):
    """One value around the last axes, (before, after) for each; `np.pad` takes ten times as long on a small image."""
    rank = len(margins)
    sizes = [before + n + after for n, (before, after) in zip(x.shape[-rank:], margins)]
    framed = np.full((*x.shape[:-rank], *sizes), outside, x.dtype)
    framed[(..., *(slice(before, size - after) for size, (before, after) in zip(sizes, margins)))] = x
    return framed


def pad(x, padding):
    """Zeros on both sides of the last axes."""
    return frame(x, [(p, p) for p in padding])


def crop(x, padding):
    """The transpose of `pad`."""
    return x[(..., *(slice(p, n - p) for p, n in zip(padding, x.shape[-len(padding) :])))]


def split(a, axis, groups):
    """Split a channel axis (counted from the end) into groups and channels."""
    axis += a.ndim
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])


def merge(a, axis):
    """The inverse of `split`; `axis` (counted from the end) is that of the groups."""
    axis += a.ndim
    return a.reshape(*a.shape[:axis], a.shape[axis] * a.shape[axis + 1], *a.shape[axis + 2 :])


def _fits(sizes, kernel, padding, dilation):
    return all(n + 2 * p > d * (k - 1) for n, k, p, d in zip(sizes, kernel, padding, dilation))


@register
class conv1d:
    """y_nfp = b_f + sum_ci W_fci x_nc(s p + d i - padding); each group of channels has its own filters."""

    x, W, b = "N groups*C L", "groups*F C k", "groups*F"
    batch = "N"
    empty = True
    options = {"k": [1, 2, 3], "stride": [1, 2, 3], "padding": [0, 1, 2], "dilation": [1, 2], "groups": [1, 2, 3]}
    assume = staticmethod(lambda x, k, padding, dilation: _fits(x.shape[-1:], (k,), (padding,), (dilation,)))

    @staticmethod
    def forward(x, W, b, k, stride, padding, dilation, groups):
        columns = split(windows(pad(x, (padding,)), (k,), (stride,), (dilation,)), -3, groups)
        y = np.einsum("...ngcpi,...gfci->...npgf", columns, split(W, -3, groups))
        return np.swapaxes(merge(y, -2) + b, -1, -2), (x, W)

    @staticmethod
    def backward(dy, saved, k, stride, padding, dilation, groups):
        x, W = saved
        padded, dy = pad(x, (padding,)), split(dy, -2, groups)
        columns = split(windows(padded, (k,), (stride,), (dilation,)), -3, groups)
        dcolumns = np.einsum("ngfp,gfci->ngcpi", dy, split(W, -3, groups))
        dx = crop(overlap_add(merge(dcolumns, -4), padded.shape[-1:], (stride,), (dilation,)), (padding,))
        return dx, merge(np.einsum("ngfp,ngcpi->gfci", dy, columns), -4), merge(dy.sum((0, -1)), -2)


@register
class conv2d:
    """y_nfpq = b_f + sum_cij W_fcij x_nc(s p + d i - padding, ...), with options for each of the two axes."""

    x, W, b = "N groups*C H W", "groups*F C kh kw", "groups*F"
    batch = "N"
    empty = True
    options = {
        "kh": [1, 2, 3],
        "kw": [1, 2, 3],
        "stride": ([1, 2, 3], [1, 2, 3]),
        "padding": ([0, 1, 2], [0, 1, 2]),
        "dilation": ([1, 2], [1, 2]),
        "groups": [1, 2, 3],
    }
    assume = staticmethod(lambda x, kh, kw, padding, dilation: _fits(x.shape[-2:], (kh, kw), padding, dilation))

    @staticmethod
    def forward(x, W, b, kh, kw, stride, padding, dilation, groups):
        columns = split(windows(pad(x, padding), (kh, kw), stride, dilation), -5, groups)
        y = np.einsum("...ngcpqij,...gfcij->...npqgf", columns, split(W, -4, groups))
        return np.moveaxis(merge(y, -2) + b, -1, -3), (x, W)

    @staticmethod
    def backward(dy, saved, kh, kw, stride, padding, dilation, groups):
        x, W = saved
        padded, dy = pad(x, padding), split(dy, -3, groups)
        columns = split(windows(padded, (kh, kw), stride, dilation), -5, groups)
        dcolumns = np.einsum("ngfpq,gfcij->ngcpqij", dy, split(W, -4, groups))
        dx = crop(overlap_add(merge(dcolumns, -6), padded.shape[-2:], stride, dilation), padding)
        return dx, merge(np.einsum("ngfpq,ngcpqij->gfcij", dy, columns), -5), merge(dy.sum((0, -2, -1)), -2)


def _grown(sizes, kernel, stride, dilation, extra):
    """Size of what a transposed convolution fills, before `padding` is cut off."""
    return tuple(s * (n - 1) + d * (k - 1) + 1 + e for n, k, s, d, e in zip(sizes, kernel, stride, dilation, extra))


def _transposable(x, kh, kw, stride, padding, dilation, output_padding):
    full = _grown(x.shape[-2:], (kh, kw), stride, dilation, output_padding)
    allowed = all(e < max(s, d) for e, s, d in zip(output_padding, stride, dilation))
    return allowed and min(x.shape[-2:]) > 0 and all(n > 2 * p for n, p in zip(full, padding))


@register
class conv_transpose2d:
    """The transpose of conv2d with respect to x, plus b; `output_padding` adds rows and columns at the end."""

    x, W, b = "N groups*C H W", "groups*C F kh kw", "groups*F"
    batch = "N"
    empty = True
    options = {
        "kh": [1, 2, 3],
        "kw": [1, 2, 3],
        "stride": ([1, 2, 3], [1, 2, 3]),
        "padding": ([0, 1], [0, 1]),
        "dilation": ([1, 2], [1, 2]),
        "output_padding": ([0, 1], [0, 1]),
        "groups": [1, 2, 3],
    }
    assume = staticmethod(_transposable)

    @staticmethod
    def forward(x, W, b, kh, kw, stride, padding, dilation, output_padding, groups):
        parts = np.einsum("...ngchw,...gcfij->...ngfhwij", split(x, -3, groups), split(W, -4, groups))
        full = _grown(x.shape[-2:], (kh, kw), stride, dilation, output_padding)
        y = crop(overlap_add(merge(parts, -6), full, stride, dilation), padding)
        return np.moveaxis(np.moveaxis(y, -3, -1) + b, -1, -3), (x, W)

    @staticmethod
    def backward(dy, saved, kh, kw, stride, padding, dilation, groups):
        x, W = saved
        height, width = x.shape[-2:]
        # a large output padding can make room for further windows, which forward did not fill
        dparts = windows(pad(dy, padding), (kh, kw), stride, dilation)[..., :height, :width, :, :]
        dparts = split(dparts, -5, groups)
        dx = np.einsum("ngfhwij,gcfij->ngchw", dparts, split(W, -4, groups))
        dW = np.einsum("ngfhwij,ngchw->gcfij", dparts, split(x, -3, groups))
        return merge(dx, -4), merge(dW, -5), dy.sum((0, -2, -1))
