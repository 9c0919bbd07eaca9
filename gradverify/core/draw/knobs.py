"""Choices read one after another from a row of bytes; byte 0 is always the first, simplest choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Knobs:
    """A row of bytes and a place in it; past the end every choice is the simplest one."""

    __slots__ = ("_at", "_row")

    def __init__(self, row: bytes) -> None:
        self._row = row
        self._at = 0

    def byte(self) -> int:
        """The next byte."""
        at = self._at
        self._at = at + 1
        return self._row[at] if at < len(self._row) else 0

    def word(self) -> int:
        """The next two bytes as a number in [0, 65536)."""
        return self.byte() << 8 | self.byte()

    def below(self, count: int) -> int:
        """A number in [0, count), even for counts that one byte cannot reach."""
        return self.byte() * count >> 8 if count <= 256 else self.word() * count >> 16

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all alike; repeat a choice to make it more frequent."""
        return choices[self.below(len(choices))]

    def chance(self, percent: float) -> bool:
        """True in about that many of a hundred cases."""
        return self.byte() >= 256 - 2.56 * percent
