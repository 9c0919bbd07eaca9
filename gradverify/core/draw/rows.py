"""Rows of bytes that made interesting cases, and mutants of them."""

from __future__ import annotations

import random
from collections.abc import Iterable

KEPT = 200  # rows of one pool at most, so that a layer with many options does not flood the store


class Pool:
    """Rows of one layer and regime, and mutants of them.

    Rows whose case reached code that no case had reached before are the parents of half of the mutants: what lies
    behind a second condition is found from where the first one holds.

    Parameters
    ----------
    rows, reached : rows known from before, and those of them that reached new code
    lengths : numbers of bytes that decide options, sizes and values
    """

    def __init__(
        self, rows: Iterable[bytes], lengths: tuple[int, int, int], rng: random.Random, reached: Iterable[bytes] = ()
    ) -> None:
        size = sum(lengths)
        self.rows = [row for row in rows if len(row) == size]
        self.reached = [row for row in reached if len(row) == size]
        self.kept = 0
        self._rng = rng
        self._size = size
        self._cuts = (lengths[0], lengths[0] + lengths[1])

    def fresh(self) -> bytes:
        """A row like no other."""
        return self._rng.randbytes(self._size)

    def next(self) -> bytes:
        """A fresh row or, once there are some to mutate, as often a mutant."""
        if not self.reached and len(self.rows) < 4:
            return self.fresh()
        return self.fresh() if self._rng.random() < 0.5 else self.mutant()

    def mutant(self) -> bytes:
        """A kept row with a few bytes changed, with the values of another, or with all values new."""
        parents = self.reached if self.reached and (not self.rows or self._rng.random() < 0.5) else self.rows
        row = bytearray(self._rng.choice(parents))
        options, sizes = self._cuts
        way = self._rng.random()
        if way < 0.25:  # the same shapes and options, other values
            row[sizes:] = self.fresh()[sizes:]
        elif way < 0.4:  # the same options and values, other shapes
            row[options:sizes] = self.fresh()[options:sizes]
        elif way < 0.55:  # options or shapes of one, the rest of another
            cut = self._rng.choice((options, sizes))
            row[cut:] = self._rng.choice(parents)[cut:]
        for _ in range(self._rng.choice((1, 1, 2, 4)) if row and way >= 0.25 else 0):
            row[self._rng.randrange(len(row))] = self._rng.randrange(256)
        return bytes(row)

    def keep(self, row: bytes, reached: bool = False) -> bool:
        """Whether there was room for it; one that reached new code has room always."""
        if reached:
            self.reached.append(row)
            return True
        if self.kept >= KEPT:
            return False
        self.kept += 1
        self.rows.append(row)
        return True
