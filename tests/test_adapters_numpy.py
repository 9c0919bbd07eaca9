"""Every NumPy convention: a right and a wrong class or function as users write it, one adapter line each."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import gradverify as gv
from gradverify import adapt
from gradverify.adapters import as_layer
from gradverify.core import verify as verification
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.errors import DeclarationError

EXAMPLES = 6

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_time_limit(monkeypatch):
    """How busy the machine is says nothing about a gradient."""
    monkeypatch.setattr(verification, "time_limit", lambda seconds: nullcontext())


def check(target, properties=None, examples=EXAMPLES, **declaration):
    """A check without shrinking, which is slow and not what is tested here."""
    settings = Settings(examples=examples, shrink=False, properties=properties)
    return check_layer(as_layer(target, **declaration), settings)


def wrong_primals(report):
    return {f.primal for f in report.findings}


def said(report):
    return "\n".join(report.declared)


# -- 1 to 3: stateful objects -------------------------------------------------------------------


class Affine:
    """Built from its own arrays, parallel attributes."""

    def __init__(self, W, b):
        self.W, self.b = W, b
        self.dW = self.db = None

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW, self.db = self.x.T @ dout, dout.sum(0)
        return dout @ self.W.T


class AffineMeanBias(Affine):
    def backward(self, dout):
        dx = super().backward(dout)
        self.db = dout.mean(0)
        return dx


class Dense:
    """Built from sizes, random start, gradients under other names and only after backward."""

    def __init__(self, D, H):
        self.weights, self.bias = np.random.randn(D, H), np.zeros((1, H))

    def forward(self, x):
        self.x = x
        return x @ self.weights + self.bias

    def backward(self, dout):
        self.d_weights, self.d_bias = self.x.T @ dout, dout.sum(0, keepdims=True)
        return dout @ self.weights.T


class DenseSquared(Dense):
    def backward(self, dout):
        dx = super().backward(dout)
        self.d_weights = self.d_weights * self.weights
        return dx


class DictLayer:
    """numpy-ml's manner: parameters on first use, appends at each forward, accumulates until flushed."""

    def __init__(self, n_out):
        self.n_out, self.X = n_out, []
        self.parameters, self.gradients = {"W": None, "b": None}, {}

    def forward(self, X):
        if self.parameters["W"] is None:
            self.parameters = {"W": np.random.randn(X.shape[1], self.n_out), "b": np.zeros((1, self.n_out))}
            self.flush_gradients()
        self.X.append(X)
        return X @ self.parameters["W"] + self.parameters["b"]

    def backward(self, dY):
        dX = []
        for dy, X in zip([dY], self.X):
            dX.append(dy @ self.parameters["W"].T)
            self.gradients["W"] += X.T @ dy
            self.gradients["b"] += dy.sum(0, keepdims=True)
        return dX[0] if len(dX) == 1 else dX

    def flush_gradients(self):
        self.X = []
        self.gradients = {k: np.zeros_like(v) for k, v in self.parameters.items()}


class DictLayerTransposed(DictLayer):
    def backward(self, dY):
        dX = super().backward(dY)
        self.gradients["b"] *= 2
        return dX


class Tied:
    """Lists, and one matrix in them twice: y = x W W."""

    def __init__(self, W):
        self.params = [W, W]
        self.grads = [np.zeros_like(W), np.zeros_like(W)]

    def forward(self, x):
        self.x = x
        return x @ self.params[0] @ self.params[1]

    def backward(self, dy):
        W = self.params[0]
        self.grads[0][...] = self.x.T @ (dy @ W.T)
        self.grads[1][...] = (self.x @ W).T @ dy
        return dy @ W.T @ W.T


class TiedOnce(Tied):
    def backward(self, dy):
        dx = super().backward(dy)
        self.grads[1][...] = 0
        return dx


def test_a_class_built_from_its_arrays_is_recognised_and_its_pairs_are_printed():
    report = check(Affine, x="N D", W="D H", b="H", batch="N")
    assert report.ok
    assert "pairs: W<->dW, b<->db" in said(report)
    assert "pairs: W<->dW, b<->db" in str(report)
    assert wrong_primals(check(AffineMeanBias, x="N D", W="D H", b="H", batch="N")) == {"b"}


