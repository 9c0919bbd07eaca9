"""Recurrent cells, states among the primals; `register_cell` derives the layer of T steps from each."""

from __future__ import annotations

import numpy as np

from gradverify.adapters import register
from gradverify.layers.mlp import decay, logistic
from gradverify.recurrent import bidirectional, register_cell


def sigmoid_slope(z):
    """Derivative of the sigmoid, s(z) s(-z) = e / (1 + e)^2; it keeps its digits where s (1 - s) cancels."""
    e = decay(z)
    return e / (1.0 + e) ** 2


def tanh_slope(z):
    """Derivative of tanh, as that of 2 s(2z) - 1, for the same reason."""
    return 4.0 * sigmoid_slope(2.0 * z)


def gates(a, count):
    """The last axis in equal parts, as views; `np.split` does it in ten times the time, and cells are small."""
    size = a.shape[-1] // count
    return [a[..., k * size : (k + 1) * size] for k in range(count)]


@register_cell
class rnn_cell:
    """h' = tanh(x W + h U + b)."""

    x, h, W, U, b = "N D", "N H", "D H", "H H", "H"
    states = ("h",)
    batch = "N"
    empty = True

    @staticmethod
    def forward(x, h, W, U, b):
        a = x @ W + h @ U + b
        return np.tanh(a), (x, h, W, U, a)

    @staticmethod
    def backward(dh, saved):
        x, h, W, U, a = saved
        da = dh * tanh_slope(a)
        return da @ W.T, da @ U.T, x.T @ da, h.T @ da, da.sum(0)


@register_cell
class lstm_cell:
    """Hochreiter and Schmidhuber's cell with a forget gate; gates packed as input, forget, candidate, output.

    c' = f c + i g, h' = o tanh(c').
    """

    x, h, c = "N D", "N H", "N H"
    W, U, b = "D 4*H", "H 4*H", "4*H"
    states = ("h", "c")
    batch = "N"
    empty = True

    @staticmethod
    def forward(x, h, c, W, U, b):
        a = x @ W + h @ U + b
        (i, f, _, o), g = gates(logistic(a), 4), np.tanh(gates(a, 4)[2])
        c_next = f * c + i * g
        return (o * np.tanh(c_next), c_next), (x, h, c, W, U, a, c_next)

    @staticmethod
    def backward(cotangents, saved):
        dh, dc = cotangents
        x, h, c, W, U, a, c_next = saved
        (i, f, _, o), g = gates(logistic(a), 4), gates(a, 4)[2]
        slope_i, slope_f, _, slope_o = gates(sigmoid_slope(a), 4)
        dc = dc + dh * o * tanh_slope(c_next)
        di = dc * np.tanh(g) * slope_i
        df = dc * c * slope_f
        dg = dc * i * tanh_slope(g)
        do = dh * np.tanh(c_next) * slope_o
        da = np.concatenate([di, df, dg, do], axis=-1)
        return da @ W.T, da @ U.T, dc * f, x.T @ da, h.T @ da, da.sum(0)


@register_cell
class gru_cell:
    """Cho's cell as cuDNN computes it, gates packed as reset, update, candidate.

    The reset gate multiplies the hidden part with its own bias: g = tanh(x W_g + b_g + r (h U_g + d_g)),
    h' = (1 - z) g + z h.
    """

    x, h = "N D", "N H"
    W, U, b, d = "D 3*H", "H 3*H", "3*H", "3*H"
    states = ("h",)
    batch = "N"
    empty = True

    @staticmethod
    def forward(x, h, W, U, b, d):
        u, v = x @ W + b, h @ U + d
        (ur, uz, ug), (vr, vz, vg) = gates(u, 3), gates(v, 3)
        z = uz + vz
        g = np.tanh(ug + logistic(ur + vr) * vg)
        return logistic(-z) * g + logistic(z) * h, (x, h, W, U, u, v)

    @staticmethod
    def backward(dh, saved):
        x, h, W, U, u, v = saved
        (ur, uz, ug), (vr, vz, vg) = gates(u, 3), gates(v, 3)
        r, z = logistic(ur + vr), logistic(uz + vz)
        a = ug + r * vg
        dg = dh * logistic(-(uz + vz)) * tanh_slope(a)
        dz = dh * (h - np.tanh(a)) * sigmoid_slope(uz + vz)
        dr = dg * vg * sigmoid_slope(ur + vr)
        du = np.concatenate([dr, dz, dg], axis=-1)
        dv = np.concatenate([dr, dz, dg * r], axis=-1)
        return du @ W.T, dh * z + dv @ U.T, x.T @ du, h.T @ dv, du.sum(0), dv.sum(0)


