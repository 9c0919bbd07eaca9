"""Heat maps of analytic, numerical and difference: inline SVG, wrong entries framed, values on focus and hover."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradverify.core.judge import says
from gradverify.core.nouns import Array, Comparison, Verdict
from gradverify.report.html.markup import Markup, details, el, join, table
from gradverify.report.numbers import Window, entry, parts, short, window

MOST = 16  # rows and columns that are drawn
LEVELS = 5  # shades on either side of zero
_WORDY = 5  # columns up to which the cells hold numbers
_FITTING = 8  # characters that fit in a cell with a number
_MARGIN = 22


def heatmaps(comparison: Comparison) -> Markup | None:
    """Three maps of the matrix that holds the worst entry, and the same as a table; None for an empty gradient."""
    if comparison.wrong.size == 0:
        return None
    view = window(np.shape(comparison.analytic), comparison.worst, MOST, MOST)
    arrays = parts(comparison, "difference")
    own = max(_largest(arrays[side], view) for side in comparison.sides)
    scales = {**dict.fromkeys(comparison.sides, own), "difference": _largest(arrays["difference"], view)}
    maps = [_map(comparison, title, array, scales[title], view) for title, array in arrays.items()]
    return el(
        "div",
        el("div", *maps, cls="maps"),
        el("p", "Point at a cell, or move with Tab and the arrow keys, to read its values.", cls="readout dim"),
        el("p", _said(comparison, view), cls="dim"),
        details("The same as a table", _listing(comparison, view)),
        cls="heat",
    )


def _said(comparison: Comparison, view: Window) -> str:
    shape, labels = np.shape(comparison.analytic), _labels(comparison)
    said = [f"{comparison.primal} has the shape {'x'.join(map(str, shape)) or 'scalar'}"]
    if len(shape) > 1:
        said.append(f"rows are {labels[-2]}, columns {labels[-1]}")
    elif shape:
        said.append(f"columns are {labels[-1]}")
    if view.lead:
        said.append(f"shown is {', '.join(f'{name}={k}' for name, k in zip(labels, view.lead))}")
    for word, shown, size in (("rows", view.rows, view.shape[0]), ("columns", view.columns, view.shape[1])):
        if len(shown) < size:
            said.append(f"{word} {shown.start} to {shown.stop - 1} of {size}")
    if not np.isfinite(comparison.analytic).all() and len(view.columns) > _WORDY:
        said.append("n marks what is no number")
    return f"{'; '.join(said)}. Wrong entries are framed and have a corner: {_wrong(comparison)}."


def _wrong(comparison: Comparison) -> str:
    return f"{int(comparison.wrong.sum())} of {comparison.wrong.size}"


def _labels(comparison: Comparison) -> tuple[str, ...]:
    rank = np.ndim(comparison.analytic)
    return comparison.labels if len(comparison.labels) == rank else tuple(f"axis {k}" for k in range(rank))


def _largest(array: Array, view: Window) -> float:
    """Largest finite magnitude of what is shown."""
    size = np.abs(np.asarray(array)[view.lead].reshape(view.shape))
    size = size[view.rows.start : view.rows.stop, view.columns.start : view.columns.stop]
    return float(np.max(size, initial=0.0, where=np.isfinite(size)))


def _indices(comparison: Comparison, view: Window) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Row, column and index of every entry that is shown."""
    rank = np.ndim(comparison.analytic)
    for r in view.rows:
        for c in view.columns:
            yield r, c, (*view.lead, *(r, c)[max(0, 2 - rank) :])


def _map(comparison: Comparison, title: str, array: Array, scale: float, view: Window) -> Markup:
    wordy = len(view.columns) <= _WORDY
    width, height = (64, 26) if wordy else (17, 17)
    total = (_MARGIN + width * len(view.columns) + 2, _MARGIN + height * len(view.rows) + 2)
    cells = [
        _cell(comparison, array, index, scale, (c - view.columns.start, r - view.rows.start), (width, height), wordy)
        for r, c, index in _indices(comparison, view)
    ]
    name = f"{title} of {comparison.primal}, at most {short(scale, 3)} in size, {_wrong(comparison)} entries wrong"
    picture = el(
        "svg",
        *_ticks(view, width, height),
        el("g", *cells, transform=f"translate({_MARGIN} {_MARGIN})"),
        viewBox=f"0 0 {total[0]} {total[1]}",
        width=total[0],
        height=total[1],
        role="group",
        aria_label=name,
    )
    return el("figure", el("figcaption", title), picture, _legend(scale))


def _ticks(view: Window, width: int, height: int) -> list[Markup]:
    """Indices at the first and last row and column, or at all where there is room."""
    columns = [c for c in view.columns if width > 30 or c in (view.columns[0], view.columns[-1])]
    rows = [r for r in view.rows if height > 24 or r in (view.rows[0], view.rows[-1])]
    across = [_tick(c, _MARGIN + (c - view.columns.start + 0.5) * width, _MARGIN - 7) for c in columns]
    down = [_tick(r, _MARGIN / 2, _MARGIN + (r - view.rows.start + 0.5) * height + 4) for r in rows]
    return across + down


