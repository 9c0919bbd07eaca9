"""The catalogue of kernels: right ones get no finding, wrong twins get one; `tests/bench/kernels.py` counts them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.nouns import Case
from gradverify.core.properties import reference
from tests.kernels import catalogue

KERNELS = {kernel.name: kernel for kernel in catalogue()}
TWINS = [(kernel.name, fault) for kernel in KERNELS.values() for fault in kernel.faults]
QUICK = ("swiglu", "rotary", "pooling", "packed", "product_e4m3", "product_e5m2")
# Known misses. In bfloat16 the lost digits of the variance hardly reach the result; and roundings of a state are as
# large as those of the factors of a product, until chunks are many.
MISSED = {("layer_norm", "two moments"), ("linear_attention", "state in the low type")}


def found(name, fault="", examples=12, kernel=None, properties=("complete", "reference")):
    settings = Settings(examples=examples, properties=properties, shrink=False)
    return check_layer(KERNELS[name].layer(fault, kernel=kernel), settings).findings


def test_there_are_forty_twins_and_more():
    assert len(TWINS) >= 40 and len(set(TWINS)) == len(TWINS)


@pytest.mark.parametrize("name", QUICK)
def test_a_right_kernel_gets_no_finding(name):
    assert not found(name)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("swiglu", "gate and value swapped"),
        ("rotary", "turned the same way"),
        ("pooling", "tail of a short sequence not masked"),
        ("packed", "offset of the next sequence"),
        ("product_e4m3", "scale forgotten in dx"),
        ("product_e4m3", "saturation as NaN"),
        ("product_e5m2", "scales swapped in dw"),
    ],
)
def test_a_wrong_twin_is_found(name, fault):
    assert found(name, fault)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernel"), [(k.name, kind) for k in KERNELS.values() for kind in k.types])
def test_every_right_kernel_gets_no_finding(name, kernel):
    assert not found(name, examples=60, kernel=kernel)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), [twin for twin in TWINS if twin not in MISSED])
def test_every_wrong_twin_is_found(name, fault):
    assert found(name, fault, 60, properties=("complete", "reference", "layout", "fresh", "repeatable", "reusable"))


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "wrong"), [("", False), ("state in the low type", True)])
def test_a_state_in_the_low_type_is_found_over_many_chunks(fault, wrong):
    rng, layer = np.random.default_rng(0), KERNELS["linear_attention"].layer(fault)
    primals = {n: rng.normal(size=(2048, 4)) for n in ("q", "k", "v")}
    case = Case("linear_attention", primals, cotangents=(rng.normal(size=(2048, 4)),), seed=0)
    assert bool(reference.holds(layer, case).findings) is wrong
