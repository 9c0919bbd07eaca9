"""What others wrote, made fit to be shown: one line without control characters, and not too long.

Messages of exceptions, names and file contents are the author's, or damage. A terminal obeys the escape sequences
in them, XML and UTF-8 refuse some of their characters, and a build server takes a line that begins with ``::`` or
holds ``##[`` for a command, wherever a long message happens to be wrapped.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LINE = 400  # characters of a message; what is longer is not read
BLOCK = 20_000  # characters of a report
_COMMAND = re.compile(r"(?<![\w:])::(?=[\w-])")
_MARKED = re.compile(r"##(?=\w*\[)")


def line(text: str, most: int = LINE) -> str:
    """The text on one line of at most `most` characters."""
    cut = text[: 4 * most]
    plain = " ".join("".join(_shown(c) for c in cut).split())
    tame = _MARKED.sub("# #", _COMMAND.sub(": :", plain))
    return tame if len(tame) <= most and len(cut) == len(text) else f"{tame[: most - 1].rstrip()}…"


def block(text: str, most: int = BLOCK) -> str:
    """A text of several lines, each of them kept apart and indented as it is."""
    lines = text[:most].splitlines()
    plain = [indent(part) + line(part.strip(" "), most) for part in lines]
    return "\n".join([*plain, *(["…"] if len(text) > most else [])])


def indent(text: str) -> str:
    """The blanks at its start."""
    return text[: len(text) - len(text.lstrip(" "))]


def first_line(text: str) -> str:
    """The first line that is not empty."""
    lines = text[: 4 * LINE].strip().splitlines()
    return line(lines[0]) if lines else ""


def short(text: str, most: int) -> str:
    """The text, cut to at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def meant(name: object, known: Iterable[str], most: int = 3) -> str:
    """What somebody may have meant by a name that is not known, as the end of a sentence; "" if nothing is near."""
    close = difflib.get_close_matches(str(name), list(known), n=most)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _shown(sign: str) -> str:
    return sign if sign.isprintable() else " " if sign.isspace() else "?"


def many(count: int, noun: str) -> str:
    """A number of things: "1 case", "2 cases"."""
    return f"{count} {noun}{'s' * (count != 1)}"
