"""numpy-ml 0.1.2: dicts that accumulate. `collections.Hashable` and old NumPy names are given back to it."""

from __future__ import annotations

import collections
import collections.abc
from functools import partial

import numpy as np
from entry import Entry

from gradverify import adapt

collections.Hashable = collections.abc.Hashable
for old, new in (("int", int), ("float", float), ("bool", bool), ("object", object)):
    if old not in np.__dict__:
        setattr(np, old, new)

from numpy_ml.neural_nets import activations  # noqa: E402
from numpy_ml.neural_nets.layers import layers  # noqa: E402
from numpy_ml.neural_nets.losses import losses  # noqa: E402


def embedding_told(pool):
    """backward returns None and leaves gradients in the dict."""
    return adapt.stateful(
        layers.Embedding, init={"n_out": "D", "vocab_size": "V", "pool": pool}, X="N M: indices V", W="V D"
    )


ACTIVATIONS = (
    "Sigmoid",
    "Tanh",
    "Exponential",
    "ELU",
    "SELU",
    "HardSigmoid",
    "SoftPlus",
    "LeakyReLU",
    "ReLU",
    "Affine",
    "Identity",
)
REPEATED = "W[ids] += dY adds once for ids that repeat"
ENTRIES = [
    Entry("Embedding", partial(embedding_told, None)),
    Entry("Embedding, pool='sum'", partial(embedding_told, "sum"), "bug", REPEATED),
    Entry("Embedding, pool='mean'", partial(embedding_told, "mean"), "bug", REPEATED),
    Entry(
        "FullyConnected, Tanh",
        lambda: adapt.stateful(layers.FullyConnected, init=("H", "Tanh"), X="N D", W="D H", b="1 H", batch="N"),
    ),
    Entry("BatchNorm1D", lambda: adapt.stateful(layers.BatchNorm1D, init=(), X="N D", scaler="D", intercept="D")),
    Entry("LayerNorm1D", lambda: adapt.stateful(layers.LayerNorm1D, init=(), X="N D", scaler="D", intercept="D")),
    Entry("Softmax", lambda: adapt.stateful(layers.Softmax, init=(), X="N D: between -4 4")),
    Entry("Pool2D, average", lambda: adapt.stateful(layers.Pool2D, init=((2, 2), 1, 0, "average"), X="2 4 5 2")),
    Entry("Pool2D, max", lambda: adapt.stateful(layers.Pool2D, init=((2, 2), 1, 0, "max"), X="2 4 5 2: distinct")),
    *(
        Entry(
            f"activation {name}",
            partial(lambda n: adapt.elementwise(getattr(activations, n)(), x="N D: between -4 4"), name),
        )
        for name in ACTIVATIONS
        if hasattr(activations, name)
    ),
    Entry(
        "SquaredError",
        lambda: adapt.loss(
            losses.SquaredError.loss,
            lambda y, y_pred: losses.SquaredError.grad(y, y_pred, np.zeros_like(y_pred), activations.Identity()),
            y="N K",
            y_pred="N K",
        ),
    ),
]
