"""Reports and findings as text, readable at 80 columns without colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import numpy as np

from gradverify.report import code
from gradverify.report.numbers import Paint, apart, entry, fitting, matrices, parts, short
from gradverify.types import WORST_SEEN, Case, Comparison, Finding, Report, Tally

FULL = 5  # findings of one layer that are printed in full
PASTED = 400  # elements of a Case up to which its arrays are printed as code
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def painter(style: str, color: bool) -> Paint:
    """A function that wraps text in an ANSI style, or leaves it alone."""
    return (lambda text: f"\x1b[{_STYLES[style]}m{text}\x1b[0m") if color else (lambda text: text)


def render(report: Report, color: bool = False, width: int = 80, replays: Mapping[Finding, str] | None = None) -> str:
    """A whole Report: every finding and what holds beside it, or all that was tried, skipped and declared.

    Parameters
    ----------
    replays : for a finding, the command that replays it, where it is known
    """
    lines = [painter("bold", color)(_headline(report))]
    if not report.findings:
        lines += _wrapped(_tallies(report), 2, None)
        lines += _wrapped([f"skipped {name}: {reason}" for name, reason in _skipped(report)], 2, width)
    lines += _wrapped([f"declared: {line}" for line in report.declared], 2, width)
    lines += _wrapped([f"note: {line}" for line in report.notes], 2, width)
    return "\n".join([*lines, *render_findings(report, color, width, replays)])


def render_findings(
    report: Report, color: bool = False, width: int = 80, replays: Mapping[Finding, str] | None = None
) -> list[str]:
    """The findings of a report, an empty line before each; after the most severe ones, only what is wrong."""
    known = replays or {}
    lines = []
    leads = [finding for finding in report.findings if finding.follows is None]
    for k, finding in enumerate(leads):
        if k < FULL:
            lines += ["", render_finding(finding, color, width, known.get(finding))]
        else:
            lines += ["", *_opening(finding, color, width), *_replayed(known.get(finding))]
        lines += _following(report, finding, known, width)
    besides = held(report, width) if report.findings else []
    return [*lines, *([""] if besides else []), *besides]


def _following(report: Report, lead: Finding, replays: Mapping[Finding, str], width: int) -> list[str]:
    """What is told behind a finding, in brief: what is wrong, and what it looks like if that is something else."""
    lines: list[str] = []
    for finding in report.findings:
        if finding.follows == lead.fingerprint:
            said = [d.text for d in finding.diagnoses[:1] if d not in lead.diagnoses[:1]]
            lines += _wrapped([": ".join([_message(finding), *said])], 4, width)
            lines += [f"    {line}" for line in _replayed(replays.get(finding))]
    return ["", "  as well:", *lines] if lines else []


def held(report: Report, width: int = 80) -> list[str]:
    """What was checked beside the findings: what holds, what fails along with them, what was not tried."""
    found = {finding.property for finding in report.findings}
    held: list[str] = []
    along: list[str] = []
    open_: list[str] = []
    skipped: list[str] = []
    for name, tally in report.tallies.items():
        right = [primal for primal, wrong in tally.primals.items() if not wrong]
        if tally.failing or name in found:
            held += [f"{name} of {', '.join(right)}"] if right else []
            along += [name] if name not in found else []
        else:
            (held if tally.verified else open_ if tally.cases else skipped).append(name)
    said = {
        "held": held,
        "fails as well, which the finding above explains": along,
        "nothing could be decided": open_,
        "not tried": skipped,
    }
    return _wrapped([f"{words}: {'; '.join(names)}" for words, names in said.items() if names], 0, width)


def render_finding(finding: Finding, color: bool = False, width: int = 80, replay: str | None = None) -> str:
    """One finding: what is wrong and where, the two gradients, what it looks like, how to see it again."""
    from gradverify.report import ladder

    sections = [
        [*_opening(finding, color, width), *_diagnosed(finding, color, width)],
        _compared(finding, color, width),
        ladder.brief(finding, width),
        _smallest(finding.case, replay),
        [*_worst_seen(finding, width), *_replayed(replay)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def undecided(report: Report) -> str:
    """Why nothing was verified, in one line."""
    gradient = report.tallies.get("gradient")
    if report.notes:
        return report.notes[0]
    if gradient is not None and gradient.reason is not None and not gradient.cases:
        return gradient.reason
    if any(tally.cases for tally in report.tallies.values()):
        return "no entry of any gradient could be decided"
    return "; ".join(f"{name}: {reason}" for name, reason in _skipped(report)) or "no property applies"


def side_by_side(comparison: Comparison, color: bool = False, width: int = 80) -> str:
    """Every entry of the analytic and numerical gradients, their difference and its bound."""
    arrays = parts(comparison, "analytic", "numerical", "difference", "bound")
    title = f"{comparison.primal} {_shape(np.shape(comparison.analytic))}"
    marked = "" if not comparison.wrong.any() else "   (* disagrees)"
    lines = matrices(comparison, arrays, width - 2, painter("red", color) if color else None)
    return "\n".join([f"{title}{marked}", *(f"  {line}" for line in lines)])


def _headline(report: Report) -> str:
    found = len(report.findings)
    verdict = f"{found} finding{'s' * (found != 1)}" if found else "ok" if report.verified else "nothing was verified"
    entries = sum(tally.entries for tally in report.tallies.values())
    seed = "" if report.seed is None else f", seed {report.seed}"
    return f"{report.layer}: {verdict} ({report.cases} cases, {entries} entries compared{seed}, {report.seconds:.3g} s)"


def _tallies(report: Report) -> list[str]:
    tried = [tally for tally in report.tallies.values() if tally.cases]
    header = ("property", "cases", "entries", "worst/bound", "resolution", "unresolved", "kinks")
    rows: list[tuple[str, ...]] = [header]
    rows += [(t.property, str(t.cases), str(t.entries), *measured(t)) for t in tried]
    return columns(rows) if tried else []


def measured(tally: Tally) -> tuple[str, str, str, str]:
    """Worst ratio, resolution, share unresolved and number of kinks; "-" where nothing was compared."""
    compared = sum(tally.verdicts.values())
    if not compared:
        return ("-",) * 4
    unresolved = tally.verdicts["unresolved"] / compared
    return (
        short(tally.worst_ratio, 3),
        short(tally.resolution, 2),
        f"{unresolved:.1%}" if unresolved else "-",
        str(tally.verdicts["kink"] or "-"),
    )


def columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as aligned text: numbers to the right, words to the left; columns with nothing but "-" are dropped."""
    kept = [k for k in range(len(rows[0])) if k == 0 or any(row[k] != "-" for row in rows[1:])]
    widths = {k: max(len(row[k]) for row in rows) for k in kept}
    words = {k for k in kept if rows[0][k] in ("layer", "property", "verdict")}
    return [
        "  ".join(row[k].ljust(widths[k]) if k in words else row[k].rjust(widths[k]) for k in kept).rstrip()
        for row in rows
    ]


