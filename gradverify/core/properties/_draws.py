"""Samples of what rounding does to a reference at one case, and the verdicts of a kernel's values by them.

And upstream gradients as a kernel meets them: those of a real loss beside those that are easy to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.nouns import Array, Case, Comparison, Stream
from gradverify.core.properties._allowance import FACTOR, allowed, compared

COUNTS = (2, 4, 12, 28)  # samples of what rounding does: more where an entry seems wrong
FEW, SOME, MANY = COUNTS[0], COUNTS[1], COUNTS[-1]
# Bounds by which an entry is off that more than 12 samples would not excuse: the largest of 28 errors, which are like
# normal ones, is below 4.5 deviations, and all of 12 below 4.5 / 20 one time in 1e9.
_CLEAR = 20.0
# Elements of a case above which fewer samples are taken at first, and the reference confirmed in few steps.
_LARGE = 1 << 20
_WORK = 1 << 22  # the same of all that a reference computes on the way

_NORMAL = 2.0**-126  # the smallest normal number of float32
_ROUNDED = 2.0**-22  # of a term of float32: four roundings, as of an elementwise operation
# Half of the exponents of float32: what a product of inputs is beyond fills places that a mask hides, as -3e38 does
# before a softmax, and is no factor of a gradient.
_FACTORS = 2.0**63

Draw = Callable[[int, bool], tuple[Any, dict[str, Array], int]]
Sampled = tuple[tuple[Array, ...], dict[str, Array]]


class Draws:
    """Samples of what rounding does at one case, taken as they are asked for."""

    def __init__(self, layer: Layer, case: Case, draw: Draw) -> None:
        self.layer, self.case, self.draw = layer, case, draw
        self.taken: list[Sampled] = []
        self.large = case.size > _LARGE
        self.beside: Callable[[], dict[str, Array]] = dict
        self.unit = layer.hooks.reference.eps / 2  # type: ignore[union-attr]
        floats = (a for a in (*case.primals.values(), *(case.cotangents or ())) if a.dtype.kind == "f")
        sizes = (float(np.max(np.abs(a), initial=1.0, where=np.isfinite(a))) for a in floats)
        # What is multiplied by inputs, by each once, may have become zero before.
        self.flushed = 2 * _NORMAL * min(math.prod(sizes), _FACTORS)

    @cached_property
    def terms(self) -> dict[str, Array]:
        """Sizes of the terms of gradients: see `Lossy.terms`."""
        return dict(evaluate.guarded("reference", self.beside))

    def bound(self, name: str, truth: Array, of: Callable[[Sampled], Array], count: int) -> Array:
        """See `allowed`; `of` tells which part of a sample is meant. Terms count where few samples do not suffice."""
        while len(self.taken) < count:
            at, closed = self.case.seed + 1 + len(self.taken), len(self.taken) >= FEW
            outputs, gradients, work = evaluate.guarded("reference", self.draw, at, closed)
            self.large |= work > _WORK
            self.taken.append((evaluate.outputs_of(self.layer, outputs), gradients))
        smallest = max(float(self.layer.hooks.reference.smallest), self.flushed)  # type: ignore[union-attr]
        found = allowed(truth, [of(s) for s in self.taken[:count]], self.unit, smallest)
        known = self.terms.get(name) if count > FEW else None
        return found if known is None else found + FACTOR * _ROUNDED * np.nan_to_num(known, posinf=0.0)

    def compared(
        self, name: str, judged: Array, truth: Array, of: Callable[[Sampled], Array], labels: tuple[str, ...]
    ) -> Comparison:
        """By few samples, and where an entry disagrees, by many."""
        largest = float(self.layer.hooks.reference.largest)  # type: ignore[union-attr]
        comparison = compared(name, judged, truth, self.bound(name, truth, of, FEW), largest, labels)
        for count in COUNTS[1:]:  # a kink next to the point is crossed by some of many, maybe by none of few
            if not comparison.wrong.any() or (count == MANY and comparison.ratio[comparison.wrong].max() > _CLEAR):
                break
            comparison = compared(name, judged, truth, self.bound(name, truth, of, count), largest, labels)
        return comparison


_MANNERS = ("tenths", "tenths", "mean", "normal", "spread", "ones")


def upstream(case: Case, drawn: tuple[Array, ...]) -> tuple[Array, ...]:
    """Cotangents for a case that has none.

    Signed tenths (`drawn`); those of a mean over all outputs, 1/N of either sign; normal ones; rows whose scales
    spread over five decades, as losses of easy and hard samples do; and all alike, as of a sum.
    """
    rng = case.rng(Stream.UPSTREAM)
    manner = _MANNERS[int(rng.integers(len(_MANNERS)))]
    if manner == "tenths":
        return drawn
    found = []
    for v in drawn:
        if v.dtype.kind != "f" or v.size == 0:
            found.append(v)
            continue
        if manner == "mean":
            made = np.sign(v) / v.size
        elif manner == "ones":
            made = np.full(v.shape, 1.0)
        else:
            made = rng.standard_normal(v.shape)
            if manner == "spread" and v.ndim:
                made = made * 10.0 ** rng.uniform(-4, 1, (*v.shape[:-1], 1))
        found.append(made.astype(v.dtype))
    return tuple(found)
