"""neuralnetlib: stateful layers, `forward_pass` and `backward_pass`, `weights` / `d_weights`."""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from unittest.mock import MagicMock

from entry import Entry

for heavy in ("matplotlib", "matplotlib.pyplot"):  # only drawing needs them
    sys.modules.setdefault(heavy, MagicMock())

from neuralnetlib import activations, layers, losses  # noqa: E402

from gradverify import adapt  # noqa: E402


def layer(name, *init, **declaration):
    return adapt.stateful(getattr(layers, name), init=init, name=name, **declaration)


def seeded(name, arguments, **declaration):
    """A layer that draws its weights at the first forward, from the clock unless it is given a seed."""
    return adapt.stateful(getattr(layers, name), init={**arguments, "random_state": 0}, name=name, **declaration)


def loss(name, y_true, y_pred, **options):
    made = getattr(losses, name)(**options)
    return adapt.loss(made.__call__, made.derivative, name=name, wrt="y_pred", y_true=y_true, y_pred=y_pred)


def activation(name):
    made = getattr(activations, name)()
    return adapt.elementwise(made.__call__, made.derivative, name=name)


LAYERS = {
    "Dense": partial(layer, "Dense", "H", x="N D", weights="D H", bias="1 H", batch="N"),
    "Dense, sequences": partial(layer, "Dense", "H", x="N T D", weights="D H", bias="1 H", batch="N"),
    "Conv1D, valid": partial(layer, "Conv1D", 2, 3, x="2 5 3"),
    "Conv1D, same": partial(layer, "Conv1D", 2, 3, 1, "same", x="2 5 3"),
    "Conv2D, valid": partial(layer, "Conv2D", 2, 3, x="2 4 5 3"),
    "Conv2D, stride 2": partial(layer, "Conv2D", 2, 3, 2, x="2 6 5 3"),
    "Conv2D, same": partial(layer, "Conv2D", 2, 3, 1, "same", x="2 4 5 3"),
    "MaxPooling1D": partial(layer, "MaxPooling1D", 2, x="2 6 3: distinct"),
    "MaxPooling1D, stride 1": partial(layer, "MaxPooling1D", 2, 1, x="2 5 3: distinct"),
    "MaxPooling2D": partial(layer, "MaxPooling2D", 2, x="2 4 6 3: distinct"),
    "MaxPooling2D, stride 1": partial(layer, "MaxPooling2D", (2, 2), (1, 1), x="2 4 5 3: distinct"),
    "AveragePooling1D": partial(layer, "AveragePooling1D", 2, x="2 6 3"),
    "AveragePooling1D, stride 1": partial(layer, "AveragePooling1D", 2, 1, x="2 5 3"),
    "AveragePooling2D": partial(layer, "AveragePooling2D", 2, x="2 4 6 3"),
    "AveragePooling2D, stride 1": partial(layer, "AveragePooling2D", (2, 2), (1, 1), x="2 4 5 3"),
    "Flatten": partial(layer, "Flatten", x="N T D"),
    "GlobalAveragePooling1D": partial(layer, "GlobalAveragePooling1D", x="N T D"),
    "GlobalAveragePooling2D": partial(layer, "GlobalAveragePooling2D", x="2 3 4 3"),
    "Permute": partial(layer, "Permute", (2, 1), x="N T D"),
    "Reshape": partial(layer, "Reshape", (6,), x="N 2 3"),
    "BatchNormalization": partial(layer, "BatchNormalization", x="N D: between -9 9", gamma="D", beta="D"),
    "LayerNormalization": partial(layer, "LayerNormalization", x="N D", gamma="D", beta="D"),
    "LayerNormalization, sequences": partial(layer, "LayerNormalization", x="N T D", gamma="D", beta="D"),
    "Embedding": partial(seeded, "Embedding", {"input_dim": 6, "output_dim": 3}, x="N T: integers 1 5", weights="6 3"),
    "UpSampling2D": partial(layer, "UpSampling2D", 2, x="2 3 4 3"),
    "UpSampling2D, bilinear": partial(layer, "UpSampling2D", 2, "bilinear", x="2 3 4 3"),
    "Attention": partial(layer, "Attention", x="2 3 4"),
    "Conv2DTranspose": partial(layer, "Conv2DTranspose", 2, 3, x="2 3 4 3"),
    "LSTM": partial(seeded, "LSTM", {"units": 3}, x="2 3 4"),
    "GRU": partial(seeded, "GRU", {"units": 3}, x="2 3 4"),
    "FeedForward": partial(seeded, "FeedForward", {"d_ff": 4, "d_model": 4}, x="2 3 4"),
}
LOSSES = {
    "MeanSquaredError": partial(loss, "MeanSquaredError", "N K", "N K"),
    "BinaryCrossentropy": partial(loss, "BinaryCrossentropy", "N K: mask", "N K: between 0.1 0.9"),
    "CategoricalCrossentropy": partial(loss, "CategoricalCrossentropy", "N K: mask", "N K: between 0.1 0.9"),
    "MeanAbsoluteError": partial(loss, "MeanAbsoluteError", "N K", "N K"),
    "Huber": partial(loss, "Huber", "N K", "N K", delta=1.0),
    "FocalLoss": partial(loss, "FocalLoss", "N K: mask", "N K: between 0.1 0.9"),
}
ACTIVATIONS = ("Sigmoid", "ReLU", "Tanh", "LeakyReLU", "ELU", "SELU", "GELU")
MENDED = "the same line finds nothing in 5.0.0"
COUNTED = "the norm counts what is summed over time at each step, which 5.0.0 mended"
SHAPE = "the gradient of a bias (1, F) comes as (F,), which broadcasts; " + MENDED
JUDGED = {
    "Conv1D, valid": ("convention", SHAPE),
    "Conv1D, same": ("convention", SHAPE),
    "Conv2D, valid": ("convention", SHAPE),
    "Conv2D, stride 2": ("convention", SHAPE),
    "Conv2D, same": ("convention", SHAPE),
    "Permute": ("bug", f"repeats an axis; {MENDED}"),
    "LayerNormalization": ("convention", f"the gradient has one more axis than the parameter; {MENDED}"),
    "LayerNormalization, sequences": ("convention", f"the gradient has one more axis than the parameter; {MENDED}"),
    "Embedding": ("bug", "divides by how often an id occurs, and by the norm of the gradient"),
    "UpSampling2D, bilinear": ("bug", MENDED),
    "Attention": ("bug", MENDED),
    "LSTM": ("bug", f"backward reads a name that is not defined; {MENDED}"),
    "GRU": ("convention", f"clips gradients in backward, by value and by norm; {COUNTED}"),
    "MeanAbsoluteError": ("bug", f"the loss is a mean, the gradient that of the sum; {MENDED}"),
    "Huber": ("bug", f"the sign is that of -y_pred, and the mean is not divided by; {MENDED}"),
    "FocalLoss": ("bug", f"the sign; {MENDED}"),
}
JUDGED_NEW = {
    "LSTM": ("precision", "adds 1e-7 to 1 - y**2 and s * (1 - s) in backward: every entry is off by as much"),
    "GRU": ("convention", "clips gradients in backward, by value and by norm"),
}
JUDGED_BOTH = {
    "FeedForward": ("right", "its dropout draws from a generator of its own"),
    "BinaryCrossentropy": ("convention", "the loss is a mean over entries, the gradient that of the sum"),
    "CategoricalCrossentropy": ("convention", "the loss is a mean over rows, the gradient that of the sum"),
}
OLD = version("neuralnetlib") == "4.4.0"
ENTRIES = [
    Entry(name, make, *{**JUDGED_BOTH, **(JUDGED if OLD else JUDGED_NEW)}.get(name, ("",)))
    for name, make in {**LAYERS, **LOSSES}.items()
]
ENTRIES += [Entry(f"activation {name}", partial(activation, name), "") for name in ACTIVATIONS]
