"""Kernels whose sums are added in another order each time, as atomics do: right within the bound, or found."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.check.search import check_layer  # noqa: E402
from gradverify.core.check.settings import Settings  # noqa: E402
from gradverify.report.terminal import render  # noqa: E402


def atomic(fault=""):
    """y = x w; dw is added up in an order of its own in each call, which torch's generator knows nothing of."""
    order = random.Random(5)

    class Atomic(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x.float() * w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            terms, rows = g.float() * x.float(), list(range(len(x)))
            order.shuffle(rows)
            if fault == "race" and len(rows) > 8 and order.random() < 0.05:
                rows = rows[1:]
            dw = torch.zeros(w.shape, dtype=w.dtype if fault == "summed in the low type" else torch.float32)
            for k in rows:
                dw += terms[k].to(dw.dtype)
            if fault == "scale":
                dw = dw * 2
            if fault == "random":
                dw = dw * torch.tensor([order.random() for _ in dw])
            return (g.float() * w.float()).to(x.dtype), dw.to(w.dtype)

    return Atomic


def product(x, w):
    return torch.mul(x, w)


def check(fault, kernel="bfloat16", **more):
    given = as_layer(atomic(fault), x="N D", w="D", kernel=kernel, reference=product)
    return check_layer(given, Settings(**more))


@pytest.mark.parametrize("kernel", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow), "float32"])
def test_a_right_one_passes_at_defaults(kernel):
    report = check("", kernel)
    assert report.ok, str(report)
    if kernel == "float32":  # rounded to 16 bits, sums in float32 seldom differ
        assert "the gradient of w varies from run to run, within the bound" in " ".join(render(report).split())


@pytest.mark.parametrize("fault", ["race", "random"])
def test_a_race_is_found_at_defaults(fault):
    (finding,) = check(fault).findings
    assert (finding.property, finding.kind, finding.primal) == ("reference", "random", "w")
    assert "varies from run to run by more than the order of sums may" in finding.message
    assert finding.diagnoses[0].name == "race"


def test_a_sum_in_the_low_type_whose_order_varies_has_its_law_told():
    (finding,) = check("summed in the low type").findings
    assert finding.primal == "w"
    assert "its sum over N is kept in bfloat16" in finding.diagnoses[0].text


def test_another_fault_is_not_told_as_randomness():
    (finding,) = check("scale", properties=("complete", "reference")).findings
    assert (finding.kind, finding.primal) == ("wrong", "w") and "race" not in {d.name for d in finding.diagnoses}


def split(buffer):
    """y = x w; dw is added up over parts of the rows in a buffer, as a split-k kernel does with atomics."""

    class Split(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x.float() @ w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            dw = buffer(tuple(w.shape))
            for k in range(0, len(x), 16):
                dw += x[k : k + 16].float().T @ g[k : k + 16].float()
            return (g.float() @ w.float().T).to(x.dtype), dw.to(w.dtype)

    return Split


def workspace():
    kept = {}
    return lambda shape: kept.setdefault(shape, torch.zeros(shape))


def left_there():
    """Memory that holds zeros at most calls, and what was there before at others."""
    luck = np.random.default_rng(1)

    def buffer(shape):
        found = torch.empty(*shape)
        return found if torch.isnan(found).any() else found.fill_(5.0 * (luck.random() < 0.3))

    return buffer


@pytest.mark.parametrize(
    ("buffer", "property_", "said"),
    [
        (left_there(), "fresh", "depends on what fresh memory holds"),
        (lambda shape: torch.empty(*shape), "fresh", "depends on what fresh memory holds"),
        (workspace(), "repeatable", "is kept from call to call and not zeroed"),
    ],
)
def test_a_buffer_that_is_not_zeroed_is_told_as_such_and_not_as_a_race(buffer, property_, said):
    layer = as_layer(split(buffer), x="N K", w="K M", kernel="bfloat16", reference=torch.matmul)
    (finding,) = check_layer(layer, Settings()).findings
    assert (finding.property, finding.primal) == (property_, "w")
    assert said in finding.diagnoses[0].text and "race" not in {d.name for d in finding.diagnoses}


def test_a_buffer_that_is_zeroed_gets_no_finding():
    layer = as_layer(split(torch.zeros), x="N K", w="K M", kernel="bfloat16", reference=torch.matmul)
    assert check_layer(layer, Settings(examples=40)).ok


def test_a_right_kernel_is_run_often_enough_that_a_race_in_one_run_of_forty_hardly_escapes():
    calls = []

    class Counted(atomic()):
        @staticmethod
        def backward(ctx, g):
            calls.append(len(g))
            return atomic().backward(ctx, g)

    given = as_layer(Counted, x="N D", w="D", kernel="float32", reference=product)
    assert check_layer(given, Settings(properties=("reference",))).ok
    assert (1 - 1 / 40) ** len(calls) < 0.05
