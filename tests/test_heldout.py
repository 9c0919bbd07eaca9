"""The held-out set is what it says: every layer can be built, and is wrong somewhere."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.core.declare.layer import Layer
from tests.heldout import edits, shelf

NAMES = [wrong.name for wrong in shelf()]


def test_there_are_enough_layers_of_enough_classes():
    assert len(NAMES) >= 60
    assert len({name for wrong in shelf() for name in wrong.classes}) >= 15


@pytest.mark.parametrize("wrong", shelf(), ids=NAMES)
def test_each_can_be_built(wrong):
    assert isinstance(wrong.build(), Layer)
    assert wrong.sentence


def test_an_edit_that_fits_nowhere_is_told():
    with pytest.raises(ValueError, match="0 times"):
        edits.edited("dense", "x.T @ dz", "x.T @ dy")
    assert np.allclose(
        edits.edited("dense", "dy.sum(0)", "dy.mean(0)").backward(np.ones((2, 1)), (np.ones((2, 1)),) * 2)[2], 1
    )
