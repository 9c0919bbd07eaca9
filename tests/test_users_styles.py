"""Layers as users write them: right ones in many styles stay silent, wrong ones of every class are found."""

import numpy as np
import pytest

import gradverify as gv
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings

pytestmark = pytest.mark.usefixtures("as_drawn")

RIGHT, WRONG = {}, {}


def right(name, forward, backward, /, **declaration):
    RIGHT[name] = gv.Layer(forward, backward, name=name, **declaration)


def wrong(name, forward, backward, /, **declaration):
    WRONG[name] = gv.Layer(forward, backward, name=name, **declaration)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# -- forwards that several layers share -----------------------------------------------------


def pinball(x, y, q=0.5):
    e = y - x
    return np.mean(np.maximum(q * e, (q - 1) * e)), (e, q)


def pinball_backward(dl, saved):
    e, q = saved
    g = np.where(e >= 0, q, q - 1) * dl / e.size
    return -g, g


def leaky(z):
    return np.where(z >= 0, z, 0.01 * z)


def leaky_mlp(x, W1, W2):
    a1 = x @ W1
    h1 = leaky(a1)
    a2 = h1 @ W2
    return leaky(a2), (x, W1, W2, a1, h1, a2)


def leaky_mlp_backward(dy, saved):
    x, W1, W2, a1, h1, a2 = saved
    d2 = dy * np.where(a2 >= 0, 1, 0.01)
    d1 = (d2 @ W2.T) * np.where(a1 >= 0, 1.0, 0.01)
    return [d1 @ W1.T, x.T @ d1, h1.T @ d2]


def relu_mlp(x, W1, W2, W3):
    a1 = x @ W1
    h1 = np.maximum(0, a1)
    a2 = h1 @ W2
    h2 = np.maximum(0, a2)
    return h2 @ W3, (x, W1, W2, W3, a1, h1, a2, h2)


def relu_mlp_backward(dy, saved):
    x, W1, W2, W3, a1, h1, a2, h2 = saved
    d2 = (dy @ W3.T) * (a2 > 0)
    d1 = (d2 @ W2.T) * (a1 > 0)
    return [d1 @ W1.T, x.T @ d1, h1.T @ d2, h2.T @ dy]


def gelu(x):
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + t), (x, t)


def gelu_backward(dy, saved):
    x, t = saved
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner)


def logdet(A):
    return np.linalg.slogdet(A @ A.T + np.eye(len(A)))[1], A


def logdet_backward(dy, A):
    return 2 * dy * np.linalg.inv(A @ A.T + np.eye(len(A))) @ A


def unit_row(x):
    n = np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return x / n, (x, n)


def unit_row_backward(dy, saved):
    x, n = saved
    y = x / n
    return np.where(n > 1e-12, dy - y * (dy * y).sum(-1, keepdims=True), dy) / n


def split_max(x):
    m = x.max(axis=1, keepdims=True)
    return m[:, 0], x == m


def split_max_backward(dy, mask):
    return mask * dy[:, None] / mask.sum(1, keepdims=True)


def batchnorm(x, gamma, beta):
    mu, var = x.mean(0), x.var(0)
    inv = 1 / np.sqrt(var + 1e-5)
    xh = (x - mu) * inv
    return gamma * xh + beta, (xh, inv, gamma)


def batchnorm_backward(dy, saved):
    xh, inv, gamma = saved
    n, d = len(dy), dy * gamma
    dx = inv / n * (n * d - d.sum(0) - xh * (d * xh).sum(0))
    return {"dx": dx, "dgamma": (dy * xh).sum(0), "dbeta": dy.sum(0)}


def cumprod_backward(dy, x):
    g = np.zeros(len(x))
    for i in range(len(x)):
        for j in range(i, len(x)):
            g[i] += dy[j] * np.prod(np.delete(x[: j + 1], i))
    return g


def attention(q, k, v, keep):
    s = np.einsum("btd,bsd->bts", q, k) / np.sqrt(q.shape[-1])
    p = softmax(np.where(keep[:, None, :] > 0, s, -1e9))
    return p @ v, (q, k, v, p, keep)


def attention_backward(dy, saved, masked=True):
    q, k, v, p, keep = saved
    dp = dy @ v.transpose(0, 2, 1)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    ds = np.where(keep[:, None, :] > 0, ds, 0) if masked else ds
    return ds @ k, ds.transpose(0, 2, 1) @ q, p.transpose(0, 2, 1) @ dy


