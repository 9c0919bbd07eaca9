"""Each signature names its bug first, on a layer made wrong for the purpose, and stays silent on other bugs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import test_readings_of_kinds as kinds
from bench.diagnosis import holds
from click.testing import CliRunner

from gradverify import Layer, check
from gradverify.cli.explain import command
from gradverify.core.diagnose import Evidence, Signature, diagnose, diagnosed, signatures, variants
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.diagnose.steps import steps
from gradverify.core.errors import CaseFileError
from gradverify.core.nouns import Case, Finding, Fit
from gradverify.core.properties import properties
from gradverify.core.verify import checked, examine
from gradverify.report import explanation, ladder


@pytest.fixture(autouse=True)
def registry_as_it_was(monkeypatch):
    """Layers that a test loads from a file are forgotten after it."""
    from gradverify.core.declare.registry import layers

    layers.load()
    monkeypatch.setattr(layers, "_items", dict(layers._items))
    monkeypatch.setattr(layers, "_origins", dict(layers._origins))


def recur(x, h, W, U):
    return np.tanh(x @ W + h @ U), (x, h, W, U)


def recur_back(dy, saved):
    """A recurrent step that forgets the slope of tanh."""
    x, h, W, U = saved
    return dy @ W.T, dy @ U.T, x.T @ dy, h.T @ dy


def attend(q, k, v):
    scores = q @ np.swapaxes(k, -1, -2)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return p @ v, (q, k, v, p)


def attend_back(dy, saved):
    """Attention whose softmax forgets to take its mean away."""
    q, k, v, p = saved
    ds = p * (dy @ np.swapaxes(v, -1, -2))
    return ds @ k, np.swapaxes(ds, -1, -2) @ q, np.swapaxes(p, -1, -2) @ dy


FILTER = dict(x="N T+2", k="3")


def filtered(x, k):
    return sum(k[j] * x[:, j : x.shape[1] - 2 + j] for j in range(3)), (x, k)


def filtered_back(dy, x, k):
    dx = np.zeros_like(x)
    for j in range(3):
        dx[:, j : x.shape[1] - 2 + j] += k[j] * dy
    return dx, np.array([(dy * x[:, j : x.shape[1] - 2 + j]).sum() for j in range(3)])


def dense(x, W, b):
    return x @ W + b, (x, W)


def dense_back(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(0)


def upper(size):
    return np.triu(1.0 + np.arange(size * size).reshape(size, size))


def residual(skip=1.0, way=1.0):
    """x + tanh(x W), with a factor on either way that the gradient of x takes."""

    def backward(dy, saved):
        x, W = saved
        inner = dy * (1 - np.tanh(x @ W) ** 2)
        return {"x": skip * dy + way * inner @ W.T, "W": x.T @ inner}

    return layer(lambda x, W: (x + np.tanh(x @ W), (x, W)), backward, x="N D", W="D D")


def standardised(x):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / deviation, centred / deviation


def standardised_back(dy, y):
    """The gradient of x without the division by the deviation."""
    return (dy - dy.mean(-1, keepdims=True) - y * (dy * y).mean(-1, keepdims=True),)


def shared(x, ids):
    """Each entry's share of those with the same index."""
    total = np.zeros(4)
    np.add.at(total, ids, np.exp(x))
    return np.exp(x) / total[ids], (np.exp(x) / total[ids], ids)


def changed(primal, change):
    """The right backward with one gradient changed."""

    def backward(dy, saved):
        grads = dict(zip("xWb", dense_back(dy, saved)))
        grads[primal] = change(grads[primal], dy, *saved)
        return grads

    return backward


DENSE = dict(x="N D", W="D H", b="H", returns="N H", batch="N")


def relu(x, *, slope=0.0):
    return np.where(x > 0, x, slope * x), x


def power(x, *, exponent=2, p=0.0):
    return x**exponent / (1 - p), x


def power_back(dy, x, *, exponent=2, p=0.0):
    return dy * exponent * x ** (exponent - 1) / (1 - p)


POWER = dict(x="N D", returns="N D", options={"exponent": [2, 3], "p": [0.0, 0.5, 0.25]})


def take(index, table):
    return table[index], (index, table.shape)


def take_back(dy, saved, add=True):
    index, shape = saved
    total = np.zeros(shape)
    if add:
        np.add.at(total, index, dy)
    else:
        total[index] = dy
    return total


def centred(x):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) ** 2, x - mean


def scaled(x, weight):
    return x * weight, weight


def scaled_rows(x, g):
    return (x - x.mean(-1, keepdims=True)) * g, x


def scaled_rows_back(dy, x):
    """Right but for g, which the gradient of x leaves out."""
    return dy - dy.mean(-1, keepdims=True), (dy * (x - x.mean(-1, keepdims=True))).sum(0)


def masked_mean(x, mask):
    return (x * mask).sum(-1) / mask.sum(-1).clip(1), (mask,)


def gates(x, h0, W):
    """One tanh gate and two sigmoid ones, T steps."""
    h, tape = h0, []
    for t in range(x.shape[-3]):
        z = x[..., t, :, :] @ W + np.concatenate([h, h, h], -1)
        a, i, o = np.split(z, 3, -1)
        a, i, o = np.tanh(a), 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-o))
        tape.append((x[..., t, :, :], a, i, o))
        h = a * i * o
    return h, (tape, W)


def gates_back(dh, saved, order=(0, 1, 2), carried=True, last=False, missing=False):
    tape, W = saved
    dW, dxs = np.zeros(W.shape), []
    for k, (x, a, i, o) in enumerate(reversed(tape)):
        parts = [dh * i * o * (1 - a * a), dh * a * o * i * (1 if missing else 1 - i), dh * a * i * o * (1 - o)]
        dz = np.concatenate([parts[j] for j in order], -1)
        if not last or k == 0:
            dW = dW + x.T @ dz
        dxs.append(dz @ W.T)
        dh = sum(np.split(dz, 3, -1)) if carried else 0 * dh
    return np.stack(dxs[::-1]), dh, dW


GATES = dict(x="T N D", h0="N H", W="D 3*H", returns="N H")


def two_outputs(x):
    return (x**2, np.sin(x)), x


def upsampled(x):
    places, weight = neighbours(x)
    return x[:, places] * (1 - weight) + x[:, np.minimum(places + 1, x.shape[1] - 1)] * weight


def half_back(dy, x):
    places, weight = neighbours(x)
    dx = np.zeros_like(x)
    np.add.at(dx, (slice(None), places), dy * (1 - weight))
    return dx


def neighbours(x):
    at = np.maximum((np.arange(2 * x.shape[1]) + 0.5) / 2 - 0.5, 0)
    at = np.minimum(at, x.shape[1] - 1)
    return np.floor(at).astype(int), at % 1


def shifted(x):
    return np.pad(x, ((0, 0), (1, 0)))[:, :-1]


def blocks(x, *, block=2):
    return x**2, x


@dataclass
class Wrong:
    """A wrong layer, and what must be said of it."""

    layer: Layer
    case: dict[str, Any]
    signature: str
    bug_class: str
    says: str
    primal: str
    options: dict[str, Any] = field(default_factory=dict)
    property: str = "gradient"


