"""A finding that shows where one primal is asked for alone, and not where all are: no layer is flaky for that."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.check.settings import Settings
from gradverify.core.check.smaller import Smaller
from gradverify.core.nouns import Finding, Outcome
from gradverify.core.properties import Property
from gradverify.core.tuning import current

LAYER = Layer(lambda x: (x * 1.0, None), lambda dy, _: dy, name="layer", x="N")
DRAWN, SMALL = (Case("layer", {"x": np.ones(n)}, cotangents=(np.ones(n),)) for n in (3, 1))


def of(shows):
    """A property whose finding shows where `shows(case, alone)` says so."""

    def holds(layer, case):
        alone = current().only is not None
        told = Finding("asked", "wrong", "x", "the gradient of x is wrong", case, severity=100.0)
        return Outcome("asked", (told,) if shows(case, alone) else ())

    return Property("asked", "what is asked", holds)


def confirmed(shows):
    prop = of(shows)
    drawn = Finding("asked", "wrong", "x", "the gradient of x is wrong", DRAWN, severity=100.0)
    return Smaller(LAYER, Settings(), lambda stage: None)._confirmed(drawn, SMALL, prop, None)


@pytest.mark.parametrize(
    ("shows", "length"),
    [
        (lambda case, alone: True, 1),
        (lambda case, alone: alone or case.size > 2, 3),  # all primals together tell it for a kink
        (lambda case, alone: not alone, 1),
        (lambda case, alone: alone, 3),
    ],
)
def test_a_layer_that_answers_each_question_in_one_way_is_not_flaky(shows, length):
    finding = confirmed(shows)
    assert finding.kind == "wrong" and finding.case.primals["x"].size == length


def test_one_that_answers_a_question_in_two_ways_is():
    turn = iter(range(100))
    assert confirmed(lambda case, alone: next(turn) % 3 == 0).kind == "nondeterministic"
    assert confirmed(lambda case, alone: False).kind == "nondeterministic"
