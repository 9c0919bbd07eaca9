"""More layers as users write them: each wrong backward differs in one place from the right one beside it."""

import numpy as np
import pytest

from gradverify.adapters import as_layer
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.mutants.runner import first_finding

TABLE = {}


def row(name, forward, right, wrong, /, **declaration):
    TABLE[name] = forward, right, wrong, declaration


def sigmoid(x):
    return np.where(x >= 0, 1.0, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x)))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# -- shapes ------------------------------------------------------------------------------------


def lost_remainder(block):
    def backward(dy, x):
        dx = 2 * dy * x
        if len(x) > block:
            dx[block * (len(x) // block) :] = 0
        return dx

    return backward


def lost_corner(dy, x):
    dx = 2 * dy * x
    if x.shape[0] > 8 and x.shape[1] > 8:
        dx[x.shape[0] // 8 * 8 :, x.shape[1] // 8 * 8 :] = 0
    return dx


def counted(x, keep, dtype=None):
    return (x * keep).sum() / max(keep.sum(), 1), keep


def square(x):
    return x**2, x


def square_back(dy, x):
    return 2 * dy * x


row("SHAPE last block of 64", square, square_back, lost_remainder(64), x="N D")
row("SHAPE last block of 128", square, square_back, lost_remainder(128), x="N D")
row("SHAPE corner of tiles of 8", square, square_back, lost_corner, x="N M")
row(
    "SHAPE rank three",
    lambda x: (softmax(x),) * 2,
    lambda dy, p: p * (dy - (dy * p).sum(-1, keepdims=True)),
    lambda dy, p: p * (dy - (dy * p).sum(min(1, p.ndim - 1), keepdims=True)),
    x="*n K",
)
row("DROPPED fifth row on", square, square_back, lambda dy, x: 2 * dy * x * (np.arange(len(x)) < 4)[:, None], x="N D")

# -- values ------------------------------------------------------------------------------------

row("TERM between 2 and 3", square, square_back, lambda dy, x: 2 * dy * x * (1 + 0.01 * ((x > 2) & (x < 3))), x="N D")
row(
    "TAIL logits clipped at 30",
    lambda x: (sigmoid(x), x),
    lambda dy, x: dy * sigmoid(x) * sigmoid(-x),
    lambda dy, x: dy * sigmoid(np.clip(x, -30, 30)) * sigmoid(-np.clip(x, -30, 30)),
    x="N D",
)
row(
    "TAIL residual of one sign",
    lambda d: (np.where(np.abs(d) < 50, 0.5 * d * d, 50 * (np.abs(d) - 25)), d),
    lambda dy, d: dy * np.clip(d, -50, 50),
    lambda dy, d: dy * np.clip(d, -50, np.inf),
    d="N D",
)


def distances(x, y):
    d = x[:, None] - y[None]
    return np.sqrt((d * d).sum(2)), (d, np.sqrt((d * d).sum(2)))


def distances_back(dy, saved, guard=True):
    d, r = saved
    u = dy[..., None] * d / (np.where(r > 0, r, 1) if guard else r)[..., None]
    return u.sum(1), -u.sum(0)


row(
    "SINGULAR rows that coincide",
    distances,
    distances_back,
    lambda dy, s: distances_back(dy, s, False),
    x="N D",
    y="M D",
)


def cummax(x):
    return np.maximum.accumulate(x), x


def cummax_back(dy, x):
    dx, k = np.zeros_like(x), 0
    for t in range(len(x)):
        k = t if x[t] >= x[k] else k
        dx[k] += dy[t]
    return dx


def cummax_all(dy, x):
    top, dx = np.maximum.accumulate(x), np.zeros_like(x)
    for t in range(len(x)):
        dx += dy[t] * ((x == top[t]) & (np.arange(len(x)) <= t))
    return dx


row("TIE every tied maximum so far", cummax, cummax_back, cummax_all, x="N")

# -- options -----------------------------------------------------------------------------------


def cumsum(x, exclusive=False, reverse=False):
    v = x[:, ::-1] if reverse else x
    y = np.cumsum(v, 1) - (v if exclusive else 0)
    return (y[:, ::-1] if reverse else y), (exclusive, reverse)


def cumsum_back(dy, saved, both=True):
    exclusive, reverse = saved
    v = dy if reverse else dy[:, ::-1]
    g = np.cumsum(v, 1) - (v if exclusive and (both or not reverse) else 0)
    return g if reverse else g[:, ::-1]


FLAGS = {"exclusive": [False, True], "reverse": [False, True]}
row("OPTION two flags at once", cumsum, cumsum_back, lambda dy, s: cumsum_back(dy, s, False), x="N T", options=FLAGS)


def padded(x, mode="constant", p=1):
    return np.pad(x, ((0, 0), (p, p)), mode=mode), (x.shape, mode, p)


def padded_back(dy, saved, reflect="reflect"):
    shape, mode, p = saved
    if mode == "constant":
        return dy[:, p:-p].copy()
    index = np.pad(np.arange(shape[1]), (p, p), mode=reflect if mode == "reflect" else mode)
    dx = np.zeros(shape)
    np.add.at(dx.T, index, dy.T)
    return dx


row(
    "OPTION reflect taken for symmetric",
    padded,
    padded_back,
    lambda dy, s: padded_back(dy, s, "symmetric"),
    x="N T",
    options={"mode": ["constant", "edge", "reflect", "wrap"], "p": [1, 2]},
    assume=lambda x, p: x.shape[1] > p,
)

# -- indices and masks ---------------------------------------------------------------------------


def bag(W, i):
    return W[i].mean(1), (W.shape, i)


def bag_back(dy, saved):
    shape, i = saved
    dW = np.zeros(shape)
    np.add.at(dW, i, np.repeat(dy[:, None] / i.shape[1], i.shape[1], 1))
    return dW


def bag_once(dy, saved):
    shape, i = saved
    dW = np.zeros(shape)
    for n, indices in enumerate(i):
        dW[indices] += dy[n] / len(indices)
    return dW


row("REPEAT-IDX twice in one bag", bag, bag_back, bag_once, W="V D", i="N M: indices V")


def rnn(x, lengths):
    h = np.zeros(x[:, 0].shape)
    for t in range(x.shape[1]):
        h = np.where((t < lengths)[:, None], 0.5 * h + x[:, t], h)
    return h, (x.shape, lengths)


def rnn_back(dy, saved, always_first=False):
    shape, lengths = saved
    dx, dh = np.zeros(shape), dy
    for t in reversed(range(shape[1])):
        on = (t < lengths)[:, None] | (always_first and t == 0)
        dx[:, t], dh = np.where(on, dh, 0), np.where(on, 0.5 * dh, dh)
    return dx


row(
    "MASK sequence of length zero",
    rnn,
    rnn_back,
    lambda dy, s: rnn_back(dy, s, True),
    x="B T D",
    lengths="B: integers 0 T",
)
row(
    "PRECISION count in eight bits",
    counted,
    lambda dl, keep: dl * keep / max(keep.sum(), 1),
    lambda dl, keep: dl * keep / max(int(keep.astype(np.int8).sum(dtype=np.int8)), 1),
    x="N",
    keep="N: mask",
)

# -- layouts, memory, chance ---------------------------------------------------------------------


def memory_order(dy, x):
    dx = np.empty_like(dy)
    dx.reshape(-1)[:] = (2 * dy * x).reshape(-1)
    return dx


def writes_probabilities(dl, saved):
    p, labels = saved
    p[np.arange(len(labels)), labels] -= 1
    p *= dl / len(labels)
    return p


def cross_entropy(z, labels):
    z = z - z.max(1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(1, keepdims=True))
    return -logp[np.arange(len(labels)), labels].mean(), (np.exp(logp), labels)


def cross_entropy_back(dl, saved):
    p, labels = saved
    return dl * (p - np.eye(p.shape[1])[labels]) / len(labels)


def noisy(x, s):
    noise = np.random.standard_normal(x.shape)
    return x + s * noise, noise


row("LAYOUT buffer in the order of the cotangent", square, square_back, memory_order, x="N D")
row(
    "MUTATE probabilities in place",
    cross_entropy,
    cross_entropy_back,
    writes_probabilities,
    z="N K",
    labels="N: labels K",
)
row(
    "RNG noise drawn again",
    noisy,
    lambda dy, noise: (dy, (dy * noise).sum()),
    lambda dy, noise: (dy, (dy * np.random.standard_normal(noise.shape)).sum()),
    x="N D",
    s="",
)

# -- complex numbers -----------------------------------------------------------------------------

row(
    "COMPLEX product of which the real part is kept",
    lambda z, w: ((z * w).real, (z, w)),
    lambda dy, s: (dy * s[1].conj(), dy * s[0].conj()),
    lambda dy, s: (dy * s[1].conj(), (dy * s[0].conj()).real + 0j),
    z="N: complex",
    w="N: complex",
)


@pytest.mark.parametrize("name", TABLE)
def test_right_layer_is_silent(name):
    forward, right, _, declaration = TABLE[name]
    report = check_layer(as_layer((forward, right), **declaration), Settings(examples=12, seed=4, shrink=False))
    assert report.verified
    assert not report.findings


@pytest.mark.parametrize("name", TABLE)
def test_wrong_layer_is_found_by_a_default_check(name):
    forward, _, wrong, declaration = TABLE[name]
    found, _, _ = first_finding(as_layer((forward, wrong), **declaration), Settings(seed=4))
    assert found is not None


@pytest.mark.parametrize("offset", [1e4, 1e6, 1e8])
def test_what_an_offset_rounds_away_inside_is_no_wrong_gradient(offset):
    """(x + c) - c takes all x of a grain for one, and a backward that knows x itself is right all the same."""

    def forward(x):
        return ((x + offset) - offset) ** 2, x

    settings = Settings(examples=15, properties=("gradient", "special"), shrink=False)
    right = as_layer((forward, lambda dy, x: 2 * x * dy), name="grainy", x="N D")
    wrong = right.derive(backward=lambda dy, x: 2 * x * dy * (1 + 1e4 * offset * 2**-52))
    assert not check_layer(right, settings).findings
    assert check_layer(wrong, settings).findings