def _skipped(report: Report) -> list[tuple[str, str]]:
    return [(t.property, t.reason or "not tried") for t in report.tallies.values() if t.skipped and not t.cases]


def _opening(finding: Finding, color: bool, width: int) -> list[str]:
    said = f"{finding.case.layer}: {_message(finding)}"
    sentence = textwrap.wrap(said, width, subsequent_indent="  ", break_long_words=False)
    title = [painter("bold", color)(painter("red", color)(line)) for line in sentence]
    return [*title, f"  property {finding.property}, {finding.kind}"]


def _message(finding: Finding) -> str:
    return finding.message.partition(": at ")[0] if finding.comparison is not None else finding.message


def _compared(finding: Finding, color: bool, width: int) -> list[str]:
    """The entry that disagrees most, and both gradients around it unless that entry is all there is."""
    comparison = finding.comparison
    if comparison is None or comparison.wrong.size == 0:
        return []
    where, wrong = comparison.worst, comparison.wrong
    a, n = apart(comparison.analytic[where], comparison.numerical[where])
    lines = [
        f"  at {entry(comparison.primal, where, comparison.labels)}",
        f"    analytic   {a}",
        f"    numerical  {n} ± {short(comparison.bound[where], 2)}",
    ]
    if wrong.size == 1:
        return lines
    paint = painter("red", color) if color else None
    shown = fitting(comparison, parts(comparison, "analytic", "numerical", "bound"), width - 4, paint)
    said = f"  {int(wrong.sum())} of {wrong.size} disagree (*), {_bounds(comparison)}:"
    return [*lines, said, *(f"    {line}" for line in shown)]


def _bounds(comparison: Comparison) -> str:
    known = comparison.bound[np.isfinite(comparison.bound)]
    low, high = (short(f(known), 2) if known.size else "inf" for f in (np.min, np.max))
    return f"bounds {low} to {high}" if low != high else f"bound {high}"


def _diagnosed(finding: Finding, color: bool, width: int) -> list[str]:
    best = sorted(finding.diagnoses, key=lambda d: -d.confidence)[:3]
    said = [d.text if d.name == "facts" else f"looks like: {d.text}" for d in best]
    return [painter("yellow", color)(line) for line in _wrapped(said, 2, width)]


def _smallest(case: Case, replay: str | None) -> list[str]:
    """The arrays as code at the left edge, so that it can be pasted as it stands."""
    if case.size > PASTED:
        return [f"  on {_shapes(case)}{'; the arrays are in the case file' if replay else ''}"]
    return ["  on this case:", code.python(case)]


def _worst_seen(finding: Finding, width: int) -> list[str]:
    if finding.worst is None:
        return []
    shapes, most = _shapes(finding.worst), finding.facts.get(WORST_SEEN, finding.severity)
    if shapes == _shapes(finding.case) and not most > finding.severity:
        return []
    told = f", {short(most, 3)} times its bound" if math.isfinite(most) else ""
    return _wrapped([f"worst seen on {shapes}{told}"], 2, width)


def _replayed(replay: str | None) -> list[str]:
    return [f"  replay it: {replay}"] if replay else []


def _shapes(case: Case) -> str:
    return ", ".join(f"{name} {_shape(np.shape(a))}" for name, a in case.primals.items())


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _wrapped(lines: list[str], indent: int, width: int | None) -> list[str]:
    if width is None:
        return [" " * indent + line for line in lines]
    hang = " " * (indent + 2)
    return [
        piece
        for line in lines
        for piece in textwrap.wrap(line, width, initial_indent=" " * indent, subsequent_indent=hang)
    ]
