"""What makes a case interesting.

A case is interesting if it has a feature that no case before it had (a combination of options, a shape, a
region of values, a verdict, a line or branch of the author's code), or a disagreement closer to its bound than
any before.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from gradverify.core.nouns import Array, Case, Outcome, Verdict

RECORD = 1.25  # a ratio counts as a record if it is larger than the last one by this factor


def features(case: Case) -> set[int]:
    """Hashes of options, shapes and regions of values; the same in every process."""
    return {zlib.crc32(text.encode()) for text in _features(case)}


def _features(case: Case) -> Iterator[str]:
    options = repr(sorted(case.options.items()))
    yield f"options {options}"
    shapes = []
    for name, array in case.primals.items():
        shape = tuple(map(_bucket, array.shape))
        shapes.append(shape)
        yield f"shape {name} {shape} {options}"
        yield f"values {name} {_region(array)}"
        if len(set(array.shape)) < array.ndim:
            yield f"equal axes {name} {[array.shape.index(n) for n in array.shape]}"
    yield f"shapes {shapes}"


def verdict_features(outcome: Outcome) -> Iterator[int]:
    """Hashes of what one property said."""
    if outcome.skipped is not None:
        yield zlib.crc32(f"{outcome.property} skipped".encode())
    for compared in outcome.compared:
        for verdict in set(compared.verdicts.ravel().tolist()) - {int(Verdict.AGREES)}:
            yield zlib.crc32(f"{outcome.property} {compared.primal} {verdict}".encode())


def code_features(places: Iterable[str]) -> set[int]:
    """Hashes of lines and branches that ran."""
    return {zlib.crc32(f"code {place}".encode()) for place in places}


def _bucket(extent: int) -> int:
    """Sizes up to 4 each for themselves, larger ones by powers of two."""
    return extent if extent <= 4 else 1 << (extent - 1).bit_length()


def _region(array: Array) -> tuple[int, ...]:
    """Sign, magnitude and repetition of the entries."""
    if array.size == 0 or array.dtype.kind not in "fciu":
        return (0,)
    with np.errstate(all="ignore"):
        values = array.real if array.dtype.kind == "c" else array
        low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    magnitude = int(np.clip(np.floor(np.log10(largest)), -9, 5)) if 0 < largest < np.inf else -10
    zero = bool((values == 0).any())
    return (1, magnitude, int(low > 0) - int(high < 0), int(low == high), int(zero))
