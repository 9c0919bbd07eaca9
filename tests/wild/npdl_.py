"""npdl: layers with `connect_to`, whose parameters come into being there."""

from __future__ import annotations

from functools import partial

import npdl
from entry import Entry

from gradverify import adapt


def ready(layer, x):
    layer.connect_to()
    layer.first_layer = False


def connected(shape):
    """Prepare a layer that asks its predecessor for its shape."""
    from types import SimpleNamespace

    def prepare(layer, x):
        layer.connect_to(SimpleNamespace(out_shape=(None, *x.shape[1:])))
        layer.first_layer = False

    return prepare


def dense(activation):
    return adapt.stateful(
        npdl.layers.Dense,
        init=("H", "D", "glorot_uniform", activation),
        prepare=ready,
        x="N D",
        W="D H",
        b="H",
        batch="N",
    )


def linear():
    return adapt.stateful(npdl.layers.Linear, init=("H", "D"), prepare=ready, x="N D", W="D H", b="H", batch="N")


def pooling(cls):
    return adapt.stateful(cls, init=((2, 2),), prepare=connected(4), x="2 C 4 6", assume=lambda x: x.shape[1] <= 3)


def batch_normal():
    return adapt.stateful(
        npdl.layers.BatchNormal,
        init=(),
        prepare=connected(2),
        pairs={"gamma": "dgamma", "beta": "dbeta"},
        x="N D",
        gamma="D",
        beta="D",
    )


def activation(cls):
    """f and f', where f' takes the input."""

    def derivative(x):
        made = cls()
        made.forward(x)
        return made.derivative()

    return adapt.elementwise(lambda x: cls().forward(x), derivative, name=cls.__name__)


def loss(cls, outputs, targets):
    made = cls()
    return adapt.loss(made.forward, made.backward, outputs=outputs, targets=targets, name=cls.__name__)


MEAN = "the bias gets the mean over the batch, the weights the sum"
ENTRIES = [
    Entry("Linear", linear, "bug", MEAN),
    Entry("Dense, tanh", partial(dense, "tanh"), "bug", MEAN),
    Entry("Dense, sigmoid", partial(dense, "sigmoid"), "bug", MEAN),
    Entry(
        "MeanPooling",
        partial(pooling, npdl.layers.MeanPooling),
        "bug",
        "forward reads windows at h, w; backward writes at h * pool, w * pool",
    ),
    Entry(
        "MaxPooling",
        partial(pooling, npdl.layers.MaxPooling),
        "bug",
        "as MeanPooling; and backward reads pre_grad[a, b, a, w]",
    ),
    Entry(
        "BatchNormal",
        batch_normal,
        "bug",
        "forward takes the standard deviation for the variance, backward differentiates a variance",
    ),
    *(
        Entry(name, partial(activation, getattr(npdl.activations, name)))
        for name in ("Sigmoid", "Tanh", "SoftPlus", "SoftSign", "Elliot", "SymmetricElliot")
    ),
    Entry(
        "MeanSquaredError",
        partial(loss, npdl.objectives.MeanSquaredError, "N K", "N K"),
        "convention",
        "the loss is a mean over the batch, the gradient that of the sum",
    ),
]