def arrays(**shapes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {n: rng.normal(size=s) if isinstance(s, tuple) else np.asarray(s) for n, s in shapes.items()}


SMALL = arrays(x=(2, 3), W=(3, 4), b=(4,))
SQUARE = arrays(x=(2, 3), W=(3, 3), b=(3,))


def layer(forward, backward, **declaration):
    return Layer(forward, backward, name="wrong", **declaration)


def of_dense(primal, change, *rest, case=SMALL):
    return Wrong(layer(dense, changed(primal, change), **DENSE), case, *rest, primal)


def of_gates(*rest, primal="W", **keywords):
    wrong = layer(gates, lambda dh, saved: gates_back(dh, saved, **keywords), **GATES)
    return Wrong(wrong, arrays(x=(3, 2, 3), h0=(2, 2), W=(3, 6)), *rest, primal)


def of_attention(primal, says):
    wrong = layer(attend, attend_back, q="N T E", k="N S E", v="N S F", returns="N T F")
    return Wrong(wrong, arrays(q=(1, 2, 3), k=(1, 4, 3), v=(1, 4, 2)), "invariant", "TERM", says, primal)


def half(dy, x):
    with np.errstate(all="ignore"):
        return dy * x / np.abs(x)


def in_place(dy, saved):
    x, W = saved
    W *= 0.5
    return dense_back(dy, saved)


calls = np.random.default_rng(0)

WRONG = {
    "twice": of_dense("W", lambda g, *_: 2 * g, "factor", "FACTOR", r"right one times 2\b"),
    "mean": of_dense("W", lambda g, dy, *_: g / len(dy), "factor", "FACTOR", "times 1/N"),
    "mean of both": of_dense("b", lambda g, dy, *_: g / dy.size, "factor", "FACTOR", r"1/\(N\*H\)"),
    "one size for another": of_dense(
        "b", lambda g, dy, x, W: g * x.shape[1] / len(dy), "factor", "FACTOR", "times D/N"
    ),
    "variance of a sample": of_dense(
        "b", lambda g, dy, *_: g * (len(dy) - 1) / len(dy), "factor", "FACTOR", r"\(N - 1\)/N"
    ),
    "keep rate": Wrong(
        layer(power, lambda dy, x, *, exponent, p: power_back(dy, x, exponent=exponent), **POWER),
        arrays(x=(2, 3)),
        "factor",
        "FACTOR",
        r"times \(1 - p\)",
        "x",
        {"p": 0.5},
    ),
    "negated": of_dense("x", lambda g, *_: -g, "sign", "SIGN", "wrong sign"),
    "flipped": of_dense("W", lambda g, *_: g[::-1], "moved", "INDEX", "flipped along D"),
    "shifted": of_dense("b", lambda g, *_: np.roll(g, 1), "moved", "INDEX", "shifted by 1 along H"),
    "transposed": of_dense(
        "W",
        lambda g, *_: g.T if g.shape[0] == g.shape[1] else g,
        "moved",
        "INDEX",
        "transposed over D and H where D = H",
        case=SQUARE,
    ),
    "by W, not its transpose": of_dense(
        "x",
        lambda g, dy, x, W: dy @ W if W.shape[0] == W.shape[1] else g,
        "another_value",
        "INDEX",
        "if W were transposed",
        case=SQUARE,
    ),
    "last sample": of_dense(
        "W", lambda g, dy, x, W: x[-1:].T @ dy[-1:], "overwritten", "OVERWRITE", "last sample alone"
    ),
    "first sample": of_dense("b", lambda g, dy, *_: dy[0], "overwritten", "UNBROADCAST", "batch axis N.*first sample"),
    "all summed": of_dense("b", lambda g, *_: np.full(g.shape, g.sum()), "summed", "UNBROADCAST", "its sum over H"),
    "all averaged": of_dense("b", lambda g, *_: np.full(g.shape, g.mean()), "summed", "UNBROADCAST", "its mean over H"),
    "dropped": of_dense("x", lambda g, *_: 0 * g, "dropped", "DROPPED", "exactly zero"),
    "last row lost": of_dense(
        "W", lambda g, *_: np.concatenate([g[:-1], 0 * g[-1:]]), "dropped", "DROPPED", "last place of D"
    ),
    "last entry lost": of_dense(
        "W",
        lambda g, *_: g * (np.arange(g.size) < g.size - 1).reshape(g.shape),
        "dropped",
        "DROPPED",
        "very last entry",
    ),
    "upstream ignored": of_dense("x", lambda g, dy, x, W: np.ones_like(dy) @ W.T, "upstream", "UPSTREAM", "ignores"),
    "upstream squared": of_dense(
        "x", lambda g, dy, x, W: dy**2 @ W.T, "upstream", "UPSTREAM", "square of the upstream"
    ),
    "one of the upstream": of_dense(
        "b",
        lambda g, dy, *_: np.full_like(dy, dy.flat[0]).sum(0),
        "upstream",
        "UPSTREAM",
        "first entry of the upstream",
    ),
    "an output ignored": Wrong(
        layer(two_outputs, lambda dy, x: dy[0] * 2 * x, x="N", returns={"square": "N", "sine": "N"}),
        arrays(x=(3,)),
        "one_output",
        "UPSTREAM",
        "upstream gradient of sine",
        "x",
    ),
    "an output negated": Wrong(
        layer(
            two_outputs, lambda dy, x: dy[0] * 2 * x - dy[1] * np.cos(x), x="N", returns={"square": "N", "sine": "N"}
        ),
        arrays(x=(3,)),
        "one_output",
        "SIGN",
        "what sine sends back to x has the wrong sign, and what square sends back is right",
        "x",
    ),
    "an output's own derivative": Wrong(
        layer(two_outputs, lambda dy, x: dy[0] * 2 * x + dy[1] * np.cos(x) ** 2, x="N"),
        arrays(x=(3,)),
        "one_output",
        "TERM",
        "what output 1 sends back to x is wrong",
        "x",
    ),
    "local derivative missing": Wrong(
        layer(lambda x: (np.tanh(x), x), lambda dy, x: dy, x="N D", returns="N D"),
        arrays(x=(2, 3)),
        "local",
        "TERM",
        r"factor tanh'\(x\).* missing",
        "x",
    ),
    "input for output": Wrong(
        layer(lambda x: (np.tanh(x), x), lambda dy, x: dy * (1 - x**2), x="N D"),
        arrays(x=(2, 3)),
        "local",
        "TERM",
        r"has 1 - x\^2 where 1 - y\^2 belongs",
        "x",
    ),
    "mean held constant": Wrong(
        layer(centred, lambda dy, d: 2 * d * dy, x="N D", returns="N D"),
        arrays(x=(2, 3)),
        "span",
        "TERM",
        "multiple of 1",
        "x",
    ),
    "activation forgotten": Wrong(
        layer(recur, recur_back, x="N D", h="N H", W="D H", U="H H", returns="N H"),
        arrays(x=(2, 3), h=(2, 2), W=(3, 2), U=(2, 2)),
        "local",
        "TERM",
        r"the factor 1 - y\^2 of the last step is missing",
        "U",
    ),
    "scores without the mean": of_attention("k", "k at all places along S changes no output.* adds up to 0"),
    "queries without the mean": of_attention("q", "k at all places along S changes no output.* of q stays the same"),
    "half precision": of_dense(
        "W", lambda g, *_: g.astype(np.float16).astype(float), "precision", "PRECISION", "float16 number"
    ),
    "repeats overwrite": Wrong(
        layer(
            take, lambda dy, saved: take_back(dy, saved, add=False), index="N: indices V", table="V D", returns="N D"
        ),
        {"index": np.array([1, 1, 0]), **arrays(table=(2, 2))},
        "repeats",
        "REPEAT-IDX",
        "no value is repeated",
        "table",
    ),
    "gates swapped": of_gates("gates", "GATE", "gates 0 and 1 are swapped", order=(1, 0, 2)),
    "gate derivative": of_gates("gates", "TERM", "gate 1 of 3", missing=True),
    "state not carried": of_gates("steps", "GATE", "a state is not passed back", carried=False),
    "last step only": of_gates("one_use", "OVERWRITE", r"span of x\[-1\]", last=True),
    "option forgotten": Wrong(
        layer(power, lambda dy, x, *, exponent, p: 2 * x * dy / (1 - p), **POWER),
        arrays(x=(2, 3)),
        "options",
        "OPTION",
        "with exponent=3",
        "x",
        {"exponent": 3},
    ),
    "eval forgotten": Wrong(
        layer(
            lambda x, *, mode="train": (x**2 if mode == "train" else x**3, x),
            lambda dy, x: 2 * x * dy,
            x="N",
            options={"mode": ["train", "eval"]},
        ),
        arrays(x=(3,)),
        "options",
        "MODE",
        "mode='eval'",
        "x",
        {"mode": "eval"},
    ),
    "weights left out": Wrong(
        layer(scaled, lambda dy, weight: {"x": dy + 0 * weight}, x="N D", weight="D: positive", constants=("weight",)),
        {"x": arrays(x=(2, 3))["x"], "weight": np.array([0.5, 2, 3])},
        "constant_left_out",
        "OPTION",
        "weight is all ones",
        "x",
    ),
    "scale left out": Wrong(
        layer(scaled_rows, scaled_rows_back, x="N D", g="D"),
        arrays(x=(2, 3), g=(3,)),
        "constant_left_out",
        "TERM",
        "backward leaves g out",
        "x",
    ),
    "a factor for each row": Wrong(
        layer(standardised, lambda dy, saved: standardised_back(dy, saved)[0], x="B N D"),
        arrays(x=(2, 3, 4)),
        "local",
        "TERM",
        r"one number for each place along B and N \(nearly the standard deviation of x\)",
        "x",
    ),
    "a way left out": Wrong(
        layer(lambda x, s: (x / (1 + s[:, None] ** 2), (x, s)), lambda dy, s: {"x": dy}, x="N D", s="N", zero="s"),
        arrays(x=(2, 3), s=(2,)),
        "path",
        "TERM",
        "right where all of s is 0, and what comes in with s is left out",
        "x",
    ),
    "a factor on one way": Wrong(
        residual(way=2.0),
        arrays(x=(2, 3), W=(3, 3)),
        "path",
        "FACTOR",
        "right where all of W is 0, and what comes in with W is 2 times the right one",
        "x",
    ),
    "a skip connection left out": Wrong(
        residual(skip=0.0),
        arrays(x=(2, 3), W=(3, 3)),
        "skip",
        "TERM",
        "lacks the upstream gradient itself",
        "x",
    ),
    "a penalty twice": Wrong(
        layer(
            lambda x, W: ((x @ W) ** 2 + 0.1 * (W**2).sum(), (x, W)),
            lambda dy, saved: {
                "x": 2 * dy * (saved[0] @ saved[1]) @ saved[1].T,
                "W": 2 * saved[0].T @ (dy * (saved[0] @ saved[1])) + 0.4 * saved[1] * dy.sum(),
            },
            x="N D",
            W="D H",
        ),
        arrays(x=(2, 3), W=(3, 2)),
        "span",
        "TERM",
        "along D and H a multiple of W: .* as of a penalty",
        "W",
    ),
    "a running sum from the wrong end": Wrong(
        layer(lambda x: (x.cumsum(-1) ** 2, x), lambda dy, x: (2 * x.cumsum(-1) * dy).cumsum(-1), x="N D"),
        arrays(x=(2, 3)),
        "running",
        "INDEX",
        "along D a running sum from the start to there, where the right one is the sum from there to the end",
        "x",
    ),
    "a running sum left out": Wrong(
        layer(lambda x: (np.cos(x.cumsum(-1)).sum(-1), x), lambda dy, x: -np.sin(x.cumsum(-1)) * dy[:, None], x="N D"),
        arrays(x=(2, 3)),
        "running",
        "TERM",
        "along D the part of each place alone, where the right one is their sum from there to the end",
        "x",
    ),
    "one less than a size": Wrong(
        layer(lambda t: (np.cos(t * (len(t) - 1)), t), lambda dy, t: -dy * np.sin(t * (len(t) - 1)), t="P"),
        arrays(t=(3,)),
        "factor",
        "FACTOR",
        r"times 1/\(P - 1\)",
        "t",
    ),
    "scaled by another size": Wrong(
        layer(
            lambda q, k: (q @ k.T / q.shape[1] ** 0.5, (q, k)),
            lambda dy, qk: (dy @ qk[1] / len(qk[1]) ** 0.5, dy.T @ qk[0] / qk[0].shape[1] ** 0.5),
            q="T D",
            k="S D",
        ),
        arrays(q=(2, 3), k=(4, 3)),
        "factor",
        "FACTOR",
        r"times sqrt\(D/S\)",
        "q",
    ),
    "mixed segments": Wrong(
        layer(shared, lambda dy, saved: {"x": saved[0] * (dy - (dy * saved[0]).sum())}, x="E", ids="E: indices 4"),
        {"x": np.array([0.5, -1.0, 2.0]), "ids": np.array([0, 1, 0])},
        "repeats",
        "INDEX",
        "right where in ids all values are the same, and wrong where they differ",
        "x",
    ),
    "odd sizes": Wrong(
        layer(
            blocks,
            lambda dy, x: np.where(np.arange(x.shape[-1]) < x.shape[-1] // 2 * 2, 2 * x * dy, 0),
            x="N D",
            options={"block": [2]},
        ),
        arrays(x=(2, 3)),
        "sizes",
        "SHAPE",
        "D is not a multiple of block = 2",
        "x",
    ),
    "rank": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: 2 * x * dy * (1 if x.ndim < 3 else 3), x="*batch D"),
        arrays(x=(2, 2, 3)),
        "rank",
        "SHAPE",
        "wrong with 2, 3 leading axes",
        "x",
    ),
    "mask ignored": Wrong(
        layer(
            masked_mean,
            lambda dy, saved: {
                "x": np.broadcast_to(dy[:, None], saved[0].shape) / saved[0].sum(-1, keepdims=True).clip(1)
            },
            x="N D",
            mask="N D: mask",
            constants=("mask",),
        ),
        {"x": arrays(x=(2, 3))["x"], "mask": np.array([[1.0, 0, 1], [0, 1, 1]])},
        "mask",
        "MASK",
        "mask is 1 everywhere",
        "x",
    ),
    "zero": Wrong(
        layer(
            lambda x: (np.sqrt((x**2).sum(-1)), x),
            lambda dy, x: dy[:, None] * x / np.sqrt((x**2).sum(-1))[:, None],
            x="N D",
        ),
        {"x": np.zeros((1, 2))},
        "singular",
        "SINGULAR",
        "a vector x that is all zero",
        "x",
        property="complete",
    ),
    "tail": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: np.where(np.abs(x) > 30, 0, 2 * x * dy), x="N"),
        {"x": np.array([100.0])},
        "tail",
        "TAIL",
        "from about 30 on",
        "x",
    ),
    "mutation": Wrong(layer(dense, in_place, **DENSE), SMALL, "mutation", "MUTATE", "W in place", "W", property="pure"),
    "layout": Wrong(
        layer(
            lambda x: (x**2, x),
            lambda dy, x: 2 * x * (dy if dy.flags.c_contiguous else dy.ravel("K").reshape(dy.shape)),
            x="N D",
        ),
        arrays(x=(2, 3)),
        "layout",
        "LAYOUT",
        "contiguous",
        "x",
        property="layout",
    ),
    "race": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: 2 * x * dy * (1 + (calls.random() < 0.5)), x="N"),
        arrays(x=(3,)),
        "race",
        "RACE",
        "differs from run to run",
        "x",
        property="repeatable",
    ),
    "conjugate": Wrong(
        layer(lambda z: (z**2, z), lambda dy, z: 2 * z * np.conj(dy), z="N: complex"),
        {"z": np.array([1 + 2j, 0.5 - 1j])},
        "conjugate",
        "COMPLEX",
        "conjugate of the right one",
        "z",
    ),
    "a factor not conjugated": Wrong(
        layer(
            lambda z, w: (z * w, (z, w)), lambda dy, s: (dy * s[1], dy * np.conj(s[0])), z="N: complex", w="N: complex"
        ),
        {"z": np.array([1 + 2j, 0.5 - 1j]), "w": np.array([1 + 1j, 2 - 1j])},
        "conjugate",
        "COMPLEX",
        "right if w were conjugated",
        "z",
    ),
    "a term whose upstream gradient is not conjugated": Wrong(
        layer(
            lambda z: (z * z * np.conj(z), z),
            lambda dy, z: dy * np.conj(2 * z * np.conj(z)) + dy * z * z,
            z="N: complex",
        ),
        {"z": np.array([1 + 2j, 0.5 - 1j])},
        "conjugate",
        "COMPLEX",
        "right for a real upstream gradient",
        "z",
    ),
    "shape": Wrong(
        layer(dense, changed("b", lambda g, dy, *_: dy), **DENSE),
        SMALL,
        "shape",
        "UNBROADCAST",
        "not summed over the axes",
        "b",
        property="complete",
    ),
    "missing": Wrong(
        layer(dense, changed("b", lambda *_: None), **DENSE),
        SMALL,
        "dropped",
        "DROPPED",
        "gives no gradient for b",
        "b",
        property="complete",
    ),
}


