"""Random numbers that belong to a place in an array, not to an order of drawing.

The number at index [i, j] is a hash of (seed, stream, i, j), so it stays the same when another axis,
or this one, gets shorter or longer, and a shrunk case keeps the values that made it fail. The hash is
the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014; constants by S. Vigna).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray; the shape is in the docstrings

# SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014)
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_U64 = np.uint64
_SHIFT_30, _SHIFT_27, _SHIFT_31, _SHIFT_32 = _U64(30), _U64(27), _U64(31), _U64(32)
_MIX_1, _MIX_2, _LOW = _U64(0xBF58476D1CE4E5B9), _U64(0x94D049BB133111EB), _U64(0xFFFFFFFF)


def uniform(seed: int, stream: int, shape: tuple[int, ...]) -> Array:
    """Uniform numbers in [0, 1) of the given shape, float64."""
    result: Array = (_hash(seed, stream, shape) >> _SHIFT_32) * 2.0**-32
    return result.reshape(shape)


def normal(seed: int, stream: int, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers of the given shape, float64 (Box & Muller, 1958)."""
    bits = _hash(seed, stream, shape)
    radius = np.sqrt(-2.0 * np.log(((bits >> _SHIFT_32) + 0.5) * 2.0**-32))
    result: Array = radius * np.cos((bits & _LOW) * (2.0 * np.pi * 2.0**-32))
    return result.reshape(shape)


def scramble(*numbers: int) -> int:
    """A 64-bit hash of a few small numbers."""
    state = 0
    for number in numbers:
        state = (state + (number + 1) * _GOLDEN) & _MASK
        state = ((state ^ state >> 30) * int(_MIX_1)) & _MASK
        state = ((state ^ state >> 27) * int(_MIX_2)) & _MASK
        state ^= state >> 31
    return state


def _hash(seed: int, stream: int, shape: tuple[int, ...]) -> Array:
    state = _places(shape) + _U64(scramble(seed, stream))
    state = (state ^ state >> _SHIFT_30) * _MIX_1
    state = (state ^ state >> _SHIFT_27) * _MIX_2
    return state ^ state >> _SHIFT_31


@lru_cache(maxsize=512)
def _places(shape: tuple[int, ...]) -> Array:
    """A number for each index, the same in arrays of other sizes; axes count from the last, as in broadcasting."""
    places = np.zeros(shape or 1, dtype=_U64)  # operations on arrays without axes would warn of overflow
    for axis, extent in enumerate(reversed(shape)):
        steps = np.arange(extent, dtype=_U64) * _U64(scramble(axis) | 1)
        places += steps.reshape((extent,) + (1,) * axis)
    places.flags.writeable = False
    return places
