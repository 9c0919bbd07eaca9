"""The section of one layer: its findings, each property in figures, what was drawn, and which lines ran.

Bar charts of counts are lists, so that their text alternative is the chart itself.
"""

from __future__ import annotations

import linecache
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from gradverify.core.nouns import Finding
from gradverify.core.summarise.coverage import Coverage, regions
from gradverify.core.summarise.lines_ran import ROLES, Function, Ran
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import RATIOS, Tally
from gradverify.report.html.finding import article
from gradverify.report.html.markup import Markup, breakable, details, el, frame, join
from gradverify.report.html.overview import SAID, SIGNS, figures, reason, row_id
from gradverify.report.numbers import short
from gradverify.report.table import verdict
from gradverify.report.terminal import explained, not_verified, state

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def section(report: Report, files: Mapping[Finding, str], prefix: str, level: int = 2) -> Markup:
    """One layer; open if there is a finding.

    Parameters
    ----------
    prefix : start of the ids inside, and id of the section
    level : of its heading
    """
    kind = "wrong" if report.findings else "ok" if report.verified else "open"
    title = el(f"h{level}", report.layer, " ", el("span", f"{SIGNS[kind]} {verdict(report)}", cls=f"verdict {kind}"))
    drawn = f"{report.cases} cases, {sum(t.entries for t in report.tallies.values())} entries compared"
    seed = "" if report.seed is None else f", seed {report.seed}"
    return el(
        "details",
        el("summary", title),
        el("p", f"{drawn}{seed}, {report.seconds:.3g}\N{NO-BREAK SPACE}s", cls="dim"),
        None if report.origin is None else el("p", "Target: ", el("code", breakable(report.origin)), cls="dim"),
        _lines("Declared by the author", report.declared),
        _lines("Notes", report.remarks),
        _lines("Not verified", tuple(line.strip().removeprefix("not verified: ") for line in not_verified(report))),
        *(article(f, files.get(f), f"{prefix}-f{k}", level + 1) for k, f in enumerate(report.findings)),
        details("Properties in figures", _properties(report, prefix), open=not report.findings),
        _verified(report),
        _distributions(report),
        None if report.coverage is None or not report.coverage.cases else _coverage(report.coverage),
        None if report.lines is None else marked(report.lines),
        id=prefix,
        cls=f"layer {kind}",
        open=kind != "ok",
    )


def _lines(title: str, lines: tuple[str, ...]) -> Markup | None:
    return el("div", el("p", el("b", title)), el("ul", *(el("li", line) for line in lines))) if lines else None


def _properties(report: Report, prefix: str) -> Markup:
    """A row for each property, with the reason where it was skipped."""
    names = tuple(report.tallies)
    titles = ["property", "", *(name for name, _ in figures(Tally("")))]
    rows = []
    for name, tally in report.tallies.items():
        kind = state(report, name)
        cells: list[Markup] = [el("th", name, scope="row"), el("td", SIGNS[kind], cls=kind, aria_label=SAID[kind])]
        if tally.cases or kind == "wrong":
            cells += [el("td", value) for _, value in figures(tally)]
            why = explained(report, name) if kind == "explained" else reason(tally) if tally.cases else None
        else:
            why = None
            cells.append(el("td", el("div", reason(tally)), colspan=len(titles) - 2, cls="reason"))
        rows.append(el("tr", *cells, id=row_id(prefix, names, name)))
        if why:
            rows.append(el("tr", el("td"), el("td"), el("td", el("div", why), colspan=len(titles) - 2, cls="reason")))
    head = el("tr", *(el("th", title or "holds", scope="col") for title in titles))
    return frame(el("table", el("thead", head), el("tbody", *rows), cls="figures"), "Properties in figures")


def _verified(report: Report) -> Markup | None:
    """A row for each primal and output: what was compared, how finely, and what was left open."""
    shares = report.verified_by.verified
    if not shares:
        return None
    rows = [
        el(
            "tr",
            el("th", share.name, scope="row"),
            el("td", share.kind),
            el("td", str(share.entries)),
            el("td", "-" if share.resolution is None else short(share.resolution, 2)),
            el("td", ", ".join(f"{n} {why}".rstrip() for why, n in share.unresolved.items()) or "-"),
        )
        for share in shares
    ]
    head = el("tr", *(el("th", title, scope="col") for title in ("of", "", "entries", "resolution", "unresolved")))
    table = el("table", el("thead", head), el("tbody", *rows), cls="figures")
    return details("What was verified", frame(table, "What was verified"))


def _distributions(report: Report) -> Markup | None:
    """Error over bound, over all cases, for each property that compares gradients."""
    drawn = [_distribution(name, tally) for name, tally in report.tallies.items() if any(tally.histogram)]
    if not drawn:
        return None
    said = "Error of each entry in units of its bound, over all cases. Bars are logarithmic, their numbers are counts."
    return details("Distribution of error over bound", el("p", said, cls="dim"), *drawn)


def _distribution(name: str, tally: Tally) -> Markup:
    borders = [f"{border:g}" for border in RATIOS]
    names = [f"below {borders[0]}", *(f"{low} to {high}" for low, high in pairwise(borders)), f"{borders[-1]} and more"]
    powers = [round(math.log10(border)) for border in RATIOS]
    marks = ["", *(_power(p) if p % 3 == 0 else "" for p in powers)]
    tones = ["good", *("good" if p < 0 else "doubt" if p == 0 else "bad" for p in powers)]
    bars = [Bar(*each) for each in zip(names, tally.histogram, marks, tones)]
    within = sum(bar.number for bar in bars if bar.tone == "good")
    return ordered(f"{name}: {within} of {sum(tally.histogram)} entries within the bound", bars, borders=True)


def _power(p: int) -> str:
    return "1" if p == 0 else f"10{str(p).translate(_SUPERSCRIPT)}"


def _coverage(coverage: Coverage) -> Markup:
    """Which sizes, options, types and values the cases had."""
    parts = [
        *(named(f"size of {name}", sorted(counts.items(), key=_by_size)) for name, counts in coverage.sizes.items()),
        *(named(f"option {name}", counts.most_common()) for name, counts in coverage.options.items()),
        named("floating types", coverage.dtypes.most_common()),
    ]
    values = [ordered(f"values of {name}", _values(counts)) for name, counts in coverage.values.items()]
    return details(
        "What was drawn",
        el("p", f"{coverage.cases} cases. Bars are logarithmic, their numbers are counts.", cls="dim"),
        el("div", *parts, cls="grid"),
        join(*values),
    )


def _by_size(item: tuple[str, int]) -> tuple[int, list[int]]:
    """Sizes by number, groups of axes by their rank first, what is no size last."""
    parts = [] if item[0] == "none" else item[0].split("x")
    return (len(parts), [int(p) for p in parts]) if all(p.isdigit() for p in parts) else (99, [])


def _values(counts: list[int]) -> list[Bar]:
    names = regions()
    middle = len(names) // 2
    marks = {0: "−10⁴", middle - 6: "−1", middle: "0", middle + 6: "1", len(names) - 1: "10⁴"}
    return [Bar(name, count, marks.get(k, ""), "plain") for k, (name, count) in enumerate(zip(names, counts))]


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
