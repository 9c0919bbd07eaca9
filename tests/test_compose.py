"""A layer under a loss."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.compose import under_loss
from gradverify.core.declare.layer import Loss
from gradverify.core.declare.registry import layers
from gradverify.core.errors import DeclarationError
from gradverify.core.evaluate import gradients


def test_a_layer_under_a_loss_has_the_gradient_of_the_tutorial():
    composed = under_loss(layers.get("sigmoid_mlp"), "mse")
    assert isinstance(composed, Loss) and composed.primal_names == ("i", "W1", "b1", "W2", "b2", "y")
    rng = np.random.default_rng(0)
    shapes = {"i": (3, 2), "W1": (2, 4), "b1": (4,), "W2": (4, 5), "b2": (5,), "y": (3, 5)}
    primals = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    got = gradients(composed, primals, {}, (np.array(1.0),))

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    a = sigmoid(primals["i"] @ primals["W1"] + primals["b1"])
    x = sigmoid(a @ primals["W2"] + primals["b2"])
    dz2 = -2 / 3 * (primals["y"] - x) * x * (1 - x)
    np.testing.assert_allclose(got["b2"], dz2.sum(0))
    np.testing.assert_allclose(got["W1"], primals["i"].T @ (dz2 @ primals["W2"].T * a * (1 - a)))
    np.testing.assert_allclose(got["y"], 2 / 3 * (primals["y"] - x))


@pytest.mark.parametrize(
    ("layer", "loss", "match"), [("lstm_cell", "mse", "one output"), ("mse", "mse", "loss already")]
)
def test_a_layer_that_does_not_fit_under_a_loss_says_why(layer, loss, match):
    with pytest.raises(DeclarationError, match=match):
        under_loss(layers.get(layer), loss)
