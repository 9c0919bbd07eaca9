"""neuralnetlib: stateful layers, `forward_pass` and `backward_pass`, `weights` / `d_weights`."""

from __future__ import annotations

import sys
from functools import partial
from unittest.mock import MagicMock

from entry import Entry

for heavy in ("matplotlib", "matplotlib.pyplot"):  # only drawing needs them
    sys.modules.setdefault(heavy, MagicMock())

from neuralnetlib import layers  # noqa: E402

from gradverify import adapt  # noqa: E402


def layer(name, *init, **declaration):
    return adapt.stateful(getattr(layers, name), init=init, name=name, **declaration)


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
    "Permute": partial(layer, "Permute", (0, 2, 1), x="N T D"),
    "Reshape": partial(layer, "Reshape", (6,), x="N 2 3"),
    "BatchNormalization": partial(layer, "BatchNormalization", x="N D: between -9 9", gamma="D", beta="D"),
    "LayerNormalization": partial(layer, "LayerNormalization", x="N D", gamma="D", beta="D"),
    "LayerNormalization, sequences": partial(layer, "LayerNormalization", x="N T D", gamma="D", beta="D"),
    "Embedding": partial(layer, "Embedding", "V", "D", x="N T: indices V", weights="V D"),
    "UpSampling2D": partial(layer, "UpSampling2D", 2, x="2 3 4 3"),
    "UpSampling2D, bilinear": partial(layer, "UpSampling2D", 2, "bilinear", x="2 3 4 3"),
    "Attention": partial(layer, "Attention", x="2 3 4"),
    "Conv2DTranspose": partial(layer, "Conv2DTranspose", 2, 3, x="2 3 4 3"),
    "LSTM": partial(layer, "LSTM", 3, x="2 3 4", methods=("forward_pass", "backward_pass")),
    "GRU": partial(layer, "GRU", 3, x="2 3 4"),
    "FeedForward": partial(layer, "FeedForward", 4, 3, x="2 3 4"),
}
ENTRIES = [
    Entry(
        name,
        make,
    )
    for name, make in LAYERS.items()
    if hasattr(layers, name.split(",")[0])
]
