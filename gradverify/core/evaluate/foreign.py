"""What the author's code hands over, read as plain arrays. Everything behind this works on these alone.

An object may raise when it is looked at, lie about itself (a subclass of ndarray that overrides arithmetic), leave
entries out (a mask), or be larger than memory (a broadcast view). What cannot be read is a LayerFailure; reading
is the author's code at work, so it belongs inside of `failures.guarded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gradverify.core import texts
from gradverify.core.evaluate.failures import LayerFailure, error_line, from_outside
from gradverify.core.nouns import Array

# A check holds several copies of what it compares at a time: 1 GiB for one in float64 is what a usual machine bears.
MOST = 1 << 27


def same(one: Any, other: Any) -> bool:
    """Whether two arrays, or numbers, are equal; NaN equals NaN."""
    return np.array_equal(one, other, equal_nan=all(np.asarray(a).dtype.kind in "fc" for a in (one, other)))


def array(value: Any, what: str, stage: str, kind: str, primal: str | None = None) -> Array:
    """The value as a plain ndarray, which shares its memory where it can.

    Raises LayerFailure if it cannot be read, has masked entries, or has more than `MOST`.

    Parameters
    ----------
    what : the value in words, to begin a sentence with
    stage, kind, primal : of the failure
    """
    found = value if type(value) is np.ndarray else _read(value, what, stage, kind, primal)
    if found.size > MOST:
        message = f"{what} has shape {found.shape}: {found.size:,} numbers are too many to be read"
        raise LayerFailure(kind, stage, message, primal)
    return found


def _read(value: Any, what: str, stage: str, kind: str, primal: str | None) -> Array:
    try:
        found = np.asarray(value)
        masked = int(np.ma.getmaskarray(value).sum()) if isinstance(value, np.ma.MaskedArray) else 0
    except Exception as error:
        if from_outside(error):  # a time limit
            raise
        message = f"{what} is {described(value)} that cannot be read as an array: {error_line(error)}"
        raise LayerFailure(kind, stage, message, primal) from error
    if masked:
        message = f"{what} is a masked array: {masked} of {found.size} entries have no value"
        raise LayerFailure(kind, stage, message, primal)
    return found


def described(value: Any) -> str:
    """A value in a few words, without asking it anything."""
    kind = type(value)
    if kind is np.ndarray:
        return f"an array of shape {value.shape}"
    name = texts.line(type.__getattribute__(kind, "__name__"), 80)
    if kind in (tuple, list):
        return f"a {name} of {len(value)}"
    return "None" if value is None else f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def arrays_in(value: Any, path: str) -> Iterator[tuple[str, Array]]:
    """Arrays inside nested tuples, lists and dicts, with readable names; each container is entered once."""
    return _inside(value, path, set())


def _inside(value: Any, path: str, entered: set[int]) -> Iterator[tuple[str, Array]]:
    if isinstance(value, np.ndarray):
        yield path, np.asarray(value)
    elif isinstance(value, (tuple, list, dict)) and id(value) not in entered:
        entered.add(id(value))
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _inside(part, f"{path}[{texts.line(repr(key), 80)}]", entered)
