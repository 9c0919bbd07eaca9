"""Pairs of functions with a cache, as in course exercises: `out, cache = f(x, w, b)`, `dx, dw, db = b(dout, cache)`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.heldout import wrong


def affine_relu_forward(x, w, b):
    a = x @ w + b
    return np.maximum(0, a), (x, w, a)


AFFINE: dict[str, Any] = {"x": "N D", "w": "D M", "b": "M"}


@wrong("UPSTREAM", "dy is clipped at 0 besides: the mask looks at dout", affine_relu_forward, **AFFINE)
def guided_relu(dout, cache):
    x, w, a = cache
    da = np.where((a > 0) & (dout > 0), dout, 0)
    return da @ w.T, x.T @ da, da.sum(0)


@wrong("TERM", "the mask of relu is missing in w and b", affine_relu_forward, **AFFINE)
def relu_mask_only_in_dx(dout, cache):
    x, w, a = cache
    return np.where(a > 0, dout, 0) @ w.T, x.T @ dout, dout.sum(0)


@wrong("UPSTREAM", "dy is summed first: one upstream gradient for all rows", affine_relu_forward, **AFFINE)
def rows_share_dout(dout, cache):
    x, w, a = cache
    da = np.where(a > 0, np.broadcast_to(dout.mean(0), dout.shape), 0)
    return da @ w.T, x.T @ da, da.sum(0)


@wrong("DROPPED", "b gets no gradient", affine_relu_forward, **AFFINE)
def no_db(dout, cache):
    x, w, a = cache
    da = np.where(a > 0, dout, 0)
    return da @ w.T, x.T @ da, None


def conv_forward_naive(x, w, *, pad, stride):
    xp = np.pad(x, [(0, 0), (pad, pad)])
    n = 1 + (xp.shape[1] - len(w)) // stride
    return np.stack([xp[:, k * stride : k * stride + len(w)] @ w for k in range(n)], 1), (xp, w)


CONV: dict[str, Any] = {"x": "N L", "w": "K", "options": {"pad": [0, 1], "stride": [1, 2]}}
CONV["assume"] = lambda x, w, pad: len(w) <= x.shape[1] + 2 * pad


@wrong("OVERWRITE", "overlapping windows are assigned instead of added in x", conv_forward_naive, **CONV)
def conv_naive_assigned(dout, cache, pad, stride):
    xp, w = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for k in range(dout.shape[1]):
        part = slice(k * stride, k * stride + len(w))
        dxp[:, part] = dout[:, k : k + 1] * w
        dw += dout[:, k] @ xp[:, part]
    return dxp[:, pad : dxp.shape[1] - pad], dw


@wrong("OPTION", "right only for pad = 0", conv_forward_naive, **CONV)
def conv_naive_not_cropped(dout, cache, pad, stride):
    xp, w = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for k in range(dout.shape[1]):
        part = slice(k * stride, k * stride + len(w))
        dxp[:, part] += dout[:, k : k + 1] * w
        dw += dout[:, k] @ xp[:, part]
    return dxp[:, : xp.shape[1] - 2 * pad], dw


@wrong("OVERWRITE", "w gets what the last window gives", conv_forward_naive, **CONV)
def conv_naive_last_window(dout, cache, pad, stride):
    xp, w = cache
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for k in range(dout.shape[1]):
        part = slice(k * stride, k * stride + len(w))
        dxp[:, part] += dout[:, k : k + 1] * w
        dw = dout[:, k] @ xp[:, part]
    return dxp[:, pad : dxp.shape[1] - pad], dw


def max_pool_forward_naive(x, *, size, stride):
    starts = range(0, x.shape[1] - size + 1, stride)
    return np.stack([x[:, s : s + size].max(1) for s in starts], 1), (x, starts)


@wrong(
    "OVERWRITE",
    "contributions of overlapping windows overwrite one another",
    max_pool_forward_naive,
    x="N L: distinct",
    options={"size": [2, 3], "stride": [1, 2, 3]},
    assume=lambda x, size: x.shape[1] >= size,
)
def max_pool_naive_assigned(dout, cache, size):
    x, starts = cache
    dx = np.zeros_like(x)
    for k, s in enumerate(starts):
        for n in range(len(x)):
            dx[n, s + x[n, s : s + size].argmax()] = dout[n, k]
    return dx


def rnn_forward(x, h0, Wx, Wh, b):
    h, all_h = h0, []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ Wx + h @ Wh + b)
        all_h.append(h)
    return np.stack(all_h, 1), (x, h0, Wx, Wh, all_h)


RNN: dict[str, Any] = {"x": "N T D", "h0": "N H", "Wx": "D H", "Wh": "H H", "b": "H"}


def _rnn_backward(dh, cache, carry=True, slope_at=0, sum_b=True):
    x, h0, Wx, Wh, all_h = cache
    dx, dWx, dWh, db, back = (
        np.zeros_like(x),
        np.zeros_like(Wx),
        np.zeros_like(Wh),
        np.zeros(len(Wh)),
        np.zeros_like(h0),
    )
    for t in reversed(range(len(all_h))):
        total = dh[:, t] + (back if carry else 0)
        da = total * (1 - all_h[max(t - slope_at, 0)] ** 2)
        dx[:, t], back = da @ Wx.T, da @ Wh.T
        dWx += x[:, t].T @ da
        dWh += (all_h[t - 1] if t else h0).T @ da
        db = db + da.sum(0) if sum_b else da.sum(0)
    return dx, back, dWx, dWh, db


@wrong("GATE DROPPED", "the state's gradient is not passed back in time", rnn_forward, **RNN)
def rnn_not_through_time(dh, cache):
    return _rnn_backward(dh, cache, carry=False)


@wrong("OVERWRITE", "b gets the first step's gradient instead of the sum over steps", rnn_forward, **RNN)
def rnn_b_overwritten(dh, cache):
    return _rnn_backward(dh, cache, sum_b=False)


@wrong("GATE INDEX", "tanh' is taken of the state a step before", rnn_forward, **RNN)
def rnn_slope_of_step_before(dh, cache):
    return _rnn_backward(dh, cache, slope_at=1)


def chamfer(a, b):
    d = ((a[:, None] - b[None]) ** 2).sum(-1)
    i = d.argmin(1)
    return d.min(1).sum(), (a, b, i)


@wrong(
    "OVERWRITE REPEAT-IDX", "points with one nearest neighbour overwrite one another in b", chamfer, a="N 2", b="M 2"
)
def one_sided_chamfer(g, cache):
    a, b, i = cache
    u, db = 2 * g * (a - b[i]), np.zeros_like(b)
    db[i] = -u
    return u, db


def quantised(x, codes):
    k = np.abs(x[:, None] - codes[None]).argmin(1)
    return (x - codes[k]) ** 2, (x, codes, k)


@wrong("OVERWRITE REPEAT-IDX", "values with one nearest code overwrite one another", quantised, x="N", codes="K")
def code_book(dy, cache):
    x, codes, k = cache
    d = 2 * dy * (x - codes[k])
    dcodes = np.zeros_like(codes)
    dcodes[k] -= d
    return d, dcodes


def histogram_mean(x, w):
    k = np.floor(np.clip(x, 0, 0.99) * len(w)).astype(int)
    return w[k], (k, w.shape)


@wrong(
    "OVERWRITE REPEAT-IDX",
    "values in one bin overwrite one another in w",
    histogram_mean,
    x="N: unit",
    w="K",
    constants="x",
)
def looked_up(dy, cache):
    k, shape = cache
    dw = np.zeros(shape)
    dw[k] = dy
    return {"w": dw}


def _quadratic(x, A):
    return np.einsum("ni,ij,nj->n", x, A, x), (x, A)


@wrong(
    "FACTOR",
    "half of the right one off the diagonal",
    lambda x, A: _quadratic(x, np.triu(A) + np.triu(A, 1).T),
    x="N D",
    A="D D",
)
def symmetric_half(dy, cache):
    x, A = cache
    return 2 * dy[:, None] * (x @ A), np.triu(np.einsum("n,ni,nj->ij", dy, x, x))


@wrong(
    "FACTOR",
    "half of the right one in all bins but the first and the last",
    lambda x: (np.abs(np.fft.rfft(x)) ** 2, x),
    x="N L",
)
def power_spectrum(dy, x):
    n = x.shape[-1]
    return {"x": np.fft.irfft(dy * np.fft.rfft(x), n) * n}


@wrong(
    "OVERWRITE",
    "overlapping frames are assigned instead of added",
    lambda x: (np.stack([x[..., k : k + 3] for k in range(x.shape[-1] - 2)], -2), x.shape),
    x="N 2+L",
)
def frames(dy, shape):
    dx = np.zeros(shape)
    for k in range(dy.shape[-2]):
        dx[..., k : k + 3] = dy[..., k, :]
    return dx


def sinc(x):
    return np.where(x == 0, 1, np.sin(x) / np.where(x == 0, 1, x)), x


@wrong("SINGULAR", "NaN at x = 0", sinc, x="N")
def sinc_at_zero(dy, x):
    with np.errstate(all="ignore"):
        return dy * (np.cos(x) / x - np.sin(x) / x**2)


@wrong("SINGULAR", "wrong at x = 0 (0/0 gives 0 instead of 1)", lambda x: (np.where(x == 0, 0, np.expm1(x)), x), x="N")
def lost_at_zero(dy, x):
    return np.where(x == 0, 0, dy * np.exp(x))


@wrong(
    "SINGULAR TIE",
    "NaN where two entries of a row are equal",
    lambda x: (np.abs(x[:, :1] - x[:, 1:]).sum(1) ** 3, x),
    x="N 2",
)
def equal_pair(dy, x):
    d = x[:, 0] - x[:, 1]
    with np.errstate(all="ignore"):
        g = 3 * dy * np.abs(d) ** 3 / d
    return np.stack([g, -g], 1)


@wrong(
    "INDEX SIGN",
    "gradients of a and b in each other's place, and negated",
    lambda a, b: (np.sum(a * b**2, 1), (a, b)),
    a="N D",
    b="N D",
)
def exchanged_and_negated(dy, cache):
    a, b = cache
    return -dy[:, None] * 2 * a * b, -dy[:, None] * b**2


@wrong(
    "INDEX SIGN",
    "gradients of mean and deviation are exchanged, mean's is negated",
    lambda m, s: ((m - 1) ** 2 / s, (m, s)),
    m="N",
    s="N: positive",
)
def exchanged_and_one_negated(dy, cache):
    m, s = cache
    return dy * (m - 1) ** 2 / s**2, dy * 2 * (m - 1) / s


@wrong("SIGN FACTOR", "-N times the right one", lambda x, w: ((x @ w).sum(0), x), x="N D", w="D", constants="x")
def minus_n(dy, x):
    return {"w": -dy * x.sum(0) * len(x)}


@wrong("SHAPE", "the last row is lost where N is odd", lambda x: (x * np.abs(x), x), x="N D")
def pairs_of_rows(dy, x):
    dx = 2 * dy * np.abs(x)
    dx[len(dx) // 2 * 2 :] = 0
    return dx


@wrong(
    "TERM",
    "passes the gradient where forward is flat (rounded values)",
    lambda x, w: (np.clip(x * w, 0, 1), (x, w)),
    x="N D",
    w="D",
)
def hard_gate(dy, cache):
    x, w = cache
    return dy * w, (dy * x).sum(0)


@wrong("TAIL", "overflows where x is large", lambda x: (np.logaddexp.reduce(x, 1), x), x="N K")
def log_sum_exp(dy, x):
    with np.errstate(all="ignore"):
        e = np.exp(x)
        return dy[:, None] * e / e.sum(1, keepdims=True)


@wrong("LAYOUT", "reads dy in the order of memory", lambda x: (x.reshape(x.shape[0], -1), x.shape), x="N C L")
def flatten(dy, shape):
    return dy.ravel(order="K").reshape(shape)


@wrong("UPSTREAM", "the second output's upstream gradient is ignored", lambda x: ((x.mean(1), x.var(1)), x), x="N D")
def moments(cotangents, x):
    dmean, _ = cotangents
    return np.repeat(dmean[:, None] / x.shape[1], x.shape[1], 1)


@wrong("UPSTREAM", "dy is squared", lambda x: (np.sin(x), x), x="N D")
def dy_twice(dy, x):
    return dy * dy * np.cos(x)


@wrong("PRECISION", "the sum is kept in float32", lambda x, b: (x + b, None), x="N D", b="D")
def float32_sum(dy, _):
    return dy.copy(), dy.astype(np.float32).sum(0).astype(dy.dtype)


@wrong(
    "MASK",
    "padding rows get a gradient",
    lambda x, keep: (np.where(keep[:, None] != 0, np.tanh(x), 0), (x, keep)),
    x="N D",
    keep="N: mask",
    constants="keep",
)
def masked_rows(dy, cache):
    x, _ = cache
    return {"x": dy * (1 - np.tanh(x) ** 2)}


@wrong(
    "UNBROADCAST",
    "the gradient of scale is not summed over the batch",
    lambda x, scale: (x * scale, (x, scale)),
    x="N D",
    scale="D",
)
def scale_not_summed(dy, cache):
    x, scale = cache
    return dy * scale, dy * x


@wrong("MUTATE", "changes dy in place, and reads it after that", lambda x, w: (np.tanh(x) * w, (x, w)), x="N D", w="D")
def dy_in_place(dy, cache):
    x, w = cache
    dy *= w
    dx = dy * (1 - np.tanh(x) ** 2)
    return dx, (dy * np.tanh(x)).sum(0)