def depthwise(x, w):
    width, length = w.shape[1], x.shape[2] - w.shape[1] + 1
    return sum(w[None, :, k, None] * x[:, :, k : k + length] for k in range(width)), (x, w)


def depthwise_backward(dy, saved, flip=False, add=True):
    x, w = saved
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    width, length = w.shape[1], dy.shape[2]
    for k in range(width):
        at = width - 1 - k if flip else k
        part = w[None, :, k, None] * dy
        dx[:, :, at : at + length] = part + (dx[:, :, at : at + length] if add else 0)
        dw[:, k] = (dy * x[:, :, k : k + length]).sum((0, 2))
    return dx, dw


def rope(x, theta):
    c, s, a, b = np.cos(theta), np.sin(theta), x[..., 0::2], x[..., 1::2]
    return np.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape), (c, s)


def rope_backward(dy, saved):
    (c, s), a, b = saved, dy[..., 0::2], dy[..., 1::2]
    return np.stack([a * c + b * s, -a * s + b * c], -1).reshape(dy.shape)


def ema(x, a):
    y, s = np.zeros_like(x), np.zeros(x.shape[1:])
    for t in range(len(x)):
        s = a * s + (1 - a) * x[t]
        y[t] = s
    return y, (x, a, y)


def ema_backward(dy, saved, carry=True):
    x, a, y = saved
    dx, da, g = np.empty_like(x), 0.0, np.zeros(x.shape[1:])
    for t in reversed(range(len(x))):
        g = dy[t] + (g if carry else 0)
        before = y[t - 1] if t else np.zeros(x.shape[1:])
        da += np.sum(g * (before - x[t]))
        dx[t] = (1 - a) * g
        g = a * g
    return dx, np.array(da)


def dense32(x, W):
    x, W = x.astype(np.float32), W.astype(np.float32)
    return x @ W, (x, W)


