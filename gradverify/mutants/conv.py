"""Mutants of the convolution: its options, its windows, its kernel."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.layers.conv import conv2d, crop, merge, overlap_add, pad, split, windows
from gradverify.mutants import catalogue, plant

CONV = catalogue("conv2d")


def _dcolumns(dy, W, groups):
    """The gradient of every window, (N, C, P, Q, kh, kw)."""
    return merge(np.einsum("ngfpq,gfcij->ngcpqij", split(dy, -3, groups), split(W, -4, groups)), -6)


def _padded(x, padding):
    return tuple(n + 2 * p for n, p in zip(x.shape[-2:], padding))


@plant(34, "conv2d", "OPTION", of=CONV, needs="stride 2", copies="deep-learning-coursera#34")
def stride_ignored(dy, saved, kh, kw, stride, padding, dilation, groups):
    """backward ignores stride"""
    x, W = saved
    _, dW, db = conv2d.backward(dy, saved, kh, kw, stride, padding, dilation, groups)
    dx = overlap_add(_dcolumns(dy, W, groups), _padded(x, padding), (1, 1), dilation)
    return crop(dx, padding), dW, db


@plant(35, "conv2d", "OPTION", of=CONV, needs="unequal dilation", copies="burn#4466")
def first_dilation(dy, saved, kh, kw, stride, padding, dilation, groups):
    """dilation[0] on both axes"""
    x, W = saved
    _, dW, db = conv2d.backward(dy, saved, kh, kw, stride, padding, dilation, groups)
    size = [n + 8 for n in _padded(x, padding)]  # room for what reaches too far
    dx = overlap_add(_dcolumns(dy, W, groups), size, stride, (dilation[0], dilation[0]))
    height, width = _padded(x, padding)
    return crop(dx[..., :height, :width], padding), dW, db


@plant(36, "conv2d", "OPTION", of=CONV, needs="groups > 1", copies="pytorch#51430")
def groups_not_sliced(dy, saved, kh, kw, stride, padding, dilation, groups):
    """dW without slicing into groups"""
    x, _ = saved
    dx, _, db = conv2d.backward(dy, saved, kh, kw, stride, padding, dilation, groups)
    columns = split(windows(pad(x, padding), (kh, kw), stride, dilation), -5, groups)[:, 0]
    return dx, merge(np.einsum("ngfpq,ncpqij->gfcij", split(dy, -3, groups), columns), -5), db


@plant(37, "conv2d", "OPTION", of=CONV, needs="stride 2", copies="rocm-libraries#7732")
def one_phase(dy, saved, kh, kw, stride, padding, dilation, groups):
    """dx keeps phase (0, 0) only"""
    x, W = saved
    _, dW, db = conv2d.backward(dy, saved, kh, kw, stride, padding, dilation, groups)
    whole = overlap_add(_dcolumns(dy, W, groups), _padded(x, padding), stride, dilation)
    dx = np.zeros_like(whole)
    dx[..., :: stride[0], :: stride[1]] = whole[..., :: stride[0], :: stride[1]]
    return crop(dx, padding), dW, db


@plant(39, "conv2d", "INDEX", of=CONV, needs="a kernel that is not symmetric")
def unflipped(dy, saved, kh, kw, stride, padding, dilation, groups):
    """dx by the kernel not flipped"""
    x, W = saved
    _, dW, db = conv2d.backward(dy, saved, kh, kw, stride, padding, dilation, groups)
    dx = overlap_add(_dcolumns(dy, W[..., ::-1, ::-1], groups), _padded(x, padding), stride, dilation)
    return crop(dx, padding), dW, db


@plant(41, "conv2d", "FACTOR", of=CONV, copies="cTensor#3")
def mean_over_positions(dy, saved, kh, kw, stride, padding, dilation, groups):
    """dW divided by N H W"""
    dx, dW, db = conv2d.backward(dy, saved, kh, kw, stride, padding, dilation, groups)
    return dx, dW / max(1, len(dy) * dy.shape[-2] * dy.shape[-1]), db


@plant(42, "conv2d", "OVERWRITE", of=CONV, needs="memory that does not hold zeros", copies="Paddle#18728")
def unset_buffer(dy, saved, kh, kw, stride, padding, dilation, groups):
    """dx's buffer from np.empty"""
    x, W = saved
    _, dW, db = conv2d.backward(dy, saved, kh, kw, stride, padding, dilation, groups)
    parts = _dcolumns(dy, W, groups)
    dx = np.empty((*x.shape[:-2], *_padded(x, padding)), dy.dtype)
    for i, j in np.ndindex(kh, kw):
        top, left = i * dilation[0], j * dilation[1]
        rows, columns = dy.shape[-2:]
        place = dx[..., top : top + stride[0] * rows : stride[0], left : left + stride[1] * columns : stride[1]]
        place += parts[..., i, j]
    return crop(dx, padding), dW, db
