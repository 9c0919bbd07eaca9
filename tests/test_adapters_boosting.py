"""Boosting objectives: hess is the diagonal of the Hessian, or an upper bound on it."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify import adapt
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings


def check(layer, *properties):
    return check_layer(layer, Settings(examples=6, shrink=False, properties=properties))


def softmax(preds):
    e = np.exp(preds - preds.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def softmax_loss(preds, data):
    rows = np.arange(len(preds))
    top = preds.max(1)
    return np.log(np.exp(preds - top[:, None]).sum(1)) + top - preds[rows, data.astype(int)]


def classes(factor):
    """Cross-entropy over classes, with a multiple of the diagonal of its Hessian."""

    def objective(preds, data):
        p = softmax(preds)
        return p - np.eye(preds.shape[1])[data.get_label().astype(int)], factor * p * (1 - p)

    return objective


def huber_loss(preds, data):
    d = np.abs(preds - data)
    return np.where(d <= 1, 0.5 * d * d, d - 0.5)


def huber(hess):
    def objective(preds, data):
        d = preds - data.get_label()
        return np.clip(d, -1, 1), hess(d)

    return objective


CLASSES = dict(preds="2 3", data="2: labels 3")
OVER_ALL = dict(preds="3: between 0.5 3", data="3: between 0.5 3")


def root(preds, data):
    return np.sqrt(1 + np.sum((preds - data) ** 2))


def of_all_rows(preds, data):
    r, d = root(preds, data), preds - data
    return d / r, 1 / r - d**2 / r**3


def test_hess_is_the_diagonal_where_the_loss_couples_entries():
    assert check(adapt.boosting(classes(1), softmax_loss, **CLASSES), "gradient").ok
    assert {f.primal for f in check(adapt.boosting(classes(7), softmax_loss, **CLASSES), "gradient")} == {"preds_grad"}
    assert check(adapt.boosting(of_all_rows, root, **OVER_ALL), "gradient").ok


@pytest.mark.parametrize(
    ("objective", "loss", "declaration", "ok"),
    [
        (classes(1), softmax_loss, CLASSES, True),
        (classes(2), softmax_loss, CLASSES, True),  # what the rows of |H| add up to, as XGBoost has it
        (classes(7), softmax_loss, CLASSES, False),
        (classes(0.9), softmax_loss, CLASSES, False),
        (huber(np.ones_like), huber_loss, {}, True),
        (huber(lambda d: np.full(len(d), 0.5)), huber_loss, {}, False),
    ],
)
def test_a_declared_bound_is_compared_as_one(objective, loss, declaration, ok):
    report = check(adapt.boosting(objective, loss, bound=True, **declaration), "gradient", "bound")
    assert report.ok is ok
    assert {f.property for f in report} <= {"bound"}


def test_a_predicate_sees_the_arrays_that_were_declared():
    seen = []

    def assume(preds, data):
        seen.append(np.shape(preds))
        return bool(np.abs(preds - data).max() < 10)

    assert check(adapt.boosting(of_all_rows, root, assume=assume, **OVER_ALL), "gradient").ok
    assert seen


def test_what_has_not_moved_is_not_asked_for_again():
    """Copies of which most is known are what they are one by one."""
    calls = []

    def counted(preds, data):
        calls.append(1)
        return of_all_rows(preds, data)

    layer = adapt.boosting(counted, root, preds="N", data="N")
    rng = np.random.default_rng(0)
    point = [rng.standard_normal(12) for _ in range(4)]
    own = np.tile(point[1], (12, 1)) + np.eye(12)
    stack = {n: own if n == "preds_grad" else a[None] for n, a in zip(layer.primal_names, point)}
    calls.clear()
    loss, grad = layer.hooks.looped(stack, {})
    assert len(calls) == 1 + 12 + 2 * 11  # all at the first, then what is back in place and what is moved
    for k in range(12):
        y, g = layer.forward(point[0], own[k], *point[2:])[0]
        assert loss[k] == y
        assert np.array_equal(grad[k], g)
    bounded = adapt.boosting(counted, root, bound=True, preds="N", data="N")
    (losses,) = bounded.hooks.looped({"preds": own, "data": point[3][None]}, {})
    assert losses.tolist() == [root(row, point[3]) for row in own]
