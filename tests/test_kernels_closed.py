"""A kernel may write several steps of its reference as one formula, and take a slope from what forward gave."""

from __future__ import annotations

import numpy as np
import pytest

from gradverify.adapters import as_layer
from gradverify.core.nouns import Case
from gradverify.core.properties import layout, reference
from tests.test_kernels_ties import of_torch

TAILS = np.linspace(-18, 18, 60).reshape(6, 10)
SCORES = {
    "x": np.array([[0.5, 2.0, -1.0], [-2.0, 5.0, 3.0], [4.0, 4.0, -2.0], [1.5, -0.5, 0.25]]),
    "w": np.linspace(-2, 2, 24).reshape(8, 3) ** 3,
}
LARGE = {"x": 4 * np.random.default_rng(5).standard_normal((6, 5)), "w": np.linspace(-3, 4, 40).reshape(5, 8).T}


def kinds(target, plain, primals, kernel, **declared):
    """Kinds of findings in eight draws of the upstream gradient; the last is of one value."""
    layer = as_layer(target, kernel=kernel, reference=plain, **declared)
    options = {"k": declared["options"]["k"][0]} if "options" in declared else {}
    cases = [Case("closed", primals, options, seed=seed) for seed in range(7)]
    rows = (len(primals["x"]), options["k"] if options else primals["x"].shape[1])
    cases.append(cases[0].but(cotangents=(np.ones(rows),)))
    return {f.kind for case in cases for f in reference.holds(layer, case).findings}


# how forward makes y, what backward makes of it, and the reference
SLOPES = {
    "sigmoid": (lambda t, x: t.sigmoid(x), lambda y: y * (1 - y), lambda t: lambda x: 1 / (1 + t.exp(-x))),
    "tanh": (lambda t, x: t.tanh(x), lambda y: 1 - y * y, lambda t: lambda x: 2 / (1 + t.exp(-2 * x)) - 1),
    "tanh by sign": (
        lambda t, x: t.tanh(x),
        lambda y: 1 - y * y,
        lambda t: lambda x: t.sign(x) * (1 - t.exp(-2 * x.abs())) / (1 + t.exp(-2 * x.abs())),
    ),
    "a gate in two halves": (
        lambda t, x: t.sigmoid(x),
        lambda y: y - y * y,
        lambda t: lambda x: t.where(x > 0, 1 / (1 + t.exp(-x)), t.exp(x) / (1 + t.exp(x))),
    ),
}


def sloped(torch, made, slope, wrong, low):
    def forward(t, x):
        y = made(t, x.float())
        kept = y.to(x.dtype) if low else y
        return y.to(x.dtype), (kept,)

    def backward(t, g, y):
        y = y.bfloat16().float() if wrong and not low else y.float()
        return (g.float() * slope(y) * (1.2 if wrong and low else 1)).to(g.dtype)

    return of_torch(forward, backward)


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("kernel", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("low", [False, True])
def test_a_slope_by_what_forward_gave_is_as_good_in_torch(name, kernel, low):
    torch = pytest.importorskip("torch")
    made, slope, plain = SLOPES[name]
    found = [
        kinds(sloped(torch, made, slope, wrong, low), plain(torch), {"x": TAILS}, kernel, x="N D")
        for wrong in (False, True)
    ]
    assert found == [set(), {"wrong"}]


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize("low", [False, True])
def test_a_slope_by_what_forward_gave_is_as_good_in_jax(name, low):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    _, slope, _ = SLOPES[name]
    made = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}[name]

    def kernel(factor):
        def forward(x):
            y = made(x.astype("float32"))
            return y.astype(x.dtype), y.astype(x.dtype) if low else y

        act = jax.custom_vjp(lambda x: forward(x)[0])
        act.defvjp(forward, lambda y, g: ((factor * g.astype("float32") * slope(y.astype("float32"))).astype(g.dtype),))
        return act

    plain = SLOPES[name][2](jnp)
    assert kinds(kernel(1.0), plain, {"x": TAILS}, "bfloat16", x="N D") == set()
    assert kinds(kernel(1.05), plain, {"x": TAILS}, "bfloat16", x="N D") == {"wrong"}


