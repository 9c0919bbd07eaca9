"""Other values in a case of the same sizes: what is wrong at one primal is most often wrong at another one there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.nouns import Case, Stream

TIMES = 2  # draws: one may hide the finding by chance


def refilled(layer: Layer, case: Case) -> Iterator[Case]:
    """Cases of the same sizes and options with real values in tenths, and cotangents drawn from the case's seed."""
    sizes = layer.named_sizes(case.primals, case.options) or {}
    for k in range(TIMES):
        rng = case.rng(Stream.REFILLED, k)
        primals = dict(case.primals)
        for primal in layer.differentiable:
            array = np.asarray(case.primals[primal.name])
            if array.dtype.kind == "f" and primal.domain.strategy is None:
                raw = np.round(rng.standard_normal(array.shape), 1)
                primals[primal.name] = np.asarray(primal.domain.project(raw, sizes)).astype(array.dtype)
        yield case.but(primals=primals, cotangents=None, seed=k)
