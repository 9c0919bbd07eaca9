"""Kernels in float16 whose products leave its range where those of a reference, made in another order, do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradverify.adapters import as_layer
from gradverify.core.nouns import Case
from gradverify.core.properties import complete

jax = pytest.importorskip("jax")


def absorbed(squared: bool) -> Any:
    """x (a b), whose gradient of b is (x a)' g; or with a square that overflows, times 0."""

    @jax.custom_vjp
    def f(x: Any, a: Any, b: Any) -> Any:
        return x @ (a @ b)

    def forward(x: Any, a: Any, b: Any) -> Any:
        return x @ (a @ b), (x, a, b)

    def backward(saved: Any, g: Any) -> Any:
        x, a, b = saved
        h = g @ b.T
        db = (x @ a).T @ g
        return h @ a.T, x.T @ h, db + (x * x * 0).sum() if squared else db

    f.defvjp(forward, backward)
    return f


def plain(x: Any, a: Any, b: Any) -> Any:
    return x @ (a @ b)


@pytest.mark.parametrize(("squared", "large"), [(False, 200.0), (True, 1.0)])
def test_a_product_in_another_order_may_leave_the_range_and_a_square_may_not(squared: bool, large: float) -> None:
    layer = as_layer(absorbed(squared), x="N D", a="D R", b="R E", kernel="float16", reference=plain, name="absorbed")
    primals = {"x": np.full((1, 2), 300.0), "a": np.full((2, 1), large), "b": np.zeros((1, 1))}
    found = complete.holds(layer, Case("absorbed", primals, cotangents=(np.zeros((1, 1)),))).findings
    assert [f.kind for f in found] == ["nan"] * squared
