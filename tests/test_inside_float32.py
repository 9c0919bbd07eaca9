"""Code that computes in float32 whatever it is given: its steps are coarse, and kinks lie between them."""

import numpy as np
import pytest

from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.functions import accepted
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.nouns import AGREES, DISAGREES, KINK, UNRESOLVED, Case
from gradverify.core.properties import gradient

pytestmark = pytest.mark.usefixtures("as_drawn")


def low(value):
    """A value as such code keeps it."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(low, value))
    if isinstance(value, dict):
        return {name: low(a) for name, a in value.items()}
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value


def verdicts(forward, backward, x, wrong=None):
    """Entry by entry, for a cotangent of ones; `wrong` multiplies the gradient."""
    x, factor = np.asarray(x, float), np.float32(wrong or 1.0)
    layer = Layer(lambda x: (forward(low(x)), low(x)), lambda dy, x: low(factor * backward(dy, x)), name="layer", x="N")
    case = Case("layer", {"x": x}, cotangents=(np.ones_like(forward(low(x))),))
    (comparison,) = gradient.compared(layer, case).outcome.compared
    return comparison.verdicts


def steep(x):
    return np.tanh(np.float32(5) * x)


def steep_backward(dy, x):
    return dy * np.float32(5) * (1 - np.tanh(np.float32(5) * x) ** 2)


def hinge(x):
    return np.maximum(0, -1 - x)


def hinge_backward(dy, x):
    return -dy * (x < -1)


def test_a_slope_that_only_small_steps_see_is_not_what_larger_ones_tell():
    x = [85.0, 7e-4, -2.0]
    assert verdicts(steep, steep_backward, x).tolist()[1] in (AGREES, UNRESOLVED)
    assert verdicts(steep, steep_backward, x, wrong=2)[1] == DISAGREES


def test_a_border_that_is_nearer_than_the_smallest_step_is_no_mistake():
    rng = np.random.default_rng(1)
    x = np.concatenate([116 * rng.normal(size=60), [-1.06, -0.94, 3000.0]])
    assert not (verdicts(hinge, hinge_backward, x) == DISAGREES).any()
    assert (verdicts(hinge, hinge_backward, x, wrong=2)[x < -20] == DISAGREES).all()


def widest(x):
    """The largest of each three neighbours."""
    return np.maximum(np.maximum(x[:-2], x[1:-1]), x[2:])


def widest_backward(dy, x):
    found = np.zeros_like(x)
    np.add.at(found, np.arange(dy.size) + np.argmax([x[:-2], x[1:-1], x[2:]], axis=0), dy)
    return found


def test_values_that_no_step_tells_apart_are_tied():
    x = 1 + np.array([0, 8, 16, 0, 8, 24, 0]) * 2.0**-23
    found = verdicts(widest, widest_backward, x)
    assert not (found == DISAGREES).any() and (found == KINK).any()
    assert (verdicts(widest, widest_backward, x, wrong=-3) == DISAGREES).any()


def inside(name):
    """A layer of the catalogue, computing in float32."""
    layer = layers.get(name)

    def forward(*primals, **options):
        outputs, saved = layer.forward(*map(low, primals), **options)
        return low(outputs), saved

    def backward(*arguments, **options):
        taken = accepted(layer.backward, tuple(options))
        return low(layer.backward(*map(low, arguments), **{name: options[name] for name in taken}))

    return layer.derive(forward=forward, backward=backward)


@pytest.mark.parametrize(
    ("name", "seed"),
    [("clip", 0), ("clip", 3), ("layer_norm", 0), ("hinge", 3), ("prelu", 0), ("batch_norm_2d", 1), ("max_pool2d", 2)],
)
def test_layers_that_compute_in_float32_are_right(name, seed):
    """Each of these had a finding at its seed: a border next to a step, a mean that memory order rounds otherwise."""
    assert check_layer(inside(name), Settings(examples=60, seed=seed)).ok


def test_a_gate_that_turns_over_within_the_smallest_step_is_left_open():
    settings = Settings(examples=30, seed=300, properties=("gradient", "special"))
    assert check_layer(inside("lstm"), settings).ok
    slip = inside("lstm").derive(backward=lambda *arguments: [1.01 * g for g in inside("lstm").backward(*arguments)])
    assert not check_layer(slip, settings).ok
