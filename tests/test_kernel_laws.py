"""What a wrong kernel is told to look like: a law that was measured, or a cause that was tried."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

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
