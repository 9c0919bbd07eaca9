"""mpneuralnetwork: stateful layers in float32, `weights` / `weights_gradient`."""

from __future__ import annotations

from functools import partial

from entry import Entry
from mpneuralnetwork import activations, layers, losses

from gradverify import adapt


def activation(name):
    return adapt.stateful(getattr(activations, name), init=(), dtype="float32", x="N D: between -4 4")


def loss(name, expected):
    made = getattr(losses, name)()
    return adapt.loss(
        made.direct, made.prime, wrt="output", output="N K: between -4 4", output_expected=expected, name=name
    )


ENTRIES = [
    Entry("Dense", lambda: adapt.stateful(layers.Dense, init=("H", "D", "xavier"), x="N D", batch="N")),
    Entry("Dense, no bias", lambda: adapt.stateful(layers.Dense, init=("H", "D", "he", True), x="N D", batch="N")),
    Entry("Dropout", lambda: adapt.stateful(layers.Dropout, x="N D", dtype="float32", options={"training": [True]})),
    Entry(
        "BatchNormalization",
        lambda: adapt.stateful(layers.BatchNormalization, init=(), prepare=lambda l, x: l.build(x.shape[1]), x="N D"),
    ),
    *(
        Entry(name, partial(activation, name))
        for name in ("Tanh", "Sigmoid", "ReLU", "PReLU", "Swish", "Softmax")
        if hasattr(activations, name)
    ),
    Entry("MSE", partial(loss, "MSE", "N K")),
    Entry("BinaryCrossEntropy", partial(loss, "BinaryCrossEntropy", "N K: unit")),
    Entry(
        "CategoricalCrossEntropy",
        partial(loss, "CategoricalCrossEntropy", "N K: probabilities"),
    ),
    Entry(
        "MaxPooling2D",
        lambda: adapt.stateful(
            layers.MaxPooling2D,
            init=(2, 2),
            prepare=lambda l, x: l.build(x.shape[1:]),
            dtype="float32",
            x="2 2 4 6: distinct",
        ),
    ),
    Entry(
        "AveragePooling2D",
        lambda: adapt.stateful(
            layers.AveragePooling2D,
            init=(2, 2),
            prepare=lambda l, x: l.build(x.shape[1:]),
            dtype="float32",
            x="2 2 4 6",
        ),
    ),
    Entry(
        "Flatten",
        lambda: adapt.stateful(
            layers.Flatten, init=(), prepare=lambda l, x: l.build(x.shape[1:]), dtype="float32", x="N C 4"
        ),
    ),
]
