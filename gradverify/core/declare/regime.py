"""What a property asks of the cases that are drawn for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Regime:
    """What a property asks of the cases drawn for it.

    Attributes
    ----------
    special : draw special points (zeros, ties, borders, saturation, equal rows, size-1 and empty axes) only
    dtype : floating type of the primals ("float32"); None takes the type of the check
    small : keep every axis at 3 or less, for properties that are costly
    production : beside small cases those that kernels meet: declared sizes, sizes about blocks, ids by Zipf's law
    """

    special: bool = False
    dtype: str | None = None
    small: bool = False
    production: bool = False