def dense_backward(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy


ATTENTION = {"q": "B T D", "k": "B S D", "v": "B S E", "keep": "B S: mask"}
DEPTHWISE = {"x": "N C T", "w": "C K", "assume": lambda x, w: x.shape[2] >= w.shape[1]}

right("identity", lambda x: (x, None), lambda dy, _: dy, x="N D")
right("add", lambda a, b: (a + b, None), lambda dy, _: (dy, dy), a="N D", b="N D")
right("flatten", lambda x: (x.reshape(-1), x.shape), lambda dy, shape: dy.reshape(shape), x="N M")
right("sum", lambda x: (x.sum(), x.shape), np.broadcast_to, x="N M")
right("float", lambda x: (float((x**2).sum()), x), lambda dy, x: 2 * dy * x, x="N")
right("dense32", dense32, dense_backward, x="N D", W="D H")
right("log", lambda x: (np.log(x), x), lambda dy, x: dy / x, x="N D")  # NaN and no derivative left of 0
right("pinball", pinball, pinball_backward, x="N K", y="N K", options={"q": [0.5, 0.1, 0.9]})
right("relu_mlp", relu_mlp, relu_mlp_backward, x="N D", W1="D H", W2="H K", W3="K O")
right("split_max", split_max, split_max_backward, x="N D")
right("batchnorm", batchnorm, batchnorm_backward, x="N D", gamma="D", beta="D")
right("attention", attention, attention_backward, **ATTENTION)
right("cumprod", lambda x: (np.cumprod(x), x), cumprod_backward, x="N")
right("rope", rope, rope_backward, x="B T 2*D", theta="T D", constants="theta")
right("ema", ema, ema_backward, x="T D", a=": unit")
right("gelu", gelu, gelu_backward, x="N D")
right("fft", lambda z: (np.fft.fft(z), None), lambda dy, _: np.fft.ifft(dy) * dy.shape[-1], z="N: complex")

wrong(
    "FACTOR temperature",
    lambda x, T=1.0: (softmax(x / T),) * 2,
    lambda dy, p: p * (dy - (dy * p).sum(-1, keepdims=True)),
    x="N K",
    options={"T": [1.0, 2.0]},
)
wrong("SIGN rope", rope, lambda dy, s: rope(dy, np.arctan2(s[1], s[0]))[0], x="B T 2*D", theta="T D", constants="theta")
wrong("INDEX depthwise", depthwise, lambda dy, s: depthwise_backward(dy, s, flip=True), **DEPTHWISE)
wrong("OVERWRITE depthwise", depthwise, lambda dy, s: depthwise_backward(dy, s, add=False), **DEPTHWISE)
wrong("TERM swish", lambda x: (x / (1 + np.exp(-x)), x), lambda dy, x: dy / (1 + np.exp(-x)), x="N D")
wrong("UNBROADCAST", lambda a, b: (a * b, (a, b)), lambda dy, s: (dy * s[1], (dy * s[0]).sum(0)), a="*n D", b="D")
wrong("GATE ema", ema, lambda dy, s: ema_backward(dy, s, carry=False), x="T D", a=": unit")
wrong("UPSTREAM mean", lambda x: (x.mean(1), x), lambda dy, x: np.full(x.shape, dy.mean() / x.shape[1]), x="N D")
wrong("TIE max", split_max, lambda dy, mask: mask * dy[:, None], x="N D")
wrong(
    "TIE minimum",
    lambda a, b: (np.minimum(a, b), (a, b)),
    lambda dy, s: (dy * (s[0] <= s[1]), dy * (s[1] <= s[0])),
    a="N D",
    b="N D",
)
wrong(
    "SINGULAR cumprod",
    lambda x: (np.cumprod(x), x),
    lambda dy, x: np.cumsum((dy * np.cumprod(x))[::-1])[::-1] / x,
    x="N",
)
wrong("TAIL softplus", lambda x: (np.logaddexp(0, x), x), lambda dy, x: dy * np.exp(x) / (1 + np.exp(x)), x="N D")
wrong("MASK attention", attention, lambda dy, s: attention_backward(dy, s, masked=False), **ATTENTION)
wrong(
    "OPTION axis",
    lambda x, axis=-1: (np.cumsum(x, axis), None),
    lambda dy, _: np.flip(np.cumsum(np.flip(dy, -1), -1), -1),
    x="N D",
    options={"axis": [-1, 0]},
)
wrong(
    "COMPLEX product",
    lambda a, b: (a * b, (a, b)),
    lambda dy, s: (dy * s[1], dy * s[0]),
    a="N: complex",
    b="N: complex",
)
wrong("LAYOUT ravel", lambda x: (x**2, x), lambda dy, x: (2 * x.ravel("K") * dy.ravel("K")).reshape(x.shape), x="N D")
wrong(
    "PRECISION bias",
    lambda x, b: (x + b, None),
    lambda dy, _: (dy, dy.astype("f2").sum(0).astype(dy.dtype)),
    x="N D",
    b="D",
)


@pytest.mark.parametrize("name", RIGHT)
def test_right_layer_is_silent(name):
    report = check_layer(RIGHT[name], Settings(examples=12, seed=11, shrink=False))
    assert report.verified
    assert not report.findings


@pytest.mark.parametrize("name", WRONG)
def test_wrong_layer_is_found(name):
    assert check_layer(WRONG[name], Settings(examples=25, seed=11, shrink=False)).findings


def silent_at(forward, backward, dims, cotangent, options=None, **primals):
    """A right layer at one point, for the first time: nothing may be remembered of other points."""
    layer = gv.Layer(forward, backward, name="layer", options={k: [v] for k, v in (options or {}).items()}, **dims)
    arrays = {name: np.asarray(value) for name, value in primals.items()}
    case = gv.Case("layer", arrays, options or {}, (np.asarray(cotangent),), None, 5, None)
    return not gv.verify(layer, case).findings


def normalised(x, gamma, params):
    """Statistics that run along in the dict of parameters, as courses have it."""
    mean, std = x.mean(0), np.sqrt(x.var(0) + 1e-5)
    params["mean"] = 0.9 * params.get("mean", np.zeros(x.shape[1])) + 0.1 * mean
    xhat = (x - mean) / std
    return gamma * xhat, (xhat, gamma, std)


def normalised_backward(dy, saved, sums=np.mean):
    xhat, gamma, std = saved
    d = dy * gamma
    return (d - sums(d, 0) - xhat * sums(d * xhat, 0)) / std, (dy * xhat).sum(0)


def dropped(x, rng):
    mask = (rng.random(x.shape) < 0.5) / 0.5
    return x * mask, mask


def test_options_that_forward_writes_into_are_as_declared_in_each_call():
    params, rng = {}, np.random.default_rng(0)
    few = dict(examples=20, raises=False)
    assert gv.check(normalised, normalised_backward, x="N D", gamma="D", options={"params": [params]}, **few).ok
    assert params == {}
    assert gv.check(dropped, lambda dy, mask: dy * mask, x="N", options={"rng": [rng]}, **few).ok
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_a_wrong_backward_of_such_a_forward_is_found():
    def wrong_sums(dy, saved):
        return normalised_backward(dy, saved, np.sum)

    report = gv.check(normalised, wrong_sums, x="N D", gamma="D", options={"params": [{}]}, raises=False)
    assert {f.primal for f in report.findings} == {"x"}
    report = gv.check(
        dropped, lambda dy, mask: dy * (mask > 0), x="N", options={"rng": [np.random.default_rng(0)]}, raises=False
    )
    assert [f.kind for f in report.findings] == ["wrong"]


def test_mean_over_stacked_copies_is_not_taken_for_a_forward_without_dependence():
    x = np.array([[4.67e-9, -1.73e-9], [-6.79e-9, -2.71e-9]])
    y = np.array([[-0.9, -0.1], [-0.9, -0.5]])
    dims = {"x": "N K", "y": "N K"}
    for step in (1e-6, 1e-4, None):
        fresh = lambda x, y, q=0.5: pinball(x, y, q)  # noqa: E731  a new object for each step
        layer = gv.Layer(fresh, pinball_backward, name="layer", options={"q": [0.1]}, **dims)
        case = gv.Case("layer", {"x": x, "y": y}, {"q": 0.1}, (np.array(0.2),), step, 5, None)
        assert not gv.verify(layer, case).findings


def test_tail_that_was_rounded_inside_is_no_finding():
    assert silent_at(gelu, gelu_backward, {"x": "N D"}, [[1.0]], x=[[-7.0]])
    assert silent_at(logdet, logdet_backward, {"A": "N N"}, 1.0, A=[[-7.5e-11]])


def test_kinks_that_cancel_are_no_finding():
    dims = {"x": "N D", "W1": "D H", "W2": "H K"}
    for x, W1, W2 in (
        ([[1.0]], [[0.0]], [[-1.0]]),
        ([[0.0]], [[1.0]], [[-1.0]]),
        ([[-9.0, 9.0]], [[1.0]] * 2, [[-1.0]]),
    ):
        assert silent_at(leaky_mlp, leaky_mlp_backward, dims, [[1.0]], x=x, W1=W1, W2=W2)
    deep = {**dims, "W3": "K O"}
    weights = {"W1": [[-1.0, 1.0]], "W2": np.eye(2), "W3": [[-1.0], [1.0]]}
    assert silent_at(relu_mlp, relu_mlp_backward, deep, [[1.0]], x=[[0.0]], **weights)


def test_wrong_slope_at_a_kink_is_a_finding():
    layer = gv.Layer(lambda x: (np.abs(x), x), lambda dy, x: dy * np.where(x == 0, 2, np.sign(x)), name="abs", x="N")
    assert gv.verify(
        layer, gv.Case("abs", {"x": np.array([0.0, 1.0])}, {}, (np.array([1.0, -0.5]),), None, 5, None)
    ).findings


def test_wrong_value_at_one_smooth_point_is_a_finding():
    def backward(dy, saved):
        a, b = saved
        share = np.where(a == b, 0.0, 1 / (1 + np.exp(b - a)))
        return dy * share, dy * np.where(a == b, 0.0, 1 - share)

    layer = gv.Layer(lambda a, b: (np.logaddexp(a, b), (a, b)), backward, name="logaddexp", a="N", b="N")
    zeros = {"a": np.zeros(2), "b": np.zeros(2)}
    assert gv.verify(layer, gv.Case("logaddexp", zeros, {}, (np.array([1.0, -0.5]),), None, 5, None)).findings


def test_maximum_of_equal_entries_may_split_its_gradient():
    assert silent_at(split_max, split_max_backward, {"x": "N D"}, [1.0], x=np.zeros((1, 5)))


def test_rows_far_below_the_scale_of_their_array_are_no_finding():
    x = np.zeros((3, 3))
    x[1, :2], x[2, 2] = (1.4584612338852276e-08, 1.6786469450455612e-09), -65.178
    cotangent = np.zeros((3, 3))
    cotangent[1, :2] = -1.0
    assert silent_at(unit_row, unit_row_backward, {"x": "N D"}, cotangent, x=x)
    assert silent_at(unit_row, unit_row_backward, {"x": "N D"}, [[1.0]], x=[[0.0]])


def test_cancellation_of_a_textbook_norm_in_float32_is_no_finding():
    dims = {"x": "N D", "gamma": "D", "beta": "D"}
    primals = {"x": [[1.0], [1.1]], "gamma": [1.0], "beta": [0.0]}
    low = {name: np.asarray(value, np.float32) for name, value in primals.items()}
    assert silent_at(batchnorm, batchnorm_backward, dims, np.ones((2, 1), np.float32), **low)
