"""Where forward has its outputs and what each argument of backward is, in every arrangement that authors use."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import gradverify as gv
from gradverify.adapters._arranged import ways

FORMS = {  # what forward returns, of its outputs and of what it saves
    "outputs, saved": lambda ys, saved: (*ys, saved),
    "(outputs), saved": lambda ys, saved: (ys if len(ys) > 1 else ys[0], saved),
    "saved, outputs": lambda ys, saved: (saved, *ys),
    "saved, (outputs)": lambda ys, saved: (saved, ys if len(ys) > 1 else ys[0]),
    "[outputs, saved]": lambda ys, saved: [*ys, saved],
}
SAVED = {
    "tuple": lambda x, w: (x, w),
    "dict": lambda x, w: {0: x, 1: w},
}
ONE = {  # of backward, as `call(upstream gradients, saved)` takes them
    "dy, saved": lambda call: lambda dout, cache: call([dout], cache),
    "saved, dy": lambda call: lambda cache, dout: call([dout], cache),
    "dy, *saved": lambda call: lambda dout, *cache: call([dout], cache),
    "saved, *dys": lambda call: lambda cache, *douts: call(douts, cache),
    "dy, one by one": lambda call: lambda g, x, w: call([g], (x, w)),
    "one by one, dy": lambda call: lambda x, w, g: call([g], (x, w)),
    "no names, in order": lambda call: lambda a, b: call([a], b),
}
TWO = {
    "dys, saved": lambda call: lambda dh, dc, cache: call([dh, dc], cache),
    "saved, dys": lambda call: lambda cache, dh, dc: call([dh, dc], cache),
    "(dys), saved": lambda call: call,
    "saved, (dys)": lambda call: lambda cache, douts: call(douts, cache),
    "dys, *saved": lambda call: lambda g1, g2, *res: call([g1, g2], res),
    "saved, *dys": lambda call: lambda cache, *douts: call(douts, cache),
    "dys, one by one": lambda call: lambda a, b, x, w: call([a, b], (x, w)),
    "one by one, dys": lambda call: lambda x, w, a, b: call([a, b], (x, w)),
}
EVERY = [
    (count, form, saved, order)
    for count, orders in ((1, ONE), (2, TWO))
    for form, saved, order in itertools.product(FORMS, SAVED, orders)
    if saved != "dict" or not ("one by one" in order or "*saved" in order)
]


def pair(count, form, saved, order, factor):
    def forward(x, w):
        z = x @ w
        return FORMS[form]((np.tanh(z), z * z)[:count], SAVED[saved](x, w))

    def call(dys, kept):
        x, w = kept[0], kept[1]
        z = x @ w
        d = dys[0] * (1 - np.tanh(z) ** 2)
        if count == 2:
            d = d + 2 * z * dys[1]
        return d @ w.T, factor * x.T @ d

    return forward, (ONE if count == 1 else TWO)[order](call)


def found(target, **declared):
    settings = {"examples": 4, "properties": ("complete", "gradient"), "quiet": True, "raises": False}
    return {(f.property, f.primal) for f in gv.check(*target, **declared, **settings).findings}


@pytest.mark.parametrize(("count", "form", "saved", "order"), EVERY, ids=str)
def test_every_arrangement_is_told(count, form, saved, order):
    dims = {"x": "N D", "w": "D K"}
    if order == "no names, in order" and form.startswith("saved"):
        form = "outputs, saved"  # nothing tells another order
    assert found(pair(count, form, saved, order, 1.0), **dims) == set()
    assert found(pair(count, form, saved, order, 3.0), **dims) == {("gradient", "w")}


@pytest.mark.parametrize(("factor", "wrong"), [(2.0, set()), (1.0, {("gradient", "h")})])
def test_the_state_of_a_cell_is_no_array_to_fill(factor, wrong):
    def step(h):
        z = np.tanh(h)
        return z, 2 * z, z

    assert found((step, lambda dout, dh, cache: (dout + factor * dh) * (1 - cache**2)), h="N D") == wrong


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, set()), (3.0, {("gradient", "p_w")})])
def test_arguments_that_hold_several_primals_may_stand_anywhere(factor, wrong):
    def forward(x, p):
        return (x, p), x @ p["w"] + p["b"], x

    def backward(cache, dout, dx2):
        x, p = cache
        return dout @ p["w"].T + dx2, {"w": factor * x.T @ dout, "b": dout.sum(0)}

    assert found((forward, backward), x="N D", p={"w": "D K", "b": "K"}) == wrong


@pytest.mark.parametrize("package", ["torch", "jax"])
@pytest.mark.parametrize("order", ["saved, dys", "(dys), saved", "dys, *saved", "saved, *dys"])
def test_tensors_are_handed_on_as_arrays_are(package, order):
    numbers = pytest.importorskip("torch") if package == "torch" else pytest.importorskip("jax").numpy

    def made(factor):
        def forward(x, w):
            z = x @ w
            return numbers.tanh(z), z * z, (x, w)

        def call(dys, kept):
            x, w = kept
            z = x @ w
            d = dys[0] * (1 - numbers.tanh(z) ** 2) + 2 * z * dys[1]
            return d @ w.T, factor * x.T @ d

        return forward, TWO[order](call)

    assert found(made(1.0), x="N D", w="D K") == set()
    assert found(made(3.0), x="N D", w="D K") == {("gradient", "w")}


def test_settings_of_tensors_are_no_primals():
    torch = pytest.importorskip("torch")

    def forward(x):
        return (x,), torch.tanh(x)

    def backward(cache, dout):
        return dout * (1 - torch.tanh(cache[0]) ** 2)

    assert found((forward, backward), x="N D", device="cpu") == set()
    assert found((forward, lambda cache, dout: -backward(cache, dout)), x="N D", device="cpu") == {("gradient", "x")}


@pytest.mark.parametrize(("factor", "wrong"), [(1, set()), (3, {("gradient", "p_w")})])
def test_tensors_may_come_in_a_dict(factor, wrong):
    torch = pytest.importorskip("torch")

    def forward(x, p):
        return torch.tanh(x) @ p["w"] + p["b"], (x, p)

    def backward(dy, cache):
        x, p = cache
        t = torch.tanh(x)
        return (dy @ p["w"].T) * (1 - t**2), {"w": factor * t.T @ dy, "b": dy.sum(0)}

    assert found((forward, backward), x="N D", p={"w": "D K", "b": "K"}) == wrong


def test_a_name_that_says_otherwise_is_never_overruled():
    x = np.ones((2, 3))
    first, *others = ways((x, (x,)), lambda cache, dout: None, {"x": x}, ())
    assert str(first) == "backward: a function of what forward saved, the upstream gradient"
    assert not any(way.usual for way in others)
    assert ways((x, (x,)), lambda dout, cache: None, {"x": x}, ())[0].usual


@pytest.mark.parametrize("names", ["dy, v", "g, v", "g, ct", "grad, g"])
@pytest.mark.parametrize(("factor", "wrong"), [(1.0, set()), (2.0, {("gradient", "x")})])
def test_what_was_saved_may_be_called_as_an_upstream_gradient_is(names, factor, wrong):
    back = eval(f"lambda {names}: factor * {names.split(',')[0]} * (1 -{names.split(',')[1]} ** 2)", {"factor": factor})

    def forward(x):
        y = np.tanh(x)
        return y, y

    assert found((forward, back), x="N D") == wrong


def test_a_backward_that_breaks_down_is_still_called_as_documented():
    def backward(dout, cache):
        raise RuntimeError("broken")

    report = gv.check(lambda x: (x * 2, x), backward, x="N", examples=4, quiet=True, raises=False)
    (finding,) = report.findings
    assert finding.kind == "crash" and "broken" in finding.message


def test_a_record_may_hold_more_than_gradients():
    x, w = "N D", "D K"

    def forward(x, w):
        return x @ w, (x, w)

    def record(factor):
        return lambda d, c: SimpleNamespace(x=d @ c[1].T, w=factor * c[0].T @ d, norm=float((d**2).sum()))

    def slots(factor):
        class Gradients:
            __slots__ = ("w", "x")

        def backward(d, c):
            made = Gradients()
            made.x, made.w = d @ c[1].T, factor * c[0].T @ d
            return made

        return backward

    for made in (record, slots):
        assert found((forward, made(1.0)), x=x, w=w) == set()
        assert found((forward, made(3.0)), x=x, w=w) == {("gradient", "w")}


class Recurrent:
    """tanh(x W) and its argument squared; `form` and the two subclasses say how they are handed on."""

    factor, form = 1.0, "outputs, saved"

    def __init__(self, D, K):
        self.W, self.dW = np.zeros((D, K)), None

    def forward(self, x):
        z = x @ self.W
        return FORMS[self.form]((np.tanh(z), z * z), (x, z))

    def _pulled(self, dys, saved):
        x, z = saved
        d = dys[0] * (1 - np.tanh(z) ** 2) + 2 * z * dys[1]
        self.dW = self.factor * x.T @ d
        return d @ self.W.T


class SavedFirst(Recurrent):
    def backward(self, cache, dh, dc):
        return self._pulled((dh, dc), cache)


class Together(Recurrent):
    def backward(self, douts, cache):
        return self._pulled(douts, cache)


class Usual(Recurrent):
    def backward(self, dh, dc, cache):
        return self._pulled((dh, dc), cache)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [SavedFirst, Together, Usual])
def test_methods_hand_on_in_any_order_as_functions_do(kind, form):
    right, wrong = (type(kind.__name__, (kind,), {"form": form, "factor": f}) for f in (1.0, 3.0))
    declared = {"x": "N D", "init": ("D", "K")}
    assert found((right,), **declared) == set()
    assert found((wrong,), **declared) == {("gradient", "W")}
    assert found((right(3, 2),), x="N 3") == set()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("factor", "wrong"), [(1.0, set()), (3.0, {("gradient", "w")})])
def test_static_functions_of_a_class_do_as_well(form, factor, wrong):
    first = form.startswith("saved")
    functions = pair(2, form, "tuple", "saved, dys" if first else "dys, saved", factor)
    dims = {"x": "N D", "w": "D K", "forward": functions[0], "backward": functions[1]}
    assert found((type("Static", (), dims),)) == wrong


def test_an_object_that_breaks_down_however_it_is_called_is_called_as_usual():
    class Broken(Usual):
        def backward(self, dh, dc, cache):
            raise RuntimeError("no gradient today")

    report = gv.check(Broken(3, 2), x="N 3", W="3 2", examples=4, quiet=True, raises=False)
    assert any(f.kind == "crash" and "no gradient today" in f.message for f in report.findings)
