"""The table of `gradverify check`: one row for each layer, and the line that sums them up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count

from gradverify.core import texts
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import Tally
from gradverify.report.numbers import columns, short
from gradverify.report.terminal import painter, unfounded

HEADER = ("layer", "cases", "entries", "worst/bound", "resolution", "time", "unresolved", "kinks", "verdict")


DROPPED = ("entries", "kinks", "time", "cases", "unresolved", "resolution")  # where there is no room, from the first on
_NAME = 24  # characters of a layer's name that are kept where there is no room


def table(reports: Sequence[Report], color: bool = False, width: int | None = None) -> str:
    """Layer, cases, entries compared, worst disagreement in units of its bound, resolution, time, verdict.

    Columns in which no row has anything to say (unresolved, kinks) are left out; so are others where a row would be
    longer than `width`. Then long names, and at last verdicts, are cut.
    """
    head, *rows = _fitting([HEADER, *(_row(*pair) for pair in zip(labels(reports), reports))], width)
    return "\n".join([painter("bold", color)(head), *(_colored(*pair, color) for pair in zip(rows, reports))])


def _fitting(rows: list[tuple[str, ...]], width: int | None) -> list[str]:
    """Rows as aligned text of at most so many columns."""
    lines = columns(rows)
    for name in DROPPED:
        if width is None or max(map(len, lines)) <= width:
            return lines
        k = rows[0].index(name)
        rows = [row[:k] + row[k + 1 :] for row in rows]
        lines = columns(rows)
    if width is not None and max(map(len, lines)) > width:
        lines = columns([(texts.line(row[0], _NAME), *row[1:]) for row in rows])
    return [texts.short(line, width or len(line)) for line in lines]


def verdict(report: Report) -> str:
    """ "ok", the gradients or properties that are wrong, the weights left out, or "nothing verified"."""
    if report.findings:
        wrong = dict.fromkeys(f"{f.property}{f' of {f.primal}' if f.primal else ''}" for f in report.findings)
        return f"WRONG {next(iter(wrong))}{f' +{len(wrong) - 1}' if len(wrong) > 1 else ''}"
    return unfounded(report, "nothing verified")


def summary(reports: Sequence[Report], seconds: float | None = None) -> str:
    """One line: how many layers are right, wrong, or were not verified, in what time.

    Parameters
    ----------
    seconds : on the clock, where several layers were checked at once
    """
    wrong = [report for report in reports if report.findings]
    open_ = [report for report in reports if not report.findings and not report.verified]
    right = len(reports) - len(wrong) - len(open_)
    said = [f"{right} of {texts.many(len(reports), 'layer')} ok"]
    if wrong:
        said.append(f"{texts.many(sum(len(report.findings) for report in wrong), 'finding')} in {len(wrong)}")
    if open_:
        said.append(f"{len(open_)} not verified")
    seeds = {report.seed for report in reports if report.seed is not None}
    seed = f", seed {seeds.pop()}" if len(seeds) == 1 else ""
    return f"{', '.join(said)} ({seconds or sum(report.seconds for report in reports):.3g} s{seed})"


def labels(reports: Sequence[Report]) -> list[str]:
    """A name for each report: that of the layer, and where several have one name, where each comes from."""
    many = Counter(report.layer for report in reports)
    said = [r.origin or r.layer if many[r.layer] > 1 else r.layer for r in reports]
    said = [o if o == r.layer or o.endswith(f":{r.layer}") else f"{o}:{r.layer}" for o, r in zip(said, reports)]
    seen = Counter(said)
    places = {name: count(1) for name in seen}
    return [name if seen[name] == 1 else f"{name}#{next(places[name])}" for name in said]


def _row(label: str, report: Report) -> tuple[str, ...]:
    tallies = list(report.tallies.values())
    compared = [tally for tally in tallies if sum(tally.verdicts.values())]
    return (
        label,
        str(report.cases),
        str(sum(tally.entries for tally in tallies)),
        short(max(tally.worst_ratio for tally in compared), 3) if compared else "-",
        short(_resolution(report, compared), 2) if compared else "-",
        f"{report.seconds:.2g}s" if report.seconds < 10 else f"{report.seconds:.0f}s",
        _unresolved(compared),
        str(sum(tally.verdicts["kink"] for tally in compared) or "-"),
        verdict(report),
    )


def _resolution(report: Report, compared: list[Tally]) -> float:
    """That of the gradient property; other properties look elsewhere, at other precisions."""
    gradient = report.tallies.get("gradient")
    return gradient.resolution if gradient in compared and gradient else max(t.resolution for t in compared)


def _unresolved(compared: list[Tally]) -> str:
    count = sum(tally.verdicts["unresolved"] for tally in compared)
    total = sum(sum(tally.verdicts.values()) for tally in compared)
    return f"{count / total:.1%}" if count else "-"


def _colored(row: str, report: Report, color: bool) -> str:
    style = "red" if report.findings else "green" if report.verified else "yellow"
    said = verdict(report)
    return row.removesuffix(said) + painter(style, color)(said) if row.endswith(said) else painter(style, color)(row)
