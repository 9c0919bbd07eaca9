"""What a wrong kernel is told to look like: a law that was measured, or a cause that was tried."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.check.search import check_layer  # noqa: E402
from gradverify.core.check.settings import Settings  # noqa: E402
from tests.kernels import catalogue  # noqa: E402

KERNELS = {kernel.name: kernel for kernel in catalogue()}
LAWS = {"recomputed", "statistics", "moments", "overflow", "accumulated"}


def slow(*values):
    """A further kernel with a law, or without any, that another one of the default run has as well."""
    return pytest.param(*values, marks=pytest.mark.slow)


def laws(name, fault, kernel="bfloat16"):
    """Names of the laws told, and their sentences."""
    settings = Settings(examples=24, properties=("complete", "reference"))
    findings = check_layer(KERNELS[name].layer(fault, kernel=kernel), settings).findings
    assert findings
    return {d.name: d.text for f in findings for d in f.diagnoses if d.name in LAWS}


@pytest.mark.parametrize(
    ("name", "fault", "kernel", "law", "said"),
    [
        ("layer_norm", "recomputed from the rounded output", "bfloat16", "recomputed", "is rounded to bfloat16"),
        slow("layer_norm", "statistics saved in the low type", "bfloat16", "statistics", "keep them in float32"),
        ("cross_entropy", "lse saved in the low type", "bfloat16", "statistics", "keep them in float32"),
        ("layer_norm", "two moments", "float32", "moments", "the difference of two moments"),
        ("cross_entropy", "no maximum", "bfloat16", "overflow", "passes 88.7, the logarithm of the largest number"),
        slow(
            "layer_norm", "weight gradient summed in the low type", "bfloat16", "accumulated", "its sum over N is kept"
        ),
    ],
)
def test_the_law_is_told(name, fault, kernel, law, said):
    found = laws(name, fault, kernel)
    assert said in found.get(law, ""), found


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("layer_norm", "mean term missing"),
        ("swiglu", "gate and value swapped"),
        slow("layer_norm", "partial sums lost"),
        slow("cross_entropy", "exp2 without log2 e"),
        slow("cross_entropy", "label of the first block only"),
    ],
)
def test_no_law_is_told_of_another_fault(name, fault):
    assert not laws(name, fault)


def group_norm(fault=""):
    """Rows of statistics are groups of channels; backward takes them as forward left them."""

    class GroupNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            wide = x.float().reshape(len(x), 2, -1)
            mean = wide.mean(2, keepdim=True)
            variance = ((wide - mean) ** 2).mean(2, keepdim=True)
            if fault == "two moments in the low type":
                first, second = mean.to(x.dtype).float(), (wide * wide).mean(2, keepdim=True).to(x.dtype).float()
                variance = (second - first * first).clamp(min=0)
            rstd = (variance + 1e-5).rsqrt()
            y = (((wide - mean) * rstd).reshape(x.shape) * w.float()[:, None]).to(x.dtype)
            if fault == "mean in the low type":
                mean = mean.to(x.dtype)
            if fault == "scale in the low type":
                rstd = rstd.to(x.dtype)
            ctx.save_for_backward(x, w, mean, rstd)
            return y

        @staticmethod
        def backward(ctx, g):
            x, w, mean, rstd = ctx.saved_tensors
            xhat = (x.float().reshape(len(x), 2, -1) - mean.float()) * rstd.float()
            gw = (g.float() * w.float()[:, None]).reshape(xhat.shape)
            dx = (gw - gw.mean(2, keepdim=True) - xhat * (gw * xhat).mean(2, keepdim=True)) * rstd.float()
            dw = (g.float() * xhat.reshape(x.shape)).sum((0, 2))
            return dx.reshape(x.shape).to(x.dtype), dw.to(w.dtype)

    return GroupNorm


def plain_group_norm(x, w):
    rows = x.reshape(len(x), 2, -1)
    centred = rows - rows.mean(2, keepdim=True)
    return (centred * torch.rsqrt((centred**2).mean(2, keepdim=True) + 1e-5)).reshape(x.shape) * w[:, None]


def group_laws(fault):
    given = {"x": "N C L", "w": "C", "assume": lambda x, w: x.shape[1] % 2 == 0}
    layer = as_layer(group_norm(fault), kernel="bfloat16", reference=plain_group_norm, **given)
    findings = check_layer(layer, Settings(examples=60, properties=("complete", "reference"))).findings
    return findings, {d.name for f in findings for d in f.diagnoses if d.name in LAWS}


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("two moments in the low type", "moments"),
        ("mean in the low type", "statistics"),  # whose error grows with the terms of a sum, as if that were rounded
        ("scale in the low type", "statistics"),
    ],
)
def test_laws_of_groups_of_channels_are_told(fault, law):
    assert group_laws(fault)[1] == {law}


def test_a_right_group_norm_gets_no_finding():
    assert not group_laws("")[0]


def softmax(fault):
    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            wide = x.float()
            lse = wide.exp().sum(1, keepdim=True).log() if fault == "no maximum" else wide.logsumexp(1, keepdim=True)
            y = (wide - lse).exp().to(x.dtype)  # zeros, and no infinities, where exp overflows
            ctx.save_for_backward(x, lse, y)
            return y

        @staticmethod
        def backward(ctx, g):
            x, lse, y = ctx.saved_tensors
            p = (x.float() - lse).exp()
            dx = p * (g.float() - (g.float() * y.float()).sum(1, keepdim=True))
            if fault == "second block of columns":
                dx[:, 32:] = 0
            return dx.to(x.dtype)

    return Softmax


@pytest.mark.parametrize(("fault", "told"), [("no maximum", {"overflow"}), ("second block of columns", set())])
def test_an_overflow_that_leaves_zeros_and_a_fault_elsewhere_are_told_apart(fault, told):
    plain = {"kernel": "bfloat16", "reference": lambda x: torch.softmax(x, 1)}
    layer = as_layer(softmax(fault), x="N D", **plain)
    findings = check_layer(layer, Settings(examples=60, properties=("complete", "reference"))).findings
    assert findings and {d.name for f in findings for d in f.diagnoses if d.name in LAWS} == told


def columns(fault=""):
    """y = x sum w: the gradient of x is a sum over columns, none of which the upstream gradient has."""

    class Columns(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x.float() * w.float().sum(1)).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = (t.float() for t in ctx.saved_tensors)
            dx = torch.zeros(len(x))
            for column in w.T:
                dx = dx + g.float() * (column + (0.01 * column.abs() if fault == "term" else 0))
                dx = dx.to(g.dtype).float() if fault == "sum" else dx
            return dx.to(g.dtype), (g.float() * x)[:, None].expand(w.shape).to(g.dtype)

    return Columns


def plain_columns(x, w):
    return x * w.sum(1)


@pytest.mark.parametrize(("fault", "told"), [("sum", True), ("term", False)])
def test_an_error_that_is_linear_in_the_upstream_gradient_is_none_of_a_sum(fault, told):
    layer = as_layer(columns(fault), x="N", w="N D", kernel="bfloat16", reference=plain_columns)
    found = check_layer(layer, Settings(examples=24, properties=("reference",))).findings
    assert any(d.name == "accumulated" for f in found for d in f.diagnoses) is told and found