def gate(mistake, low=False):
    """Weights of the k best experts as one softmax over their scores, which may be kept in the type."""

    def forward(t, x, w, k):
        best, at = (x.float() @ w.float().t()).topk(k, -1)
        return best.softmax(-1).to(x.dtype), (x, w, best.to(x.dtype) if low else best, at)

    def backward(t, g, x, w, best, at):
        y = best.float().softmax(-1)
        inner = 0.0 if mistake else (g.float() * y).sum(-1, keepdim=True)
        scores = t.zeros(len(x), len(w)).scatter(-1, at, y * (g.float() - inner))
        return (scores @ w.float()).to(x.dtype), (scores.t() @ x.float()).to(w.dtype), None

    return of_torch(forward, backward)


def renormalised(x, w, k):
    """The same, as most models write it."""
    best = (x @ w.t()).softmax(-1).topk(k, -1).values
    return best / best.sum(-1, keepdim=True)


@pytest.mark.parametrize("kernel", ["float32", "bfloat16"])
@pytest.mark.parametrize(("k", "low"), [(1, False), (2, False), (4, False), (2, True), (4, True)])
def test_weights_of_experts_that_are_one_softmax_are_no_fault(kernel, k, low):
    pytest.importorskip("torch")
    declared = {"x": "N D", "w": "8 D", "options": {"k": [k]}}
    right, wrong = (
        kinds(gate(m, low), renormalised, LARGE if low else SCORES, kernel, **declared) for m in (False, True)
    )
    assert right == set() and wrong == {"wrong"}


@pytest.mark.parametrize("mistake", [False, True])
def test_the_layout_may_decide_a_tie_and_nothing_else(mistake):
    pytest.importorskip("torch")

    def forward(t, x):
        best = x.amax(-1, keepdim=True)
        at = (x == best).int()
        if not x.is_contiguous():
            at = at.flip(-1)
        at = at.argmax(-1, keepdim=True)
        return best, (at if x.is_contiguous() else x.shape[-1] - 1 - at, x)

    def backward(t, g, at, x):
        if mistake and not x.is_contiguous():
            g = 2 * g
        return t.zeros(x.shape, dtype=x.dtype).scatter(-1, at, g)

    plain = lambda x: x.topk(1, -1).values  # noqa: E731
    layer = as_layer(of_torch(forward, backward), kernel="bfloat16", reference=plain, x="N D")
    case = Case("tied", {"x": np.array([[1.0, 2.0, 2.0], [2.0, 0.5, 0.25]])}, seed=3)
    assert bool(layout.holds(layer, case).findings) is mistake


# what is put for the values, for where they stood, and for the factor, of what forward kept
@pytest.mark.parametrize(
    ("kernel", "mistake"),
    [
        ("float32", None),
        ("bfloat16", None),
        ("float32", "values of other places"),
        ("float32", "places in reverse"),
        ("float32", "values in less"),
        ("bfloat16", "factor"),
    ],
)
def test_a_kernel_in_jax_may_keep_the_first_result_of_an_operation_that_has_two(kernel, mistake):
    jax = pytest.importorskip("jax")

    def forward(x):
        best, at = jax.lax.top_k(x, 2)
        kept = best.astype("bfloat16").astype(x.dtype) if mistake == "values in less" else best
        return best * best, (kept, at, x)

    best = jax.custom_vjp(lambda x: forward(x)[0])

    def backward(kept, g):
        best, at, x = kept
        best = x[:, :2] if mistake == "values of other places" else best
        at = at[:, ::-1] if mistake == "places in reverse" else at
        rows = jax.numpy.arange(len(x))[:, None]
        return (jax.numpy.zeros_like(x).at[rows, at].set((1 if mistake == "factor" else 2) * g * best),)

    best.defvjp(forward, backward)
    plain = lambda x: jax.lax.top_k(x, 2)[0] ** 2  # noqa: E731
    layer = as_layer(best, kernel=kernel, reference=plain, x="N D")
    case = Case("kept", {"x": np.array([[1.6, 0.25, -1.0], [0.5, 3.1, 2.0]])}, seed=1)
    assert {f.kind for f in reference.holds(layer, case).findings} == ({"wrong"} if mistake else set())


