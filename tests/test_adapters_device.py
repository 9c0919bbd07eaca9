"""Differences of torch code that are formed on its device: the same numbers as on the host, and as safe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gradverify import Case
from gradverify.adapters import as_layer
from gradverify.adapters._torch import device as on_device
from gradverify.adapters._torch.device import OnDevice
from gradverify.core import evaluate
from gradverify.core.declare.hooks import Contraction, Moves
from gradverify.core.differentiate import screen
from gradverify.core.differentiate.central import central
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.properties import gradient

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
        layer = layer.derive(hooks=dataclasses.replace(layer.hooks, native=None))
    rng = np.random.default_rng(3)
    case, _ = evaluate.completed(layer, Case(layer.name, {n: rng.normal(size=s) for n, s in SIZES.items()}))
    return layer, case


def as_if_on_a_device(monkeypatch):
    """Let the adapter do on the CPU what it does where a launch costs more than the work."""
    monkeypatch.setattr(on_device, "_launches_cost", lambda device: True)


@pytest.fixture
def calls(monkeypatch):
    """Names of the primals whose slopes came from the device."""
    seen = []
    original = OnDevice.slopes

    def counted(self, moves, how):
        found = original(self, moves, how)
        seen.extend((m.name, how.way) for m in moves)
        return found

    monkeypatch.setattr(OnDevice, "slopes", counted)
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


def test_random_numbers_are_the_same_in_every_chunk(calls):
    found = []
    for slopes in (True, False):
        layer, case = prepared(lambda x, W: torch.dropout(x @ W, 0.5, True), slopes)
        point = Point(layer, case, memory=1 << 15)  # some ten chunks
        found.append(central(point, np.arange(point.size), 6e-6)[0])
    assert ("W", "batched") in calls
    assert np.allclose(found[0].value, found[1].value, rtol=0, atol=float(np.max(found[1].rounding)))


@pytest.mark.parametrize("target", [Tanh, Whole, Overwriting])
def test_primals_that_go_together_give_the_same(target, calls, monkeypatch):
    as_if_on_a_device(monkeypatch)
    groups = []
    original = OnDevice._together

    def seen(self, group, *rest):
        groups.append([span.name for span in group])
        return original(self, group, *rest)

    monkeypatch.setattr(OnDevice, "_together", seen)
    found = []
    for slopes in (True, False):
        layer, case = prepared(target, slopes)
        point = Point(layer, case, memory=1 << 15)
        found.append(central(point, np.arange(point.size), 6e-6)[0])
    assert (["W", "x"] in groups) is (target is Tanh)  # W of the others goes by another way than x, or not at all
    assert np.allclose(found[0].value, found[1].value, rtol=0, atol=float(np.max(found[1].rounding)))
    assert not gradient.holds(*prepared(target)).findings


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("with_gradient", [True, False])
def test_a_direction_is_followed_on_the_device(right, two_sided, with_gradient, monkeypatch):
    as_if_on_a_device(monkeypatch)
    original = OnDevice.along

    def of_another_function(*arguments):
        outputs, gap = original(*arguments)
        return tuple(y * (1 + 1e-9) for y in outputs), gap

    if not right:
        monkeypatch.setattr(OnDevice, "along", of_another_function)
    layers, case = zip(*(prepared(Tanh, slopes) for slopes in (True, False)))
    rng = np.random.default_rng(0)
    points = [Point(layer, case[0], memory=256) for layer in layers]
    direction, analytic = rng.normal(size=(2, points[0].size))
    direction[points[0].slots[0].stop :] = 0.0  # W stays
    h = np.array([1e-3, 1e-4, 1e-5])
    found = [p.along(direction, h, -h if two_sided else None, analytic if with_gradient else None) for p in points]
    assert points[0].native_lines_agree is right and points[1].native_lines_agree is None
    for field in ("change", "gap"):
        ours, theirs = (getattr(d, field) for d in found)
        assert np.allclose(ours, theirs, rtol=1e-9, atol=1e-13)
    assert np.allclose(found[0].noise, found[1].noise, rtol=0.5, atol=0)


def test_the_screen_on_the_device_finds_the_place(monkeypatch):
    as_if_on_a_device(monkeypatch)
    layer, case = prepared(Tanh)
    point = Point(layer, case, memory=256)
    right = point.gradient(case)
    wrong = right.copy()
    wrong[200] *= 1.5
    assert screen.screen(point, right, seed=1).agrees and not screen.screen(point, wrong, seed=1).agrees
    assert screen.localise(point, wrong, seed=1).tolist() == [200]
    assert point.native_lines_agree


def test_code_that_overwrites_its_primals_is_left_to_the_host(monkeypatch):
    as_if_on_a_device(monkeypatch)
    layer, case = prepared(Overwriting)
    moves = [Moves("x", np.arange(3), np.full(3, 1e-5), np.full(3, -1e-5))]
    for asked in (
        lambda there: there.along({"x": case.primals["x"]}, np.array([1e-3]), None, None),
        lambda there: there.slopes(moves, Contraction("looped", np.ones(240), False, 0.0)),
    ):
        primals = {name: a.copy() for name, a in case.primals.items()}
        there = layer.hooks.native(primals, {}, np.ones(240), ((6, 40),), 1 << 15)
        with pytest.raises(LayerFailure, match="overwrites"):
            asked(there)


def test_a_difference_of_several_entries_is_the_same_in_little_memory():
    layer, case = prepared(Tanh)
    entries, h = np.array([3, 100, 250]), np.array([1e-5, 2e-5, 3e-5])
    found = [Point(layer, case, memory=memory).jointly(entries, h, -h) for memory in (256, 1 << 22)]
    apart = Point(layer, case).slopes(entries, h, -h)
    assert np.allclose([d.change[0] for d in found], apart.change.sum(), rtol=0, atol=8 * apart.noise.sum())


def test_statistics_that_are_updated_in_place_stay_on_the_host():
    layer = as_layer(torch.nn.BatchNorm1d(3), x="N 3")
    with pytest.raises(LayerFailure, match="in place"):
        layer.hooks.native({}, {}, np.ones(3), ((3,),), 1).slopes([], None)
