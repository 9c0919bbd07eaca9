"""Kernels in Triton, right and wrong, at single cases: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared
pytest.importorskip("triton")

from gradverify import verify  # noqa: E402
from gradverify.core import verify as examining  # noqa: E402
from gradverify.core.nouns import Case  # noqa: E402
from tests.kernels.triton_ import KERNELS  # noqa: E402

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
(NORM,) = KERNELS


def findings(fault, rows, columns, only, kernel="bfloat16"):
    rng = np.random.default_rng(0)
    primals = {"x": rng.standard_normal((rows, columns)), "w": rng.standard_normal(columns)}
    case = Case("rms_norm", primals, seed=1)
    return verify(NORM.layer(fault, kernel=kernel, device=DEVICE), case, only).findings


@pytest.mark.parametrize("kernel", NORM.types)
def test_a_right_one_gets_no_finding(kernel):
    assert not findings("", 3, 21, "complete", kernel) and not findings("", 19, 21, "reference", kernel)


@pytest.mark.parametrize(
    ("fault", "rows", "columns", "primal"),
    [
        ("tail block not stored", 3, 21, "x"),
        ("projection missing", 3, 21, "x"),
        ("tail rows lost", 19, 5, "w"),
        ("accumulator in float16", 40, 3, "w"),
    ],
)
def test_a_wrong_one_is_found(fault, rows, columns, primal):
    kernel = "float32" if fault == "accumulator in float16" else "bfloat16"  # which has fewer digits still
    assert {f.primal for f in findings(fault, rows, columns, "reference", kernel=kernel)} == {primal}


def test_a_stride_that_is_taken_for_granted_is_found(monkeypatch):
    monkeypatch.setattr(examining.examine, "__defaults__", (120.0,))  # seconds; an interpreter on a slow machine
    assert not findings("", 2, 3, "layout")
    found = findings("upstream gradient taken as contiguous", 2, 3, "layout")
    assert found and {f.property for f in found} == {"layout"}