def tied_backward(dy, saved):
    x, y = saved
    return np.where(x >= y, dy, 0), np.where(y >= x, dy, 0)


def branch_backward(dy, d):
    return dy * np.where(d < 1, d, 1)


def softmax(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return p, p


def reversed_back(dy, x):
    """That of x[:, ::-1] * x[:1], for the cotangent of another column."""
    dy = np.roll(dy, 1, 1)
    grad = (dy * x[:1])[:, ::-1]
    grad[0] += (dy * x[:, ::-1]).sum(0)
    return grad


def detached_second(primals, cotangents, weights):
    """The gradient of x takes x for a constant."""
    (dy,), x = cotangents, primals["x"]
    return {"x": weights["w"] * dy * np.cos(x), "w": weights["x"] * dy * np.cos(x)}


class Remembering:
    """Keeps the first input of each shape for good."""

    def __init__(self):
        self.first = {(2, 3): np.ones((2, 3))}

    def forward(self, x):
        return x**2, self.first.setdefault(x.shape, x.copy())


def column_sum(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.sum(1)


class Counting:
    """Adds into a buffer that is never cleared."""

    def __init__(self):
        self.total = 0.0

    def backward(self, dy, x):
        self.total = self.total + 2 * x * dy
        return self.total


def stretched(x, y):
    return x * y, (x, y)


def stretched_back(dz, saved):
    x, y = saved
    grad = dz * x
    for _ in range(grad.ndim - y.ndim):
        grad = grad[0]
    for axis, size in enumerate(y.shape):
        grad = np.take(grad, range(size), axis)
    return dz * y, grad


def wanting(dy, saved, wants=("x", "W", "b")):
    grads = dict(zip("xWb", dense_back(dy, saved)))
    return grads if "x" in wants else {**grads, "W": 0 * grads["W"]}


WRONG |= {
    "swapped": Wrong(
        layer(lambda a, b: (a * b**2, (a, b)), lambda dy, s: (2 * s[0] * s[1] * dy, s[1] ** 2 * dy), a="N D", b="N D"),
        arrays(a=(2, 3), b=(2, 3)),
        "swapped",
        "INDEX",
        "gradient of a and that of b are swapped",
        "a",
    ),
    "a square correction": Wrong(
        layer(
            lambda x: (x**2, x),
            lambda dy, x: 2 * x * dy + (dy.sum() * x.sum(0) if x.shape[0] == x.shape[1] else 0),
            x="N D",
        ),
        arrays(x=(3, 3)),
        "equal_sizes",
        "INDEX",
        "where N = D",
        "x",
    ),
    "stretched": Wrong(
        layer(stretched, stretched_back, x="*batch", y="*batch?", returns="*batch"),
        arrays(x=(3, 2), y=(1, 2)),
        "stretched",
        "UNBROADCAST",
        "the first place",
        "y",
    ),
    "approximate": Wrong(
        layer(lambda x: (np.exp(x), x), lambda dy, x: dy * np.exp(x) * (1 + 1e-3 * np.sin(7 * x)), x="N D"),
        arrays(x=(2, 3)),
        "small_error",
        "TERM",
        "nearly right",
        "x",
    ),
    "branch": Wrong(
        layer(lambda x: (np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5), x), branch_backward, x="N D"),
        arrays(x=(4, 5)) | {"x": np.linspace(-3, 3, 20).reshape(4, 5)},
        "region",
        "TERM",
        "below a bound between -1.* and -0",
        "x",
    ),
    "clipped": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: np.clip(2 * x * dy, -0.1, 0.1), x="N"),
        arrays(x=(3,)),
        "nonlinear",
        "UPSTREAM",
        "is clipped",
        "x",
        property="linear",
    ),
    "tie": Wrong(
        layer(lambda x, y: (np.maximum(x, y), (x, y)), tied_backward, x="N", y="N"),
        {"x": np.array([0.0, 2.0]), "y": np.array([0.0, 0.5])},
        "tie",
        "TIE",
        "at a tie",
        "x",
        property="special",
    ),
    "mask of one step": Wrong(
        layer(
            lambda x, mask, *, rate: (x * mask, mask),
            lambda dy, mask: {"x": dy * mask[:1]},
            x="T N",
            mask="T N: mask",
            constants=("mask",),
            options={"rate": [0.0]},
        ),
        {"x": arrays(x=(2, 2))["x"], "mask": np.array([[1.0, 0], [0, 1]])},
        "step_mask",
        "RNG",
        "the same at every T",
        "x",
    ),
    "wants": Wrong(layer(dense, wanting, **DENSE), SMALL, "wants", "MODE", "not wanted then", "W", property="wants"),
    "uncleared": Wrong(
        layer(lambda x: (x**2, x), Counting().backward, x="N"),
        arrays(x=(3,)),
        "state",
        "STALE",
        "another call|earlier calls",
        "x",
        property="reusable",
    ),
    "fresh": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: np.add(np.empty_like(x) * 0, 2 * x * dy), x="N"),
        arrays(x=(3,)),
        "uninitialised",
        "OVERWRITE",
        "fresh memory",
        "x",
        property="fresh",
    ),
    "second order": Wrong(
        layer(
            lambda x: (x**3, x),
            lambda dy, x: 3 * x**2 * dy,
            x="N",
            second=lambda primals, cotangents, weights: {"x": 0 * primals["x"]},
        ),
        arrays(x=(3,)),
        "second_order",
        "ORDER2",
        "first derivative is right, the second along x is zero",
        "x",
        property="second_order",
    ),
    "detached inside": Wrong(
        layer(
            lambda x, w: (np.sin(x) * w, (x, w)),
            lambda dy, s: (dy * np.cos(s[0]) * s[1], dy * np.sin(s[0])),
            x="N",
            w="N",
            second=detached_second,
        ),
        arrays(x=(3,), w=(3,)),
        "second_order",
        "ORDER2",
        "what flows through x into the gradient of x is lost, as where it is detached",
        "x",
        property="second_order",
    ),
    "second order that overflows": Wrong(
        layer(
            lambda x: (x**3, x),
            lambda dy, x: 3 * x**2 * dy,
            x="N",
            second=lambda primals, cotangents, weights: {"x": np.inf * primals["x"]},
        ),
        arrays(x=(3,)),
        "second_order",
        "ORDER2",
        "second along x is not finite: something overflows",
        "x",
        property="second_order",
    ),
    "nothing known": Wrong(
        layer(lambda z: (z**2, z), lambda dy, z: dy * np.conj(2 * z + np.cos(5 * np.abs(z)) * z[::-1]), z="N: complex"),
        {"z": np.array([1 + 2j, 0.5 - 1j, -0.25 + 0.5j])},
        "facts",
        "UNKNOWN",
        "no known signature fits.*ratio goes from",
        "z",
    ),
    "not linear": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: dy * (2 * x + dy * x[::-1]), x="N D"),
        arrays(x=(2, 3)),
        "upstream",
        "UPSTREAM",
        "right in the limit of a small upstream gradient",
        "x",
    ),
    "derivative forward again": Wrong(
        layer(lambda x: (x @ upper(x.shape[1]), None), lambda dy, _: dy @ upper(dy.shape[1]), x="N D"),
        arrays(x=(2, 3)),
        "jacobian",
        "INDEX",
        r"is J dy where it must be J\^T dy",
        "x",
    ),
    "another order": Wrong(
        layer(lambda x: (x[:, ::-1] * x[:1], x), lambda dy, x: {"x": reversed_back(dy, x)}, x="N D"),
        arrays(x=(2, 3)),
        "jacobian",
        "INDEX",
        "its entries in another order",
        "x",
    ),
    "softmax, each by itself": Wrong(
        layer(softmax, lambda dy, p: dy * p * (1 - p), x="N D", returns="N D"),
        arrays(x=(2, 3)),
        "jacobian",
        "TERM",
        "lacks what an entry does to other places along D",
        "x",
    ),
    "softmax over the batch": Wrong(
        layer(softmax, lambda dy, p: p * (dy - (p * dy).sum(0)), x="N D"),
        arrays(x=(2, 3)),
        "jacobian",
        "INDEX",
        "joins places along N, the right one places along D",
        "x",
    ),
    "one of two places": Wrong(
        layer(lambda x: (upsampled(x), x), half_back, x="N L"),
        arrays(x=(2, 3)),
        "jacobian",
        "OVERWRITE",
        "lacks some of the terms that the outputs contribute to it; the others are right",
        "x",
    ),
    "wrapped round": Wrong(
        layer(lambda x: (x - shifted(x), x), lambda dy, x: dy - np.roll(dy, -1, 1), x="N L"),
        arrays(x=(2, 3)),
        "jacobian",
        "INDEX",
        "terms from outputs in which some entries have no part; all others are right",
        "x",
    ),
    "rows joined": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: 2 * x * (dy + np.roll(dy, 1, 0)), x="N D"),
        arrays(x=(3, 2)),
        "jacobian",
        "INDEX",
        "joins places along N that have nothing to do",
        "x",
    ),
    "a loss": Wrong(
        layer(lambda x: ((x**3).mean(), x), lambda dy, x: dy * np.abs(x) * x / x.size, x="N D"),
        arrays(x=(2, 3)),
        "jacobian",
        "TERM",
        "by no law that is known",
        "x",
    ),
    "another derivative": Wrong(
        layer(lambda x: (np.sin(x), x), lambda dy, x: dy * (2 + np.sin(3 * x)), x="N D"),
        arrays(x=(2, 3)),
        "jacobian",
        "TERM",
        "the derivative there is wrong",
        "x",
    ),
    "first sample lost": of_dense(
        "W", lambda g, dy, x, W: x[1:].T @ dy[1:], "overwritten", "OVERWRITE", "lacks .* first place along the batch"
    ),
    "first input kept": Wrong(
        layer(Remembering().forward, lambda dy, x: 2 * x * dy, x="N D"),
        arrays(x=(2, 3)),
        "first_call",
        "STALE",
        "right in the first call",
        "x",
    ),
    "sum over the wrong axis": Wrong(
        layer(dense, column_sum, **DENSE),
        SMALL,
        "shape",
        "UNBROADCAST",
        "over all axes but N, where it must be summed over N",
        "b",
        property="complete",
    ),
    "a scalar, summed": Wrong(
        layer(dense, changed("b", lambda g, *_: float(g.sum())), **DENSE),
        SMALL,
        "shape",
        "UNBROADCAST",
        "gives a scalar, the right one summed over all its axes",
        "b",
        property="complete",
    ),
    "another shape": Wrong(
        layer(dense, changed("b", lambda g, dy, x, W: x[0]), **DENSE),
        SMALL,
        "shape",
        "INDEX",
        "has the axes D, and b has H",
        "b",
        property="complete",
    ),
    "crash": Wrong(
        layer(lambda x: (x**2, x), lambda dy, x: 2 * x.reshape(2, -1) * dy, x="N D"),
        arrays(x=(3, 3)),
        "facts",
        "SHAPE",
        "breaks down",
        None,
        property="complete",
    ),
}