def test_the_float32_that_a_kernel_computes_in_is_no_reading_of_its_formula():
    """In float64 its code still rounds to float32: where that is all that is seen there, nothing is told of it."""
    pytest.importorskip("torch")
    import gradverify

    def masked(t, x, seed):
        bits = (t.arange(x.numel()).view(x.shape) + seed * 7919) * 2654435761 & 0xFFFFFFFF
        bits = ((bits >> 16) ^ bits) * 0x45D9F3B & 0xFFFFFFFF
        return ((bits >> 16) ^ bits).float() / 2**32 >= 0.1

    def forward(t, x, seed):
        return (x.float() * masked(t, x, seed) / 0.9).to(x.dtype), (x, t.tensor(seed))

    def backward(t, g, x, seed):
        return (g.float() * masked(t, g, seed + 1) / 0.9).to(g.dtype), None

    def plain(x, seed):
        return x * masked(pytest.importorskip("torch"), x, seed) / 0.9

    declared = {"kernel": "bfloat16", "reference": plain, "raises": False}
    report = gradverify.check(of_torch(forward, backward), x="N D", options={"seed": [1, 2, 7]}, **declared)
    assert report.findings and all(d.name != "precision" for f in report for d in f.diagnoses)


@pytest.mark.parametrize("detached", [False, True])
def test_a_reference_that_cancels_where_a_unit_saturates_is_not_doubted_there(detached):
    """Of 1 - p little is left in float64, too, where p is nearly 1: a good kernel may be off by all of it."""
    torch = pytest.importorskip("torch")
    import gradverify

    def forward(t, x, y):
        s, loss = 2 * y - 1, t.nn.functional.softplus((1 - 2 * y) * x.float())
        return ((1 - (-loss).exp()) ** 2 * loss).mean().to(x.dtype), (x, s)

    def backward(t, g, x, s):
        p, q = t.sigmoid(s * x.float()), t.sigmoid(-s * x.float())
        loss = t.nn.functional.softplus(-s * x.float())
        return (-s * (q**3 + 2 * q * q * p * loss) / x.numel() * g.float()).to(x.dtype), None

    def plain(x, y):
        p = 1 / (1 + torch.exp(-x))
        p = torch.where(y > 0, p, 1 - p)
        return (-((1 - (p.detach() if detached else p)) ** 2) * torch.log(p)).mean()

    declared = {"x": "N", "y": "N: integers 0 1", "kernel": "bfloat16", "reference": plain, "raises": False}
    report = gradverify.check(of_torch(forward, backward), properties=["reference"], **declared)
    assert {f.kind for f in report} == ({"doubtful"} if detached else set())


@pytest.mark.parametrize("kernel", ["float32", "bfloat16"])
@pytest.mark.parametrize("mistake", [False, True])
@pytest.mark.parametrize("direct", [False, True])
def test_a_fourier_transform_is_off_by_the_size_of_all_its_results(kernel, mistake, direct):
    """So it is where the reference adds up the products themselves."""
    torch = pytest.importorskip("torch")

    def product(t, a, b, conjugated=False):
        n = 2 * a.shape[-1]
        one, other = t.fft.rfft(a, n), t.fft.rfft(b, n)
        return t.fft.irfft(one * (other.conj() if conjugated else other), n)[..., : a.shape[-1]]

    def forward(t, x, k):
        return product(t, x.float(), k.float()).to(x.dtype), (x, k)

    def backward(t, g, x, k):
        dk = product(t, g.float(), x.float(), True).sum(0)
        return product(t, g.float(), k.float(), not mistake).to(x.dtype), dk.to(x.dtype)

    primals = {"x": np.array([[1.0, 300.0, 0.25, -2.0, 0.0]] * 2), "k": np.array([0.5, -1.0, 2.0, 0.125, 1.0])}

    def plain(x, k):
        if not direct:
            return product(torch, x, k)
        late = torch.arange(5)[:, None] - torch.arange(5)
        return x @ (k[late.clamp_min(0)] * (late >= 0)).t()

    layer = as_layer(of_torch(forward, backward), kernel=kernel, reference=plain, x="N T", k="T")
    cases = [Case("turned", primals, seed=seed) for seed in range(8)]
    assert {f.kind for c in cases for f in reference.holds(layer, c).findings} == ({"wrong"} if mistake else set())