def test_parameters_are_found_with_their_dimensions_where_only_the_input_is_declared():
    report = check(Dense, x="N D")
    assert report.ok
    assert "weights<->d_weights, bias<->d_bias" in said(report)
    assert 'weights "D H", bias "1 H"' in said(report)
    assert wrong_primals(check(DenseSquared, init=("D", "H"), x="N D")) == {"weights"}


def test_an_object_keeps_the_sizes_it_was_built_with():
    report = check(Dense(4, 3), x="N 4")
    assert report.ok
    assert 'weights "4 3"' in said(report)
    assert not check(DenseSquared(4, 3), x="N 4").ok


def test_an_object_is_left_as_it_was():
    layer = Dense(4, 3)
    before = layer.weights.copy()
    check(layer, x="N 4")
    assert np.array_equal(layer.weights, before)
    assert not hasattr(layer, "d_weights")


def test_dicts_that_accumulate_are_flushed_and_parameters_that_come_late_are_set():
    report = check(DictLayer, init=("H",), x="N D", W="D H", b="1 H")
    assert report.ok, report
    assert "parameters['W']<->gradients['W']" in said(report)
    assert wrong_primals(check(DictLayerTransposed, init=("H",), x="N D", W="D H", b="1 H")) == {"b"}


def test_entries_of_a_list_that_are_one_array_are_one_primal():
    report = check(Tied, x="N D", W="D D")
    assert report.ok, report
    assert "params[0]+params[1]<->grads[0]+grads[1]" in said(report)
    assert wrong_primals(check(TiedOnce, x="N D", W="D D")) == {"W"}


class Misleading(Affine):
    """W_grad holds something else; the gradient has a name of its own."""

    def backward(self, dout):
        dx = super().backward(dout)
        self.slope, self.dW = self.dW, np.zeros_like(self.dW)
        return dx


def test_inferred_pairs_can_be_corrected():
    declaration = dict(x="N D", W="D H", b="H")
    assert wrong_primals(check(Misleading, **declaration)) == {"W"}
    report = check(Misleading, pairs={"W": "slope"}, **declaration)
    assert report.ok
    assert "W<->slope, b<->db" in said(report)
    assert check(Misleading, pairs={"W": lambda layer: layer.slope}, **declaration).ok
    renamed = check(Dense, init=("D", "H"), pairs={"W": ("weights", "d_weights")}, x="N D", W="D H")
    assert renamed.ok and "weights<->d_weights" in said(renamed)


def test_what_backward_returns_can_be_named():
    class Returns(Affine):
        def backward(self, dout):
            return self.x.T @ dout, dout @ self.W.T, dout.sum(0)

    declaration = dict(x="N D", W="D H", b="H")
    assert not check(Returns, **declaration).ok
    assert check(Returns, gives=("W", "x", "b"), **declaration).ok


def test_a_second_call_that_sees_the_first_is_found_in_a_shared_object():
    class Sticky(Affine):
        def forward(self, x):
            self.first = getattr(self, "first", x)
            return super().forward(x)

        def backward(self, dout):
            self.x = self.first
            return super().backward(dout)

    report = check(Sticky, x="N D", W="D H", b="H", properties=("reusable",))
    assert any(f.property == "reusable" for f in report.findings), report


def test_a_loss_object_without_a_cotangent_gets_an_implicit_one():
    class SquaredError:
        def forward(self, x, t):
            self.difference = x - t
            return (self.difference**2).sum()

        def backward(self):
            return 2 * self.difference

    assert check(SquaredError, x="N D", t="N D", constants="t").ok


