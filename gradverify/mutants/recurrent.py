"""Mutants of recurrent layers: gates of a cell, and what is carried from step to step."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.layers.mlp import logistic
from gradverify.layers.recurrent import lstm_cell, sigmoid_slope, tanh_slope
from gradverify.mutants import catalogue, declared, plant
from gradverify.recurrent import as_cell, unroll
from gradverify.unrolled import Unrolled

LSTM: dict[str, Any] = {"of": catalogue("lstm_cell"), "finish": unroll}
GRU: dict[str, Any] = {"of": catalogue("gru_cell"), "finish": unroll}
WRITTEN_OUT = catalogue("recurrent_dropout_lstm")


def _gates(cotangents, saved):
    """dh, and the gradients of the four pre-activations of lstm_cell."""
    dh, dc = cotangents
    _, _, c, _, _, a, c_next = saved
    i, f, g, o = np.split(a, 4, axis=-1)
    dc = dc + dh * logistic(o) * tanh_slope(c_next)
    di = dc * np.tanh(g) * sigmoid_slope(i)
    df = dc * c * sigmoid_slope(f)
    dg = dc * logistic(i) * tanh_slope(g)
    do = dh * np.tanh(c_next) * sigmoid_slope(o)
    return di, df, dg, do, dc * logistic(f)


def _collected(gates, dc, saved):
    x, h, _, W, U, _, _ = saved
    da = np.concatenate(gates, axis=-1)
    return da @ W.T, da @ U.T, dc, x.T @ da, h.T @ da, da.sum(0)


@plant(17, "lstm", "GATE", copies="learn_dl#53", **LSTM)
def biases_copied(cotangents, saved):
    """bias gradients of i and o copied from f"""
    *others, db = lstm_cell.backward(cotangents, saved)
    size = len(db) // 4
    db[:size] = db[3 * size :] = db[size : 2 * size]
    return *others, db


@plant(18, "lstm", "GATE", copies="RNN-LSTM-in-numpy#1", **LSTM)
def forget_slope(cotangents, saved):
    """forget gate: f in place of f (1 - f)"""
    di, df, dg, do, dc = _gates(cotangents, saved)
    f = np.split(saved[5], 4, axis=-1)[1]
    df = df / logistic(-f)
    return _collected((di, df, dg, do), dc, saved)


@plant(20, "lstm", "GATE", of=WRITTEN_OUT, needs="T >= 2", copies="qixianbiao/RNN#2")
def hidden_not_passed(cotangents, saved):
    """dh_prev not passed back"""
    return _through_time(cotangents, saved, carried=False)


@plant(22, "lstm", "GATE", **LSTM)
def gates_swapped(cotangents, saved):
    """slices of i and f swapped, in backward only"""
    di, df, dg, do, dc = _gates(cotangents, saved)
    return _collected((df, di, dg, do), dc, saved)


def _through_time(cotangents, saved, *, carried=True, states=True, mask=lambda kept, t: kept[t], last=False, wx=None):
    """Back-propagation of recurrent_dropout_lstm; each keyword is one line that a mutant changes."""
    dhs, dh, dc = cotangents
    x, kept, W, U, h, c, a = saved
    if not states:
        dh, dc = np.zeros_like(dh), np.zeros_like(dc)
    steps = len(a)
    da = [np.zeros(0)] * steps
    for t in reversed(range(steps)):
        dh = dh + dhs[t] if carried or t == steps - 1 else dhs[t]
        i, f, g, o = np.split(a[t][0], 4, axis=-1)
        dc = dc + dh * logistic(o) * tanh_slope(c[t + 1][0])
        di = dc * np.tanh(g) * sigmoid_slope(i)
        df = dc * c[t][0] * sigmoid_slope(f)
        dg = dc * logistic(i) * tanh_slope(g)
        do = dh * np.tanh(c[t + 1][0]) * sigmoid_slope(o)
        da[t] = np.concatenate([di, df, dg, do], axis=-1)
        dh = (da[t] @ U.T) * mask(kept, t)
        dc = dc * logistic(f)
    da = np.stack(da)
    seen = np.stack([mask(kept, t) for t in range(steps)]) * np.concatenate(h[:-1])
    dW = x[-1].T @ da[-1] if last else np.tensordot(x, da, ([0, 1], [0, 1]))
    dU = np.tensordot(seen, da, ([0, 1], [0, 1]))
    return da @ (W if wx is None else wx(W, U)).T, dh, dc, dW, dU, da.sum((0, 1))


@plant(24, "lstm", "OVERWRITE", of=WRITTEN_OUT, needs="T >= 2")
def last_step_only(cotangents, saved):
    """dW of the last step in place of the sum"""
    return _through_time(cotangents, saved, last=True)


@plant(26, "lstm", "UPSTREAM", of=WRITTEN_OUT, needs="a cotangent on every output", copies="transformers#23774")
def final_states_ignored(cotangents, saved):
    """cotangents of h_T and c_T ignored"""
    return _through_time(cotangents, saved, states=False)


@plant(27, "lstm", "INDEX", of=WRITTEN_OUT, needs="D == H")
def wrong_weight(cotangents, saved):
    """dx by Wh in place of Wx"""
    return _through_time(cotangents, saved, wx=lambda W, U: U if U.shape == W.shape else W)


@plant(28, "lstm", "RNG", of=WRITTEN_OUT, needs="a mask, T >= 2", copies="haste#43")
def first_mask(cotangents, saved):
    """the recurrent dropout mask of t = 0 at every step"""
    return _through_time(cotangents, saved, mask=lambda kept, t: kept[0])


class bilstm_stack:
    """Two bidirectional layers of width H each way, initial states 0; parameters end in the layer's number."""

    x = "T N 2*H"
    W1, U1, b1, V1, R1, d1 = "2*H 4*H", "H 4*H", "4*H", "2*H 4*H", "H 4*H", "4*H"
    W2, U2, b2, V2, R2, d2 = "2*H 4*H", "H 4*H", "4*H", "2*H 4*H", "H 4*H", "4*H"
    returns = "T N 2*H"
    batch = "N"

    @staticmethod
    def forward(x, W1, U1, b1, V1, R1, d1, W2, U2, b2, V2, R2, d2):
        y, lower = _both_ways(x, W1, U1, b1, V1, R1, d1)
        z, upper = _both_ways(y, W2, U2, b2, V2, R2, d2)
        return z, (lower, upper)

    @staticmethod
    def backward(dy, saved):
        return _stacked(dy, saved)


