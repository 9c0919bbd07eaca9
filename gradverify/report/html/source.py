"""The author's functions as source, with a mark at each line: ran in a verified case, or never."""

from __future__ import annotations

import linecache
from collections.abc import Iterator

from gradverify.core.summarise.lines_ran import ROLES, Function, Ran
from gradverify.report.html.markup import Markup, details, el

_SIGNS = {"good": "✓", "bad": "✗", "doubt": "◐", "": " "}
_SAID = {"good": "ran", "bad": "never ran", "doubt": "one side never ran", "": ""}


def marked(ran: Ran) -> Markup:
    """Every function, those first of which something never ran; open where that is so."""
    said = [el("p", line, cls="dim") for line in ran.said()]
    order = sorted(ran.functions, key=lambda f: (not (f.never or f.missed), ROLES.index(f.role), f.file, f.line))
    return details("Lines that ran", *said, *map(_function, order), open=not ran.complete)


def _function(function: Function) -> Markup:
    done, every = len(function.ran), len(function.lines)
    title = el("p", el("b", function.name), f" ({function.role}): {done} of {every} lines ran")
    return el("div", title, el("pre", *_rows(function), cls="source"))


def _rows(function: Function) -> Iterator[Markup]:
    """A row for each line of the source, from the first line of the function to its last."""
    last = max([function.line, *function.lines.values()])
    sides = {side.line: side for side in function.missed}
    starts = {line: start for start, end in function.lines.items() for line in range(start, end + 1)}
    for number in range(function.line, last + 1):
        text = linecache.getline(function.file, number).rstrip("\n")
        start = starts.get(number)
        mark = "" if start is None or not text.strip() else "good" if start in function.ran else "bad"
        mark = "doubt" if number in sides and mark == "good" else mark
        note = f"  ← {sides[number]}" if mark == "doubt" else ""
        yield el(
            "span", f"{_SIGNS[mark]} {number:4d}  {text}{note}\n", cls=mark or None, aria_label=_SAID[mark] or None
        )
