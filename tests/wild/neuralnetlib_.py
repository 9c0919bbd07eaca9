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
    "Conv1D, valid": partial(layer, "Conv1D", 2, 3, x="N 5 C"),
    "Conv1D, same": partial(layer, "Conv1D", 2, 3, 1, "same", x="N 5 C"),
    "Conv2D, valid": partial(layer, "Conv2D", 2, 3, x="N 4 5 C"),
    "Conv2D, stride 2": partial(layer, "Conv2D", 2, 3, 2, x="N 6 5 C"),
    "Conv2D, same": partial(layer, "Conv2D", 2, 3, 1, "same", x="N 4 5 C"),
    "MaxPooling1D": partial(layer, "MaxPooling1D", 2, x="N 6 C: distinct"),
    "MaxPooling1D, stride 1": partial(layer, "MaxPooling1D", 2, 1, x="N 5 C: distinct"),
    "MaxPooling2D": partial(layer, "MaxPooling2D", 2, x="N 4 6 C: distinct"),
    "MaxPooling2D, stride 1": partial(layer, "MaxPooling2D", (2, 2), (1, 1), x="N 4 5 C: distinct"),
    "AveragePooling1D": partial(layer, "AveragePooling1D", 2, x="N 6 C"),
    "AveragePooling1D, stride 1": partial(layer, "AveragePooling1D", 2, 1, x="N 5 C"),
    "AveragePooling2D": partial(layer, "AveragePooling2D", 2, x="N 4 6 C"),
    "AveragePooling2D, stride 1": partial(layer, "AveragePooling2D", (2, 2), (1, 1), x="N 4 5 C"),
    "Flatten": partial(layer, "Flatten", x="N T D"),
    "GlobalAveragePooling1D": partial(layer, "GlobalAveragePooling1D", x="N T D"),
    "GlobalAveragePooling2D": partial(layer, "GlobalAveragePooling2D", x="N 3 4 C"),
    "Permute": partial(layer, "Permute", (2, 1), x="N T D"),
    "Reshape": partial(layer, "Reshape", (6,), x="N 2 3"),
    "BatchNormalization": partial(layer, "BatchNormalization", x="N D: between -9 9", gamma="D", beta="D"),
    "LayerNormalization": partial(layer, "LayerNormalization", x="N D", gamma="D", beta="D"),
    "LayerNormalization, sequences": partial(layer, "LayerNormalization", x="N T D", gamma="D", beta="D"),
    "Embedding": partial(layer, "Embedding", "V", "D", x="N T: indices V"),
    "UpSampling2D": partial(layer, "UpSampling2D", 2, x="N 3 4 C"),
    "UpSampling2D, bilinear": partial(layer, "UpSampling2D", 2, "bilinear", x="N 3 4 C"),
    "Attention": partial(layer, "Attention", x="N T D"),
    "Conv2DTranspose": partial(layer, "Conv2DTranspose", 2, 3, x="N 3 4 C"),
    "LSTM": partial(layer, "LSTM", "H", x="N T D", methods=("forward_pass", "backward_pass")),
    "GRU": partial(layer, "GRU", "H", x="N T D"),
    "FeedForward": partial(layer, "FeedForward", 4, 3, x="N T 4"),
}
ENTRIES = [
    Entry(
        name,
        make,
    )
    for name, make in LAYERS.items()
    if hasattr(layers, name.split(",")[0])
]