def _tick(k: int, x: float, y: float) -> Markup:
    return el("text", k, x=f"{x:g}", y=f"{y:g}", cls="tick", aria_hidden="true")


def _cell(
    comparison: Comparison,
    array: Array,
    index: tuple[int, ...],
    scale: float,
    place: tuple[int, int],
    size: tuple[int, int],
    wordy: bool,
) -> Markup:
    (x, y), (width, height) = (place[0] * size[0], place[1] * size[1]), size
    value, wrong = array[index], bool(comparison.wrong[index])
    hidden = _unknown(comparison, index) and not np.isfinite(value)
    word = "–" if hidden else _word(value, wordy)
    inset = 1 if wrong else 0  # room for the frame
    return el(
        "g",
        el("title", described(comparison, index)),
        el("rect", x=x + inset, y=y + inset, width=width - 2 * inset, height=height - 2 * inset),
        el("path", d=f"M{x + width - 8} {y + 1}h7v7z") if wrong else None,
        el("text", word, x=f"{x + width / 2:g}", y=f"{y + height / 2 + 4:g}") if word else None,
        cls=f"cell {_level(value, scale)}{' wrong' if wrong else ''}{'' if wordy else ' small'}",
        role="img",
        tabindex=0 if index == comparison.worst else -1,
        data_at=f"{place[1]} {place[0]}",
    )


def _word(value: Array, wordy: bool) -> str:
    """What stands in a cell: the number where there is room, else only a sign for what is none."""
    if not wordy:
        return "" if np.isfinite(value) else "n" if np.isnan(value) else "∞"
    text = short(value, 3)
    return text if len(text) <= _FITTING else short(value, 2)[: _FITTING + 1]


def _unknown(comparison: Comparison, index: tuple[int, ...]) -> bool:
    return bool(comparison.verdicts[index] == Verdict.UNRESOLVED)


def _level(value: Array, scale: float) -> str:
    """Class of a shade: p1 to p5 above zero, n1 to n5 below, z at zero, x where there is no number."""
    if not np.isfinite(value):
        return "x"
    real = abs(value) if np.iscomplexobj(value) else float(value)
    step = int(np.ceil(LEVELS * min(1.0, abs(real) / scale))) if scale > 0 and real else 0
    return "z" if step == 0 else f"{'p' if real > 0 else 'n'}{step}"


def _legend(scale: float) -> Markup:
    shades = [f"n{k}" for k in range(LEVELS, 0, -1)] + ["z"] + [f"p{k}" for k in range(1, LEVELS + 1)]
    top = short(scale, 3)
    return el("div", el("span", f"−{top}"), *(el("i", cls=shade) for shade in shades), el("span", top), cls="scale",
              aria_hidden="true")  # fmt: skip


def described(comparison: Comparison, index: tuple[int, ...]) -> str:
    """One entry in words: both gradients, the bound and the verdict."""
    a, n, bound = (np.asarray(part)[index] for part in (comparison.analytic, comparison.numerical, comparison.bound))
    verdict, why = _verdict(comparison, index), says(comparison.reason(index))
    verdict += f": {why}" if why else ""
    name, (one, other) = entry(comparison.primal, index, comparison.labels), comparison.sides
    if _unknown(comparison, index) and not np.isfinite(n):
        return f"{name}: {one} {short(a)}, {verdict if why else 'not compared'}"
    with np.errstate(invalid="ignore"):
        difference = short(a - n)
    numerical = f"{short(n, 6)} ± {short(bound, 2)}"
    return f"{name}: {one} {short(a, 6)}, {other} {numerical}, difference {difference}, {verdict}"


def _verdict(comparison: Comparison, index: tuple[int, ...]) -> str:
    return Verdict(int(comparison.verdicts[index])).name.lower()


def _listing(comparison: Comparison, view: Window) -> Markup:
    rows = []
    for _, _, index in _indices(comparison, view):
        a, n, bound = (np.asarray(p)[index] for p in (comparison.analytic, comparison.numerical, comparison.bound))
        with np.errstate(invalid="ignore"):
            numbers = (short(a, 6), short(n, 6), short(a - n), short(bound, 2), short(comparison.ratio[index], 3))
        why = comparison.reason(index)
        verdict = _verdict(comparison, index) + (f" ({why})" if why else "")
        rows.append((entry(comparison.primal, index, comparison.labels), *numbers, verdict))
    head = ("entry", *comparison.sides, "difference", "bound", "error/bound", "verdict")
    return join(table(head, rows, f"Gradient of {comparison.primal}"))
