"""What can be wrong around a kernel: no path on this device, too little memory, a reference that is of no use."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gradverify.adapters import as_layer  # noqa: E402
from gradverify.core.check.search import check_layer  # noqa: E402
from gradverify.core.check.settings import Settings  # noqa: E402
from gradverify.core.draw import kernels  # noqa: E402
from gradverify.core.errors import DeclarationError  # noqa: E402

LARGE = 200_000  # rows


def scale(before=lambda x: None):
    """y = x w; `before` is called with x at first."""

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            before(x)
            ctx.save_for_backward(x, w)
            return (x.float() * w.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return (g.float() * w.float()).to(x.dtype), (g.float() * x.float()).sum(0).to(w.dtype)

    return Scale


def product(x, w):
    return torch.mul(x, w)


def checked(target, reference=product, examples=30, **more):
    layer = as_layer(target, x="N D", w="D", kernel="bfloat16", reference=reference, **more)
    return check_layer(layer, Settings(examples=examples, properties=("complete", "reference"), shrink=False))


def no_driver(x):
    raise RuntimeError("0 active drivers ([]). There should only be one.")


def asserting(x):
    assert x.is_cuda, "x must be on the device"


def to_cuda(x):
    x.cuda()


def broken(x):
    raise RuntimeError("no such table")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("before", [no_driver, asserting, to_cuda])
def test_a_kernel_without_a_cpu_path_is_told_and_not_wrong(before):
    report = checked(scale(before), examples=6)
    assert not report.findings and not report.verified
    assert "cannot run on the device cpu" in report.tallies["reference"].reason
    assert {f.kind for f in checked(scale(broken), examples=6).findings} == {"crash"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(DeclarationError, match="device='cuda' cannot be used"):
        as_layer(scale(), x="N D", w="D", kernel="bfloat16", reference=product, device="cuda")


def exhausted(x):
    if len(x) >= LARGE:
        torch.empty(1 << 50)


@pytest.mark.parametrize("who", ["kernel", "reference"])
def test_memory_that_runs_out_at_a_declared_size_is_told_and_smaller_ones_are_judged(who):
    def hungry(x, w):
        exhausted(x)
        return product(x, w)

    target, reference = (scale(exhausted), product) if who == "kernel" else (scale(), hungry)
    report = checked(target, reference, sizes={"N": LARGE, "D": 2}, examples=60)
    assert not report.findings and report.verified
    assert any(f"out of memory on x {LARGE}x2" in note for note in report.notes)


def test_memory_that_runs_out_on_a_small_case_is_a_crash():
    def hungry(x):
        torch.empty(1 << 50)

    assert {f.kind for f in checked(scale(hungry), examples=6).findings} == {"crash"}


def test_sizes_that_no_memory_holds_are_told_and_not_drawn(monkeypatch):
    report = checked(scale(), sizes={"N": 10**9, "D": 4096})
    assert not report.findings and report.verified
    assert any("x 1000000000x4096" in note and "has not the memory" in note for note in report.notes)
    monkeypatch.setattr(kernels, "_available", lambda: 1e5)
    assert any("has not the memory" in note for note in checked(scale(), sizes={"N": 2000, "D": 4}).notes)
    monkeypatch.undo()
    assert not checked(scale(), sizes={"N": 2000, "D": 4}).notes


USELESS = {
    "raises": (lambda x, w: 1 / 0, "division by zero"),
    "other arguments": (lambda x: x, "positional argument"),
    "integers": (lambda x, w: torch.mul(x, w).long(), "type int64"),
    "no tensor": (lambda x, w: None, "returned no tensor but a NoneType"),
    "NumPy": (lambda x, w: x.detach().numpy() * w.detach().numpy(), "returned no tensor but a ndarray"),
    "detached": (lambda x, w: torch.mul(x, w).detach(), "has a gradient"),
}


@pytest.mark.parametrize("name", USELESS)
def test_a_reference_that_is_of_no_use_is_told_and_the_kernel_is_not_blamed(name):
    reference, said = USELESS[name]
    (finding,) = checked(scale(), reference, examples=6).findings
    assert finding.kind == "doubtful" and "the reference cannot be used" in finding.message and said in finding.message


def test_a_reference_that_is_never_finite_verifies_nothing():
    report = checked(scale(), lambda x, w: torch.mul(x, w) * float("nan"), examples=6)
    assert not report.findings and not report.verified
    assert report.tallies["reference"].reason == "no output of the reference is finite"


def test_a_reference_that_cannot_be_called_is_refused():
    with pytest.raises(DeclarationError, match="reference is a str; it takes a function of tensors"):
        as_layer(scale(), x="N D", w="D", kernel="bfloat16", reference="product")
