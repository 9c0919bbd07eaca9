"""What makes a case interesting, and how a row that made one is mutated.

A case is interesting if it has a feature that no case before it had (a combination of options, a shape, a
region of values, a verdict), or a disagreement closer to its bound than any before.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from gradverify.campaign.unit import Row
from gradverify.types import Array, Case, Outcome, Verdict

RECORD = 1.25  # a ratio counts as a record if it is larger than the last one by this factor
_KEPT = 200  # rows of one unit at most, so that a layer with many options does not flood the store


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


class Pool:
    """Rows of one layer and regime, and mutants of them."""

    def __init__(self, rows: Sequence[Row], lengths: tuple[int, int, int], rng: random.Random) -> None:
        size = sum(lengths)
        self.rows = [row.data for row in rows if len(row.data) == size]
        self.kept = 0
        self._rng = rng
        self._size = size
        self._cuts = (lengths[0], lengths[0] + lengths[1])

    def fresh(self) -> bytes:
        """A row like no other."""
        return self._rng.randbytes(self._size)

    def next(self) -> bytes:
        """A fresh row or, once there are some to mutate, as often a mutant."""
        return self.fresh() if len(self.rows) < 4 or self._rng.random() < 0.5 else self.mutant()

    def mutant(self) -> bytes:
        """A kept row with a few bytes changed, with the values of another, or with all values new."""
        row = bytearray(self._rng.choice(self.rows))
        options, sizes = self._cuts
        way = self._rng.random()
        if way < 0.25:  # the same shapes and options, other values
            row[sizes:] = self.fresh()[sizes:]
        elif way < 0.5:  # options or shapes of one, the rest of another
            cut = self._rng.choice((options, sizes))
            row[cut:] = self._rng.choice(self.rows)[cut:]
        for _ in range(self._rng.choice((1, 1, 2, 4)) if row and way >= 0.25 else 0):
            row[self._rng.randrange(len(row))] = self._rng.randrange(256)
        return bytes(row)

    def keep(self, row: bytes) -> bool:
        """Whether there was room for it."""
        if self.kept >= _KEPT:
            return False
        self.kept += 1
        self.rows.append(row)
        return True