def test_zeros_that_are_returned_for_ids_are_not_taken_for_the_gradient_of_the_table():
    class Table:
        def __init__(self, V, D):
            self.W, self.dW = np.zeros((V, D)), None

        def forward(self, ids):
            self.ids = ids
            return self.W[ids]

        def backward(self, dy):
            self.dW = np.zeros_like(self.W)
            np.add.at(self.dW, self.ids, dy)
            return np.zeros(self.ids.shape)

    class Overwriting(Table):
        def backward(self, dy):
            self.dW = np.zeros_like(self.W)
            self.dW[self.ids] += dy
            return np.zeros(self.ids.shape)

    class Returning(Table):
        def backward(self, dy):
            super().backward(dy)
            return self.dW

    declared = dict(ids="N T: indices V", W="V D", examples=8)
    assert check(Table, **declared).ok
    assert check(Returning, **declared).ok
    assert {f.primal for f in check(Overwriting, **declared).findings} == {"W"}


# -- what users' code does ------------------------------------------------------------------------


class Dropout:
    """A private generator: no seeding of NumPy reaches it."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def forward(self, x, training=True):
        self.mask = self.rng.random(x.shape) < 0.5 if training else np.ones(x.shape, bool)
        return x * self.mask

    def backward(self, dy):
        return dy * self.mask


def test_dropout_with_a_private_generator_has_a_derivative():
    assert check(Dropout, x="N D", options={"training": [True, False]}).ok


def test_dropout_from_the_global_generator_is_repeated_and_named():
    class GlobalDropout(Dropout):
        def forward(self, x):
            self.mask = np.random.rand(*x.shape) < 0.5
            return x * self.mask

    np.random.seed(3)
    expected = np.random.RandomState(3).rand()
    report = check(GlobalDropout, x="N D")
    assert report.ok
    assert "random numbers: numpy.random" in said(report)
    assert np.random.rand() == expected, "the caller's random numbers go on as if nothing had happened"


def test_running_statistics_do_not_leak_from_one_evaluation_to_the_next():
    class Centre:
        def __init__(self):
            self.mean = 0.0

        def forward(self, x):
            y = x - self.mean
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
            return y

        def backward(self, dy):
            return np.array(dy)

    report = check(Centre, x="N D", properties=("gradient", "repeatable"))
    assert report.ok, report


def test_single_precision_inside_is_named_and_is_no_wrong_gradient():
    class Low(Affine):
        def forward(self, x):
            self.x = x.astype(np.float32)
            return self.x @ self.W.astype(np.float32) + self.b.astype(np.float32)

        def backward(self, dout):
            dout = dout.astype(np.float32)
            self.dW, self.db = self.x.T @ dout, dout.sum(0)
            return dout @ self.W.astype(np.float32).T

    report = check(Low, x="N D", W="D H", b="H")
    assert "output is float32 for a float64 input" in said(report)
    assert not any(f.kind == "wrong" for f in report.findings), report


def test_a_crash_is_reported_with_the_users_line():
    class Broken(Affine):
        def backward(self, dout):
            return dout @ self.missing

    report = check(Broken, x="N D", W="D H", b="H")
    assert [f.kind for f in report.findings] == ["crash"]
    assert "return dout @ self.missing" in report.findings[0].message


# -- 4: backward applies the optimiser -----------------------------------------------------------


class Descent:
    def update(self, w, g):
        return w - 0.01 * g


class Optimised:
    """In the manner of ML-From-Scratch."""

    def __init__(self, n_units):
        self.n_units = n_units

    def initialize(self, optimizer, D):
        self.W = np.random.uniform(-1, 1, (D, self.n_units))
        self.W_opt = copy.copy(optimizer)

    def forward_pass(self, X, training=True):
        self.layer_input = X
        return X.dot(self.W)

    def backward_pass(self, accum_grad):
        W = self.W
        self.W = self.W_opt.update(self.W, self.layer_input.T.dot(accum_grad))
        return accum_grad.dot(W.T)


class OptimisedTooEarly(Optimised):
    def backward_pass(self, accum_grad):
        super().backward_pass(accum_grad)
        return accum_grad.dot(self.W.T)


def test_an_optimiser_in_backward_is_recorded():
    declaration = dict(init=("H",), x="N D", W="D H", prepare=lambda layer, x: layer.initialize(Descent(), x.shape[1]))
    report = check(adapt.optimiser(Optimised, **declaration))
    assert report.ok, report
    assert "before minus after" in said(report)
    assert "x" in wrong_primals(check(adapt.optimiser(OptimisedTooEarly, **declaration)))


def test_a_rate_that_backward_takes_is_one():
    class InPlace:
        def __init__(self, D, H):
            self.W = np.zeros((D, H))

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, dy, learning_rate):
            dx = dy @ self.W.T
            self.W -= learning_rate * self.x.T @ dy * self.factor
            return dx

        factor = 1

    class Doubled(InPlace):
        factor = 2

    assert check(adapt.optimiser(InPlace, x="N D", W="D H")).ok
    assert wrong_primals(check(adapt.optimiser(Doubled, x="N D", W="D H"))) == {"W"}


# -- 5: functions with a cache --------------------------------------------------------------------


def batchnorm_forward(x, gamma, beta, bn_param):
    mode, eps = bn_param["mode"], bn_param.get("eps", 1e-5)
    assert mode == "train"
    mean, var = x.mean(0), x.var(0)
    bn_param["running_mean"] = mean
    xhat = (x - mean) / np.sqrt(var + eps)
    return gamma * xhat + beta, (xhat, gamma, np.sqrt(var + eps))


def batchnorm_backward(dout, cache):
    xhat, gamma, std = cache
    d = dout * gamma
    return (d - d.mean(0) - xhat * (d * xhat).mean(0)) / std, (dout * xhat).sum(0), dout.sum(0)


def batchnorm_backward_without_mean(dout, cache):
    xhat, gamma, std = cache
    return dout * gamma / std, (dout * xhat).sum(0), dout.sum(0)


def test_a_cache_and_a_dict_of_settings():
    declaration = dict(x="N D", gamma="D", beta="D", bn_param={"mode": ["train"], "eps": 1e-3})
    report = check(adapt.cached(batchnorm_forward, batchnorm_backward, **declaration))
    assert report.ok, report
    assert "bn_param" in said(report)
    assert wrong_primals(check(adapt.cached(batchnorm_forward, batchnorm_backward_without_mean, **declaration))) == {
        "x"
    }


def test_a_cache_may_stand_first_and_gradients_in_another_order():
    def forward(x, W):
        return (x, W), x @ W

    def backward(cache, dout):
        x, W = cache
        return x.T @ dout, dout @ W.T

    assert check(adapt.cached(forward, backward, swapped=True, gives=("W", "x"), x="N D", W="D H")).ok


_private = np.random.default_rng()


def dropout_forward(x, param):
    mask = (_private.random(x.shape) < param["p"]) / param["p"]
    return x * mask, mask


def test_a_generator_of_the_users_module_is_set_back_and_named():
    layer = adapt.cached(dropout_forward, lambda dout, mask: dout * mask, x="N D", param={"p": [0.5, 0.8]})
    report = check(layer)
    assert report.ok, report
    assert "_private" in said(report)
    assert not check(adapt.cached(dropout_forward, lambda dout, mask: dout * (mask > 0), x="N D", param={"p": 0.5})).ok


# -- 6: losses --------------------------------------------------------------------------------------


def softmax_loss(x, y):
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(x)), y]).mean()
    p[np.arange(len(x)), y] -= 1
    return loss, p / len(x)


def test_a_function_that_returns_loss_and_gradient_is_recognised():
    report = check(softmax_loss, x="N K: between -3 3", y="N: labels K")
    assert report.ok, report

    def unscaled(x, y):
        loss, grad = softmax_loss(x, y)
        return loss, grad * len(x)

    assert not check(unscaled, x="N K: between -3 3", y="N: labels K").ok


class Quadratic:
    @staticmethod
    def loss(y, y_pred):
        return 0.5 * np.sum((y_pred - y) ** 2)

    @staticmethod
    def grad(y, y_pred):
        return y_pred - y


class Negated(Quadratic):
    @staticmethod
    def grad(y, y_pred):
        return y - y_pred


def test_a_class_with_loss_and_grad_is_recognised_and_targets_get_no_gradient():
    report = check(Quadratic, y="N K", y_pred="N K")
    assert report.ok
    assert "gradient with respect to y_pred" in said(report)
    assert wrong_primals(check(Negated, y="N K", y_pred="N K")) == {"y_pred"}
    corrected = check(adapt.loss(Quadratic, wrt="y", factor=-1, y="N K", y_pred="N K"))
    assert corrected.ok, corrected


def test_loss_and_gradient_may_take_their_arguments_in_either_order():
    layer = adapt.loss(lambda y, p: ((p - y) ** 2).sum(), lambda p, y: 2 * (p - y), p="N K", y="N K")
    assert check(layer).ok
    other = adapt.loss(
        lambda a, b: ((b - a) ** 2).sum(), lambda u, v: 2 * (u - v), order=("b", "a"), wrt="b", a="N", b="N"
    )
    assert check(other).ok


# -- 7: objectives ----------------------------------------------------------------------------------

MATRIX = np.array([[3.0, 1.0], [1.0, 2.0]])


def test_an_objective_that_returns_value_and_gradient():
    assert check(adapt.objective(lambda t: (0.5 * t @ MATRIX @ t, MATRIX @ t), n=2)).ok
    assert not check(adapt.objective(lambda t: (0.5 * t @ MATRIX @ t, MATRIX[0] * t), n=2)).ok


def test_an_objective_with_data_gets_a_gradient_in_the_parameters_only():
    def least_squares(w, X, y):
        r = X @ w - y
        return 0.5 * r @ r, X.T @ r

    report = check(adapt.objective(least_squares, w="P", X="N P", y="N"))
    assert report.ok, report


@pytest.mark.parametrize("sign", [1, -1])
def test_hessians_and_products_are_checked_in_second_order(sign):
    def value(t):
        return np.sum(np.sin(t))

    full = adapt.objective(value, np.cos, hess=lambda t: -sign * np.diag(np.sin(t)), theta="P")
    product = adapt.objective(value, np.cos, hessp=lambda t, v: -sign * np.sin(t) * v, theta="P")
    columns = adapt.hessian(np.cos, lambda t: -sign * np.diag(np.sin(t)), theta="P")
    for layer in (full, product, columns):
        assert check(layer, examples=20).ok == (sign == 1)


def test_a_maximised_objective_is_declared():
    declaration = dict(jac=lambda t: -np.cos(t), theta="P")
    assert not check(adapt.objective(lambda t: np.sum(np.sin(t)), **declaration)).ok
    report = check(adapt.objective(lambda t: np.sum(np.sin(t)), maximise=True, **declaration))
    assert report.ok and "maximised" in said(report)


# -- 8 to 10, 13, 15 --------------------------------------------------------------------------------


def test_a_derivative_takes_the_input_or_the_output():
    assert check(adapt.elementwise(np.tanh, lambda y: 1 - y**2, of="output")).ok
    assert not check(adapt.elementwise(np.tanh, lambda y: 1 - y**2)).ok


def test_a_chain_names_the_member_that_is_wrong():
    def minus_sine(x):
        return -np.sin(x)

    assert check(adapt.elementwise(np.sin, np.cos, minus_sine)).ok
    assert wrong_primals(check(adapt.elementwise(np.sin, np.cos, np.sin))) == {"x_1"}


class Sigmoid:
    def fn(self, z):
        return 1 / (1 + np.exp(-z))

    def grad(self, x):
        return self.fn(x) * (1 - self.fn(x))

    def grad2(self, x):
        s = self.fn(x)
        return s * (1 - s) * (1 - 2 * s)


def test_an_activation_object_is_recognised():
    assert check(Sigmoid()).ok

    class Wrong(Sigmoid):
        def grad2(self, x):
            return self.grad(x)

    assert wrong_primals(check(Wrong)) == {"x_1"}


def logistic(preds, data):
    s = 1 / (1 + np.exp(-preds))
    return s - data.get_label(), s * (1 - s)


def logistic_loss(preds, data):
    return np.logaddexp(0, preds) - data * preds


def test_a_boosting_objective_and_one_with_a_bound():
    declaration = dict(preds="N", data="N: mask")
    assert check(adapt.boosting(logistic, logistic_loss, **declaration)).ok

    def bounded(preds, data):
        return logistic(preds, data)[0], np.full(len(preds), 0.25)

    assert wrong_primals(check(adapt.boosting(bounded, logistic_loss, **declaration))) == {"preds_grad"}
    report = check(adapt.boosting(bounded, logistic_loss, bound=True, **declaration))
    assert report.ok and "compared as an upper bound" in said(report)


def test_makers_of_pullbacks():
    first, second = (lambda ans, x, y: lambda g: g * y), (lambda ans, x, y: lambda g: g * x)
    assert check(adapt.vjp_maker(np.multiply, first, second, x="N", y="N")).ok
    assert wrong_primals(check(adapt.vjp_maker(np.multiply, first, first, x="N", y="N"))) == {"y"}


class Value:
    """A number on a tape, in the manner of micrograd."""

    factor = 1

    def __init__(self, data, parents=()):
        self.data, self.grad, self.parents, self.walk = data, 0.0, parents, lambda: None

    def __add__(self, other):
        out = type(self)(self.data + other.data, (self, other))

        def walk():
            self.grad += out.grad
            other.grad += out.grad

        out.walk = walk
        return out

    def __mul__(self, other):
        other = other if isinstance(other, Value) else type(self)(other)
        out = type(self)(self.data * other.data, (self, other))

        def walk():
            self.grad += self.factor * other.data * out.grad
            other.grad += self.data * out.grad

        out.walk = walk
        return out

    def backward(self):
        order, seen = [], set()

        def visit(v):
            if id(v) not in seen:
                seen.add(id(v))
                for p in v.parents:
                    visit(p)
                order.append(v)

        visit(self)
        self.grad = 1.0
        for v in reversed(order):
            v.walk()


class Twice(Value):
    factor = 2


def test_closures_on_a_tape_with_one_value_for_each_number():
    assert check(adapt.tape(Value, lambda a, b: a * b + a * a, a="", b="", each=True)).ok
    assert not check(adapt.tape(Twice, lambda a, b: a * b + a * a, a="", b="", each=True)).ok
    assert check(adapt.tape(Value, lambda x, W: x @ W, x="N 2", W="2 H", each=True)).ok


def test_a_tape_of_tensors_with_a_function_for_the_gradients():
    def wrap(array):
        return SimpleNamespace(data=array)

    def square(x):
        return SimpleNamespace(data=x.data**2, source=x)

    def contract(out, v):
        return SimpleNamespace(data=(out.data * v).sum(), source=out.source, weight=v)

    right = adapt.tape(wrap, square, x="N", contract=contract, backward=lambda r, xs: [2 * xs[0].data * r.weight])
    wrong = adapt.tape(wrap, square, x="N", contract=contract, backward=lambda r, xs: [xs[0].data * r.weight])
    assert check(right).ok
    assert not check(wrong).ok


def rbf(theta, X, eval_gradient=False):
    D = ((X[:, None] - X[None]) ** 2).sum(-1)
    K = theta[0] * np.exp(-D / theta[1])
    return (K, np.stack([K, K * D / theta[1]], -1)) if eval_gradient else K


def test_a_kernel_with_its_gradient_in_log_theta():
    declaration = dict(theta="2: between -1 1", X="N D")
    assert check(adapt.kernel(rbf, **declaration)).ok
    assert not check(adapt.kernel(rbf, log=False, theta="2: between 1 2", X="N D")).ok


# -- 14: step by step -------------------------------------------------------------------------------


class RNN:
    def __init__(self, D, H):
        self.W, self.U = np.zeros((D, H)), np.zeros((H, H))

    def forward(self, x, h):
        self.x, self.h0, self.h = x, h, np.tanh(x @ self.W + h @ self.U)
        return self.h

    def backward(self, dh):
        d = dh * (1 - self.h**2)
        self.dW, self.dU = self.x.T @ d, self.h0.T @ d
        return d @ self.W.T, d @ self.U.T


class RNNForgets(RNN):
    def backward(self, dh):
        dx, dh = super().backward(dh)
        return dx, 0 * dh


def test_a_cell_runs_over_several_steps():
    declaration = dict(states="h", inputs="x", init=(3, 2), x="2 3", h="2 2")
    report = check(adapt.stepwise(RNN, **declaration), properties=("gradient", "reusable"), examples=3)
    assert report.ok, report
    assert "gradients summed over the steps" in said(report)
    report = check(adapt.stepwise(RNNForgets, **declaration), properties=("gradient",), examples=6)
    assert "h0" in wrong_primals(report)


# -- what cannot be used ---------------------------------------------------------------------------


def test_an_unknown_target_is_told_what_it_is_and_how_to_declare_it():
    with pytest.raises(DeclarationError) as caught:
        gv.check(object(), x="N")
    for word in ("an object of type 'object'", "gradverify.check(forward, backward", "gradverify list adapters"):
        assert word in str(caught.value)


def test_a_forward_alone_is_told_what_it_returned():
    with pytest.raises(DeclarationError, match="returned an array of shape"):
        gv.check(lambda x: x * 2, x="N")


def test_a_class_that_needs_unknown_arguments_is_told_how_to_give_them():
    class Needs:
        def __init__(self, units):
            self.units = units

        def forward(self, x):
            return x

        def backward(self, dy):
            return dy

    with pytest.raises(DeclarationError, match=r"needs units .* init="):
        gv.check(Needs, x="N D")


def test_inputs_that_are_not_named_are_asked_for():
    with pytest.raises(DeclarationError, match="name the input"):
        gv.check(Affine, W="D H", b="H")


@pytest.mark.parametrize("spec", [3, ("W", 3)])
def test_a_pair_that_cannot_be_read_is_named(spec):
    with pytest.raises(DeclarationError, match="pairs: 'W'"):
        gv.check(Affine, x="N D", W="D H", b="H", pairs={"W": spec})


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: adapt.objective(lambda t: (0.0, t)), "how many parameters"),
        (lambda: adapt.objective(np.sum, np.cos, hess=np.diag, hessp=np.dot, n=2), "hess or hessp"),
        (lambda: adapt.elementwise(np.sin), "give its derivative"),
        (lambda: adapt.elementwise(np.sin, np.cos, of="middle"), "neither 'input' nor 'output'"),
        (lambda: adapt.boosting(logistic, bound=True), "nothing can be compared"),
        (lambda: adapt.vjp_maker(np.sin, None, None, x="N"), "2 makers for 1"),
        (lambda: adapt.kernel(rbf), "declare its parameters"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_named(build, match):
    with pytest.raises(DeclarationError, match=match):
        build()


def test_an_object_that_is_fixed_to_single_precision_is_run_in_it():
    class Fixed:
        def __init__(self, D, H):
            self.W, self.b = np.zeros((D, H), np.float32), np.zeros(H, np.float32)

        def forward(self, x):
            self.x = x
            return x @ self.W + self.b

        def backward(self, dout):
            self.dW, self.db = self.x.T @ dout, dout.sum(0, dtype=np.float32)
            return dout @ self.W.T

    report = check(Fixed, x="N D")
    assert report.ok, report
    assert "are float32: everything is run in that precision" in said(report)


def test_a_dropped_digit_in_the_parameter_is_none_in_the_gradient():
    class Tiny:
        def __init__(self, D):
            self.w = np.zeros(D)

        def forward(self, x):
            self.x = x
            return x * self.w

        def backward(self, dy, lr):
            dx = dy * self.w
            self.w = self.w - lr * (dy * self.x).sum(0)
            return dx

    layer = adapt.optimiser(Tiny, x="N D", w="D")
    x, w, v = np.full((1, 2), 1e-12), np.array([3.0, -7.0]), np.full((1, 2), 0.3)
    _, saved = layer.forward(x, w)
    np.testing.assert_allclose(layer.backward(v, saved)["w"], [0.3e-12, 0.3e-12], rtol=1e-15)
