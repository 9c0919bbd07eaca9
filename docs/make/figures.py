"""Figures of the tutorial, from gradverify's own numbers at build time: plain SVG, and the maps of the report."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import gradverify as gv
from gradverify.core.diagnose.steps import steps
from gradverify.core.nouns import Comparison
from gradverify.core.properties import properties
from gradverify.core.verify import examine
from gradverify.report.html import fragment
from gradverify.report.html.heatmap import heatmaps

DOCS = Path(__file__).parent.parent
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 560, 300, 64, 12, 44
Line = Sequence[tuple[float, float]]


@cache
def tutorial() -> dict[str, Any]:
    """The names of the tutorial's own code: the network, its values and its slips."""
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8").partition("## Every case")[0]
    names: dict[str, Any] = {"__name__": "tutorial", "print": lambda *_: None}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    return names


def network(backward: Callable[..., Any] | None = None) -> gv.Layer:
    names = tutorial()
    dims = dict(i="N I", W1="I H", b1="H", W2="H K", b2="K", y="N K")
    return gv.Layer(names["forward"], backward or names["backward"], name="network", **dims)


def compared(layer: gv.Layer, primal: str) -> Comparison:
    case = gv.Case("network", tutorial()["values"])
    return next(c for c in examine(layer, case, properties.get("gradient")).compared if c.primal == primal)


def error_against_step() -> str:
    """Error of the central difference of one weight by step: of the right gradient, and of one with a lost factor."""
    names = tutorial()

    def halved(dE: Any, saved: Any) -> Any:
        return tuple(0.5 * g for g in names["backward"](dE, saved))

    case = gv.Case("network", names["values"])
    lines: dict[str, Line] = {}
    for title, layer in (("half of the gradient", network(halved)), ("the gradient", network())):
        found = compared(layer, "W1")
        lines[title] = [(h, abs(e)) for h, e, _ in steps(layer, case, found).rungs]
        bound = float(found.bound[found.worst])
    noise = [(h, n) for h, _, n in steps(network(), case, compared(network(), "W1")).rungs]
    lines |= {"rounding noise": noise, "bound of the estimate": [(noise[0][0], bound), (noise[-1][0], bound)]}
    said = (
        "Each point is one central difference of the tutorial's network. Truncation falls with the step until "
        "rounding takes over; an error in the gradient stays. The dashed line is the bound that gradverify derives."
    )
    return _figure(_logarithmic(lines, "step", "error"), said)


def kink() -> str:
    """relu at 0: two slopes, and every slope between them."""
    x = np.linspace(-1, 1, 101)
    lines = {"relu(x)": list(zip(x, np.maximum(x, 0))), "left slope, 0": [(-1, 0), (1, 0)]}
    lines |= {"right slope, 1": [(-1, -1), (1, 1)], "central difference, 0.5": [(-1, -0.5), (1, 0.5)]}
    said = "relu at 0. The central difference says 0.5. Any slope from 0 to 1 is right, and the verdict is *kink*."
    return _figure(_linear(lines), said)


def heat_map() -> str:
    """Both gradients of W2, where the slip `bias_averaged` of the tutorial was made for a weight instead."""
    names = tutorial()

    def last_row_lost(dE: Any, saved: Any) -> Any:
        di, dW1, db1, dW2, db2, dy = names["backward"](dE, saved)
        return di, dW1, db1, np.vstack([dW2[:-1], 0 * dW2[-1:]]), db2, dy

    maps = heatmaps(compared(network(last_row_lost), "W2"))
    said = "The gradient of W2 without its last row, as the report draws it. Wrong entries are framed."
    return f'<figure class="gv-figure">{fragment(maps)}<figcaption>{said}</figcaption></figure>' if maps else ""


FIGURES = {"error_against_step": error_against_step, "kink": kink, "heat_map": heat_map}


def _figure(picture: str, said: str) -> str:
    said = re.sub(r"\*(.*?)\*", r"<em>\1</em>", escape(said))
    return f'<figure class="gv-figure">{picture}<figcaption>{said}</figcaption></figure>'


def _logarithmic(lines: dict[str, Line], across: str, up: str) -> str:
    points = [(math.log10(x), math.log10(max(y, 1e-18))) for line in lines.values() for x, y in line]
    logs = {t: [(math.log10(x), math.log10(max(y, 1e-18))) for x, y in line] for t, line in lines.items()}
    low, high = (math.floor(min(p[1] for p in points)), math.ceil(max(p[1] for p in points)))
    left, right = (math.floor(min(p[0] for p in points)), math.ceil(max(p[0] for p in points)))
    ticks_x = [(k, f"1e{k}") for k in range(left, right + 1, 2)]
    ticks_y = [(k, f"1e{k}") for k in range(low, high + 1, max(1, (high - low) // 6))]
    return _plot(logs, (left, right), (low, high), ticks_x, ticks_y, across, up)


def _linear(lines: dict[str, Line]) -> str:
    ticks = [(k, f"{k:g}") for k in (-1, -0.5, 0, 0.5, 1)]
    return _plot(lines, (-1, 1), (-1, 1), ticks, ticks, "x", "")


def _plot(
    lines: dict[str, Line],
    span_x: tuple[float, float],
    span_y: tuple[float, float],
    ticks_x: Sequence[tuple[float, str]],
    ticks_y: Sequence[tuple[float, str]],
    across: str,
    up: str,
) -> str:
    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - span_x[0]) / (span_x[1] - span_x[0]) * (WIDTH - LEFT - 12)
        return right, TOP + (span_y[1] - y) / (span_y[1] - span_y[0]) * (HEIGHT - TOP - BOTTOM)

    base, parts = HEIGHT - BOTTOM, []
    for value, name in ticks_y:
        y = place(span_x[0], value)[1]
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - 12}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{name}</text>')
    for value, name in ticks_x:
        parts.append(f'<text x="{place(value, span_y[0])[0]:.1f}" y="{base + 16}">{name}</text>')
    for k, line in enumerate(lines.values()):
        d = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<path class="line l{k}" d="M{d}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}">{across}</text>')
    keys = "".join(f'<span class="l{k}"><i></i>{escape(name)}</span>' for k, name in enumerate(lines))
    title = escape(f"{up} against {across}: {', '.join(lines)}" if up else ", ".join(lines))
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
    return f'{svg}<p class="gv-keys">{keys}</p>'