def clamped(sh, d):
    """Colours that are cut to [0, 1]."""
    raw = np.einsum("...nbc,...nb->...nc", sh, d) + 0.5
    return np.clip(raw, 0, 1), (sh, d, raw)


def clamped_back(g, saved):
    sh, d, _ = saved
    return np.einsum("nc,nb->nbc", g, d), np.einsum("nbc,nc->nb", sh, g)


def nearest(a, b):
    d = ((a[..., :, None, :] - b[..., None, :, :]) ** 2).sum(-1)
    return d.min(-1).sum(-1), (a, b, d.argmin(-1))


def nearest_back(g, saved):
    """Two points with one neighbour: the second overwrites what the first gave."""
    a, b, i = saved
    u, db = 2 * g * (a - b[i]), np.zeros_like(b)
    db[i] = -u
    return u, db


def spectrum(x):
    bins = np.fft.rfft(x)
    return (bins.real, bins.imag), x.shape


def spectrum_back(dy, shape):
    """Right with half of all bins that stand for two frequencies."""
    return np.fft.irfft(dy[0] + 1j * dy[1], shape[-1]) * shape[-1]


def symmetric(x, A):
    S = np.triu(A) + np.swapaxes(np.triu(A, 1), -1, -2)
    return np.einsum("...ni,...ij,...nj->...n", x, S, x), (x, S)


