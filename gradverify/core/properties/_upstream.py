"""Upstream gradients as a kernel meets them: those of a real loss beside those that are easy to read."""

from __future__ import annotations

import numpy as np

from gradverify.core.nouns import Array, Case, Stream

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
