"""Which array of an object is named as the gradient of which: `w` and `grads['w']`, `weights` and `dL_dw`.

A name alone says little (`d` begins many words), so it is asked only of arrays that backward wrote, about
arrays that the output depends on.
"""

from __future__ import annotations

import re
from typing import Any

from gradverify.core.declare.held import Path

_LOSS = r"(?:l|j|e|c|loss|cost|err)"
_READINGS = (
    r"d_?(\w+)",
    rf"d{_LOSS}_?d_?(\w+)",
    rf"d{_LOSS}_(\w+)",
    r"(?:gradient|grad)s?_?(?:of_|wrt_)?(?:d_?)?(\w+)",
    r"(?:delta|nabla|diff)_?(\w+)",
    r"g_?(\w+)",
    r"(\w+?)_?(?:gradient|grad|diff|delta|derivative|error)s?",
    r"(\w+?)_[dg]",
)
_GRADIENTS = re.compile(r"d?(?:gradient|grad|derivative|delta|diff|d_?param|d_?parameter)s?|d|dl_?d", re.IGNORECASE)
_VALUES = re.compile(r"(?:param|parameter|value)s?|data|val|array", re.IGNORECASE)

NOT, PLACED, SHORT, SAME, OWN = range(5)  # from no name at all to the same name in the same place


def fit(value: Path, gradient: Path, equal: bool) -> tuple[int, int]:
    """How well a path is named as the gradient of another, and how many steps both share; the larger the better.

    Parameters
    ----------
    equal : both arrays have one shape; without that, only a full name counts
    """
    shared = next((k for k, (a, b) in enumerate(zip(value, gradient)) if a != b), min(len(value), len(gradient)))
    stems, marked = _read(gradient)
    if not marked or (not equal and _is_entry(value) and not _is_entry(gradient)):
        return NOT, shared
    word = _word(value, _VALUES)
    if word in stems:
        near = shared >= min(_depth(value), _depth(gradient)) - 1
        return (OWN if near and _places(value) == _places(gradient) else SAME), shared
    if equal and any(_abbreviates(word, stem) for stem in stems):
        return SHORT, shared
    return (PLACED if equal and stems == {""} else NOT), shared


def _is_entry(path: Path) -> bool:
    """Whether it is a place in a list."""
    return isinstance(path[-1][1], int)


def _read(path: Path) -> tuple[set[str], bool]:
    """Of what a path says that it is the gradient, in each way of reading it; and whether it says "gradient"."""
    word = _word(path, _GRADIENTS)
    stems = {match[1].strip("_") for r in _READINGS if (match := re.fullmatch(r, word)) and match[1].strip("_")}
    words = [w.strip("_") for w in _words(path)]
    held = any(map(_GRADIENTS.fullmatch, words)) or "g" in words[:-1]  # alone, g is a gate as often as a gradient
    return ({word} if held else set()) | stems, held or bool(stems)


def _word(path: Path, empty: re.Pattern[str]) -> str:
    """The last word of a path that names something, and does not only say what it is; "" if there is none."""
    telling = [word.strip("_").lower() for word in _words(path) if not empty.fullmatch(word.strip("_"))]
    return telling[-1] if telling else ""


def _words(path: Path) -> list[str]:
    return [unmangled(str(key)) for key in steps_of(path) if not isinstance(key, int)]


def steps_of(path: Path) -> list[Any]:
    """The names and places on a path; a key of a dict may be several of them."""
    return [part for _, key in path for part in (key if isinstance(key, tuple) else (key,))]


def unmangled(name: str) -> str:
    """A name as its author wrote it: ``__W``, which Python keeps as ``_Dense__W``."""
    return re.sub(r"^_[A-Za-z]\w*?(?=__\w)", "", name)


def _depth(path: Path) -> int:
    """Number of steps up to the list, if the path ends in one."""
    return max((k for k, (_, key) in enumerate(path, 1) if not isinstance(key, int)), default=0)


def _places(path: Path) -> tuple[int, ...]:
    return tuple(key for _, key in path if isinstance(key, int))


def _abbreviates(one: str, other: str) -> bool:
    """`w` and `weights`, `b1` and `bias1`: the beginning of the word, with the same number behind."""
    (a, m), (b, n) = _numbered(one), _numbered(other)
    few, many = sorted((a.rstrip("s"), b.rstrip("s")), key=len)
    return m == n and bool(few) and many.startswith(few)


def _numbered(word: str) -> tuple[str, str]:
    letters = word.rstrip("0123456789")
    return letters.rstrip("_"), word[len(letters) :]