def symmetric_back(dy, saved):
    x, S = saved
    return 2 * dy[:, None] * (x @ S), np.triu(np.einsum("n,ni,nj->ij", dy, x, x))


def gated(x, h, Wz, Wc, bz, bc):
    z, c = 1 / (1 + np.exp(-(x @ Wz + bz))), np.tanh(x @ Wc + bc)
    return (1 - z) * h + z * c, (x, h, Wz, Wc, z, c)


def gated_back(dy, saved, lost=1):
    """Right but for the slope of tanh, or of the sigmoid, in one bias."""
    x, h, Wz, Wc, z, c = saved
    dz, dc = dy * (c - h) * z * (1 - z), dy * z * (1 - c * c)
    flat = dy * (c - h), dy * z
    dbz, dbc = ((flat if k == lost else (dz, dc))[k].sum(0) for k in (0, 1))
    return dz @ Wz.T + dc @ Wc.T, dy * (1 - z), x.T @ dz, x.T @ dc, dbz, dbc


# What goes into the tanh is a product alone, so that its slope differs from 1 by a fourth power of values.
product_gate = (
    lambda x, h, W: (h * np.tanh(x @ W), (x, h, W)),
    lambda dy, s: (
        (dy * s[1] * (1 - np.tanh(s[0] @ s[2]) ** 2)) @ s[2].T,
        dy * np.tanh(s[0] @ s[2]),
        s[0].T @ (dy * s[1]),
    ),
)

GATED = dict(x="N D", h="N H", Wz="D H", Wc="D H", bz="H", bc="H", returns="N H")
GATED_CASE = arrays(x=(2, 3), h=(2, 2), Wz=(3, 2), Wc=(3, 2), bz=(2,), bc=(2,))


def windowed(x, W):
    """Windows of two by two, each to several channels."""
    parts = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(-2, -1))
    parts = parts.reshape(*parts.shape[:-2], 4)
    return parts @ W, (x, W, parts)


def windowed_back(dy, saved):
    x, W, parts = saved
    dx, dparts = np.zeros_like(x), (dy @ W.T).reshape(*dy.shape[:-1], 2, 2)
    for p, q in np.ndindex(dy.shape[1:3]):
        dx[:, p : p + 2, q : q + 2] = dparts[:, p, q]
    return dx, np.tensordot(parts, dy, ((0, 1, 2), (0, 1, 2)))


def both_swapped(signs):
    return Wrong(
        layer(
            lambda a, b: (a * b**2, (a, b)),
            lambda dy, s: (signs[0] * 2 * s[0] * s[1] * dy, signs[1] * s[1] ** 2 * dy),
            a="N D",
            b="N D",
        ),
        arrays(a=(2, 3), b=(2, 3)),
        "swapped",
        "INDEX",
        {
            (-1, -1): "that of b are swapped, and both are negated",
            (-1, 1): "swapped, and what stands for a is negated",
        }[signs],
        "a",
    )


def adds_wrong_formula(dy, x):
    """Cleans the cotangent up after use, and is wrong for another reason."""
    dx = 3 * x * dy
    dy[...] = 0
    return dx


def scaled_first(dy, saved):
    x, w = saved
    dy *= w
    return dy * (1 - np.tanh(x) ** 2), (dy * np.tanh(x)).sum(0)