def _both_ways(x, W, U, b, V, R, d):
    """One bidirectional layer: x (T, N, 2H) to both hidden states side by side."""
    steps = Unrolled(as_cell("lstm_cell"))
    zero = np.zeros((*x.shape[:-3], x.shape[-2], x.shape[-1] // 2), x.dtype)
    (h, *_), one = steps.forward(x, zero, zero, W, U, b)
    (h_r, *_), two = steps.forward(np.flip(x, -3), zero, zero, V, R, d)
    pair = np.broadcast_arrays(h, np.flip(h_r, -3))
    return np.concatenate(pair, axis=-1), (steps, one, two, zero)


def _stacked(dy, saved, in_place=False):
    gradients = []
    for steps, one, two, zero in reversed(saved):
        dh, dh_r = np.split(dy, 2, axis=-1)  # views
        own = steps.backward((dh, zero, zero), one)
        if in_place:
            dy[...] = own["x"]
        other = steps.backward((np.flip(dh_r, 0), zero, zero), two)
        gradients = [*(own[n] for n in "WUb"), *(other[n] for n in "WUb"), *gradients]
        dy = own["x"] + np.flip(other["x"], 0)
    return dy, *gradients


@plant(29, "bi-lstm", "MUTATE", of=declared(bilstm_stack), needs="both directions, 2 layers", copies="mxnet#18203")
def written_into_upstream(dy, saved):
    """dx written into dy before the reverse pass reads it"""
    return _stacked(dy.copy(), saved, in_place=True)  # a copy: only the layers' own buffers are at stake


def _gru(dh, saved, *, reset=True, bias=True):
    """Gradients of gru_cell; each keyword is one line that a mutant changes."""
    x, h, W, U, u, v = saved
    (ur, uz, ug), (vr, vz, vg) = np.split(u, 3, axis=-1), np.split(v, 3, axis=-1)
    r, z = logistic(ur + vr), logistic(uz + vz)
    dg = dh * logistic(-(uz + vz)) * tanh_slope(ug + r * vg)
    dz = dh * (h - np.tanh(ug + r * vg)) * sigmoid_slope(uz + vz)
    dr = dg * vg * sigmoid_slope(ur + vr) if reset else np.zeros_like(dg)
    du, dv = np.concatenate([dr, dz, dg], axis=-1), np.concatenate([dr, dz, dg * r], axis=-1)
    db_h = dv if bias else du
    return du @ W.T, dh * z + dv @ U.T, x.T @ du, h.T @ dv, du.sum(0), db_h.sum(0)


@plant(30, "gru", "DROPPED", **GRU)
def reset_dropped(dh, saved):
    """dr path dropped (dr = 0)"""
    return _gru(dh, saved, reset=False)


@plant(32, "gru", "TERM", **GRU)
def bias_without_reset(dh, saved):
    """db_hn without the factor r"""
    return _gru(dh, saved, bias=False)
