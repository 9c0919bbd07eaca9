"""smallpebble: values on a tape, gradients from one call of `get_gradients`."""

from __future__ import annotations

from functools import partial

import numpy as np
import smallpebble as sp
from entry import Entry

from gradverify import adapt


def contract(output, v):
    return sp.sum(sp.mul(output, sp.Variable(v)))


def backward(output, leaves):
    gradients = sp.get_gradients(output)
    return [gradients.get(leaf, 0 * leaf.array) for leaf in leaves]


def tape(function, **declaration):
    return adapt.tape(sp.Variable, function, contract=contract, backward=backward, **declaration)


OPERATIONS = {
    "add": (sp.add, {"a": "N D", "b": "N D"}),
    "add, broadcast": (sp.add, {"a": "N D", "b": "1 D"}),
    "sub": (sp.sub, {"a": "N D", "b": "N D"}),
    "mul": (sp.mul, {"a": "N D", "b": "N 1"}),
    "div": (sp.div, {"a": "N D", "b": "N D: nonzero"}),
    "neg": (sp.neg, {"a": "N D"}),
    "exp": (sp.exp, {"a": "N D: between -4 4"}),
    "log": (sp.log, {"a": "N D: positive"}),
    "square": (sp.square, {"a": "N D"}),
    "leaky_relu": (sp.leaky_relu, {"a": "N D"}),
    "matmul": (sp.matmul, {"a": "N D", "b": "D H"}),
    "matmul, batched": (sp.matmul, {"a": "B N D", "b": "B D H"}),
    "matrix_transpose": (sp.matrix_transpose, {"a": "N D"}),
    "expand_dims": (lambda a: sp.expand_dims(a, 1), {"a": "N D"}),
    "reshape": (lambda a: sp.reshape(a, (-1,)), {"a": "N D"}),
    "sum, all": (sp.sum, {"a": "N D"}),
    "sum, axis": (lambda a: sp.sum(a, axis=(0,)), {"a": "N D"}),
    "maxax": (lambda a: sp.maxax(a, axis=1), {"a": "N D: distinct"}),
    "softmax": (sp.softmax, {"a": "N D: between -4 4"}),
    "pad": (lambda a: sp.pad(a, ((1, 0), (2, 1))), {"a": "N D"}),
    "getitem": (sp.getitem, {"a": "V D", "i": "N: indices V"}),
    "setat": (lambda a, b: sp.setat(a, np.arange(2), b), {"a": "4 D", "b": "2 D"}),
    "where": (lambda a, b: sp.where(a.array > 0, a, b), {"a": "N D", "b": "N D"}),
    "cross_entropy": (lambda p, y: sp.cross_entropy(sp.softmax(p), y), {"p": "N K: between -4 4", "y": "N: labels K"}),
    "conv2d": (lambda x, k: sp.conv2d(x, k, padding="SAME", strides=[1, 1]), {"x": "2 4 5 2", "k": "3 3 2 3"}),
    "maxpool2d": (lambda x: sp.maxpool2d(x, 2, 2, padding="SAME", strides=[2, 2]), {"x": "2 4 5 2: distinct"}),
}
JUDGED = {
    "setat": ("bug", "the pullback of a zeroes the upstream gradient in place, and b then reads the zeros"),
}
ENTRIES = [
    Entry(name, partial(tape, function, name=name.split(",")[0], **arrays), *JUDGED.get(name, ()))
    for name, (function, arrays) in OPERATIONS.items()
]