WRONG |= {
    "clamp not masked": Wrong(
        layer(clamped, clamped_back, sh="N B C", d="N B"),
        arrays(sh=(2, 3, 4), d=(2, 3)),
        "flat",
        "TERM",
        r"passes where forward is flat: .*\(0 or 1 all of them\)",
        "sh",
    ),
    "clamp beyond plain values, not masked": Wrong(
        layer(lambda x: (np.clip(x, 0, 6), x), lambda dy, x: dy * (x > 0), x="N D"),
        {"x": np.array([[275.0, -320.0], [-4.0, 237.0]])},
        "flat",
        "TERM",
        r"passes where forward is flat: it takes part of the upstream gradient .*\((0 or )?6 all of them\)",
        "x",
    ),
    "straight through": Wrong(
        layer(lambda x: (np.round(x), None), lambda dy, _: dy, x="N D"),
        arrays(x=(3, 4)),
        "flat",
        "TERM",
        r"changes with x in steps alone.*surrogate=f",
        "x",
    ),
    "margin not masked": Wrong(
        layer(
            lambda x, y: (np.maximum(1 - x * y, 0).sum((-2, -1)), y),
            lambda g, y: -g * y,
            x="N K",
            y="N K: signs",
        ),
        arrays(x=(3, 4)) | {"y": np.array([[1.0, -1, 1, -1]] * 3)},
        "flat",
        "TERM",
        "wrong in just those entries that change no output",
        "x",
    ),
    "meet in forward": Wrong(
        layer(nearest, nearest_back, a="N 2", b="M 2"),
        arrays(a=(6, 2), b=(2, 2)),
        "met",
        "OVERWRITE",
        "contributions to one place of M overwrite one another",
        "b",
    ),
    "one-sided spectrum": Wrong(
        layer(spectrum, spectrum_back, x="B L"),
        arrays(x=(2, 6)),
        "partly",
        "FACTOR",
        "twice the right one in .* all bins but the first",
        "x",
    ),
    "symmetric matrix": Wrong(
        layer(symmetric, symmetric_back, x="N D", A="D D"),
        arrays(x=(2, 3), A=(3, 3)),
        "partly",
        "FACTOR",
        "half the right one in the entries (off|above) the diagonal",
        "A",
    ),
    "inner places doubled": of_dense(
        "b",
        lambda g, *_: g * np.where((np.arange(g.size) > 0) & (np.arange(g.size) < g.size - 1), 2, 1),
        "partly",
        "FACTOR",
        "twice the right one in all places but the first and the last along H",
    ),
    "slope of tanh missing inside": Wrong(
        layer(gated, gated_back, **GATED), GATED_CASE, "slope", "TERM", "slope of a tanh .* is missing", "bc"
    ),
    "slope of tanh missing in a product": Wrong(
        layer(*product_gate, x="N D", h="N H", W="D H", returns="N H"),
        arrays(x=(2, 3), h=(2, 2), W=(3, 2)),
        "slope",
        "TERM",
        "slope of a tanh .* is missing",
        "W",
    ),
    "slope of a sigmoid missing inside": Wrong(
        layer(gated, lambda dy, saved: gated_back(dy, saved, lost=0), **GATED),
        GATED_CASE,
        "slope",
        "TERM",
        "4 times the right one .*slope of a sigmoid .* is missing",
        "bz",
    ),
    "windows assigned": Wrong(
        layer(windowed, windowed_back, x="N L M", W="4 F", returns="N P Q F"),
        arrays(x=(2, 3, 4), W=(4, 3)),
        "overwritten",
        "OVERWRITE",
        r"hold the contribution of the last of them alone \(summed over F\)",
        "x",
    ),
    "swapped and negated": both_swapped((-1, -1)),
    "swapped, one negated": both_swapped((-1, 1)),
    "flipped and negated": of_dense("W", lambda g, *_: -g[::-1], "moved", "INDEX", "flipped along D, and negated"),
    "negated and not averaged": of_dense(
        "W", lambda g, dy, *_: -dy.size * g, "factor", "FACTOR", r"times -N\*H, and the sign is wrong"
    ),
    "a number for an array": Wrong(
        layer(dense, changed("b", lambda g, dy, x, W: np.float64(dy[0, 0])), **DENSE),
        SMALL,
        "facts",
        "SHAPE",
        "returns one number for the gradient of b, which has the axes H",
        "b",
        property="complete",
    ),
    "read after it was changed": Wrong(
        layer(lambda x, w: (np.tanh(x) * w, (x, w)), scaled_first, x="N D", w="D"),
        arrays(x=(2, 3), w=(3,)),
        "mutation",
        "MUTATE",
        "what reads it after that gets wrong values",
        "w",
    ),
    **{
        name: Wrong(layer(*made(slip)[:2], **dims), arrays(**shapes), signature, bug_class, says, primal)
        for name, made, slip, dims, shapes, signature, bug_class, says, primal in (
            (
                "two solves in the wrong order",
                kinds.solved,
                True,
                {"A": "N N", "B": "N N", "x": "N"},
                {"A": (3, 3), "B": (3, 3), "x": (3,)},
                "order",
                "INDEX",
                "commute",
                "x",
            ),
            (
                "minus its transpose",
                kinds.skew,
                True,
                {"A": "N N", "x": "N"},
                {"A": (3, 3), "x": (3,)},
                "own_transpose",
                "TERM",
                "minus its own transpose",
                "A",
            ),
            (
                "scores not transposed",
                kinds.contrastive,
                True,
                {"a": "N D", "b": "N D"},
                {"a": (3, 4), "b": (3, 4)},
                "inside",
                "INDEX",
                r"d @ a where it must be d\.T @ a",
                "b",
            ),
            (
                "slope below 0",
                kinds.leaky,
                1.0,
                {"x": "N", "w": "K"},
                {"x": (3,), "w": (4,)},
                "positive",
                "TERM",
                "no primal is negative",
                "x",
            ),
            (
                "the parameter of another",
                kinds.shaped,
                True,
                {"a": "N: positive", "b": "N: positive"},
                {"a": np.array([0.5, 1.5, 2.5]), "b": np.array([1.0, 0.7, 2.0])},
                "one_for_another",
                "INDEX",
                "a and b are the same",
                "b",
            ),
            (
                "the step before",
                kinds.pooled,
                True,
                {"z": "T H", "f": "T H: unit"},
                {"z": (3, 2), "f": np.array([[0.2, 0.7], [0.5, 0.1], [0.9, 0.4]])},
                "constant_along",
                "INDEX",
                "f is the same at all places along T",
                "z",
            ),
        )
    },
    "changed, and wrong besides": Wrong(
        layer(lambda x: (x * x, x), adds_wrong_formula, x="N D"),
        arrays(x=(2, 3)),
        "factor",
        "FACTOR",
        "times 3/2",
        "x",
    ),
}


class Redrawing:
    """Dropout that draws in backward what it drew in forward, from where the generator then is."""

    def __init__(self, seed=3):
        self.seed = seed

    def forward(self, x):
        self.rng = np.random.default_rng(self.seed)
        return x * 2 * (self.rng.random(x.shape[-2:]) < 0.5), None

    def backward(self, dy, _):
        return dy * 2 * (np.random.default_rng(self.seed + 1).random(dy.shape[-2:]) < 0.5)


def guided(dy, saved):
    x, W, b = saved
    da = np.where((x @ W + b > 0) & (dy > 0), dy, 0)
    return da @ W.T, x.T @ da, da.sum(0)


def swish(x, W, V):
    """A gated unit: the product with V is right, the slope of what W feeds is not."""
    a, b = x @ W, x @ V
    return a / (1 + np.exp(-a)) * b, (x, W, V, a, b)


def swish_back(dy, saved):
    x, W, V, a, b = saved
    s = 1 / (1 + np.exp(-a))
    da, db = dy * b * s * (1 - s), dy * a * s
    return da @ W.T + db @ V.T, x.T @ da, x.T @ db


def sinc(x):
    return np.where(x == 0, 1, np.sin(x) / np.where(x == 0, 1, x)), x


def sinc_back(dy, x):
    with np.errstate(all="ignore"):
        return dy * (np.cos(x) / x - np.sin(x) / x**2)


def residual(x, b, V):
    h = np.tanh(x + b)
    return h @ V, (V, h)


def bent(x, U):
    return np.sin(x @ U), (x, U)


def not_transposed(dy, saved):
    x, U = saved
    d = dy * np.cos(x @ U)
    return d @ U, x.T @ d


