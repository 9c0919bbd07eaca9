"""The catalogue with one gradient changed as a whole: moved, reversed, cut, scaled on a part."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradverify.core.declare.functions import accepted
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.evaluate import by_name
from tests.heldout import put


def _moved(g: Any) -> Any:
    return np.roll(g, 1, axis=-1)


def _inner_doubled(g: Any) -> Any:
    g = np.array(g)
    g[..., 1:-1] *= 2
    return g


def _last_lost(g: Any) -> Any:
    g = np.array(g)
    g[..., g.shape[-1] - g.shape[-1] % 2 :] = 0
    return g


def _block_lost(g: Any) -> Any:
    g = np.array(g)
    g[..., g.shape[-1] - g.shape[-1] % 4 :] = 0
    return g


def _first_halved(g: Any) -> Any:
    g = np.array(g)
    g[..., :1] /= 2
    return g


def _swapped(g: Any) -> Any:
    return np.swapaxes(g, -1, -2) if g.shape[-1] == g.shape[-2] else g


def _clipped(g: Any) -> Any:
    return np.clip(g, -1, 1)


# layer, primal, change, class, sentence
CHANGES = (
    ("matvec", "v", _moved, "INDEX", "v's gradient is shifted by one along K"),
    ("batched_matmul", "b", _moved, "INDEX", "b's gradient is shifted by one along L"),
    ("bilinear", "z", _inner_doubled, "FACTOR", "twice the right one in all but the first and the last of K"),
    ("layer_norm", "beta", _last_lost, "SHAPE", "the last entry is lost where D is odd"),
    ("conv1d", "b", _block_lost, "SHAPE", "what does not fill a block of four is lost"),
    ("cumsum", "x", _first_halved, "FACTOR", "half the right one at the first entry"),
    ("batched_matmul", "a", _swapped, "INDEX", "a's gradient is transposed where M = K"),
    ("mse", "x", _clipped, "UPSTREAM TAIL", "clipped at 1"),
)


def changed(name: str, primal: str, change: Any) -> Layer:
    """The registered layer, with the gradient of one primal changed."""
    right = layers.get(name)

    def backward(cotangents: Any, saved: Any, **options: Any) -> dict[str, Any]:
        taken = {key: options[key] for key in accepted(right.backward, tuple(options))}
        gradients = by_name(right, right.backward(cotangents, saved, **taken))
        return {**gradients, primal: change(gradients[primal])}

    return right.derive(backward=backward, origin=None)


for _layer, _primal, _change, _classes, _sentence in CHANGES:
    put(
        f"{_layer}_{_primal}{_change.__name__}",
        _classes,
        _sentence,
        lambda a=(_layer, _primal, _change): changed(*a),  # type: ignore[misc]
    )
