"""Numbers and matrices as text: four digits, aligned, wrong entries marked with a star.

Arrays of any rank are shown as matrices: a vector is one row, a higher rank the slice that holds
one chosen entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gradverify.core.nouns import Array, Case, Comparison, Finding, Verdict

T = TypeVar("T")
Paint = Callable[[str], str]
GAP = "   "


def short(value: Any, digits: int = 4) -> str:
    """A number in a few significant digits; complex ones as a+bj."""
    number = np.asarray(value).item()
    if isinstance(number, complex):
        return f"{number.real:.{digits}g}{number.imag:+.{digits}g}j"
    if isinstance(number, float):
        return f"{number:.{digits}g}"
    return str(number)


def apart(one: Any, other: Any, digits: int = 6) -> tuple[str, str]:
    """Two numbers in as many digits as tell them apart: an error of 1e-9 must not look like none."""
    told = next((k for k in range(digits, 17) if short(one, k) != short(other, k)), digits)
    return short(one, told), short(other, told)


def entry(primal: str, index: tuple[int, ...], labels: tuple[str, ...]) -> str:
    """One entry with the author's axis names: ``W[D=1, H=0]``."""
    if not index:
        return primal
    named = labels if len(labels) == len(index) else tuple(f"axis {k}" for k in range(len(index)))
    return f"{primal}[{', '.join(f'{label}={k}' for label, k in zip(named, index))}]"


def shape(array: Any) -> str:
    """ "2x3", or "scalar"."""
    return "x".join(map(str, np.shape(array))) or "scalar"


def shapes(case: Case) -> str:
    """ "x 2x3, W 3x1"."""
    return ", ".join(f"{name} {shape(array)}" for name, array in case.primals.items())


def message(finding: Finding) -> str:
    """What is wrong; where it is shown besides, without the entry."""
    return finding.message.partition(": at ")[0] if finding.comparison is not None else finding.message


@dataclass(frozen=True, slots=True)
class Window:
    """The rows and columns that are shown of an array: a matrix around one entry.

    Attributes
    ----------
    lead : index of the matrix in the leading axes
    rows, columns : what is shown of it
    shape : shape of the whole matrix
    """

    lead: tuple[int, ...]
    rows: range
    columns: range
    shape: tuple[int, int]

    def cells(self, array: Array, star: Array, unknown: Array, digits: int = 4) -> list[list[str]]:
        """Text of the cells: starred entries end in "*", unknown ones are "-", cut sides show "…"."""
        numbers, starred, hidden = (np.asarray(a)[self.lead].reshape(self.shape) for a in (array, star, unknown))

        def cell(r: int, c: int) -> str:
            return ("-" if hidden[r, c] else short(numbers[r, c], digits)) + ("*" if starred[r, c] else " ")

        lines = [_cut([cell(r, c) for c in self.columns], "… ", self.columns, self.shape[1]) for r in self.rows]
        return _cut(lines, ["… "] * len(lines[0]), self.rows, self.shape[0]) if lines else []


def _cut(items: list[T], sign: T, shown: range, size: int) -> list[T]:
    before, after = [sign] * (shown.start > 0), [sign] * (shown.stop < size)
    return [*before, *items, *after]


def window(shape: tuple[int, ...], around: tuple[int, ...], rows: int, columns: int) -> Window:
    """The matrix of at most `rows` by `columns` entries that holds the entry `around`; a vector is one row."""
    missing = max(2 - len(shape), 0)
    height, width = ((1,) * missing + shape)[-2:]
    row, column = ((0,) * missing + around)[-2:]
    lead = around[: max(len(shape) - 2, 0)]
    return Window(lead, _around(row, height, rows), _around(column, width, columns), (height, width))