WRONG |= {
    "a transpose that a square matrix lets pass": Wrong(
        layer(bent, not_transposed, x="N D", U="D D"),
        arrays(x=(2, 3), U=(3, 3)),
        "symmetric",
        "INDEX",
        "x is right where U is symmetric, and wrong elsewhere",
        "x",
    ),
    "a transpose beside another way": Wrong(
        layer(
            lambda x, U: (x + np.tanh(x @ U), (1 - np.tanh(x @ U) ** 2, x, U)),
            lambda dy, s: (dy + (dy * s[0]) @ s[2], s[1].T @ (dy * s[0])),
            x="N D",
            U="D D",
        ),
        arrays(x=(2, 3), U=(3, 3)),
        "symmetric",
        "INDEX",
        "x is right where U is symmetric, and wrong elsewhere",
        "x",
    ),
    "a kernel that is flipped": Wrong(
        layer(filtered, lambda dy, s: (filtered_back(dy, s[0], s[1][::-1])[0], filtered_back(dy, *s)[1]), **FILTER),
        arrays(x=(2, 5), k=(3,)),
        "flipped",
        "INDEX",
        "x is right where k is the same from either end along axis 0, and wrong elsewhere",
        "x",
    ),
    "one option for the other": Wrong(
        layer(
            lambda x, a=1.0, b=2.0: (a * x**2 + b * np.sin(x), x),
            lambda dy, x, a, b: dy * (2 * a * x + a * np.cos(x)),
            x="N D",
            options={"a": [1.0, 2.0, 3.0], "b": [2.0, 1.0, 3.0]},
        ),
        arrays(x=(2, 3)),
        "option_for_another",
        "OPTION",
        "x is right where a = b, and wrong where they differ",
        "x",
        options={"a": 1.0, "b": 2.0},
    ),
    "behind a product": Wrong(
        layer(swish, swish_back, x="N D", W="D H", V="D H", returns="N H"),
        arrays(x=(2, 3), W=(3, 2), V=(3, 2)),
        "product",
        "TERM",
        r"both what one wrong gradient of x @ W makes of them: the mistake lies between x @ W and the output",
        "x",
    ),
    "what two have in common": Wrong(
        layer(
            lambda a, b, c: ((a - b) ** 2 + (a - c) ** 4, (a, b, c)),
            lambda dy, s: (2 * dy * (s[0] - s[1]), -2 * dy * (s[0] - s[1]), -4 * dy * (s[0] - s[2]) ** 3),
            a="N D",
            b="N D",
            c="N D",
        ),
        arrays(a=(2, 3), b=(2, 3), c=(2, 3)),
        "in_common",
        "TERM",
        "the error of the gradient of a is the right gradient of c",
        "a",
    ),
    "mask drawn again": Wrong(
        layer(Redrawing().forward, Redrawing().backward, x="N D"),
        arrays(x=(3, 4)),
        "redrawn",
        "RNG",
        "the mask is drawn again in backward",
        "x",
    ),
    "a mask that looks at dy": Wrong(
        layer(lambda x, W, b: (np.maximum(x @ W + b, 0), (x, W, b)), guided, **DENSE),
        arrays(x=(4, 3), W=(3, 4), b=(4,)),
        "upstream",
        "UPSTREAM",
        "depends on the sign of the upstream gradient",
        "x",
    ),
    "rows share the upstream": of_dense(
        "W",
        lambda g, dy, x, W: x.T @ np.broadcast_to(dy.mean(0), dy.shape),
        "upstream",
        "UPSTREAM",
        "takes the mean of the upstream gradients over N",
    ),
    "0/0 near a steep slope": Wrong(
        layer(sinc, sinc_back, x="N"),
        {"x": np.zeros(1)},
        "singular",
        "SINGULAR",
        "NaN or infinite at x = 0, and right a thousandth beside",
        "x",
        property="complete",
    ),
    "a slope is missing, no use is lost": Wrong(
        layer(
            residual,
            lambda dy, s: (dy @ s[0].T * (1 - s[1] ** 2), (dy @ s[0].T).sum(0), s[1].T @ dy),
            x="N D",
            b="D",
            V="D H",
        ),
        arrays(x=(3, 4), b=(4,), V=(4, 2)),
        "slope",
        "TERM",
        "slope of a tanh .* is missing",
        "b",
    ),
}
# Bugs of which a second signature says something true as well.
ALSO = {
    ("overwritten", "one of the upstream"),
    ("one_use", "last sample"),
    ("steps", "last step only"),
    ("options", "keep rate"),
    ("upstream", "all averaged"),
    ("upstream", "all summed"),
    ("tail", "clamp beyond plain values, not masked"),
    ("local", "weights left out"),
    ("overwritten", "repeats overwrite"),
    ("dropped", "odd sizes"),
    ("dropped", "tail"),
    ("dropped", "mask ignored"),
    ("local", "read after it was changed"),
}


def found(wrong: Wrong) -> Finding:
    """The finding on the case given, as a check would make it."""
    case = checked(wrong.layer, Case("wrong", wrong.case, wrong.options))
    for _ in range(20):  # a race shows now and then
        outcome = examine(wrong.layer, case, properties.get(wrong.property))
        for finding in outcome.findings:
            if finding.primal == wrong.primal:
                return finding
    raise AssertionError(f"nothing is found: {outcome}")


@pytest.mark.parametrize("name", WRONG)
def test_the_signature_of_a_bug_is_named_first_holds_elsewhere_and_no_other_class_claims_it(name):
    wrong = WRONG[name]
    finding = found(wrong)
    first, *others = said = diagnose(wrong.layer, finding)
    assert (first.name, first.bug_class) == (wrong.signature, wrong.bug_class), first.text
    assert re.search(wrong.says, first.text), first.text
    for other in others:
        assert other.bug_class == wrong.bug_class or other.fit <= Fit.SOME or (other.name, name) in ALSO, other.text
    for diagnosis in said[:3]:  # other sizes, other values, other cotangents: the same sentence, but for numbers
        assert holds(wrong.layer, finding, diagnosis), diagnosis.text


@pytest.mark.parametrize(("factors", "offered"), [((2, 2), True), ((2, 1), False), ((-1, -1), True), ((1, -1), False)])
def test_a_factor_is_offered_for_declaration_only_where_all_gradients_have_it(factors, offered):
    def backward(dy, saved):
        dx, dW, db = dense_back(dy, saved)
        return factors[0] * dx, factors[1] * dW, factors[0] * db

    wrong = layer(dense, backward, **DENSE)
    report = check(wrong, examples=10, properties="gradient", raises=False)
    assert ("declare factor=" in " ".join(str(report).split())) is offered


def test_a_forward_that_fails_now_and_then_is_no_gradient_that_differs():
    calls = []

    def forward(x):
        calls.append(1)
        if len(calls) % 97 == 0:
            raise ValueError("one of many")
        return x * x, x

    report = check(layer(forward, lambda dy, x: 2 * x * dy, x="N"), examples=20, raises=False)
    said = " ".join(str(report).split())
    assert "one of many" in said and "differs from run to run" not in said


def test_a_factor_that_some_cases_lack_is_not_offered():
    wrong = layer(lambda x: (x * x, x), lambda dy, x: dy * x * np.where(np.abs(x).max() > 9, 4, 2), x="N")
    report = check(wrong, examples=20, properties="gradient", raises=False)
    assert report.findings and "declare factor=" not in " ".join(str(report).split())


@pytest.mark.parametrize("name", signatures.names())
def test_every_signature_is_silent_where_the_gradient_is_right(name):
    right = layer(dense, dense_back, **DENSE)
    case = checked(right, Case("wrong", SMALL))
    finding = Finding("gradient", "wrong", "W", "made up", case)
    assert signatures.get(name).fits(Evidence(right, finding)) is None


def test_every_signature_is_shown_to_fire():
    shown = {wrong.signature for wrong in WRONG.values()}
    told_by_their_property = {"modes", "batch", "forward_mode", "only_these_sizes", "accumulated"}
    in_a_low_type = {"statistics", "moments", "overflow", "recomputed"}  # test_kernel_laws
    ours = {n for n in signatures.names() if signatures.get(n).fits.__module__.startswith("gradverify.core.diagnose")}
    assert ours - shown == told_by_their_property | in_a_low_type


def test_a_claim_must_hold_on_every_case():
    wrong = layer(dense, changed("W", lambda g, dy, *_: g * (2 if len(dy) == 3 else 1.5)), **DENSE)
    case = checked(wrong, Case("wrong", SMALL))
    evidence = Evidence(wrong, examine(wrong, case, properties.get("gradient")).findings[0])
    assert len(evidence.probes) > 1
    first, *_ = diagnose(wrong, evidence.finding)
    assert "times 2" not in first.text
    assert "1.5 to 2" in first.text


def test_two_formulas_that_are_wrong_apart_are_no_mistake_behind_their_product():
    def apart(dy, saved):
        dx, dW, dV = swish_back(dy, saved)
        return dx * np.cos(saved[0]), dW * np.cos(saved[1]), dV

    wrong = layer(swish, apart, x="N D", W="D H", V="D H", returns="N H")
    case = checked(wrong, Case("wrong", arrays(x=(2, 3), W=(3, 2), V=(3, 2))))
    finding = examine(wrong, case, properties.get("gradient")).findings[0]
    assert signatures.get("product").fits(Evidence(wrong, finding)) is None


