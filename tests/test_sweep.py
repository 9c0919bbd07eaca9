"""The sweep over entries: what each method measures, when backward's rounding is asked for, and what is declared."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core import evaluate
from gradverify.core.differentiate.point import Point
from gradverify.core.judge.sweep import _untold, comparisons, sweep
from gradverify.core.judge.verdicts import Sweep
from gradverify.core.nouns import AGREES, DISAGREES, KINK, UNRESOLVED

X = np.array([0.5, -0.25, 2.0])


def at(forward, x=X, slope=None, dims="N", **declaration):
    """A point, and the gradient that its backward gives."""
    layer = Layer(
        lambda x: (forward(x), x), lambda dy, x: dy * slope(x) if slope else dy, name="given", x=dims, **declaration
    )
    case, _ = evaluate.completed(layer, Case("given", {"x": np.asarray(x)}, cotangents=(np.ones(np.shape(x)),)))
    point = Point(layer, case)
    raw = evaluate.gradients(layer, case.primals, case.options, case.cotangents)
    return point, point.vector(evaluate.usable(layer, case, raw)[0])


def test_the_tutorials_method_takes_the_step_it_is_given_and_else_the_best_one():
    point, analytic = at(np.exp, slope=np.exp)
    h = 0.5 * point.scale
    told = sweep(point, analytic, 0.5, method="central")
    assert np.allclose(told.numerical, np.exp(X) * np.sinh(h) / h, rtol=1e-12) and (told.verdicts != AGREES).all()
    told = sweep(point, analytic, method="central")
    assert np.allclose(told.numerical, np.exp(X), rtol=1e-9) and (told.verdicts == AGREES).all()


@pytest.mark.parametrize("method", ["adaptive", "central", "complex"])
def test_every_method_tells_right_from_wrong_and_asks_for_the_rounding_of_backward_on_disagreement(method):
    point, analytic = at(np.exp, slope=np.exp)
    asked = []

    def allowance(small):
        asked.append(small)
        return np.zeros(3)

    assert (sweep(point, analytic, method=method, allowance=allowance).verdicts == AGREES).all() and not asked
    wrong = analytic * np.array([1.0, 1.01, 1.0])
    told = sweep(point, wrong, method=method, allowance=allowance)
    assert told.verdicts.tolist() == [AGREES, DISAGREES, AGREES] and not asked  # no rounding is as large
    assert sweep(point, wrong, method=method).verdicts[1] == DISAGREES
    near = analytic * np.array([1.0, 1 + 1e-6, 1.0])
    assert sweep(point, near, method=method).verdicts[1] == DISAGREES
    assert sweep(point, near, method=method, allowance=allowance).verdicts[1] == DISAGREES and asked == [True]
    told = sweep(point, near, method=method, allowance=lambda small: np.full(3, 1e-5 if small else 0.0))
    assert told.verdicts.tolist() == [AGREES] * 3


def test_entries_that_are_not_asked_for_and_what_is_no_number_stay_open():
    point, analytic = at(np.exp, slope=np.exp)
    analytic[2] = np.nan
    told = sweep(point, analytic, entries=np.array([0, 2]))
    assert told.verdicts.tolist() == [AGREES, UNRESOLVED, UNRESOLVED] and told.names[told.reasons[2]] == "not finite"


@pytest.mark.parametrize("few", [False, True])
def test_few_entries_stand_for_a_primal_where_that_is_enough(few):
    x = np.linspace(0.5, 2, 20)
    point, analytic = at(np.exp, x, np.exp)
    told = sweep(point, 2 * analytic, few=few)
    assert (told.verdicts == DISAGREES).sum() == (4 if few else 20)


def test_the_primal_beside_one_that_is_wrong_is_tried():
    layer = Layer(lambda x, y: (x + y, None), lambda dy, _: (dy, dy), name="given", x="N", y="N")
    case, _ = evaluate.completed(layer, Case("given", {"x": np.ones(2), "y": np.ones(2)}))
    told = Sweep.blank(Point(layer, case), np.ones(4))
    told.settle(np.array([0]), DISAGREES)
    assert _untold(told, np.arange(1, 4)).tolist() == [2, 3]


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize(
    ("kinks", "slopes"), [("left", {0.0}), ("right", {1.0}), ("middle", {0.5}), ("between", {0.0, 0.5, 1.0})]
)
def test_a_convention_at_a_kink_is_held_to_where_one_is_declared(kinks, slopes):
    for given in (0.0, 0.5, 1.0, -0.5):
        point, analytic = at(relu, [0.0, 1.0, -1.0], lambda x, given=given: np.where(x == 0, given, x > 0), kinks=kinks)
        told = sweep(point, analytic)
        legal = AGREES if kinks == "between" and given == 0.5 else KINK  # which the central difference is
        assert told.verdicts.tolist() == [legal if given in slopes else DISAGREES, AGREES, AGREES]
        if kinks != "between" and given in slopes:
            assert told.names[told.reasons[0]] == "convention"


def test_a_convention_makes_nothing_right_and_is_not_asked_of_what_is_no_number():
    point, analytic = at(np.exp, slope=lambda x: 2 * np.exp(x), kinks="left")
    assert (sweep(point, analytic).verdicts == DISAGREES).all()
    analytic[:] = np.nan
    assert (sweep(point, analytic).verdicts == UNRESOLVED).all()


def test_the_result_has_the_shape_and_the_axes_of_each_primal():
    z = np.array([[1 + 2j, 0.5j], [3.0, -1j]])
    point, analytic = at(lambda z: z * 2, z, lambda z: np.full(z.shape, 2.0), "N D: complex")
    (told,) = comparisons(sweep(point, analytic), {"x"})
    assert told.labels == ("N", "D", "re/im") and told.analytic.shape == (2, 2, 2)
    assert (told.verdicts == AGREES).all() and told.scale == np.abs(analytic).max()
    assert comparisons(sweep(point, analytic), {"other"}) == ()
