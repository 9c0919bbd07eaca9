"""The catalogue's products, convolutions, pools, look-ups and attentions, against independent oracles."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

from gradverify.core.declare.registry import layers

NAMES = (
    ["linear", "matvec", "batched_matmul", "matmul_broadcast", "bilinear", "residual"]
    + ["conv1d", "conv2d", "conv_transpose2d"]
    + ["max_pool2d", "avg_pool2d", "upsample_nearest", "upsample_linear"]
    + ["embedding", "gather", "segment_sum", "scatter_add"]
    + ["scaled_dot_product_attention", "multi_head_attention", "blockwise_attention", "rotary"]
)
SIZES = {"*batch": (2, 3), "N": 2, "C": 2, "F": 2, "G": 2, "H": 5, "W": 4, "L": 7, "T": 4, "S": 5, "E": 3}
SIZES |= {"D": 3, "I": 3, "J": 4, "K": 5, "M": 2, "V": 3, "k": 2}


def draw(layer, options, rng, sizes=SIZES, dtype=np.float64):
    """Primals of the declared shapes; reals are distinct, at least 0.02 apart."""
    sizes = sizes | {k: v for k, v in options.items() if type(v) is int}
    primals = {}
    for primal in layer.primals:
        shape = primal.dims.shape(sizes)
        if primal.domain.discrete:
            value = primal.domain.project(rng.random(shape), sizes)
        else:
            count = int(np.prod(shape))
            value = ((rng.permutation(count) - count / 2 + 0.3) * max(0.02, 2 / max(count, 1))).reshape(shape)
        primals[primal.name] = value.astype(dtype) if value.dtype.kind == "f" else value
    return primals


def choices(spec):
    return list(itertools.product(*spec)) if isinstance(spec, tuple) else list(spec)


def combinations(layer, limit=60):
    """All combinations of options, or a fixed sample of them."""
    axes = [choices(spec) for spec in layer.options.values()]
    every = list(itertools.product(*axes))
    if len(every) > limit:
        every = [every[k] for k in np.random.default_rng(5).permutation(len(every))[:limit]]
    return [dict(zip(layer.options, values)) for values in every]


def named(function, values):
    """Those of the values that the signature of the function names."""
    return {name: value for name, value in values.items() if name in inspect.signature(function).parameters}


def accepts(layer, primals, options):
    if layer.assume is None:
        return True
    return bool(layer.assume(**named(layer.assume, {**primals, **options})))


def forward(layer, primals, options):
    return layer.forward(*(primals[p.name] for p in layer.primals), **options)


def backward(layer, dy, saved, options):
    raw = layer.backward(dy, saved, **named(layer.backward, options))
    raw = raw if isinstance(raw, tuple) else (raw,)
    names = [p.name for p in layer.differentiable]
    assert len(raw) == len(names)
    return dict(zip(names, raw))


def cases(name, sizes=SIZES, dtype=np.float64, limit=60):
    """Legal cases of a layer, one for each combination of options."""
    layer = layers.get(name)
    rng = np.random.default_rng(11)
    for options in combinations(layer, limit):
        primals = draw(layer, options, rng, sizes, dtype)
        if accepts(layer, primals, options):
            y, saved = forward(layer, primals, options)
            dy = rng.integers(-9, 10, y.shape).astype(dtype) / dtype(4)
            yield layer, options, primals, y, saved, dy


def directional(layer, primals, options, name, direction, dy):
    """Derivative of <dy, y> along a direction of one primal, to fourth order in long double."""
    h = np.longdouble(1e-4)
    wide = {n: a.astype(np.longdouble) if a.dtype.kind == "f" else a for n, a in primals.items()}

    def at(step):
        return forward(layer, wide | {name: wide[name] + step * direction}, options)[0]

    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    return (dy * slope).sum()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_long_double_differences_for_every_option(name):
    rng, tried = np.random.default_rng(3), 0
    for layer, options, primals, _, saved, dy in cases(name):
        gradients = backward(layer, dy, saved, options)
        for primal, gradient in gradients.items():
            assert gradient.shape == primals[primal].shape
            for _ in range(3):
                direction = rng.choice([-1.0, 1.0, 0.5], gradient.shape)
                expected = directional(layer, primals, options, primal, direction, dy)
                scale = np.abs(gradient * direction).sum() + 1
                assert abs((gradient * direction).sum() - expected) < 1e-11 * scale, (options, primal)
        tried += 1
    assert tried >= min(len(combinations(layers.get(name))), 20)


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d"])
def test_most_drawn_windows_are_legal(name):
    layer, rng = layers.get(name), np.random.default_rng(0)
    legal = []
    for options in combinations(layer, 400):
        sizes = SIZES | dict(zip("HWL", rng.choice([1, 2, 3, 4, 5, 7], 3).tolist()))
        legal.append(accepts(layer, draw(layer, options, rng, sizes), options))
    assert np.mean(legal) > 0.55


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
@pytest.mark.parametrize("name", NAMES)
def test_every_floating_type_comes_back_as_it_went_in(name, dtype):
    for layer, options, primals, y, saved, dy in cases(name, dtype=dtype, limit=12):
        assert y.dtype == dtype
        for primal, gradient in backward(layer, dy, saved, options).items():
            assert gradient.dtype == dtype, primal
        if dtype is not np.float16:
            double = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in primals.items()}
            exact = forward(layer, double, options)
            np.testing.assert_allclose(y, exact[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_forward_takes_copies_stacked_on_a_leading_axis(name):
    rng = np.random.default_rng(7)
    for layer, options, primals, y, _, _ in cases(name, limit=12):
        reals = [n for n, a in primals.items() if a.dtype.kind == "f"]
        rank = max(primals[n].ndim for n in reals)
        moved = {p.name: rng.normal(0, 0.01, (3, *primals[p.name].shape)) for p in layer.differentiable}
        copies = [{n: a + moved[n][s] if n in moved else a for n, a in primals.items()} for s in range(3)]
        stacked = {
            n: np.stack([c[n].reshape((1,) * (rank - a.ndim) + a.shape) for c in copies]) if n in reals else a
            for n, a in primals.items()
        }
        expected = np.stack([forward(layer, c, options)[0] for c in copies])
        np.testing.assert_allclose(forward(layer, stacked, options)[0].reshape(expected.shape), expected, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_backward_is_linear_and_leaves_everything_unchanged(name):
    for layer, options, primals, _, saved, dy in cases(name, limit=12):
        kept, cotangent = {n: a.copy() for n, a in primals.items()}, dy.copy()
        first = backward(layer, dy, saved, options)
        double = backward(layer, 2 * dy, saved, options)
        nothing = backward(layer, 0 * dy, saved, options)
        for primal, gradient in first.items():
            assert not np.shares_memory(gradient, dy)
            assert not any(np.shares_memory(gradient, a) for a in primals.values())
            np.testing.assert_array_equal(double[primal], 2 * gradient)
            assert not nothing[primal].any()
        np.testing.assert_array_equal(dy, cotangent)
        for n, a in primals.items():
            np.testing.assert_array_equal(a, kept[n])


def strided(array):
    """The same values, read-only, with negative and doubled strides."""
    wide = np.zeros([2 * n for n in array.shape], array.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("name", NAMES)
def test_layout_does_not_matter(name):
    for layer, options, primals, y, saved, dy in cases(name, limit=12):
        again, kept = forward(layer, {n: strided(a) for n, a in primals.items()}, options)
        np.testing.assert_allclose(again, y, atol=1e-13)
        expected = backward(layer, dy, saved, options)
        for primal, gradient in backward(layer, strided(dy), kept, options).items():
            np.testing.assert_allclose(gradient, expected[primal], atol=1e-13)


@pytest.mark.parametrize("name", [n for n in NAMES if layers.get(n).empty])
def test_empty_axes_give_empty_or_zero_gradients(name):
    names = {n for primal in layers.get(name).primals for n in primal.dims.names} - set(layers.get(name).options)
    tried = 0
    for axis in names & set(SIZES):
        sizes = SIZES | {axis: (0, 2) if axis == "*batch" else 0}
        for layer, options, primals, _, saved, dy in cases(name, sizes, limit=8):
            for primal, gradient in backward(layer, dy, saved, options).items():
                assert gradient.shape == primals[primal].shape
                assert np.isfinite(gradient).all()
            tried += 1
    assert tried >= 2


def test_a_broadcast_operand_gets_the_sum_over_what_was_stretched():
    layer, rng = layers.get("matmul_broadcast"), np.random.default_rng(2)
    a, dy = rng.normal(size=(4, 3, 2, 5)), rng.normal(size=(4, 3, 2, 6))
    for leading in [(), (1,), (3,), (4, 1), (1, 3), (1, 1), (4, 3)]:
        b = rng.normal(size=(*leading, 5, 6))
        y, saved = layer.forward(a, b)
        _, db = layer.backward(dy, saved)
        full = np.swapaxes(a, -1, -2) @ dy
        axes = tuple(k for k, n in enumerate((1,) * (2 - len(leading)) + leading) if n == 1)
        np.testing.assert_allclose(db, full.sum(axes, keepdims=True).reshape(b.shape), atol=1e-12)


def test_of_tied_maxima_the_first_takes_the_gradient():
    pool = layers.get("max_pool2d")
    x = np.zeros((1, 1, 3, 3))
    y, saved = pool.forward(x, kernel=(2, 2), stride=(1, 1), padding=(0, 0), ceil_mode=False)
    dx = pool.backward(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), saved, kernel=(2, 2), stride=(1, 1), padding=(0, 0))
    np.testing.assert_array_equal(dx[0, 0], [[1, 2, 0], [3, 4, 0], [0, 0, 0]])


def test_an_overhanging_window_pools_what_it_covers():
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    options = dict(kernel=(1, 2), stride=(1, 2), padding=(0, 0), ceil_mode=True)
    assert layers.get("max_pool2d").forward(x, **options)[0].tolist() == [[[[1, 3, 4]]]]
    average = layers.get("avg_pool2d")
    y, saved = average.forward(x, **options, count_include_pad=True)
    assert y.tolist() == [[[[0.5, 2.5, 4]]]]
    dx = average.backward(np.ones((1, 1, 1, 3)), saved, kernel=(1, 2), stride=(1, 2), padding=(0, 0))
    assert dx.tolist() == [[[[0.5, 0.5, 0.5, 0.5, 1]]]]


def test_repeated_indices_add_up_and_padding_gets_nothing():
    ids, table = np.array([[1, 1, 0], [1, 2, 0]]), np.ones((4, 1))
    dy = np.array([[[1.0], [2.0], [4.0]], [[8.0], [16.0], [32.0]]])
    layer = layers.get("embedding")
    for padding_idx, expected in [(None, [36, 11, 16, 0]), (0, [0, 11, 16, 0]), (1, [36, 0, 16, 0])]:
        y, saved = layer.forward(ids, table, padding_idx=padding_idx)
        assert not y[ids == padding_idx].any()
        assert layer.backward(dy, saved).ravel().tolist() == expected
    _, segments = layers.get("segment_sum").forward(np.ones((3, 1)), np.array([2, 2, 0]), K=4)
    assert layers.get("segment_sum").forward(np.ones((3, 1)), segments, K=4)[0].ravel().tolist() == [1, 0, 2, 0]


def test_half_precision_sums_of_many_repeats_do_not_get_stuck():
    ids, table = np.zeros((1, 3000), int), np.ones((1, 1), np.float16)
    _, saved = layers.get("embedding").forward(ids, table, padding_idx=None)
    assert layers.get("embedding").backward(np.ones((1, 3000, 1), np.float16), saved)[0, 0] == 3000


@pytest.mark.parametrize("causal", [False, True])
def test_a_fully_masked_row_gives_zero_and_passes_zero(causal):
    rng, layer = np.random.default_rng(1), layers.get("scaled_dot_product_attention")
    q, k, v = rng.normal(size=(2, 2, 3, 4)), rng.normal(size=(2, 1, 5, 4)), rng.normal(size=(2, 1, 5, 2))
    mask = np.array([[0.0] * 5, [0, 1, 1, 0, 1]]).reshape(2, 1, 1, 5)
    y, saved = layer.forward(q, k, v, mask, causal=causal, groups=2)
    gradients = layer.backward(np.ones_like(y), saved, groups=2)
    assert not y[0].any() and np.isfinite(y).all()
    assert all(not g[0].any() and np.isfinite(g).all() for g in gradients)
    assert not y[1, :, 0].any() if causal else y[1, :, 0].all()  # query 0 sees key 0 only, which is masked


def test_blockwise_attention_equals_attention_whatever_the_block():
    rng = np.random.default_rng(4)
    q, k, v, dy = (rng.normal(size=s) for s in [(2, 4, 3), (2, 5, 3), (2, 5, 2), (2, 4, 2)])
    whole, blocks = layers.get("scaled_dot_product_attention"), layers.get("blockwise_attention")
    for block, causal in itertools.product([1, 2, 3, 5, 8], [False, True]):
        expected, saved = whole.forward(*(a[:, None] for a in (q, k, v)), np.ones((2, 1, 1, 5)), causal, 1)
        gradients = whole.backward(dy[:, None], saved, 1)
        y, saved = blocks.forward(q, k, v, block, causal)
        np.testing.assert_allclose(y, expected[:, 0], atol=1e-14)
        for got, wanted in zip(blocks.backward(dy, saved, block, causal), gradients):
            np.testing.assert_allclose(got, wanted[:, 0], atol=1e-13)


def torch_function(name, options):
    """The same function in torch, of the layer's primals."""
    import torch
    from torch.nn import functional as F

    o = dict(options)
    o.pop("k", None), o.pop("kh", None), o.pop("kw", None)
    if name.startswith("conv"):
        function = getattr(F, name)
        return lambda x, W, b: function(x, W, b, **o)
    if name.endswith("pool2d"):
        function = getattr(F, name)
        return lambda x: function(x, kernel_size=o["kernel"], **{k: v for k, v in o.items() if k != "kernel"})
    if name.startswith("upsample"):
        mode = name.removeprefix("upsample_")
        return lambda x: F.interpolate(x, scale_factor=o["scale"], mode=mode, align_corners=o.get("align_corners"))
    if name == "embedding":
        return lambda ids, table: (
            F.embedding(ids, table) * (1 if o["padding_idx"] is None else (ids != o["padding_idx"])[..., None])
        )
    if name == "gather":
        return lambda x, index: torch.gather(x, 1, index)
    if name == "bilinear":
        return lambda x, A, z: F.bilinear(x, z, A)

    def attention(q, k, v, mask):
        keep = mask != 0
        if o["causal"]:
            keep = keep & torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        keep = keep.expand(*q.shape[:-1], k.shape[-2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, enable_gqa=True)

    return attention


@pytest.mark.parametrize(
    "name",
    ["conv1d", "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "upsample_nearest", "upsample_linear"]
    + ["embedding", "gather", "bilinear", "scaled_dot_product_attention"],
)
def test_outputs_and_gradients_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    for layer, options, primals, y, saved, dy in cases(name):
        tensors = {n: torch.tensor(a, requires_grad=layer.primal(n).differentiable) for n, a in primals.items()}
        reference = torch_function(name, options)(*(tensors[p.name] for p in layer.primals))
        np.testing.assert_allclose(y, reference.detach().numpy(), atol=1e-12, err_msg=str(options))
        reference.backward(torch.tensor(dy))
        for primal, gradient in backward(layer, dy, saved, options).items():
            np.testing.assert_allclose(
                gradient, tensors[primal].grad.numpy(), atol=1e-12, err_msg=f"{primal} {options}"
            )


def test_padding_idx_of_an_embedding_gives_the_gradient_of_torch():
    torch = pytest.importorskip("torch")
    for layer, options, primals, _, saved, dy in cases("embedding"):
        table = torch.tensor(primals["table"], requires_grad=True)
        ids = torch.tensor(primals["ids"])
        torch.nn.functional.embedding(ids, table, **options).backward(torch.tensor(dy))
        np.testing.assert_allclose(layer.backward(dy, saved), table.grad.numpy(), atol=1e-12)


def test_multi_head_attention_and_its_gradients_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for layer, options, primals, y, saved, dy in cases("multi_head_attention"):
        kv, groups = options["kv_heads"], options["groups"]
        t = {n: torch.tensor(a, requires_grad=n != "mask") for n, a in primals.items()}
        q, k, v = (
            (t["x"] @ t[w]).unflatten(-1, (heads, -1)).transpose(1, 2)
            for w, heads in (("Wq", kv * groups), ("Wk", kv), ("Wv", kv))
        )
        inner = torch_function("attention", options)(q, k, v, t["mask"][:, None])
        reference = inner.transpose(1, 2).flatten(2) @ t["Wo"]
        np.testing.assert_allclose(y, reference.detach().numpy(), atol=1e-12)
        reference.backward(torch.tensor(dy))
        for primal, gradient in backward(layer, dy, saved, options).items():
            np.testing.assert_allclose(gradient, t[primal].grad.numpy(), atol=1e-12, err_msg=f"{primal} {options}")