def test_a_factor_before_a_square_product_is_no_missing_transpose():
    def larger(dy, saved):
        dU = not_transposed(dy, saved)[1]
        return 1.5 * (dy * np.cos(saved[0] @ saved[1])) @ saved[1].T, dU

    wrong = layer(bent, larger, x="N D", U="D D")
    case = Case("wrong", arrays(x=(2, 3), U=(3, 3)))
    finding = examine(wrong, checked(wrong, case), properties.get("gradient")).findings[0]
    assert signatures.get("symmetric").fits(Evidence(wrong, finding)) is None


def test_probes_and_differences_agree():
    right = layer(dense, dense_back, **DENSE)
    probe = Probe(right, Case("wrong", arrays(x=(2, 3), W=(3, 4), b=(4,))))
    for name in "xWb":
        assert close(probe.analytic[name], probe.numerical(name))
        assert close(probe.contributions(name).sum(0), probe.numerical(name))
        assert not probe.wrong(name).any()


def test_plain_cases_have_sizes_that_differ_and_are_legal():
    picky = layer(dense, dense_back, **DENSE, assume=lambda x, W: x.shape[0] > 3)
    case = Case("wrong", arrays(x=(4, 2), W=(2, 2), b=(2,)))
    for draw in range(3):
        plain = variants.plain(picky, case, {}, draw)
        assert plain is not None
        assert len({*plain.primals["x"].shape, *plain.primals["W"].shape}) == 3
        assert plain.primals["x"].shape[0] > 3


def test_no_plain_case_is_made_where_none_is_legal():
    picky = layer(dense, dense_back, **DENSE, assume=lambda x: False)
    assert variants.plain(picky, Case("wrong", SMALL), {}) is None


def test_a_signature_that_fails_costs_a_warning_and_nothing_else(monkeypatch):
    def broken(evidence):
        raise ZeroDivisionError("oh")

    wrong = WRONG["twice"]
    monkeypatch.setitem(signatures._items, "broken", Signature("broken", "TERM", broken))
    with pytest.warns(UserWarning, match="'broken' failed: ZeroDivisionError"):
        first, *_ = diagnose(wrong.layer, found(wrong))
    assert first.name == "factor"


def test_the_steps_tell_a_wrong_gradient_from_noise():
    wrong = WRONG["twice"]
    finding = found(wrong)
    told = steps(wrong.layer, finding.case, finding.comparison)
    assert "neither truncation nor noise" in told.says
    assert abs(told.chosen - told.analytic / 2) < 1e-8


def test_the_steps_of_a_right_gradient_say_so():
    wrong = WRONG["twice"]
    compared = examine(wrong.layer, checked(wrong.layer, Case("wrong", SMALL)), properties.get("gradient")).compared
    right = next(c for c in compared if c.primal == "x")
    told = steps(wrong.layer, found(wrong).case, right)
    assert "central differences agree" in told.says


def test_an_explanation_gives_class_text_and_evidence():
    wrong = WRONG["mean of both"]
    finding = found(wrong)
    text = explanation.diagnoses(finding.but(diagnoses=diagnose(wrong.layer, finding)))
    assert "1. FACTOR (factor, law)" in text
    assert "evidence: factors (" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "nothing" in explanation.diagnoses(finding)


def test_a_diagnosed_finding_carries_the_ladder():
    wrong = WRONG["twice"]
    finding = diagnosed(wrong.layer, found(wrong))
    assert finding.diagnoses[0].name == "factor"
    step, error, noise = finding.facts["ladder"][0]
    assert step > finding.facts["ladder"][-1][0]
    assert noise < abs(error)
    assert "neither truncation nor noise" in finding.facts["ladder_shows"]
    lines = ladder.full(finding)
    assert "error against step at W[" in lines[0]
    assert len(lines) > len(finding.facts["ladder"]) > ladder.FEW
    assert max(map(len, [*lines, *ladder.brief(finding)])) <= 80


MINE = """
import gradverify


def forward(x, W):
    return x @ W, (x, W)


def backward(dy, saved):
    x, W = saved
    return dy @ W.T, {change}


mine = gradverify.Layer(forward, backward, x="N D", W="D H", returns="N H", batch="N")
"""


def explained(folder, change):
    (folder / "mine.py").write_text(MINE.format(change=change))
    case = Case("mine", arrays(x=(2, 3), W=(3, 2)), target=str(folder / "mine.py:mine"))
    case.save(folder / "case.npz")
    return CliRunner().invoke(command, [str(folder / "case.npz"), "--no-color"], standalone_mode=False)


def test_explain_prints_diagnoses_matrices_and_steps(tmp_path):
    done = explained(tmp_path, "x.T @ dy / len(x)")
    assert done.return_value == 1
    for words in ("times 1/N", "evidence: factors", "error against step at W[", "held: "):
        assert words in done.stdout
    assert done.stdout.count("property special") == 0, "what another finding explains is not told again"


def test_explain_says_when_nothing_is_found(tmp_path):
    done = explained(tmp_path, "x.T @ dy")
    assert done.return_value == 0
    assert "nothing is found on this case" in done.stdout


def test_explain_without_a_file_is_a_mistake_of_the_user():
    with pytest.raises(CaseFileError):
        CliRunner().invoke(command, ["nowhere.npz"], standalone_mode=False, catch_exceptions=False)


def said_of(forward, backward, case, primal="x", name="gradient", **declaration):
    """Names and texts of what is said of the first finding at a case."""
    made = Layer(forward, backward, name="made", **declaration)
    finding = next(f for f in examine(made, checked(made, case), properties.get(name)).findings if f.primal == primal)
    return {d.name: d.text for d in diagnose(made, finding)}


def test_a_clamp_is_no_mask_that_was_drawn_again():
    case = Case("made", {"x": np.array([[1.5, -0.5, -3.0], [0.2, 2.0, 0.7]])}, {}, seed=1)
    said = said_of(lambda x: (np.clip(x, -1, 1), x), lambda dy, x: dy, case, x="N D")
    assert "redrawn" not in said
    assert "flat" in said


def test_where_a_slope_is_zero_forward_does_not_change_in_steps():
    def forward(x):
        return np.where(x == 0, 1, np.sin(x) / np.where(x == 0, 1, x)), x

    def backward(dy, x):
        right = (x * np.cos(x) - np.sin(x)) / np.where(x == 0, 1, x) ** 2
        return dy * np.where(np.abs(x) < 1e-3, 0.1, right)

    said = said_of(forward, backward, Case("made", {"x": np.array([0.0])}, {}, seed=1), x="N")
    assert "flat" not in said


def test_the_magnitude_of_one_number_below_zero_is_a_sign_and_no_use_of_magnitudes():
    def forward(x):
        return (0.5 * (x**2).sum(), np.sin(x)), x

    def backward(cotangents, x):
        return -cotangents[0] * x + cotangents[1] * np.cos(x)

    cotangents = np.array(-0.5), np.zeros(2)
    said = said_of(forward, backward, Case("made", {"x": np.array([0.5, 1.0])}, {}, cotangents, seed=1), x="N")
    assert "upstream" not in said


def test_code_that_breaks_down_is_not_said_to_give_a_wrong_gradient():
    def backward(dy, x, block=2):
        return 2 * (x * dy).reshape(-1, 4)[:, : 5 - block].ravel() if block == 3 else 2 * x * dy

    made = Layer(lambda x, block=2: (x * x, x), backward, name="made", x="N", options={"block": [2, 3]})
    case = checked(made, Case("made", {"x": np.arange(1.0, 4.0)}, {"block": 3}, seed=1))
    finding = examine(made, case, properties.get("complete")).findings[0]
    texts = [d.text for d in diagnose(made, finding)]
    assert finding.kind == "crash"
    assert any("backward fails with block=3, and runs with the default block=2" in text for text in texts)
    assert not any("is wrong" in text for text in texts)


def test_a_factor_of_an_option_is_no_mean_over_an_axis():
    def softened(x, heat=2.0):
        return x / heat, heat

    layer = Layer(
        softened, lambda dy, saved: dy / saved**2, name="softened", x="N C", options={"heat": [0.5, 2.0, 3.0]}
    )
    finding = check(layer, examples=10, raises=False).findings[0]
    assert finding.diagnoses[0].text.startswith("the gradient of x is the right one times 1/heat, in all")
