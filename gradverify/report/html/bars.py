"""Bar charts of counts as lists, so that their text alternative is the chart itself."""

from __future__ import annotations

import math
from typing import NamedTuple

from gradverify.report.html.markup import Markup, el


class Bar(NamedTuple):
    """One bin."""

    name: str  # of the bin, in full
    number: int  # how many
    mark: str  # what stands below it on the axis, "" for nothing
    tone: str  # "good", "doubt", "bad" or "plain"


def ordered(title: str, bars: list[Bar], borders: bool = False) -> Markup:
    """Bins of one axis, in one row at any width; `borders` puts the marks at the bins' lower borders."""
    return _chart(title, bars, f"bars ordered{' borders' if borders else ''}")


def named(title: str, counts: list[tuple[str, int]]) -> Markup | None:
    """Bins with names of their own, which wrap; None if there are none."""
    return _chart(title, [Bar(name, count, name, "plain") for name, count in counts], "bars") if counts else None


def _chart(title: str, bars: list[Bar], kind: str) -> Markup:
    top = math.log1p(max(bar.number for bar in bars))
    items = [_item(bar, math.log1p(bar.number) / top if top else 0.0) for bar in bars]
    return el("figure", el("figcaption", title), el("ol", *items, cls=kind))


def _item(bar: Bar, share: float) -> Markup:
    return el(
        "li",
        el("span", f"{bar.name}: ", cls="hidden"),
        el("span", bar.number or "", cls="count"),
        el("span", cls=f"bar {bar.tone}", style=f"--h:{share:.3f}"),
        el("span", bar.mark, cls="mark", aria_hidden="true"),
        title=f"{bar.name}: {bar.number}",
    )
