"""Hand-written Triton kernels: on a GPU where there is one, else in Triton's own interpreter on the CPU."""

from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared
triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from torch.autograd.function import once_differentiable  # noqa: E402

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.check.search import check_layer  # noqa: E402
from gradverify.core.check.settings import Settings  # noqa: E402
from gradverify.core.diagnose import diagnosed  # noqa: E402
from gradverify.core.nouns import Case, Verdict  # noqa: E402
from gradverify.core.properties import gradient  # noqa: E402
from gradverify.core.verify import verify_layer  # noqa: E402

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []


@triton.jit
def softmax_rows(x, y, D, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    at = tl.program_id(0) * D + columns
    row = tl.load(x + at, mask=columns < D, other=-float("inf")).to(WIDE)
    e = tl.exp(row - tl.max(row, axis=0))
    tl.store(y + at, e / tl.sum(e, axis=0), mask=columns < D)


@triton.jit
def softmax_rows_backward(y, g, dx, D, BLOCK: tl.constexpr, WIDE: tl.constexpr, MEAN: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    at = tl.program_id(0) * D + columns
    s = tl.load(y + at, mask=columns < D, other=0.0).to(WIDE)
    v = tl.load(g + at, mask=columns < D, other=0.0).to(WIDE)
    if MEAN:
        v -= tl.sum(s * v, axis=0)
    tl.store(dx + at, s * v, mask=columns < D)


def launched(kernel, out, *tensors, **constants):
    """`out`, written by a kernel, one program for each row."""
    rows, columns = out.shape
    wide = tl.float64 if out.dtype == torch.float64 else tl.float32
    if out.numel():
        kernel[(rows,)](*tensors, out, columns, BLOCK=triton.next_power_of_2(columns), WIDE=wide, **constants)
    return out


def pulled_back(ctx, g, mean=True):
    (y,) = ctx.saved_tensors
    return launched(softmax_rows_backward, torch.empty_like(y), y, g, MEAN=mean)


class Softmax(torch.autograd.Function):
    """Along rows; kernels read every tensor as if it were contiguous."""

    @staticmethod
    def forward(ctx, x):
        y = launched(softmax_rows, torch.empty_like(x, memory_format=torch.contiguous_format), x.contiguous())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return pulled_back(ctx, g.contiguous())


class WithoutTheMean(Softmax):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return pulled_back(ctx, g.contiguous(), mean=False)


class TakesGradientsAsTheyLie(Softmax):
    """An upstream gradient that is a slice, transposed or expanded is read from the wrong places."""

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return pulled_back(ctx, g)


class Unmarked(Softmax):
    """The first backward is right; autograd sees nothing of it, and nobody says so."""

    @staticmethod
    def backward(ctx, g):
        return pulled_back(ctx, g.contiguous())


def check(target, *properties, examples=2, **declaration):
    settings = Settings(examples=examples, properties=properties or None, shrink=False)
    return check_layer(as_layer(target, x="N D", device=DEVICE, **declaration), settings)


def plain(x):
    return torch.softmax(x, -1)


def test_a_right_kernel_is_silent_in_every_property():
    report = check(Softmax)
    assert report.ok, str(report)
    assert report.tallies["layout"].cases and "once_differentiable" in report.tallies["second_order"].reason


def layer_of(target):
    return as_layer(target, x="N D", device=DEVICE)


CASE = Case("Softmax", {"x": np.random.default_rng(0).normal(size=(2, 3))})  # one: an interpreted kernel is slow


@pytest.mark.parametrize(("target", "verdict"), [(Softmax, Verdict.AGREES), (WithoutTheMean, Verdict.DISAGREES)])
def test_a_wrong_kernel_is_found_by_its_gradient(target, verdict):
    (compared,) = gradient.holds(layer_of(target), CASE).compared
    assert (compared.verdicts == verdict).all()


def test_a_kernel_that_counts_on_contiguous_gradients_is_found():
    assert not verify_layer(layer_of(Softmax), CASE, "layout").findings
    assert {f.property for f in verify_layer(layer_of(TakesGradientsAsTheyLie), CASE, "layout").findings} == {"layout"}


@pytest.mark.slow
def test_a_kernel_in_bfloat16_is_judged_by_a_reference():
    fixed = {"kernel": "bfloat16", "reference": plain, "examples": 12}
    assert check(Softmax, "complete", "reference", **fixed).ok
    assert check(WithoutTheMean, "reference", **fixed).findings


def test_a_kernel_that_is_not_marked_as_differentiable_once_is_told_how():
    (finding,) = verify_layer(layer_of(Unmarked), CASE, "second_order").findings
    assert "@once_differentiable" in diagnosed(layer_of(Unmarked), finding).diagnoses[0].text