def _around(index: int, size: int, most: int) -> range:
    if size <= most:
        return range(size)
    start = min(max(index - most // 2, 0), size - most)
    return range(start, start + most)


def parts(comparison: Comparison, *names: str) -> dict[str, Array]:
    """The two sides of a comparison by what they are called, and "difference" and "bound" where they are named."""
    sides = dict(zip(comparison.sides, (comparison.analytic, comparison.numerical)))
    known = {"difference": comparison.analytic - comparison.numerical, "bound": comparison.bound}
    return sides | {name: known[name] for name in names}


def blocks(comparison: Comparison, arrays: dict[str, Array], view: Window, paint: Paint | None = None) -> list[str]:
    """Titled matrices side by side, one line for each row; `paint` colours the starred cells."""
    unresolved = comparison.verdicts == Verdict.UNRESOLVED
    rendered = []
    for title, array in arrays.items():
        # entries that nobody looked at have no numerical value, which is not the layer's NaN
        unknown = unresolved & ~np.isfinite(array) & (title != comparison.sides[0])
        star = comparison.wrong & (title == comparison.sides[0])
        rendered.append(_block(title, view.cells(array, star, unknown, _digits(title))))
    title, *rows = [GAP.join(pieces).rstrip() for pieces in zip(*rendered)]
    return [title, *(_painted(row, paint) for row in rows)]


def _digits(title: str) -> int:
    return 2 if title == "bound" else 4


def _block(title: str, cells: list[list[str]]) -> list[str]:
    width = max((len(cell) for row in cells for cell in row), default=0)
    rows = [" ".join(cell.rjust(width) for cell in row) for row in cells]
    total = max([len(title), *map(len, rows)])
    return [title.ljust(total), *(row.ljust(total) for row in rows)]


def _painted(line: str, paint: Paint | None) -> str:
    if paint is None:
        return line
    return " ".join(paint(word) if word.endswith("*") else word for word in line.split(" "))


def fitting(comparison: Comparison, arrays: dict[str, Array], width: int, paint: Paint | None = None) -> list[str]:
    """Side by side, around the worst entry, the largest window of at most 6 by 6 entries that fits in `width`.

    Columns count for more than bounds, which are dropped first.
    """
    shape = np.shape(comparison.analytic)
    gradients = {title: array for title, array in arrays.items() if title != "bound"}
    for columns, chosen in [(6, arrays), *((most, gradients) for most in range(6, 0, -1))]:
        lines = blocks(comparison, chosen, window(shape, comparison.worst, 6, columns))
        if max(map(len, lines)) <= width:
            break
    return [lines[0], *(_painted(line, paint) for line in lines[1:])]


def matrices(comparison: Comparison, arrays: dict[str, Array], width: int, paint: Paint | None = None) -> list[str]:
    """Every entry: matrices side by side where they fit in `width`, else one entry on each line."""
    shape = np.shape(comparison.analytic)
    lines: list[str] = []
    for lead in np.ndindex(*shape[:-2]):
        whole = window(shape, (*lead, *(0,) * min(len(shape), 2)), sys.maxsize, sys.maxsize)
        name = f"{comparison.primal}[{', '.join(map(str, lead))}]:" if lead else ""
        lines += [*([name] if name else []), *blocks(comparison, arrays, whole, paint)]
    return lines if max(map(len, lines), default=0) <= width else _listing(comparison, arrays, paint)


def _listing(comparison: Comparison, arrays: dict[str, Array], paint: Paint | None) -> list[str]:
    rows = [["", *(f"{title} " for title in arrays)]]
    for index in np.ndindex(*np.shape(comparison.analytic)):
        stars = {comparison.sides[0]: "*"} if comparison.wrong[index] else {}
        cells = [short(array[index], _digits(title)) + stars.get(title, " ") for title, array in arrays.items()]
        rows.append([f"[{', '.join(map(str, index))}]", *cells])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return [_painted(line, paint) for line in lines]


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as aligned text: numbers to the right, words to the left; columns with nothing but "-" are dropped."""
    kept = [k for k in range(len(rows[0])) if k == 0 or any(row[k] != "-" for row in rows[1:])]
    widths = {k: max(len(row[k]) for row in rows) for k in kept}
    words = {k for k in kept if rows[0][k] in ("layer", "property", "verdict", "verified")}
    return [
        "  ".join(row[k].ljust(widths[k]) if k in words else row[k].rjust(widths[k]) for k in kept).rstrip()
        for row in rows
    ]
