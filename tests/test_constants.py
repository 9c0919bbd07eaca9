"""Numbers that a layer mentions, wherever its code is: in functions, on objects, behind adapters."""

from __future__ import annotations

import numpy as np
import planted
import pytest

from gradverify import Layer, adapt
from gradverify.core.draw.constants import constants


def layer(forward, **declaration):
    return Layer(forward, lambda dy, saved: dy, name="layer", **declaration)


def helper(x):
    return np.where(x > 12.5, 0, x)


def test_numbers_in_the_code_and_in_what_it_calls_are_read():
    def forward(x, slope):
        return helper(x) * 3.5 + planted.MAGIC, None

    found = constants(layer(forward, x="N: between -6 2", options={"slope": [0.01, 0.2]}))
    assert {12.5, 3.5, 7.25, 6.0, 2.0, 0.01, 0.2} <= set(found)
    assert list(found) == sorted(found)


def test_numbers_on_an_object_are_read():
    class Leaky:
        def __init__(self):
            self.slope = 0.125

        def forward(self, x):
            return np.where(x > 4.5, x, self.slope * x), None

    assert {0.125, 4.5} <= set(constants(layer(Leaky().forward, x="N")))


class Clipped:
    block = 48

    def __init__(self, low=-7.25):
        self.low = low

    def forward(self, x):
        self.x = x
        return np.clip(x, self.low, 6.5)

    def backward(self, dy):
        return dy * ((self.x > self.low) & (self.x < 6.5))


class Inherits(Clipped):
    pass


@pytest.mark.parametrize(
    "adapted",
    [
        adapt.stateful(Inherits, x="N D"),
        adapt.stateful(Clipped(), x="N D"),
        adapt.elementwise(lambda x: np.minimum(x, 6.5), lambda x: x < 6.5),
        adapt.cached(lambda x: (np.minimum(x, 6.5), x), lambda dy, x: dy * (x < 6.5), x="N"),
        adapt.vjp_maker(lambda x: np.minimum(x, 6.5), lambda ans, x: lambda g: g * (x < 6.5), x="N"),
    ],
    ids=["class", "object", "elementwise", "cached", "vjp"],
)
def test_numbers_behind_an_adapter_are_read_and_those_of_the_adapter_are_not(adapted):
    expected = {6.5, 7.25, 48.0} if adapted.declared.stateful else {6.5}
    assert set(constants(adapted)) == expected
