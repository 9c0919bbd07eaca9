"""What is called while a target is made a layer may hang: its check finds that, and does not hang as well."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
import pytest

import gradverify as gv
from gradverify import adapt
from gradverify.adapters import _trial
from gradverify.core import verify
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import time_limit
from gradverify.core.lines import recorder

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer")


class Affine:
    """A right layer with a weight and its gradient, whose first call takes a moment."""

    def __init__(self) -> None:
        self.W = np.ones((3, 2))
        self.dW = np.zeros((3, 2))

    def forward(self, x: Any) -> Any:
        self.x = x
        return x @ self.W

    def backward(self, dy: Any) -> Any:
        self.dW = self.x.T @ dy
        return dy @ self.W.T


class Waits(Affine):
    def forward(self, x: Any) -> Any:
        while True:
            time.sleep(0.01)


class WaitsBack(Affine):
    def backward(self, dy: Any) -> Any:
        while True:
            time.sleep(0.01)


class NeverBuilt(Affine):
    def __init__(self) -> None:
        while True:
            time.sleep(0.01)


def waits(x: Any) -> Any:
    while True:
        time.sleep(0.01)


def same(x: Any) -> Any:
    return x


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trial, "_SECONDS", 0.3)
    monkeypatch.setattr(recorder, "TRIAL", 0.3)
    monkeypatch.setattr(verify.examine, "__defaults__", (0.3,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: adapt.stateful(Waits(), x="N 3"),
        lambda: adapt.stateful(WaitsBack(), x="N 3"),
        lambda: adapt.stateful(NeverBuilt, x="N 3"),
        lambda: adapt.elementwise(waits, same),
        lambda: adapt.cached(waits, lambda dy, cache: dy, x="N"),
        lambda: adapt.objective(waits, same, n=3),
    ],
    ids=["forward", "backward", "class", "elementwise", "cached", "objective"],
)
def test_what_hangs_while_it_is_looked_at_is_found(make: Any) -> None:
    with pytest.raises(gv.GradientMismatch, match="did not return"):
        gv.check(make(), examples=2, properties=("complete", "gradient"))


def test_so_it_is_in_one_call() -> None:
    with pytest.raises(gv.GradientMismatch, match="did not return"):
        gv.check(Waits(), x="N 3", examples=2, properties="complete")


def test_a_right_object_is_no_hang() -> None:
    assert gv.check(Affine(), x="N 3", examples=3).ok


def test_without_dimensions_a_hang_is_told_as_what_it_is() -> None:
    with pytest.raises(gv.DeclarationError, match=r"Waits.*did not return|name the input"):
        gv.check(Waits())


def _within(outer: float, inner: float) -> list[str]:
    """What ends a body that waits within two limits, and one that waits on in the outer one."""
    told = []
    try:
        with time_limit(outer):
            try:
                with time_limit(inner, inner=True):
                    time.sleep(5)
            except LayerFailure as failure:
                told.append(str(failure))
            time.sleep(5)
    except LayerFailure as failure:
        told.append(str(failure))
    return told


def test_an_inner_limit_ends_and_leaves_the_outer_one_in_force() -> None:
    first, second = _within(0.3, 0.05)
    assert "0.05 s" in first and "0.3 s" in second
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_an_inner_limit_beyond_the_outer_one_changes_nothing() -> None:
    (told,) = _within(0.1, 5.0)
    assert "0.1 s" in told
