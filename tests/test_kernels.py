"""Kernels of low precision, judged by a reference: what they may lose, the law of sums, cases as in production."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradverify import verify  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.adapters._engines.lossy import Held  # noqa: E402
from gradverify.core.check.search import check_layer  # noqa: E402
from gradverify.core.check.settings import Settings  # noqa: E402
from gradverify.core.declare.layer import Layer  # noqa: E402
from gradverify.core.declare.regime import Regime  # noqa: E402
from gradverify.core.diagnose.accumulated import accumulated  # noqa: E402
from gradverify.core.diagnose.evidence import Evidence  # noqa: E402
from gradverify.core.draw import cases, each  # noqa: E402
from gradverify.core.draw.kernels import blocks  # noqa: E402
from gradverify.core.errors import DeclarationError  # noqa: E402
from gradverify.core.nouns import Case, Finding, Verdict  # noqa: E402
from gradverify.core.properties import reference as _reference  # noqa: E402
from gradverify.core.properties._allowance import allowed, compared  # noqa: E402


def scale(sums=torch.float32, detached=False):
    """y = x w, whose dw is a sum over rows, kept in one type or another."""

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x.float() * w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            dw = torch.zeros(w.shape, dtype=sums)
            for row in g.float() * x.float():
                dw += row.to(sums)
            return (g.float() * w.float()).to(x.dtype), dw.to(w.dtype)

    return Scale


def product(x, w):
    return torch.mul(x, w)


def times(x, s):
    return torch.mul(x, s)


def detaching(x, w):
    return torch.mul(x, w) + (x * x).detach() - (x * x).detach() + 0 * x + w * x.detach() - w.detach() * x.detach()


def layer(target, reference=product, kernel="bfloat16", **more):
    return as_layer(target, x="N D", w="D", kernel=kernel, reference=reference, **more)


def case(rows, seed=0, columns=8):
    rng = np.random.default_rng(seed)
    return Case("Scale", {"x": rng.standard_normal((rows, columns)), "w": rng.standard_normal(columns)}, seed=seed)


def kinds(report):
    return {(f.property, f.kind, f.primal) for f in report.findings}


@pytest.mark.parametrize("kernel", ["bfloat16", "float16", "float32", "tf32"])
def test_a_sum_in_float32_is_right_in_every_type(kernel):
    for rows in (1, 7, 600):
        assert verify(layer(scale(), kernel=kernel), case(rows), "reference").ok


@pytest.mark.parametrize("seed", range(3))
def test_a_sum_in_bfloat16_is_found_at_512_terms(seed):
    wrong, right = layer(scale(torch.bfloat16)), layer(scale())
    assert ("reference", "wrong", "w") in kinds(verify(wrong, case(512, seed), "reference"))
    assert not verify(right, case(512, seed), "reference").findings


def test_the_law_of_a_sum_in_bfloat16_is_told():
    settings = Settings(examples=40, properties=("reference",))
    (finding,) = check_layer(layer(scale(torch.bfloat16)), settings).findings
    told = {d.name: d for d in finding.diagnoses}["accumulated"]
    assert "its sum over N is kept in bfloat16" in told.text and "digits less" in told.text
    assert told.evidence["exponent"] > told.evidence["unavoidable"] + 0.2


class Unscaled(scale()):
    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g, (g.float() * x.float()).sum(0).to(w.dtype)


class TailLost(scale()):
    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return (g.float() * w.float()).to(x.dtype), (g.float() * x.float())[:500].sum(0).to(w.dtype)


@pytest.mark.parametrize(("target", "told"), [(scale(torch.bfloat16), True), (Unscaled, False), (TailLost, False)])
def test_the_law_is_told_where_no_axis_can_be_made_longer(target, told):
    given = as_layer(target, x="512 8", w="8", kernel="bfloat16", reference=product)
    findings = check_layer(given, Settings(examples=8, properties=("reference",))).findings
    texts = [d.text for f in findings for d in f.diagnoses if d.name == "accumulated"]
    assert findings and bool(texts) is told
    assert all("its sum over the axis of 512 is kept in bfloat16" in text for text in texts)


def in_blocks(of, lost=0):
    """dw by blocks of rows that are added in the kernel's type; the last rows of more than 2,000 may be lost."""

    class Blocks(scale()):
        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            terms = g.float() * x.float()
            terms = terms[: len(terms) - lost * (len(terms) > 2000)]
            dw = torch.zeros(w.shape, dtype=w.dtype if of else torch.float32)
            for k in range(0, len(terms), of or 128):
                dw += terms[k : k + (of or 128)].sum(0).to(dw.dtype)
            return (g.float() * w.float()).to(x.dtype), dw.to(w.dtype)

    return Blocks


