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
def poisoned() -> Iterator[None]:
    """Inside, arrays from `numpy.empty` and `numpy.empty_like` hold NaN."""
    originals = {name: getattr(np, name) for name in ("empty", "empty_like")}
    try:
        for name, allocate in originals.items():
            setattr(np, name, _poison(allocate))
        yield
    finally:
        for name, allocate in originals.items():
            setattr(np, name, allocate)


def _poison(allocate: Callable[..., Array]) -> Callable[..., Array]:
    def allocated(*arguments: Any, **keywords: Any) -> Array:
        array = allocate(*arguments, **keywords)
        if array.dtype.kind in "fc":
            array.fill(np.nan)
        elif array.dtype.kind in "iu":
            array.fill(np.iinfo(array.dtype).max // 3)
        return array

    return allocated


def holds(layer: Layer, case: Case) -> Outcome:
    """Forward and backward on poisoned allocations give what they give otherwise."""
    case, reason = exact.ready(layer, case)
    if reason is not None:
        return Outcome(NAME, skipped=reason)
    expected = exact.expected(layer, case)
    cotangents = exact.copied(case.cotangents or ())
    primals = evaluate.copies(case.primals)
    with poisoned():
        evaluation = evaluate.run(layer, primals, case.options)
        raw = evaluation.pull(cotangents)
    pairs = [("when fresh memory does not hold zeros", exact.usable(layer, case, raw), expected)]
    return exact.outcome(layer, case, NAME, pairs, kind=KIND)


def unwritten(finding: Finding) -> bool:
    """Whether the NaN that fresh memory was filled with came out: not just another gradient, as of a random one."""
    compared = finding.comparison
    return finding.property == NAME and compared is not None and bool(np.isnan(compared.analytic).any())


def explains(mine: Fingerprint, other: Fingerprint) -> bool:
    """Memory that was never written explains the gradient that it is read into, not code that fails or is random."""
    return mine[1] == KIND and mine[2] == other[2] and other[0] != NAME and other[1] not in ("crash", "random")


add(Property(NAME, "backward reads no memory that it did not write", holds, share=0.3, explains=explains))
