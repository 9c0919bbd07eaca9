"""Kernels of low precision, judged by a reference: what they may lose, the law of sums, cases as in production."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradverify.core.declare.regime import Regime  # noqa: E402
from gradverify.core.nouns.case import Case  # noqa: E402
from gradverify.core.nouns.comparison import Verdict  # noqa: E402

from gradverify import verify  # noqa: E402
from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.check.search import check_layer  # noqa: E402
from gradverify.core.check.settings import Settings  # noqa: E402
from gradverify.core.declare.layer import Layer  # noqa: E402
from gradverify.core.draw import cases, each  # noqa: E402
from gradverify.core.draw.kernels import blocks  # noqa: E402
from gradverify.core.errors import DeclarationError  # noqa: E402
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


def test_another_fault_has_no_such_law():
    class Unscaled(scale()):
        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g, (g.float() * x.float()).sum(0).to(w.dtype)

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
    assert finding.kind == "shape" and "those of the reference" in finding.message


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


def test_activations_have_outliers_and_constant_rows():
    found = [c.primals["x"] for c in drawn(layer(scale()), 150) if c.primals["x"].shape[0] > 200]
    spread = [np.abs(x).max(0) for x in found]
    assert any(s.max() > 50 * np.median(s) > 0 for s in spread if len(s) > 3)
    assert any((np.ptp(x, axis=1) == 0).any() for x in found if x.shape[1] > 1)


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
    from gradverify.adapters._torch_noise import noise

    a, b = torch.tensor([-88.0, 1.0], dtype=torch.float64), torch.tensor([-9.0, 1.0], dtype=torch.float64)
    with noise(torch.float32, None, 1):
        lost = gated(a, b)
    assert gated(a, b)[0] > 1e-37 and lost[0] == 0 and abs(lost[1] - gated(a, b)[1]) < 1e-5


def test_a_large_case_is_called_wrong_after_many_samples_only():
    from gradverify.core.properties.reference import MANY, _Draws

    taken = []
    draws = _Draws(layer(scale()), case(3), lambda k: (taken.append(k), (np.zeros(1), {"w": np.zeros(1)}, 1 << 30))[1])
    found = draws.compared("w", np.ones(1), np.zeros(1), lambda s: np.full(1, 0.04), ())
    assert draws.large and found.wrong.all() and len(taken) == MANY