@pytest.mark.parametrize(("of", "lost", "told"), [(1, 0, True), (64, 0, True), (0, 1, False), (0, 900, False)])
@pytest.mark.parametrize("kernel", ["bfloat16", "float16"])
def test_the_law_is_that_of_the_sum_and_not_of_terms_that_are_lost_at_the_end(of, lost, told, kernel):
    given = layer(in_blocks(of, lost), kernel=kernel)
    finding = Finding("reference", "wrong", "w", "", case(64, seed=1))
    assert (accumulated.fits(Evidence(given, finding)) is not None) is told


def test_another_fault_has_no_such_law():
    findings = check_layer(layer(Unscaled), Settings(examples=20, properties=("reference",))).findings
    assert findings and "accumulated" not in {d.name for f in findings for d in f.diagnoses}


def test_a_reference_that_detaches_is_told_and_the_kernel_is_not_blamed():
    report = check_layer(layer(scale(), detaching), Settings(examples=30, properties=("reference",), shrink=False))
    assert {kind for _, kind, _ in kinds(report)} == {"doubtful"}
    assert "the reference's own gradient is not its derivative" in report.findings[0].message


def test_a_large_reference_is_confirmed_in_a_few_forwards():
    large = case(1 << 10, columns=1 << 10)
    assert not verify(layer(scale()), large, "reference").findings
    assert ("reference", "doubtful", None) in kinds(verify(layer(scale(), detaching), large.but(seed=3), "reference"))


def test_a_reference_of_another_shape_is_told():
    (finding,) = verify(layer(scale(), lambda x, w: torch.mul(x, w).sum(0)), case(3), "reference").findings
    assert finding.kind == "forward" and "those of the reference" in finding.message


def test_a_reference_in_numpy_alone_is_screened():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float16).astype(np.float32) for s in ((64, 40), (40,)))

    def forward(x, w):
        return (x * w).astype(np.float32), (x, w)

    def right(g, saved):
        return g * saved[1], (g * saved[0]).sum(0)

    def wrong(g, saved):
        dx, dw = right(g, saved)
        dx[3, 7] *= -1
        return dx, dw

    for backward, verdict in ((right, True), (wrong, False)):
        given = Layer(forward, backward, x="N D", w="D", reference=lambda x, w: x * w)
        assert verify(given, Case("forward", {"x": x, "w": w}), "reference").ok is verdict


def test_what_may_be_lost_is_a_rounding_and_the_spread_of_the_samples():
    truth = np.array([1.0, 0.0])
    bound = allowed(truth, [np.array([1.5, 0.25])], 2.0**-9, 0.0)
    assert np.allclose(bound, [3 * (0.5 + 2.0**-9), 0.75])


def test_an_infinity_beyond_the_range_is_not_wrong_and_a_vague_entry_is_unresolved():
    judged, truth = np.array([np.inf, np.inf, 1.0]), np.array([7e4, 6e4, 1.0])
    found = compared("x", judged, truth, np.array([1.0, 1.0, 5e4]), 65504.0, ("N",))
    assert list(found.verdicts) == [Verdict.UNRESOLVED, Verdict.DISAGREES, Verdict.UNRESOLVED]


# -- cases as in production ------------------------------------------------------------------


def drawn(given, count=60):
    found: list[Case] = []
    each(cases(given, Regime(production=True)), count, 0, found.append)
    return found


def test_declared_sizes_are_drawn_beside_small_ones():
    given = as_layer(scale(), x="T D", w="D", kernel="bfloat16", reference=product, sizes={"T": [300, 301], "D": 20})
    shapes = {c.primals["x"].shape for c in drawn(given, 100)}
    assert {(300, 20), (301, 20)} <= shapes
    assert any(rows < 10 for rows, _ in shapes)


