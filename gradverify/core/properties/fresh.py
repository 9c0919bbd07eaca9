"""Fresh buffers: backward reads no memory that it did not write.

`numpy.empty` hands out whatever was there before, which is often zero in a test and never in a long
run. While the backward runs, fresh allocations are filled with NaN (or with a large integer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding, Outcome
from gradverify.core.properties import Fingerprint, Property, add

NAME, KIND = "fresh", "uninitialised"


@contextmanager
def poisoned(value: float = np.nan) -> Iterator[None]:
    """Inside, arrays from `numpy.empty` and `numpy.empty_like` hold a value, or a large integer in place of NaN."""
    originals = {name: getattr(np, name) for name in ("empty", "empty_like")}
    try:
        for name, allocate in originals.items():
            setattr(np, name, _filled(allocate, value))
        yield
    finally:
        for name, allocate in originals.items():
            setattr(np, name, allocate)


def _filled(allocate: Callable[..., Array], value: float) -> Callable[..., Array]:
    def allocated(*arguments: Any, **keywords: Any) -> Array:
        array = allocate(*arguments, **keywords)
        if array.dtype.kind in "fc":
            array.fill(value)
        elif array.dtype.kind in "iu":
            array.fill(np.iinfo(array.dtype).max // 3 if np.isnan(value) else int(value))
        return array

    return allocated


@exact.where_finite(NAME)
def holds(layer: Layer, case: Case) -> Outcome:
    """Forward and backward give what they give otherwise where fresh memory holds NaN.

    A NaN that comes out is held against memory of zeros: what else the memory held may have been a NaN, too.
    """

    def given(value: float) -> dict[str, Array]:
        primals, cotangents = evaluate.copies(case.primals), exact.copied(case.cotangents or ())
        with poisoned(value):
            raw = evaluate.run(layer, primals, case.options).pull(cotangents)
        return exact.usable(layer, case, raw)

    found = given(np.nan)
    expected = given(0.0) if any(np.isnan(g).any() for g in found.values()) else exact.expected(layer, case)
    pairs = [("when fresh memory does not hold zeros", found, expected)]
    return exact.outcome(layer, case, NAME, pairs, kind=KIND)


def unwritten(finding: Finding) -> bool:
    """Whether the NaN that fresh memory was filled with came out: not just another gradient, as of a random one."""
    compared = finding.comparison
    return finding.property == NAME and compared is not None and bool(np.isnan(compared.analytic).any())


def explains(mine: Fingerprint, other: Fingerprint) -> bool:
    """Memory that was never written explains the gradient that it is read into, not code that fails or is random."""
    return mine[1] == KIND and mine[2] == other[2] and other[0] != NAME and other[1] not in ("crash", "random")


add(Property(NAME, "backward reads no memory that it did not write", holds, share=0.3, explains=explains))
