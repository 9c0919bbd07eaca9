"""Markup: strings that are HTML already; every other string is escaped on its way in."""

from __future__ import annotations

import html
import re
from typing import Any

VOID = frozenset({"meta", "wbr"})
# control characters are not allowed in HTML, halves of surrogate pairs not in UTF-8
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """A string that is HTML."""

    __slots__ = ()


def el(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element.

    Parameters
    ----------
    children : Markup as it is, None as nothing, everything else as escaped text
    attributes : `cls` stands for class, underscores for hyphens; None and False leave one out
    """
    kept = {key: value for key, value in attributes.items() if value is not None and value is not False}
    said = "".join(_attribute(key, value) for key, value in kept.items())
    if name in VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: Any) -> Markup:
    """Children one after the other."""
    return Markup("".join(child if isinstance(child, Markup) else _text(child) for child in children))


def details(summary: Any, *children: Any, **attributes: Any) -> Markup:
    """A part that is folded away at first."""
    return el("details", el("summary", summary), *children, **attributes)


def pairs(items: list[tuple[Any, Any]]) -> Markup | None:
    """Names and values; None if there are none."""
    if not items:
        return None
    return el("dl", *(el("div", el("dt", name), el("dd", value)) for name, value in items))


def table(head: tuple[Any, ...], rows: list[tuple[Any, ...]], label: str) -> Markup:
    """A table in a frame that scrolls sideways, by keyboard too; the first column names the rows."""
    return frame(
        el(
            "table",
            el("thead", el("tr", *(el("th", title, scope="col") for title in head))),
            el("tbody", *(el("tr", el("th", row[0], scope="row"), *(el("td", c) for c in row[1:])) for row in rows)),
        ),
        label,
    )


def breakable(name: str) -> Markup:
    """A name that may break after underscores and dots rather than anywhere."""
    return join(*(part if part.strip("_.") else join(part, el("wbr")) for part in re.split(r"([_.]+)", name) if part))


def frame(content: Markup, label: str) -> Markup:
    """What is too wide for a phone scrolls inside a frame."""
    return el("div", content, cls="frame", role="region", aria_label=label, tabindex=0)


def _attribute(key: str, value: Any) -> str:
    name = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{_text(value)}"'


def _text(value: Any) -> str:
    return "" if value is None else html.escape(_FORBIDDEN.sub("\ufffd", str(value)))
