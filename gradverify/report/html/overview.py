"""The overview: layers by properties, one sign for each pair, and what is behind it."""

from __future__ import annotations

from collections.abc import Sequence

from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import Tally
from gradverify.report.html.markup import Markup, breakable, el, frame
from gradverify.report.numbers import short
from gradverify.report.table import labels, verdict
from gradverify.report.terminal import explained, measured, state

SIGNS = {"wrong": "✗", "explained": "(✗)", "ok": "✓", "open": "?", "skipped": "–"}
SAID = {
    "wrong": "does not hold",
    "explained": "does not hold, as another finding explains",
    "ok": "holds",
    "open": "nothing could be decided",
    "skipped": "not tried",
}


def overview(reports: Sequence[Report], prefix: str) -> Markup | None:
    """A table of all layers and properties; each sign leads to its row in the section of the layer."""
    if not reports:
        return None
    names = tuple(dict.fromkeys(name for report in reports for name in report.tallies))
    head = [el("th", "layer", scope="col"), *(el("th", el("span", n), scope="col", cls="tall") for n in names)]
    rows = [_row(label, r, names, f"{prefix}{k}") for k, (label, r) in enumerate(zip(labels(reports), reports))]
    table = el(
        "table",
        el("thead", el("tr", *head, el("th", "verdict", scope="col", cls="word"))),
        el("tbody", *rows),
        cls="overview",
    )
    used = {state(report, name) for report in reports for name in names}
    legend = [el("span", el("b", SIGNS[s], cls=s, aria_hidden="true"), f" {SAID[s]}") for s in SIGNS if s in used]
    return el(
        "section",
        el("h2", "Layers and properties", id=f"{prefix}overview"),
        frame(table, "Layers and properties"),
        el("p", *legend, cls="legend"),
        aria_labelledby=f"{prefix}overview",
    )


def row_id(prefix: str, names: Sequence[str], name: str) -> str:
    """Id of a property's row in the section of a layer."""
    return f"{prefix}-p{list(names).index(name)}"


def figures(tally: Tally) -> tuple[tuple[str, str], ...]:
    """What was measured of a property, each with its name; "-" where there is nothing to say."""
    worst, resolution, unresolved, kinks = measured(tally)
    return (
        ("cases", str(tally.cases or "-")),
        ("entries", str(tally.entries or "-")),
        ("worst/bound", worst),
        ("resolution", resolution),
        ("unresolved", unresolved),
        ("kinks", kinks),
        ("seconds", short(tally.seconds, 2)),
    )


def reason(tally: Tally) -> str | None:
    """Why a property was left out, of all cases or of some."""
    if tally.cases == 0:
        return tally.reason or "not tried"
    return f"left out of {tally.skipped} more cases: {tally.reason}" if tally.skipped else None


def _row(label: str, report: Report, names: tuple[str, ...], prefix: str) -> Markup:
    bad = "wrong" if report.findings else "ok" if report.verified else "open"
    return el(
        "tr",
        el("th", el("a", breakable(label), href=f"#{prefix}"), scope="row"),
        *(_cell(report, name, prefix) for name in names),
        el("td", verdict(report), cls=f"word {bad}"),
    )


def _cell(report: Report, name: str, prefix: str) -> Markup:
    if name not in report.tallies:
        return el("td")
    kind = state(report, name)
    said = f"{explained(report, name)}." if kind == "explained" else _described(report.tallies[name], kind)
    tip = el("span", el("b", f"{report.layer}, {name}: {SAID[kind]}. "), said, cls="tip")
    sign = el("span", SIGNS[kind], aria_hidden="true")
    return el("td", el("a", sign, tip, href=f"#{row_id(prefix, tuple(report.tallies), name)}", cls=kind))


def _described(tally: Tally, kind: str) -> str:
    if kind == "skipped":
        return f"{reason(tally)}."
    said = ", ".join(f"{name} {value}" for name, value in figures(tally) if value != "-")
    return f"{said}{f'; {reason(tally)}' if reason(tally) else ''}."
