"""The ladder plot: error of the central difference against its step, both on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradverify.report.html.markup import Markup, details, el, table
from gradverify.report.numbers import short

Rungs = Sequence[tuple[float, float, float]]
Place = Callable[[float], float]

_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 10, 40
_DECADES = 24  # of error at most; what is smaller is drawn on the axis


def ladder_plot(rungs: Rungs, gap: float, shows: str = "") -> Markup | None:
    """A plot and a table; None if there are fewer than two steps.

    Parameters
    ----------
    rungs : (step, difference quotient - analytic, rounding noise) for each step
    gap : numerical - analytic, by which the quotients are compared with the numerical value as well
    shows : what the steps show, in one sentence
    """
    rungs = [rung for rung in rungs if rung[0] > 0 and all(map(math.isfinite, rung))]
    if len(rungs) < 2 or not math.isfinite(gap):
        return None
    series = {
        "bad": ("against the analytic value", [(h, abs(e)) for h, e, _ in rungs]),
        "good": ("against the numerical value", [(h, abs(e - gap)) for h, e, _ in rungs]),
        "noise": ("rounding noise", [(h, n) for h, _, n in rungs]),
    }
    said = (
        "Difference quotients at the worst entry, by step. A wrong analytic value keeps its distance at every step; "
        "truncation falls with the step, and rounding noise rises."
    )
    rows = [(short(h, 3), short(e, 3), short(e - gap, 3), short(n, 2)) for h, e, n in rungs]
    head = ("step", "quotient − analytic", "quotient − numerical", "noise")
    legend = [el("span", _swatch(kind), " ", title) for kind, (title, _) in series.items()]
    return el(
        "figure",
        el("figcaption", "Error against step"),
        _plot(series),
        el("p", *legend, cls="legend"),
        el("p", f"{shows[:1].upper()}{shows[1:]}.") if shows else None,
        el("p", said, cls="dim"),
        details("The steps as a table", table(head, rows, "Error against step")),
        cls="ladder",
    )


def _plot(series: dict[str, tuple[str, list[tuple[float, float]]]]) -> Markup:
    points = [point for _, line in series.values() for point in line]
    xs = [math.log10(h) for h, _ in points]
    ys = [math.log10(e) for _, e in points if e > 0] or [0.0]
    right, left = math.ceil(max(xs)), math.floor(min(xs))
    top = math.ceil(max(ys) + 0.1)
    bottom = max(math.floor(min(ys) - 0.1), top - _DECADES)
    floor = "0" if any(e < 10.0**bottom for _, e in points) else f"1e{bottom}"

    def x(h: float) -> float:
        return _LEFT + (math.log10(h) - left) / ((right - left) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(e: float) -> float:
        level = max(math.log10(e), bottom) if e > 0 else bottom
        return _TOP + (top - level) / ((top - bottom) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    lines = [_line(kind, line, x, y) for kind, (_, line) in reversed(series.items())]
    return el(
        "svg",
        *_axes((left, right), (bottom, top), floor, x, y),
        *lines,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label="Error of the difference quotient against its step; the numbers are in the table below",
    )


def _line(kind: str, line: list[tuple[float, float]], x: Place, y: Place) -> Markup:
    places = [(x(h), y(e)) for h, e in line]
    path = el("path", d="M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places))
    dots = [] if kind == "noise" else [_dot(kind, *place) for place in places]
    return el("g", path, *dots, cls=f"line {kind}")


def _dot(kind: str, a: float, b: float) -> Markup:
    if kind == "bad":
        return el("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r=3)
    return el("rect", x=f"{a - 2.5:.1f}", y=f"{b - 2.5:.1f}", width=5, height=5)


def _axes(xs: tuple[int, int], ys: tuple[int, int], floor: str, x: Place, y: Place) -> list[Markup]:
    """Axes with powers of ten; `floor` says what the lowest level stands for."""
    low = _HEIGHT - _BOTTOM
    parts = [el("path", d=f"M{_LEFT} {_TOP}V{low}H{_WIDTH - _RIGHT}", cls="axis")]
    for p in _marks(*xs):
        parts.append(el("text", f"1e{p}", x=f"{x(10.0**p):.1f}", y=low + 17, cls="tick"))
    for p in _marks(*ys):
        level = y(10.0**p)
        parts.append(el("path", d=f"M{_LEFT} {level:.1f}H{_WIDTH - _RIGHT}", cls="rule"))
        parts.append(el("text", floor if p == ys[0] else f"1e{p}", x=_LEFT - 5, y=f"{level + 4:.1f}", cls="tick end"))
    parts.append(el("text", "step", x=(_LEFT + _WIDTH - _RIGHT) // 2, y=_HEIGHT - 4, cls="tick"))
    return parts


def _marks(low: int, high: int) -> range:
    """At most seven powers of ten."""
    return range(low, high + 1, max(1, math.ceil((high - low) / 6)))


def _swatch(kind: str) -> Markup:
    dot = None if kind == "noise" else _dot(kind, 13.0, 6.0)
    line = el("g", el("path", d="M0 6H26"), dot, cls=f"line {kind}")
    return el("svg", line, width=26, height=12, aria_hidden="true")