def test_sizes_that_cannot_be_are_refused():
    for sizes, said in (({"K": 3}, "no primal has an axis 'K'"), ({"N": 0}, "must be a positive whole number")):
        with pytest.raises(DeclarationError, match=said):
            layer(scale(), sizes=sizes)


BLOCK = 48


def test_blocks_that_the_code_mentions_get_remainders():
    class Blocked(scale()):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return torch.cat([x[k : k + BLOCK] * w for k in range(0, len(x), BLOCK)])

    given = layer(Blocked)
    assert BLOCK in blocks(given)
    rows = {n for c in drawn(given, 120) for n in c.primals["x"].shape}
    assert rows & {BLOCK - 1, BLOCK + 1} and rows & {BLOCK + BLOCK // 2, 2 * BLOCK + 3}


def test_ids_repeat_hundreds_of_times():
    given = as_layer(lambda ids, W: W[ids] * torch.ones(()), ids="T: labels V", W="V D")
    most = max(np.bincount(c.primals["ids"].ravel()).max() for c in drawn(given, 60))
    assert most > 400


@pytest.mark.parametrize(("x", "lengths"), [("B T D", "B: lengths T"), ("T D", "B+1: offsets T")])
def test_sequences_are_of_very_unequal_lengths(x, lengths):
    """One, all there is, about a block; of packed ones, about all."""
    given = as_layer(lambda x, n: x * torch.ones(()) * BLOCK, x=x, n=lengths)
    whole = [(c.primals["x"].shape[-2], c.primals["n"]) for c in drawn(given, 120)]
    found = [(t, k) for t, n in whole for k in (np.diff(n) if "offsets" in lengths else n)]
    assert {1, BLOCK - 1, BLOCK, BLOCK + 1} <= {int(k) for _, k in found}
    assert any(k >= t - 3 for t, k in found if t > BLOCK) and min(k for _, k in found) >= 0


def test_packed_sequences_shrink_with_what_they_divide():
    from tests.kernels import catalogue

    kernel = next(k for k in catalogue() if k.name == "packed")
    settings = Settings(examples=30, properties=("reference",))
    (finding,) = check_layer(kernel.layer("last sequence lost"), settings).findings
    starts = finding.case.primals["starts"]
    assert starts[0] == 0 and starts[-1] == len(finding.case.primals["x"]) <= 4


def test_activations_have_outliers_and_constant_rows():
    found = [c.primals["x"] for c in drawn(layer(scale()), 150) if c.primals["x"].shape[0] > 200]
    spread = [np.abs(x).max(0) for x in found]
    assert any(s.max() > 50 * np.median(s) > 0 for s in spread if len(s) > 3)
    assert any((np.ptp(x, axis=1) == 0).any() for x in found if x.shape[1] > 1)


@pytest.mark.parametrize("kernel", ["float8_e4m3fn", "float8_e5m2"])
def test_primals_of_eight_bits_have_such_values_and_scales_have_not(kernel):
    eight, met = getattr(torch, kernel), []

    def seen(x, s):
        met.append((x.detach().clone(), s.detach().clone()))
        return torch.mul(x.float(), s.float()).to(x.dtype)

    given = as_layer(seen, x="N D", s="1: between 0.5 2", constants="s", kernel=kernel, reference=times)
    assert check_layer(given, Settings(examples=10)).ok
    assert met and all(x.dtype == s.dtype == torch.bfloat16 for x, s in met)
    assert all((x.to(eight).to(x.dtype) == x).all() for x, _ in met)
    assert any((s.to(eight).to(s.dtype) != s).any() for _, s in met)


# -- JAX -------------------------------------------------------------------------------------


def jax_norm(jax, fault=""):
    jnp = jax.numpy

    def forward(x, w):
        wide = x.astype("float32")
        r = jax.lax.rsqrt((wide * wide).mean(1, keepdims=True) + 1e-5)
        return (wide * r * w.astype("float32")).astype(x.dtype), (x, w, r)

    def backward(saved, g):
        x, w, r = saved
        h, wide = x.astype("float32") * r, g.astype("float32")
        gw = wide * w.astype("float32")
        middle = 0 if fault == "projection missing" else h * (gw * h).mean(1, keepdims=True)
        terms = wide * h
        if fault == "sum":
            dw = jax.lax.fori_loop(0, len(x), lambda k, d: d + terms[k].astype(d.dtype), jnp.zeros(w.shape, w.dtype))
        else:
            dw = terms.sum(0).astype(w.dtype)
        return ((gw - middle) * r).astype(x.dtype), dw

    norm = jax.custom_vjp(lambda x, w: forward(x, w)[0])
    norm.defvjp(forward, backward)
    return norm


def test_a_jax_kernel_is_judged_by_a_reference():
    jax = pytest.importorskip("jax")

    def plain(x, w):
        return x * jax.lax.rsqrt((x * x).mean(1, keepdims=True) + 1e-5) * w

    for fault, wrong in (("", set()), ("projection missing", {"x"}), ("sum", {"w"})):
        given = as_layer(jax_norm(jax, fault), x="N D", w="D", kernel="bfloat16", reference=plain)
        findings = verify(given, case(512), "reference").findings
        assert {f.primal for f in findings} == wrong, [f.message for f in findings]


def gated(a, b):
    return a * torch.sigmoid(a) * b


def test_what_float32_has_no_number_for_on_the_way_may_be_lost():
    """The sigmoid of -88 is below the normal numbers of float32; what it is multiplied by is large."""
    from gradverify.adapters._torch.noise import noise

    a, b = torch.tensor([-88.0, 1.0], dtype=torch.float64), torch.tensor([-9.0, 1.0], dtype=torch.float64)
    with noise(torch.float32, None, 1):
        lost = gated(a, b)
    assert gated(a, b)[0] > 1e-37 and lost[0] == 0 and abs(lost[1] - gated(a, b)[1]) < 1e-5


def test_a_large_case_is_called_wrong_after_many_samples_only():
    from gradverify.core.properties._draws import MANY, Draws

    taken = []
    draws = Draws(
        layer(scale()), case(3), lambda k, closed: (taken.append(k), (np.zeros(1), {"w": np.zeros(1)}, 1 << 30))[1]
    )
    found = draws.compared("w", np.ones(1), np.zeros(1), lambda s: np.full(1, 0.04), ())
    assert draws.large and found.wrong.all() and len(taken) == MANY


def offset_norm(fault):
    """A layer norm at rows whose mean is a hundred times their spread, in float32."""
    from tests.kernels.norms import layer_norm, plain_layer_norm

    x = [
        [-9.956852913, -10.006771088, -10.00201416, -9.928483009],
        [-9.900388718, -10.04544735, -9.998199463, -10.085830688],
        [-9.83852005, -9.956596375, -10.034853935, -9.969831467],
        [-9.93696785, -9.886989594, -10.102290154, -10.020379066],
    ]
    v = [[0.7, -1.0, 1.7, 0.9], [2.0, 0.7, -0.4, -1.6], [1.3, 0.2, -0.9, -1.9], [1.4, -0.8, 1.2, -2.0]]
    w, b = np.array([-10.000119, -10.000076, -10.000124, -9.999915]), np.array([-10.0, 0.622, -10.0, -10.0])
    given = as_layer(layer_norm(fault), x="N D", w="D", b="D", kernel="float32", reference=plain_layer_norm)
    return given, Case("norm", {"x": np.array(x), "w": w, "b": b}, cotangents=(np.array(v),))


def test_the_mean_of_normalised_values_is_zero_up_to_a_rounding_only():
    """A backward by hand rests on it; autograd's takes the mean of the gradient out again, and loses less."""
    for seed in range(12):
        given, at = offset_norm("")
        assert verify(given, at.but(seed=seed), "reference").ok
    given, at = offset_norm("two moments")
    assert not verify(given, at, "reference").ok


def test_two_samples_hear_of_every_entry_whose_error_comes_from_a_mean():
    """Whatever the signs: where one of them takes back what the mean is off by, the other does not."""
    from tests.kernels.norms import layer_norm, plain_layer_norm

    given = as_layer(layer_norm(), x="N D", w="D", b="D", kernel="float32", reference=plain_layer_norm)
    rng = np.random.default_rng(0)
    primals = {"x": 22 + 0.01 * rng.standard_normal((1, 640)), "w": np.ones(640), "b": np.zeros(640)}
    reference, v = given.hooks.reference, (np.ones((1, 640)),)
    arrays = tuple(reference.at(primals).values())
    _, tape = reference.forward(*arrays)
    truth = reference.backward(v[0], tape)["w"]
    apart = [np.abs(reference.sample(v, seed, Held(), tape)[1]["w"] - truth) for seed in range(5)]
    for one, two in pairwise(apart):
        assert np.maximum(one, two).min() > 0.01


def test_in_jax_too():
    jax = pytest.importorskip("jax")

    def normal(x):
        centred = x - x.mean(1, keepdims=True)
        r = jax.lax.rsqrt((centred * centred).mean(1, keepdims=True) + 1e-5)
        return centred * r, r

    def forward(x, w, b):
        h, r = normal(x)
        return h * w + b, (h, r, w)

    def backward(saved, g):
        h, r, w = saved
        gw = g * w
        dx = (gw - gw.mean(1, keepdims=True) - h * (gw * h).mean(1, keepdims=True)) * r
        return dx, (g * h).sum(0), g.sum(0)

    norm = jax.custom_vjp(lambda x, w, b: forward(x, w, b)[0])
    norm.defvjp(forward, backward)

    def plain(x, w, b):
        return normal(x)[0] * w + b

    _, at = offset_norm("")
    given = as_layer(norm, x="N D", w="D", b="D", kernel="float32", reference=plain)
    for seed in range(6):
        assert verify(given, at.but(seed=seed), "reference").ok


def test_cases_as_in_production_come_first():
    """What is wrong with a kernel shows there; after a finding, other properties are tried on few cases."""
    report = check_layer(layer(scale(torch.bfloat16)), Settings(examples=100, properties=("complete", "reference")))
    assert report.tallies["complete"].cases == 25 and {f.property for f in report.findings} == {"reference"}


def test_upstream_gradients_reach_backward_as_they_lie_in_memory():
    from gradverify.adapters._torch.direct import pulled

    met = []

    class Met(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone(), x.sum(0)

        @staticmethod
        def backward(ctx, g, h):
            met.extend((g.stride(), h.stride()))
            return g + h

    x, v, u = torch.ones(3, 4, requires_grad=True), torch.randn(4, 3).T, torch.ones(1).expand(4)
    (dx,) = pulled(list(Met.apply(x)), [x], [v, u])
    assert met == [(1, 3), (0,)] and torch.equal(dx, v + u)


def heads(fault=""):
    """Attention in float32 with two keys of equal, large scores; the second value is zero."""
    from tests.kernels.attention import attention, plain_attention

    q, v = np.zeros((2, 1, 4)), np.array([[[55.0, 20.0], [0.0, 0.0]]])
    q[:, :, 0] = 101.3
    k = np.array([[[14.0, 10.0, 0.0, 3.0], [14.0, 0.0, 5.0, 0.0]]])
    given = as_layer(attention(fault), q="2*H T D", k="H S D", v="H S E", kernel="float32", reference=plain_attention)
    return given, Case("attention", {"q": q, "k": k, "v": v}, cotangents=(np.ones((2, 1, 2)),))


def test_a_kernel_takes_the_sum_of_a_softmaxs_gradient_from_its_output():
    """What p is off by cancels in autograd's sum p (g - sum p g), not where the sum is that of forward's p."""
    given, at = heads()
    for seed in range(8):
        assert verify(given, at.but(seed=seed), "reference").ok
    assert not verify(heads("scale missing in dk")[0], at, "reference").ok


def test_samples_leave_no_memory_behind(monkeypatch):
    """What a graph saves goes through a hook, which must not hold what holds the graph: nothing frees that."""
    import gc
    import weakref

    from gradverify.adapters._torch import noise

    given, at = heads()
    arrays = tuple(at.primals[p.name] for p in given.primals)
    _, tape = given.hooks.reference.forward(*arrays)
    kind, made = type(noise.noise(torch.float32, None, 0)), []
    begin = kind.__enter__
    monkeypatch.setattr(kind, "__enter__", lambda self: (made.append(weakref.ref(self)), begin(self))[1])
    given.hooks.reference.sample(at.cotangents, 1, Held(1), tape)
    gc.collect()
    assert made and all(there() is None for there in made)


def test_rounded_operands_are_heard_where_two_terms_cancel():
    """In every sample of which the two signs are the same the operands alone tell of no rounding."""
    from gradverify.adapters._torch.noise import noise

    def off(p, seed):
        v = torch.tensor([[-0.515625], [0.734375]], dtype=torch.float64)
        with noise(torch.float16, torch.float16, seed):
            moved = p @ v
        return abs(float(moved - p @ v))

    drawn = torch.tensor([[0.58682, 0.41318]], dtype=torch.float64)
    good = max(abs(float((drawn.half().double() - drawn) @ torch.tensor([[s], [0.734375]]).double())) for s in (-1, 1))
    assert min(off(drawn, seed) for seed in range(40)) > good / 10
    stored = torch.tensor([[0.5, 0.25]], dtype=torch.float64)  # what the type holds exactly is not rounded
    assert max(off(stored, seed) for seed in range(40)) < 1e-6


class MeanSquare(torch.autograd.Function):
    """A loss of each row, which stays in float32."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.float().square().mean(1)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return (2 / x.shape[1] * g.float()[:, None] * x.float()).to(x.dtype)


@pytest.mark.parametrize("kernel", ["float16", "bfloat16", "float32"])
def test_a_gradient_in_the_kernels_type_is_not_low_beside_a_wider_loss(kernel):
    def plain(x):
        return torch.square(x).mean(1)

    adapted = as_layer(MeanSquare, x="N D", kernel=kernel, reference=plain)
    assert check_layer(adapted, Settings(examples=5, properties=("complete",))).ok


def summed_in_chunks(fault=""):
    """S = S + k v', o = S' q in chunks of 16: products of matrices, whose operands are rounded to the type."""

    def low(t, dtype):
        return t.to(dtype).float()

    def parts(chunk, *tensors):
        for k in range(0, tensors[0].shape[0], chunk):
            yield (slice(k, k + chunk), *(t[k : k + chunk].float() for t in tensors))

    class Chunks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):
            ctx.save_for_backward(q, k, v)
            S, y = torch.zeros(q.shape[1], v.shape[1]), torch.empty(v.shape, dtype=v.dtype)
            for at, a, b, c in parts(16, q, k, v):
                y[at] = low((a @ b.T).tril(), q.dtype) @ c + a @ low(S, q.dtype)
                S = S + b.T @ c
            return y

        @staticmethod
        def backward(ctx, g):
            q, k, v = ctx.saved_tensors
            dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype) for t in (q, k, v))
            S = torch.zeros(q.shape[1], v.shape[1])
            for at, _, b, c, h in parts(16, q, k, v, g):
                dq[at] = low((h @ c.T).tril(), q.dtype) @ b + h @ low(S, q.dtype).T
                S = S + b.T @ c
            R = torch.zeros(S.shape)
            for at, a, b, c, h in reversed(list(parts(16, q, k, v, g))):
                dk[at] = low((h @ c.T).tril(), q.dtype).T @ a + c @ low(R, q.dtype).T
                dv[at] = low((a @ b.T).tril(), q.dtype).T @ h + b @ low(R, q.dtype)
                R = (0 if fault else R) + a.T @ h
            return dq, dk, dv

    return Chunks


def step_by_step(q, k, v):
    S, y = 0.0, []
    for t in range(len(q)):
        S = S + k[t][:, None] * v[t]
        y.append((q[t][:, None] * S).sum(0))
    return torch.stack(y)


def step_by_einsum(q, k, v):
    S, y = 0.0, []
    for t in range(len(q)):
        S = S + torch.einsum("k,v->kv", k[t], v[t])
        y.append(torch.einsum("k,kv->v", q[t], S))
    return torch.stack(y)


@pytest.mark.parametrize("reference", [step_by_step, step_by_einsum])
@pytest.mark.parametrize("kernel", ["bfloat16", "float16"])
@pytest.mark.parametrize(("keys", "values"), [(2, 60), (8, 3), (5, 1)])
def test_products_of_matrices_are_heard_where_the_reference_is_a_recurrence(reference, kernel, keys, values):
    dims = {"q": "T K", "k": "T K", "v": "T V", "kernel": kernel, "reference": reference}
    found = set()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        primals = {n: rng.standard_normal((40, values if n == "v" else keys)) for n in "qkv"}
        case = Case("chunks", primals, seed=seed)
        assert not verify(as_layer(summed_in_chunks(), **dims), case, "reference").findings
        found |= kinds(verify(as_layer(summed_in_chunks("carry lost"), **dims), case, "reference"))
    assert {primal for _, _, primal in found} == {"k", "v"}


def test_a_bag_of_weighted_rows_that_is_summed_in_bfloat16_is_found():
    def bag(sums):
        class Bag(torch.autograd.Function):
            @staticmethod
            def forward(ctx, table, ids, w):
                ctx.save_for_backward(table, ids, w)
                return (table[ids].float() * w.float()[..., None]).sum(1).to(table.dtype)

            @staticmethod
            def backward(ctx, g):
                table, ids, w = ctx.saved_tensors
                terms = (g.float()[:, None] * w.float()[..., None]).reshape(-1, g.shape[1]).to(sums)
                d = torch.zeros(table.shape, dtype=sums)
                for row, term in zip(ids.flatten().tolist(), terms):
                    d[row] += term
                return d.to(table.dtype), None, (table[ids].float() * g.float()[:, None]).sum(-1).to(w.dtype)

        return Bag

    def plain(table, ids, w):
        return (table[ids] * w[..., None]).sum(1)

    rng = np.random.default_rng(0)
    primals = {"table": rng.standard_normal((3, 8)), "ids": rng.integers(0, 3, (600, 4)), "w": rng.random((600, 4))}
    for sums, wrong in ((torch.float32, set()), (torch.bfloat16, {("reference", "wrong", "table")})):
        given = as_layer(bag(sums), table="V D", ids="N L: labels V", w="N L", kernel="bfloat16", reference=plain)
        assert kinds(verify(given, Case("bag", primals, seed=1), "reference")) == wrong


def direction(bent=False):
    """v / |v| in rows; where a row has one entry, its gradient is the rounding of a difference and nothing else."""

    class Direction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            n = v.float().square().sum(1, keepdim=True).sqrt()
            ctx.save_for_backward(v, n)
            return (v.float() / n).to(v.dtype)

        @staticmethod
        def backward(ctx, g):
            v, n = ctx.saved_tensors
            along = (g.float() * v.float()).sum(1, keepdim=True)
            d = (g.float() - v.float() * (along / (n * n))) / n
            return ((d * d.abs() if bent else d) + 0 * v).to(v.dtype)

    return Direction


def plain_direction(v):
    return v / v.norm(dim=1, keepdim=True)


def test_what_is_rounding_alone_is_linear_and_what_is_not_is_found():
    right, wrong = (
        as_layer(direction(bent), v="N D", kernel="float32", reference=plain_direction) for bent in (False, True)
    )
    for seed in range(8):
        v = 1.6e-8 * np.random.default_rng(seed).uniform(0.5, 1.5, (3, 1))
        assert verify(right, Case("direction", {"v": v}, seed=seed), "linear").ok
    case = Case("direction", {"v": np.random.default_rng(0).standard_normal((3, 2))}, seed=1)
    assert verify(right, case, "linear").ok and not verify(wrong, case, "linear").ok


def test_one_rounding_of_a_small_number_counts_as_that_of_a_large_one():
    smallest = 2.0**-24
    bound = allowed(np.array([0.0, 1.0]), [np.array([0.0, 1.0])], 2.0**-11, smallest)
    assert bound.tolist() == [3 * smallest / 2, 3 * 2.0**-11]


def in_numpy(x, w):
    return np.multiply(w, x)


@pytest.mark.parametrize("kernel", ["bfloat16", "float16", "float32"])
def test_a_reference_in_numpy_is_screened_for_a_kernel_in_torch(kernel):
    settings = Settings(examples=40, properties=("complete", "reference", "linear"), shrink=False)
    assert not check_layer(layer(scale(), in_numpy, kernel), settings).findings
    for wrong in (Unscaled, TailLost):
        found = check_layer(layer(wrong, in_numpy, kernel, sizes={"N": 600, "D": 8}), settings).findings
        assert {f.primal for f in found} == {"x" if wrong is Unscaled else "w"}


def test_a_forward_that_overflows_is_found_by_a_reference_in_numpy():
    def softmax(x, taken):
        s = x.float() - (x.float().amax(1, keepdim=True) if taken else 0)
        return torch.exp(s) / torch.exp(s).sum(1, keepdim=True)

    def kernel(taken):
        class Softmax(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(softmax(x, taken))
                return ctx.to_save[0].to(x.dtype)

            @staticmethod
            def backward(ctx, g):
                (p,) = ctx.saved_tensors
                return (p * (g.float() - (p * g.float()).sum(1, keepdim=True))).to(g.dtype)

        return Softmax

    def plain(x):
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    at = Case("softmax", {"x": np.array([[300.0, 299.0, 1.0]])}, seed=0)
    right, wrong = (as_layer(kernel(t), x="N D", kernel="bfloat16", reference=plain) for t in (True, False))
    assert not verify(right, at, "reference").findings
    assert kinds(verify(wrong, at, "reference")) == {("reference", "forward", None)}


@pytest.mark.parametrize("total", [1.0, 1.001])
def test_labels_that_are_smoothed_over_one_class_leave_roundings_and_no_more(total):
    class Smoothed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, labels):
            y = torch.log_softmax(x.float(), 1)
            ctx.save_for_backward(x, labels)
            return -(0.9 * y.gather(1, labels[:, None])[:, 0] + 0.1 * y.mean(1)).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, labels = ctx.saved_tensors
            d = total * torch.softmax(x.float(), 1) - torch.tensor(0.1) / x.shape[1]
            d[torch.arange(len(x)), labels] -= torch.tensor(0.9 + 1e-7)
            return (d * g.float()[:, None]).to(x.dtype), None

    def plain(x, labels):
        shifted = x - x.max(1, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return -(0.9 * np.take_along_axis(y, labels[:, None], 1)[:, 0] + 0.1 * y.mean(1))

    given = as_layer(Smoothed, x="N V", labels="N: labels V", kernel="float32", reference=plain)
    one = Case("one", {"x": np.array([[0.5], [2.0]]), "labels": np.zeros(2, int)}, cotangents=(np.array([0.7, -0.3]),))
    report = verify(given, one, "reference")
    assert (not report.findings) is (total == 1.0)


def test_a_reference_in_numpy_is_refused_for_types_that_numpy_has_not():
    with pytest.raises(DeclarationError, match="tf32 takes one in torch operations"):
        layer(scale(), in_numpy, "tf32")


def test_a_reference_with_kinks_is_confirmed_on_large_cases_and_one_that_detaches_is_not(monkeypatch):
    def doubts(function):
        reference = layer(scale(), lambda x, w: function(x) + 0 * w, "float32").hooks.reference
        high = layer(scale()).derive(forward=reference.forward, backward=reference.backward)
        found = 0
        for seed in range(40):
            rng = np.random.default_rng(seed)
            x, w, v = rng.standard_normal((300, 300)), np.ones(300), rng.standard_normal((300, 300))
            at = Case("kinks", {"x": x, "w": w}, cotangents=(v,), seed=seed)
            truths = reference.backward(v, reference.forward(x, w)[1])
            found += _reference._spot(high, at, truths, _reference._everywhere(at, truths)) is not None
        return found

    assert doubts(torch.relu) == 0 and doubts(lambda x: torch.relu(x) + 0.1 * torch.tanh(x).detach()) >= 35
    monkeypatch.setattr(_reference, "_KINKED", np.inf)
    assert doubts(torch.relu)
