"""Mutants of recurrent layers: gates of a cell, and what is carried from step to step."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.mutants import catalogue, declared, diffs
from gradverify.recurrent import as_cell, unroll
from gradverify.unrolled import Unrolled

LSTM = """
17 GATE: bias gradients of i and o copied from f | | learn_dl#53
    - da.sum(0)
    + np.concatenate([df, df, dg, df], axis=-1).sum(0)
18 GATE: forget gate: f in place of f (1 - f) | | RNN-LSTM-in-numpy#1
    - dc * c * slope_f
    + dc * c * f
22 GATE: slices of i and f swapped, in backward only
    - np.concatenate([di, df, dg, do], axis=-1)
    + np.concatenate([df, di, dg, do], axis=-1)
"""
diffs("lstm", catalogue("lstm_cell"), LSTM, finish=unroll)

GRU = """
30 DROPPED: dr path dropped (dr = 0)
    - dg * vg * sigmoid_slope(ur + vr)
    + np.zeros_like(dg)
32 TERM: db_hn without the factor r
    - dv.sum(0)
    + du.sum(0)
"""
diffs("gru", catalogue("gru_cell"), GRU, finish=unroll)

WRITTEN_OUT = """
20 GATE: dh_prev not passed back | T >= 2 | qixianbiao/RNN#2
    - dh = dh + dhs[t]
    + dh = dh + dhs[t] if t == steps - 1 else dhs[t]
24 OVERWRITE: dW of the last step in place of the sum | T >= 2
    - np.tensordot(x, da, ([0, 1], [0, 1]))
    + x[-1].T @ da[-1]
26 UPSTREAM: cotangents of h_T and c_T ignored | a cotangent on every output | transformers#23774
    - dhs, dh, dc = cotangents
    + dhs, dh, dc = cotangents
    + dh, dc = np.zeros_like(dh), np.zeros_like(dc)
27 INDEX: dx by Wh in place of Wx | D == H
    - return da @ W.T,
    + return da @ (U if U.shape == W.shape else W).T,
28 RNG: the recurrent dropout mask of t = 0 at every step | a mask, T >= 2 | haste#43
    - (da[t] @ U.T) * kept[t]
    + (da[t] @ U.T) * kept[0]
    - seen = kept *
    + seen = kept[:1] *
"""
diffs("lstm", catalogue("recurrent_dropout_lstm"), WRITTEN_OUT)


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
        gradients = []
        for steps, one, two, zero in reversed(saved):
            dh, dh_r = np.split(dy, 2, axis=-1)  # views
            own = steps.backward((dh, zero, zero), one)
            other = steps.backward((np.flip(dh_r, 0), zero, zero), two)
            gradients = [*(own[n] for n in "WUb"), *(other[n] for n in "WUb"), *gradients]
            dy = own["x"] + np.flip(other["x"], 0)
        return dy, *gradients


def _both_ways(x, W, U, b, V, R, d):
    """One bidirectional layer: x (T, N, 2H) to both hidden states side by side."""
    steps = Unrolled(as_cell("lstm_cell"))
    zero = np.zeros((*x.shape[:-3], x.shape[-2], x.shape[-1] // 2), x.dtype)
    (h, *_), one = steps.forward(x, zero, zero, W, U, b)
    (h_r, *_), two = steps.forward(np.flip(x, -3), zero, zero, V, R, d)
    pair = np.broadcast_arrays(h, np.flip(h_r, -3))
    return np.concatenate(pair, axis=-1), (steps, one, two, zero)


STACK = """
29 MUTATE: dx written into dy before the reverse pass reads it | both directions, 2 layers | mxnet#18203
    - gradients = []
    + gradients, dy = [], dy.copy()  # a copy: only the layers' own buffers are at stake
    - other = steps.backward(
    + dy[...] = own["x"]
    + other = steps.backward(
"""
diffs("bi-lstm", declared(bilstm_stack), STACK)
