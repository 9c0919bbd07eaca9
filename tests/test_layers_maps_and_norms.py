"""The catalogue's activations, losses, norms, arithmetic and scans, against independent oracles."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

from gradverify.core.declare.registry import layers
from gradverify.layers import activations, classification, elementwise, gelu, losses, norms, scans, softmax

MODULES = (activations, classification, elementwise, gelu, losses, norms, scans, softmax)
NAMES = (
    ["relu", "leaky_relu", "prelu", "elu", "selu", "softplus", "silu", "mish", "tanh", "hardswish"]
    + ["gelu", "gelu_tanh", "softmax", "log_softmax"]
    + ["mse", "mae", "huber", "hinge", "kl_divergence", "cosine_similarity"]
    + ["bce_with_logits", "softmax_cross_entropy", "focal"]
    + ["batch_norm", "batch_norm_2d", "layer_norm", "group_norm", "instance_norm", "rms_norm", "l2_normalise"]
    + ["add", "mul", "maximum", "logaddexp", "sqrt", "exp", "log", "abs", "clip", "dropout"]
    + ["prod", "cumsum", "cumprod", "sort", "topk"]
)
SIZES = {"*batch": (2, 3), "N": 3, "D": 4, "K": 5, "M": 2, "C": 2, "H": 2, "W": 3}
OPERANDS = [(2, 3), (3,), (2, 1), (1, 1), ()]  # shapes that broadcast against (2, 3)


def draw(layer, options, rng, sizes=SIZES, dtype=np.float64, operand=(1, 3)):
    """Legal primals of the declared shapes; `operand` is the shape of what broadcasts against *batch."""
    sizes = sizes | {k: v for k, v in options.items() if type(v) is int}
    primals = {}
    for primal in layer.primals:
        shape = operand if primal.dims.text == "*batch?" else primal.dims.shape(sizes)
        raw = rng.random(shape) if primal.domain.discrete else rng.normal(0.0, 1.5, shape)
        value = np.asarray(primal.domain.project(raw, sizes))
        primals[primal.name] = value.astype(dtype) if value.dtype.kind == "f" else value
    return primals


def combinations(layer):
    return [dict(zip(layer.options, values)) for values in itertools.product(*layer.options.values())]


def forward(layer, primals, options):
    return layer.forward(*(primals[p.name] for p in layer.primals), **options)


def backward(layer, dy, saved, options):
    """Gradients by name, one for each differentiable primal."""
    taken = inspect.signature(layer.backward).parameters
    raw = layer.backward(dy, saved, **{k: v for k, v in options.items() if k in taken})
    raw = raw if isinstance(raw, tuple) else (raw,)
    names = [p.name for p in layer.primals if p.differentiable]
    return dict(zip(names, raw, strict=True))


def cases(name, **how):
    """A case for each combination of options: layer, options, primals, output, saved, cotangent."""
    layer, rng = layers.get(name), np.random.default_rng(17)
    for options in combinations(layer):
        primals = draw(layer, options, rng, **how)
        y, saved = forward(layer, primals, options)
        dy = (rng.integers(1, 20, np.shape(y)) * rng.choice([-0.125, 0.125, 0.25], np.shape(y))).astype(y.dtype)
        yield layer, options, primals, y, saved, dy


def numerical(layer, primals, options, name, dy, h=1e-5):
    """Gradient of <dy, y>, entry by entry, by central differences of fourth order in long double."""
    wide = {n: a.astype(np.longdouble) if a.dtype.kind == "f" else a for n, a in primals.items()}
    h = np.longdouble(h)
    gradient = np.empty(primals[name].shape)
    for index in np.ndindex(gradient.shape):

        def at(step, index=index):
            moved = wide[name].copy()
            moved[index] += step
            return forward(layer, wide | {name: moved}, options)[0]

        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        gradient[index] = np.sum(dy * slope)
    return gradient


def grad(name, *primals, dy=None, **options):
    """Gradients of one layer at given numbers; the cotangent is 1 where none is given."""
    layer = layers.get(name)
    y, saved = layer.forward(*map(np.asarray, primals), **options)
    dy = np.ones_like(y) if dy is None else np.asarray(dy)
    return tuple(backward(layer, dy, saved, options).values())


def test_every_layer_of_these_files_is_registered_and_listed_here():
    written = {
        name
        for module in MODULES
        for name, item in vars(module).items()
        if inspect.isclass(item) and item.__module__ == module.__name__
    }
    assert written == set(NAMES)
    assert written <= set(layers.names())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_long_double_differences_for_every_option(name):
    for layer, options, primals, _, saved, dy in cases(name):
        for primal, gradient in backward(layer, dy, saved, options).items():
            expected = numerical(layer, primals, options, primal, dy)
            assert gradient.shape == expected.shape
            np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-10, err_msg=f"{primal} {options}")


@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("name", ["add", "mul", "maximum", "logaddexp"])
def test_gradients_of_a_broadcast_operand_are_summed_to_its_shape(name, operand):
    for layer, options, primals, _, saved, dy in cases(name, operand=operand):
        for primal, gradient in backward(layer, dy, saved, options).items():
            assert np.shape(gradient) == primals[primal].shape
            expected = numerical(layer, primals, options, primal, dy)
            np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
@pytest.mark.parametrize("name", NAMES)
def test_every_floating_type_comes_back_as_it_went_in(name, dtype):
    for layer, options, primals, y, saved, dy in cases(name, dtype=dtype):
        assert y.dtype == dtype
        exact = forward(layer, {n: a.astype(float) if a.dtype.kind == "f" else a for n, a in primals.items()}, options)
        tolerance = max(64 * float(np.finfo(dtype).eps), 1e-13)
        np.testing.assert_allclose(y.astype(float), exact[0], rtol=tolerance, atol=tolerance * np.abs(exact[0]).max())
        expected = backward(layer, dy.astype(float), exact[1], options)
        for primal, gradient in backward(layer, dy, saved, options).items():
            assert gradient.dtype == dtype, primal
            scale = np.abs(expected[primal]).max() + 1
            np.testing.assert_allclose(gradient.astype(float), expected[primal], rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", NAMES)
def test_forward_takes_copies_stacked_on_a_leading_axis(name):
    rng = np.random.default_rng(7)
    for layer, options, primals, _, _, _ in cases(name, operand=(2, 3)):
        rank = max(a.ndim for a in primals.values())
        moving = [p.name for p in layer.primals if p.differentiable]
        copies = [
            {n: a + rng.normal(0, 0.01, a.shape) if n in moving else a for n, a in primals.items()} for _ in range(4)
        ]
        stacked = {
            n: np.stack([c[n].reshape((1,) * (rank - a.ndim) + a.shape) for c in copies]) if n in moving else a
            for n, a in primals.items()
        }
        expected = np.stack([forward(layer, c, options)[0] for c in copies])
        np.testing.assert_allclose(forward(layer, stacked, options)[0].reshape(expected.shape), expected, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_backward_is_linear_and_leaves_everything_unchanged(name):
    for layer, options, primals, _, saved, dy in cases(name):
        kept, cotangent = {n: a.copy() for n, a in primals.items()}, dy.copy()
        first = backward(layer, dy, saved, options)
        double, nothing = backward(layer, 2 * dy, saved, options), backward(layer, 0 * dy, saved, options)
        for primal, gradient in first.items():
            assert not any(np.shares_memory(gradient, a) for a in (dy, *primals.values()))
            np.testing.assert_array_equal(double[primal], 2 * gradient)
            assert not nothing[primal].any()
        np.testing.assert_array_equal(dy, cotangent)
        for n, a in primals.items():
            np.testing.assert_array_equal(a, kept[n])


def strided(array):
    """The same values, read-only, with negative and doubled strides."""
    view = np.zeros([2 * n for n in array.shape], array.dtype)[(..., *(slice(None, None, -2) for _ in array.shape))]
    view[...] = array
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("name", NAMES)
def test_layout_does_not_matter(name):
    for layer, options, primals, y, saved, dy in cases(name):
        again, kept = forward(layer, {n: strided(a) for n, a in primals.items()}, options)
        np.testing.assert_allclose(again, y, rtol=1e-13, atol=1e-14)
        flat = np.broadcast_to(dy.dtype.type(0.75), dy.shape)
        for given, strange in ((dy, strided(dy)), (flat.copy(), flat)):
            expected = backward(layer, given, saved, options)
            for primal, gradient in backward(layer, strange, kept, options).items():
                np.testing.assert_allclose(gradient, expected[primal], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3), ()])
@pytest.mark.parametrize("name", [n for n in NAMES if layers.get(n).empty])
def test_empty_and_scalar_batches_give_gradients_of_the_right_shape(name, batch):
    for layer, options, primals, _, saved, dy in cases(name, sizes=SIZES | {"*batch": batch}, operand=batch):
        for primal, gradient in backward(layer, dy, saved, options).items():
            assert np.shape(gradient) == primals[primal].shape
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "prod", "cumprod", "sort", "prelu", "l2_normalise"])
def test_an_empty_last_axis_is_legal(name):
    for layer, options, primals, _, saved, dy in cases(name, sizes=SIZES | {"K": 0, "D": 0, "C": 0}):
        for primal, gradient in backward(layer, dy, saved, options).items():
            assert gradient.shape == primals[primal].shape


def sigmoid_of(mp, x):
    return 1 / (1 + mp.exp(-x))


CURVES = {
    "gelu": lambda mp, x: x * mp.ncdf(x),
    "gelu_tanh": lambda mp, x: x * sigmoid_of(mp, 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf(0.044715) * x**3)),
    "tanh": lambda mp, x: mp.tanh(x),
    "silu": lambda mp, x: x * sigmoid_of(mp, x),
    "softplus": lambda mp, x: mp.log1p(mp.exp(x)),
    "mish": lambda mp, x: x * mp.tanh(mp.log1p(mp.exp(x))),
    "selu": lambda mp, x: (
        mp.mpf(activations.selu.scale) * (x if x > 0 else mp.mpf(activations.selu.alpha) * mp.expm1(x))
    ),
    "elu": lambda mp, x: x if x > 0 else mp.expm1(x),
}


# The argument of the sigmoid in gelu_tanh is rounded before exp magnifies it.
RELATIVE = dict.fromkeys(CURVES, 2e-14) | {"gelu_tanh": 2e-13}


@pytest.mark.parametrize("name", CURVES)
def test_activations_keep_their_digits_in_both_tails(name):
    mp = pytest.importorskip("mpmath").mp
    points = np.array([-36.5, -20.1, -10.0, -6.3, -3.0, -1.1, -0.3, -1e-8, 1e-8, 0.3, 2.0, 5.7, 10.0, 20.1, 36.5])
    y, (slope,) = layers.get(name).forward(points)[0], grad(name, points)
    with mp.workdps(400):
        for point, value, derivative in zip(points, y, slope):
            exact = CURVES[name](mp, mp.mpf(point))
            assert abs(value - exact) <= RELATIVE[name] * abs(exact) + 1e-300, point
            exact = mp.diff(lambda x: CURVES[name](mp, x), mp.mpf(point))
            assert abs(derivative - exact) <= RELATIVE[name] * abs(exact) + 1e-300, point


@pytest.mark.parametrize("name", ["sigmoid", *CURVES, "relu", "hardswish", "logaddexp"])
def test_huge_arguments_overflow_nowhere(name):
    points = np.array([-1e4, -700.0, 700.0, 1e4])
    for dtype in (np.float16, np.float32, np.float64, np.longdouble):
        x = points.astype(dtype)
        primals = (x, -x) if name == "logaddexp" else (x,)
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            assert all(np.isfinite(g).all() for g in grad(name, *primals))


def test_softmax_and_its_kin_are_right_at_logits_of_a_thousand():
    x = np.array([[1000.0, 960.0, -1000.0]])
    tiny = np.exp(-40.0)
    np.testing.assert_allclose(grad("softmax", x, dy=[[1.0, 3.0, 5.0]])[0], [[-2 * tiny, 2 * tiny, 0.0]], rtol=1e-14)
    np.testing.assert_allclose(grad("log_softmax", x, dy=[[1.0, 0.0, 0.0]])[0], [[tiny, -tiny, 0.0]], rtol=1e-14)
    for labels, expected in (([0], [[-tiny, tiny, 0.0]]), ([2], [[1.0, tiny, -1.0]])):
        (dx,) = grad("softmax_cross_entropy", x, labels, np.ones(3))
        np.testing.assert_allclose(dx, expected, rtol=1e-14)
        (dx,) = grad("focal", x, labels, gamma=0.0)
        np.testing.assert_allclose(dx, expected, rtol=1e-14)
    (dx,) = grad("focal", np.array([[1000.0, 0.0]]), [0], gamma=0.5)  # 1 - p is exactly 0
    np.testing.assert_array_equal(dx, [[0.0, 0.0]])


def test_binary_cross_entropy_keeps_its_digits_for_sure_predictions():
    x, t = np.array([[40.0, -40.0, 800.0]]), np.array([[1.0, 0.0, 0.0]])
    dx, dt = grad("bce_with_logits", x, t, np.ones(3), reduction="sum")
    np.testing.assert_allclose(dx, [[-np.exp(-40.0), np.exp(-40.0), 1.0]], rtol=1e-14)
    np.testing.assert_allclose(dt, -x, rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "x", "left", "right", "options"),
    [
        ("relu", 0.0, 0, 1, {}),
        ("leaky_relu", 0.0, 0.3, 1, {"slope": 0.3}),
        ("leaky_relu", 0.0, 1, 2, {"slope": 2.0}),
        ("elu", 0.0, 1, 2, {"alpha": 2.0}),
        ("selu", 0.0, 1.05, 1.76, {}),
        ("hardswish", -3.0, -0.5, 0, {}),
        ("hardswish", 3.0, 1, 1.5, {}),
        ("abs", 0.0, -1, 1, {}),
        ("clip", -1.0, 0, 1, {}),
        ("clip", 2.0, 0, 1, {"high": 2.0}),
    ],
)
def test_the_slope_at_a_kink_lies_between_the_one_sided_ones(name, x, left, right, options):
    (slope,) = grad(name, [x], **options)
    assert left <= slope[0] <= right


def test_a_tie_is_split_evenly_by_maximum():
    dx, dy = grad("maximum", [[1.0, 2.0], [1.0, 2.0]], [[1.0], [2.0]], dy=[[3.0, 5.0], [7.0, 11.0]])
    np.testing.assert_array_equal(dx, [[1.5, 5.0], [0.0, 5.5]])
    np.testing.assert_array_equal(dy, [[1.5], [12.5]])


def test_a_tie_of_logaddexp_has_slope_one_half():
    dx, dy = grad("logaddexp", [1000.0, 0.0], [1000.0, 0.0])
    np.testing.assert_array_equal([dx, dy], [[0.5, 0.5], [0.5, 0.5]])


def test_huber_is_linear_beyond_delta_on_both_sides():
    dx, dy = grad("huber", [[-5.0, -0.25, 0.25, 5.0]], np.zeros((1, 4)), delta=0.5, reduction="sum")
    np.testing.assert_array_equal(dx, [[-0.5, -0.25, 0.25, 0.5]])
    np.testing.assert_array_equal(dy, -dx)


@pytest.mark.parametrize("row", [[2.0, 3.0, 5.0], [0.0, 3.0, 5.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [7.0]])
def test_products_are_right_with_any_number_of_zeros(row):
    x = np.array(row)
    others = [np.prod(np.delete(x, i)) for i in range(x.size)]
    np.testing.assert_array_equal(grad("prod", x, dy=2.0)[0], 2.0 * np.array(others))
    dy = np.arange(1.0, x.size + 1)
    running = [sum(dy[k] * np.prod(np.delete(x[: k + 1], i)) for k in range(i, x.size)) for i in range(x.size)]
    np.testing.assert_array_equal(grad("cumprod", x, dy=dy)[0], running)


def test_zero_vectors_have_the_gradient_of_the_guarded_quotient():
    zero, b = np.zeros((1, 2)), np.array([[3.0, 4.0]])
    da, db = grad("cosine_similarity", zero, b, eps=0.5)
    np.testing.assert_allclose(da, [[1.2, 1.6]])
    np.testing.assert_array_equal(db, zero)
    da, db = grad("cosine_similarity", zero, zero)
    assert not da.any()
    assert not db.any()
    np.testing.assert_allclose(grad("l2_normalise", zero, dy=[[2.0, -1.0]], eps=0.5)[0], [[4.0, -2.0]])


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e200])
def test_lengths_neither_overflow_nor_underflow(scale):
    y, _ = layers.get("l2_normalise").forward(np.array([3.0, 4.0]) * scale, eps=0.0)
    np.testing.assert_allclose(y, [0.6, 0.8], rtol=1e-15)


def test_ignored_rows_get_no_gradient_and_do_not_count():
    x, weight = np.random.default_rng(2).normal(size=(3, 4)), np.array([1.0, 2.0, 3.0, 4.0])
    how = {"ignore_index": 1, "smoothing": 0.1}
    (dx,) = grad("softmax_cross_entropy", x, [1, 3, 2], weight, **how)
    (kept,) = grad("softmax_cross_entropy", x[1:], [3, 2], weight, **how)
    assert not dx[0].any()
    np.testing.assert_allclose(dx[1:], kept, rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_is_zero_when_every_row_is_ignored(reduction):
    primals = np.ones((2, 3)), np.array([0, 0]), np.ones(3)
    how = {"ignore_index": 0, "reduction": reduction}
    assert not np.any(layers.get("softmax_cross_entropy").forward(*primals, **how)[0])
    assert not grad("softmax_cross_entropy", *primals, **how)[0].any()


def test_a_normalised_row_does_not_move_with_its_mean():
    x = np.random.default_rng(4).normal(size=(2, 5))
    assert np.abs(grad("layer_norm", x, np.ones(5), np.zeros(5))[0]).max() < 1e-14
    one = np.array([[0.7, -1.2]])
    dx, dgamma, dbeta = grad("batch_norm", one, np.ones(2), np.zeros(2), np.zeros(2), np.ones(2), dy=[[2.0, 3.0]])
    assert not dx.any()
    assert not dgamma.any()
    np.testing.assert_array_equal(dbeta, [2.0, 3.0])


def test_sort_and_topk_give_each_cotangent_to_one_entry():
    x = np.array([2.0, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(grad("sort", x, dy=[10.0, 20.0, 30.0, 40.0])[0], [30.0, 10.0, 40.0, 20.0])
    np.testing.assert_array_equal(grad("topk", x, dy=[1.0, 2.0], k=2)[0], [1.0, 0.0, 2.0, 0.0])


def test_dropout_scales_what_it_keeps_and_is_the_identity_in_eval():
    x, mask = np.array([1.0, 2.0]), np.array([1.0, 0.0])
    np.testing.assert_array_equal(grad("dropout", x, mask, p=0.5)[0], [2.0, 0.0])
    np.testing.assert_array_equal(grad("dropout", x, mask, p=0.5, mode="eval")[0], [1.0, 1.0])


def _cross_entropy(F, x, labels, weight, ignore_index, smoothing, reduction):
    how = {"ignore_index": ignore_index, "label_smoothing": smoothing, "reduction": reduction}
    return F.cross_entropy(x, labels, weight, **how)


def _batch_norm(F, x, gamma, beta, mean, var, mode, eps):
    return F.batch_norm(x, mean.clone(), var.clone(), gamma, beta, mode == "train", eps=eps)


TWINS = {
    "leaky_relu": lambda F, x, slope: F.leaky_relu(x, slope),
    "prelu": lambda F, x, alpha: F.prelu(x.reshape(-1, x.shape[-1]), alpha).reshape(x.shape),
    "elu": lambda F, x, alpha: F.elu(x, alpha),
    "selu": lambda F, x: F.selu(x),
    "softplus": lambda F, x, beta: F.softplus(x, beta),
    "silu": lambda F, x: F.silu(x),
    "mish": lambda F, x: F.mish(x),
    "hardswish": lambda F, x: F.hardswish(x),
    "gelu": lambda F, x: F.gelu(x),
    "gelu_tanh": lambda F, x: F.gelu(x, approximate="tanh"),
    "softmax": lambda F, x, axis: F.softmax(x, axis),
    "log_softmax": lambda F, x, axis: F.log_softmax(x, axis),
    "mae": lambda F, x, y: F.l1_loss(x, y),
    "huber": lambda F, x, y, delta, reduction: F.huber_loss(x, y, delta=delta, reduction=reduction),
    "kl_divergence": lambda F, x, t: F.kl_div(x, t, reduction="batchmean"),
    "cosine_similarity": lambda F, a, b, eps: F.cosine_similarity(a, b, eps=eps),
    "bce_with_logits": lambda F, x, t, weight, reduction: F.binary_cross_entropy_with_logits(
        x, t, pos_weight=weight, reduction=reduction
    ),
    "softmax_cross_entropy": _cross_entropy,
    "batch_norm": _batch_norm,
    "batch_norm_2d": _batch_norm,
    "layer_norm": lambda F, x, gamma, beta, eps: F.layer_norm(x, gamma.shape, gamma, beta, eps),
    "group_norm": lambda F, x, gamma, beta, groups, eps: F.group_norm(x, groups, gamma, beta, eps),
    "instance_norm": lambda F, x, gamma, beta, eps: F.instance_norm(x, weight=gamma, bias=beta, eps=eps),
    "rms_norm": lambda F, x, gamma, eps: F.rms_norm(x, gamma.shape, gamma, eps),
    "l2_normalise": lambda F, x, eps: F.normalize(x, dim=-1, eps=eps),
    "prod": lambda F, x: x.prod(-1),
    "cumprod": lambda F, x: x.cumprod(-1),
    "sort": lambda F, x: x.sort(-1).values,
    "topk": lambda F, x, k: x.topk(k, -1).values,
}


@pytest.mark.parametrize("name", TWINS)
def test_outputs_and_gradients_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    for layer, options, primals, y, saved, dy in cases(name):
        wanted = {p.name for p in layer.primals if p.differentiable}
        arrays = {n: torch.tensor(a, requires_grad=n in wanted) for n, a in primals.items()}
        twin = TWINS[name](torch.nn.functional, *arrays.values(), **options)
        np.testing.assert_allclose(y, twin.detach().numpy(), rtol=1e-12, atol=1e-14, err_msg=str(options))
        twin.backward(torch.as_tensor(dy))
        for primal, gradient in backward(layer, dy, saved, options).items():
            expected = arrays[primal].grad
            np.testing.assert_allclose(gradient, 0 if expected is None else expected.numpy(), rtol=1e-10, atol=1e-12)
