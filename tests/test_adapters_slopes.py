"""Differences of torch code that are formed on its device: the same numbers as on the host, and as safe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gradverify import Case, evaluate
from gradverify.adapters import as_layer
from gradverify.adapters._torch_slopes import Slopes
from gradverify.differences.central import central
from gradverify.differences.point import Point
from gradverify.evaluate import LayerFailure
from gradverify.properties import gradient

torch = pytest.importorskip("torch")

SIZES = {"x": (6, 9), "W": (9, 40)}


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W):
        y = torch.tanh(x @ W)
        ctx.save_for_backward(x, W, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, W, y = ctx.saved_tensors
        g = g * (1 - y * y)
        return g @ W.T, x.T @ g


class OneWrong(Tanh):
    @staticmethod
    def backward(ctx, g):
        dx, dW = Tanh.backward(ctx, g)
        dW[4, 17] *= 1 + 1e-6
        return dx, dW


class Overwriting(Tanh):
    """Its forward changes its input, and what it gives is right all the same."""

    @staticmethod
    def forward(ctx, x, W):
        y = torch.tanh(x @ W)
        ctx.save_for_backward(x.clone(), W.clone(), y)
        W.zero_()
        return y


class Whole(Tanh):
    """Normalises by the whole batch of copies where these are broadcast; only vmap keeps them apart."""

    @staticmethod
    def forward(ctx, x, W):
        ctx.save_for_backward(x, W)
        return x @ W / W.abs().sum()

    @staticmethod
    def backward(ctx, g):
        x, W = ctx.saved_tensors
        total = W.abs().sum()
        return g @ W.T / total, x.T @ g / total - W.sign() * (g * (x @ W)).sum() / total**2


def prepared(target, slopes=True, **declaration):
    layer = as_layer(target, x="N D", W="D H", **declaration)
    if not slopes:
        layer = layer.derive(hooks=dataclasses.replace(layer.hooks, slopes=None))
    rng = np.random.default_rng(3)
    case, _ = evaluate.completed(layer, Case(layer.name, {n: rng.normal(size=s) for n, s in SIZES.items()}))
    return layer, case


@pytest.fixture
def calls(monkeypatch):
    """Names of the primals whose slopes came from the device."""
    seen = []
    original = Slopes.__call__

    def counted(self, primals, name, entries, a, b, how):
        found = original(self, primals, name, entries, a, b, how)
        seen.append((name, how.way))
        return found

    monkeypatch.setattr(Slopes, "__call__", counted)
    return seen


@pytest.mark.parametrize(("target", "way"), [(Tanh, "broadcast"), (Whole, "batched")])
def test_the_device_gives_what_the_host_gives(target, way, calls):
    found = []
    for slopes in (True, False):
        layer, case = prepared(target, slopes)
        point = Point(layer, case, memory=1 << 14)
        found.append(central(point, np.arange(point.size), 6e-6)[0])
    assert ("W", way) in calls
    assert np.allclose(found[0].value, found[1].value, rtol=0, atol=float(np.max(found[1].rounding)))
    assert np.allclose(found[0].rounding, found[1].rounding, rtol=1e-6, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_gives_what_the_host_gives(calls):
    values = []
    for device in ("cuda", "cpu"):
        layer, case = prepared(Tanh, device=device)
        point = Point(layer, case)
        values.append(central(point, np.arange(point.size), 6e-6)[0])
    assert {name for name, _ in calls} == {"x", "W"}
    assert np.allclose(values[0].value, values[1].value, rtol=0, atol=float(np.max(values[1].rounding)))


def test_one_entry_off_by_a_millionth_is_found_on_the_device(calls):
    layer, case = prepared(OneWrong)
    (finding,) = gradient.holds(layer, case).findings
    assert calls
    assert np.argwhere(finding.comparison.wrong).tolist() == [[4, 17]]


def test_code_that_overwrites_its_copies_is_judged_by_its_gradient(calls):
    layer, case = prepared(Overwriting)
    assert not gradient.holds(layer, case).findings


def test_code_that_draws_random_numbers_gets_the_same_for_each_copy(calls):
    layer, case = prepared(lambda x, W: torch.dropout(x @ W, 0.5, True))
    assert not gradient.holds(layer, case).findings
    assert {way for _, way in calls} == {"batched"}


def test_statistics_that_are_updated_in_place_stay_on_the_host():
    layer = as_layer(torch.nn.BatchNorm1d(3), x="N 3")
    with pytest.raises(LayerFailure, match="in place"):
        layer.hooks.slopes({}, "x", np.arange(3), np.ones(3), -np.ones(3), None)