@register_cell
class peephole_lstm_cell:
    """Gers and Schmidhuber's LSTM whose gates see the cell: input and forget gate c, output gate c'.

    Gates packed as in lstm_cell; peepholes P packed as input, forget, output.
    """

    x, h, c = "N D", "N H", "N H"
    W, U, P, b = "D 4*H", "H 4*H", "3*H", "4*H"
    states = ("h", "c")
    batch = "N"
    empty = True

    @staticmethod
    def forward(x, h, c, W, U, P, b):
        i, f, g, o = gates(x @ W + h @ U + b, 4)
        Pi, Pf, Po = gates(P, 3)
        i, f = i + Pi * c, f + Pf * c
        c_next = logistic(f) * c + logistic(i) * np.tanh(g)
        o = o + Po * c_next
        return (logistic(o) * np.tanh(c_next), c_next), (x, h, c, W, U, P, i, f, g, o, c_next)

    @staticmethod
    def backward(cotangents, saved):
        dh, dc = cotangents
        x, h, c, W, U, P, i, f, g, o, c_next = saved
        Pi, Pf, Po = gates(P, 3)
        do = dh * np.tanh(c_next) * sigmoid_slope(o)
        dc = dc + dh * logistic(o) * tanh_slope(c_next) + do * Po
        di = dc * np.tanh(g) * sigmoid_slope(i)
        df = dc * c * sigmoid_slope(f)
        dg = dc * logistic(i) * tanh_slope(g)
        da = np.concatenate([di, df, dg, do], axis=-1)
        dP = np.concatenate([di * c, df * c, do * c_next], axis=-1).sum(0)
        dc = dc * logistic(f) + di * Pi + df * Pf
        return da @ W.T, da @ U.T, dc, x.T @ da, h.T @ da, dP, da.sum(0)


bilstm = register(bidirectional(lstm_cell))


@register
class recurrent_dropout_lstm:
    """T steps of lstm_cell where step t sees h * mask[t] / (1 - rate): a fresh mask at each step, on h alone.

    Written out as libraries do it: the product x W is taken over all steps at once, and the gradients
    of the parameters are one product over all steps.
    """

    x, mask = "T N D", "T N H: mask"
    h0, c0 = "N H", "N H"
    W, U, b = "D 4*H", "H 4*H", "4*H"
    options = {"rate": [0.0, 0.4]}
    returns = {"h": "T N H", "h_T": "N H", "c_T": "N H"}
    batch = "N"

    @staticmethod
    def forward(x, mask, h0, c0, W, U, b, rate=0.0):
        kept = mask / (1.0 - rate)
        z = x @ W + b
        h, c = [h0 if h0.ndim > 2 else h0[None]], [c0 if c0.ndim > 2 else c0[None]]
        a = []
        for t in range(x.shape[-3]):
            a.append(z[..., t : t + 1, :, :] + (kept[..., t : t + 1, :, :] * h[t]) @ U)
            i, f, g, o = gates(a[t], 4)
            c.append(logistic(f) * c[t] + logistic(i) * np.tanh(g))
            h.append(logistic(o) * np.tanh(c[t + 1]))
        outputs = (np.concatenate(h[1:], axis=-3), h[-1][..., 0, :, :].copy(), c[-1][..., 0, :, :].copy())
        return outputs, (x, kept, W, U, h, c, a)

    @staticmethod
    def backward(cotangents, saved):
        dhs, dh, dc = cotangents
        x, kept, W, U, h, c, a = saved
        steps = len(a)
        da = [None] * steps
        for t in reversed(range(steps)):
            dh = dh + dhs[t]
            i, f, g, o = gates(a[t][0], 4)
            dc = dc + dh * logistic(o) * tanh_slope(c[t + 1][0])
            di = dc * np.tanh(g) * sigmoid_slope(i)
            df = dc * c[t][0] * sigmoid_slope(f)
            dg = dc * logistic(i) * tanh_slope(g)
            do = dh * np.tanh(c[t + 1][0]) * sigmoid_slope(o)
            da[t] = np.concatenate([di, df, dg, do], axis=-1)
            dh = (da[t] @ U.T) * kept[t]
            dc = dc * logistic(f)
        da = np.stack(da)
        seen = kept * np.concatenate(h[:-1])
        dW = np.tensordot(x, da, ([0, 1], [0, 1]))
        dU = np.tensordot(seen, da, ([0, 1], [0, 1]))
        return da @ W.T, dh, dc, dW, dU, da.sum((0, 1))
