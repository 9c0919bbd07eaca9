"""Arguments and results that are told by their names: in any order, filled, in records, sizes under `assume`."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import gradverify as gv
from gradverify import adapt
from gradverify.core.errors import DeclarationError

pytestmark = pytest.mark.usefixtures("as_drawn")

SHAPES = {"inp": "N D", "weight": "D H", "bias": "H"}
FEW: dict[str, Any] = {"examples": 4, "properties": ("complete", "gradient"), "quiet": True, "raises": False}


def wrong(target, *more, **declaration):
    """Names of the primals whose gradients are wrong."""
    return {finding.primal for finding in gv.check(target, *more, **FEW, **declaration).findings}


def into_out(out, inp, weight, bias):
    out[...] = inp @ weight + bias


def adds_up(dinp, dweight, dbias, dout, inp, weight):
    dinp += dout @ weight.T
    dweight += inp.T @ dout
    dbias += dout.sum(0)


def forgets(dinp, dweight, dbias, dout, inp, weight):
    dinp += dout @ weight.T
    dbias += dout.mean(0)


def test_outputs_and_gradients_are_filled():
    assert wrong(into_out, adds_up, **SHAPES, returns={"out": "N H"}) == set()
    assert wrong(into_out, forgets, **SHAPES, returns={"out": "N H"}) == {"weight", "bias"}


def loops(out, inp, weight, N, D, H):
    for n, h in np.ndindex(N, H):
        out[n, h] = sum(inp[n, d] * weight[d, h] for d in range(D))


def loops_back(dinp, dweight, dout, inp, weight, N, D, H):
    for n, h, d in np.ndindex(N, H, D):
        dinp[n, d] += weight[d, h] * dout[n, h]
        dweight[d, h] += inp[n, d] * dout[n, h]


def one_row_short(dinp, dweight, dout, inp, weight, N, D, H):
    loops_back(dinp, dweight, dout, inp, weight, N - 1, D, H)


def test_sizes_are_given_by_name():
    shapes = {"inp": "N D", "weight": "D H", "returns": {"out": "N H"}}
    assert wrong(loops, loops_back, **shapes) == set()
    assert wrong(loops, one_row_short, **shapes) == {"inp", "weight"}


def np_exp(x):
    return np.exp(x)


def saved_by_another_name(dy, s, dx, dw):
    dx[...] = dy @ s[1].T
    dw[...] = s[0].T @ dy


def of_the_output(dx, dout, y):
    dx += dout * y


def beside_a_result(dy, x, w, dw, factor=1.0):
    dw += factor * x.T @ dy
    return dy @ w.T


@pytest.mark.parametrize(
    ("forward", "backward", "shapes"),
    [
        (lambda x, w: (x @ w, (x, w)), saved_by_another_name, {"x": "N D", "w": "D H"}),
        (np_exp, of_the_output, {"x": "N D"}),
        (lambda x, w: x @ w, beside_a_result, {"x": "N D", "w": "D H"}),
    ],
)
def test_forward_may_return_its_output(forward, backward, shapes):
    assert wrong(adapt.filling(forward, backward, **shapes)) == set()


def doubled(x, w, dw, dy):
    return beside_a_result(dy, x, w, dw, factor=2.0)


def test_what_is_returned_stands_beside_what_is_filled():
    assert wrong(adapt.filling(lambda x, w: x @ w, doubled, x="N D", w="D H")) == {"w"}


def test_two_outputs_are_told_by_their_names():
    def forward(total, gap, a, b):
        total[...], gap[...] = a + b, a * a - b

    def backward(da, db, dgap, dtotal, a):
        da += dtotal + 2 * a * dgap
        db += dtotal - dgap

    shapes = {"a": "N", "b": "N", "returns": {"total": "N", "gap": "N"}}
    assert wrong(adapt.filling(forward, backward, **shapes)) == set()

    def swapped(da, db, dtotal, dgap, a):
        backward(da, db, dtotal, dgap, a)

    assert wrong(adapt.filling(forward, swapped, **shapes)) == {"a", "b"}


@pytest.mark.parametrize(
    ("backward", "declared", "said"),
    [
        (adds_up, {}, "forward takes 'out', which names no primal, option or size"),
        (lambda dinp, dweight, dbias, dout, state: None, {"returns": {"out": "N H"}}, "backward takes 'state'"),
        (lambda dinp, dweight, dbias, up: None, {"returns": {"out": "N H"}}, "takes no upstream gradient"),
    ],
)
def test_a_name_that_tells_nothing_is_refused(backward, declared, said):
    with pytest.raises(DeclarationError, match=said):
        adapt.filling(into_out, backward, **SHAPES, **declared)


def test_the_upstream_gradient_of_a_state_is_no_array_to_fill():
    def step(x, h):
        return (x * h, h + x), (x, h)

    def backward(dy, dh, saved):
        x, h = saved
        return dy * h + dh, dy * x + dh

    assert wrong(step, backward, x="N D", h="N D") == set()


def test_a_cotangent_named_after_the_input_is_no_array_to_fill():
    def backward(dx, saved):
        x, w = saved
        return dx @ w.T, x.T @ dx

    assert wrong(lambda x, w: (x @ w, (x, w)), backward, x="N D", w="D H") == set()


class Fields(NamedTuple):
    dw: Any
    dx: Any


@dataclass
class Kept:
    grad_w: Any
    grad_x: Any
    grad_b: Any = None


@pytest.mark.parametrize(
    "record",
    [
        lambda dx, dw: Fields(dx=dx, dw=dw),
        lambda dx, dw: Kept(grad_x=dx, grad_w=dw),
        lambda dx, dw: SimpleNamespace(x=dx, w=dw),
        lambda dx, dw: {"w_grad": dw, "x_grad": dx},
    ],
)
def test_gradients_in_a_record_go_by_its_fields(record):
    shapes = {"x": "N D", "w": "D"}
    right = lambda dy, saved: record(dy * saved[1], (dy * saved[0]).sum(0))  # noqa: E731
    slip = lambda dy, saved: record(dy * saved[1], (dy * saved[0]).mean(0))  # noqa: E731
    assert wrong(lambda x, w: (x * w, (x, w)), right, **shapes) == set()
    assert wrong(lambda x, w: (x * w, (x, w)), slip, **shapes) == {"w"}


class Windows:
    """Sums over windows of K entries, each with a weight of its own."""

    slip = 1.0

    def __init__(self, K):
        self.w = np.ones(K)

    def forward(self, x):
        self.seen = np.lib.stride_tricks.sliding_window_view(x, len(self.w), axis=1)
        return self.seen @ self.w

    def backward(self, dy):
        self.dw = self.slip * np.einsum("nl,nlk->k", dy, self.seen)
        dx = np.zeros((dy.shape[0], self.seen.shape[1] + len(self.w) - 1))
        for k, w in enumerate(self.w):
            dx[:, k : k + dy.shape[1]] += w * dy
        return dx


class Slipped(Windows):
    slip = 2.0


@pytest.mark.parametrize(("layer", "found"), [(Windows, set()), (Slipped, {"w"})])
def test_assume_may_name_a_size_that_only_the_object_has(layer, found):
    assert wrong(layer, x="N L", init=("K",), assume=lambda L, K: L >= K) == found


def test_a_backward_that_takes_what_forward_saved_one_by_one():
    def threshold(x, lam=0.5):
        return np.sign(x) * np.maximum(np.abs(x) - lam, 0), (x, lam)

    def both(x, y):
        return (x * y, x + y), (x, y)

    options = {"lam": [0.5, 1.0]}
    assert wrong(threshold, lambda dy, x, lam: dy * (np.abs(x) > lam), x="N", options=options) == set()
    assert wrong(threshold, lambda dy, x, lam: dy * (np.abs(x) > 2 * lam), x="N", options=options) == {"x"}
    assert wrong(both, lambda a, b, x, y: (a * y + b, a * x + b), x="N", y="N") == set()
    assert wrong(both, lambda a, b, x, y: (a * y + b, a * x - b), x="N", y="N") == {"y"}


def test_an_option_behind_what_forward_saved_is_an_option():
    def summed(x, w, axis=0):
        return (x * w).sum(axis), (x, w)

    def back(slip):
        def backward(dy, saved, axis):
            x, w = saved
            d = np.broadcast_to(np.expand_dims(dy, axis), x.shape)
            return d * w, slip * d * x

        return backward

    declared = {"x": "N D", "w": "N D", "options": {"axis": [0, 1]}}
    assert wrong(summed, back(1.0), **declared) == set()
    assert wrong(summed, back(-1.0), **declared) == {"w"}


def total(a, axis, keepdims):
    return a.sum(axis=axis, keepdims=keepdims)


def total_backward(grad, a_shape, axis, keepdims):
    return np.broadcast_to(grad if keepdims else np.expand_dims(grad, axis), a_shape).copy()


def negated(a):
    return -a


def power(a):
    return np.exp(a)


def slope_of(sign):
    """A backward that takes the output by a name that says so."""

    def backward(grad, exp_a):
        return sign * grad * exp_a

    return backward


def shifted(a, b):
    return a + b


def shifted_backward(grad, b_shape, a_shape):
    db = grad.sum(0) if len(b_shape) < grad.ndim else grad
    return np.broadcast_to(grad, a_shape), db


def test_arguments_of_a_backward_are_told_by_their_names():
    check = partial(gv.check, examples=10)
    assert check(total, total_backward, a="N D", options={"axis": [0, 1], "keepdims": [True, False]}).ok
    assert check(negated, lambda grad: -grad, a="N").ok
    report = check(power, slope_of(1), a="N D")
    assert report.ok and "backward: a function of the upstream gradient, the output" in report.declared
    assert check(shifted, shifted_backward, a="N D", b="D").ok


def test_backwards_of_such_arguments_are_found_wrong():
    check = partial(gv.check, examples=10, raises=False)
    assert check(power, slope_of(-1), a="N D").findings
    assert check(negated, lambda grad: grad, a="N").findings
    (finding,) = check(shifted, lambda grad, b_shape: (grad, grad[0].reshape(b_shape)), a="N D", b="D").findings
    assert finding.primal == "b"
    with pytest.raises(gv.DeclarationError, match=r"backward takes \(grad, mask\)"):
        check(power, lambda grad, mask: grad * mask, a="N")


@pytest.mark.parametrize("choices", [[0, 1], (0, 1)])
def test_choices_that_are_given_like_a_primal_are_named_as_an_option(choices):
    with pytest.raises(gv.DeclarationError, match=r"options=\{'axis': \[0, 1\]\}"):
        gv.check(total, total_backward, a="N D", axis=choices)


def nested(params, x):
    return x @ params["W"] + params["b"], x


def nested_back(reduce):
    def backward(params, cache, dy):
        return {"W": cache.T @ dy, "b": reduce(dy, axis=0)}, dy @ params["W"].T

    return backward


def scaled(x, factor=1.0):
    return factor * x * x, x


def saved_first(cache, dout, factor):
    return 2 * factor * cache * dout


def output_first(result, dout, x):
    return dout * result / x


def test_a_backward_that_cannot_be_called_is_refused():
    with pytest.raises(DeclarationError, match=r"backward takes \(a, b, c\), and is called as backward\(dy, saved\)"):
        gv.check(lambda x: (x, x), lambda a, b, c: a, x="N")


def test_arguments_of_a_backward_may_stand_in_any_order():
    shapes = {"params": {"W": "D H", "b": "H"}, "x": "N D"}
    report = gv.check(nested, nested_back(np.sum), examples=10, quiet=True, **shapes)
    assert "wants" not in report.tallies or not report.tallies["wants"].cases  # backward takes no such argument
    assert wrong(nested, nested_back(np.mean), **shapes) == {"params_b"}
    assert wrong(scaled, saved_first, x="N", options={"factor": [1.0, 3.0]}) == set()
    assert wrong(scaled, lambda cache, dout: 2 * cache * dout, x="N", options={"factor": [1.0, 3.0]}) == {"x"}
    assert wrong(lambda x, w: (x * w, 0), lambda x, w, _, dout: (dout * w, dout * x), x="N", w="N") == set()
    assert wrong(lambda x, w: (x * w, 0), lambda x, w, _, dout: (dout * w, dout), x="N", w="N") == {"w"}
    positive = {"x": "N: positive"}
    assert wrong(lambda x: x**2, lambda result, dout, x: 2 * dout * result / x, **positive) == set()
    assert wrong(lambda x: x**2, output_first, **positive) == {"x"}


class Merged:
    """The entrywise product of two inputs that come in a list."""

    backwards = False

    def __init__(self, D):
        self.w = np.ones(D)

    def forward(self, inputs, bias):
        self.seen = inputs
        return inputs[0] * inputs[1] * self.w + bias

    def backward(self, dy):
        a, b = self.seen
        self.dw = (dy * a * b).sum(0)
        given = [dy * b * self.w, dy * a * self.w]
        return given[::-1] if self.backwards else given, dy.sum(0)


class MergedBackwards(Merged):
    backwards = True


@pytest.mark.parametrize(("layer", "found"), [(Merged, set()), (MergedBackwards, {"inputs_0", "inputs_1"})])
def test_inputs_of_an_object_may_come_in_a_list(layer, found):
    assert wrong(layer, inputs=["N D", "N D"], bias="D") == found
    assert wrong(layer(3), inputs=["N 3", "N 3"], bias="3") == found


class Activation:
    @staticmethod
    def f(x):
        return np.tanh(x)

    @staticmethod
    def df(x):
        return 1 - np.tanh(x) ** 2


class Slip(Activation):
    @staticmethod
    def df(x):
        return 1 - np.tanh(x)


def test_a_function_and_its_derivative_may_be_called_f_and_df():
    assert wrong(Activation, x="N D") == wrong(Activation(), x="N D") == set()
    assert len(wrong(Slip, x="N D")) == 1


def squares(p, t):
    return ((p - t) ** 2).mean(), p - t


def to_target(p, y_true):
    return squares(p, y_true)


@pytest.mark.parametrize(
    ("backward", "found"),
    [
        (lambda d: (2 * d / d.size, -2 * d / d.size), set()),
        (lambda d: (2 * d / d.size, 2 * d / d.size), {"t"}),
        (lambda d: 2 * d / d.size, set()),  # of the prediction alone
        (lambda d: 2 * d, {"p"}),
        (lambda cache, dout=1.0: (dout * 2 * cache / cache.size, -dout * 2 * cache / cache.size), set()),
        (lambda cache, dout=1.0: (2 * cache / cache.size, -dout * 2 * cache / cache.size), {"p"}),
    ],
)
def test_the_backward_of_a_loss_may_take_what_forward_saved_alone(backward, found):
    one = {"t": "N D"} if isinstance(backward(np.ones((2, 3))), tuple) else {"y_true": "N D"}
    assert wrong(squares if "t" in one else to_target, backward, p="N D", **one) == found


def centred(out, mean, x, w):
    mean[...] = x.mean(-1)
    out[...] = (x - mean[:, None]) * w


def centred_back(dx, dw, dout, x, w, *, mean, factor=1.0):
    d = dout * w
    dx += d - d.mean(-1, keepdims=True)
    dw += factor * (dout * (x - mean[:, None])).sum(0)


@pytest.mark.parametrize(("factor", "found"), [(1.0, set()), (2.0, {"w"})])
def test_what_forward_fills_for_backward_is_no_output(factor, found):
    def back(dx, dw, dout, x, w, *, mean):
        centred_back(dx, dw, dout, x, w, mean=mean, factor=factor)

    shapes = {"x": "N D", "w": "D", "returns": {"out": "N D", "mean": "N"}}
    assert wrong(adapt.filling(centred, back, **shapes)) == found


@pytest.mark.parametrize(("factor", "found"), [(1.0, set()), (2.0, {"x"})])
def test_a_target_has_no_array_to_fill(factor, found):
    def back(dx, dout, x, target):
        dx[...] = 2 * factor * dout * (x - target)

    layer = adapt.filling(lambda x, target: ((x - target) ** 2).sum(), back, x="N", target="N")
    assert wrong(layer) == found


@pytest.mark.parametrize(("factor", "found"), [(1.0, set()), (2.0, {"y"})])
def test_of_a_loss_of_y_and_t_the_prediction_is_y(factor, found):
    def loss(y, t):
        return ((y - t) ** 2).sum()

    assert wrong(loss, lambda y, t: 2 * factor * (y - t), y="N", t="N") == found


def test_an_array_to_fill_is_not_taken_for_what_forward_saved():
    with pytest.raises(DeclarationError, match=r"backward takes \(dw, dout, x, w\)"):
        gv.check(lambda x, w: (x @ w, x), lambda dw, dout, x, w: dout @ w.T, x="N D", w="D H")
