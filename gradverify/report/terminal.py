"""Reports and findings as text, readable at 80 columns without colour."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from gradverify.core.nouns import WORST_SEEN, Comparison, Finding
from gradverify.core.nouns.ledger import NO_REASON, NotVerified, Share, constants, declaration
from gradverify.core.properties import properties
from gradverify.core.summarise.report import DIFFERENTIATING, Report
from gradverify.core.summarise.tally import Tally
from gradverify.core.texts import many
from gradverify.report import code
from gradverify.report.numbers import (
    Paint,
    apart,
    columns,
    entry,
    fitting,
    matrices,
    message,
    parts,
    shape,
    shapes,
    short,
)

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
        lines += _wrapped(_verified(report), 2, None)
        lines += _wrapped(_why_open(report), 2, width)
        lines += _wrapped([f"skipped {name}: {reason}" for name, reason in _skipped(report)], 2, width)
        lines += _wrapped(list(report.lines.said()) if report.lines is not None else [], 2, width)
    lines += not_verified(report, width)
    lines += _wrapped([f"declared: {line}" for line in report.declared], 2, width)
    lines += _wrapped([f"note: {line}" for line in report.remarks], 2, width)
    return "\n".join([*lines, *render_findings(report, color, width, replays)])


def raised(report: Report, replays: Mapping[Finding, str] | None = None) -> str:
    """A Report as the text of an exception: the first line is the first finding, and the headline comes last."""
    return "\n".join([*render_findings(report, replays=replays), "", _headline(report)]).lstrip("\n")


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
    """What is told behind a finding, in brief: what is wrong, and what it looks like if that was not said yet."""
    behind = [finding for finding in report.findings if finding.follows == lead.fingerprint]
    whole = list(dict.fromkeys(f.case.layer for f in behind if f.case.layer != lead.case.layer))
    lines = _wrapped([f"{name} fails as well, which this explains" for name in whole], 4, width)
    said = {d.name for d in lead.diagnoses[:1]}
    for finding in behind:
        if finding.case.layer in whole:
            continue
        new = [d.text for d in finding.diagnoses[:1] if d.name not in said and d.name != "facts"]
        said.update(d.name for d in finding.diagnoses[:1])
        lines += _wrapped([": ".join([message(finding), *new])], 4, width)
        lines += [f"    {line}" for line in _replayed(replays.get(finding))]
    return ["", "  as well:", *lines] if lines else []


def held(report: Report, width: int = 80) -> list[str]:
    """What was checked beside the findings: what holds, what fails along with them, what was not tried, and why."""
    held: list[str] = []
    rest: dict[str, list[str]] = {}
    wrong = {finding.primal for finding in report.findings if finding.primal}
    for name, tally in report.tallies.items():
        kind = state(report, name)
        right = [primal for primal, count in tally.primals.items() if not count]
        part = bool(tally.failing or (right and wrong - set(tally.primals)))  # not compared once it was known
        if kind == "ok" and not part:
            held.append(name)
        elif part and right:
            held.append(f"{name} of {', '.join(right)}")
        if kind == "explained":
            rest.setdefault(explained(report, name), []).append(name)
        elif kind == "open":
            rest.setdefault("nothing could be decided", []).append(name)
        elif kind == "skipped":
            every = "" if report.examples == 1 else " on every case"
            untried = f"skipped{every} ({tally.reason})" if tally.skipped else "not tried"
            rest.setdefault(untried, []).append(name)
    said = ({"held": held} if held else {}) | dict(sorted(rest.items(), key=lambda item: item[0] == "not tried"))
    return _wrapped([f"{words}: {'; '.join(names)}" for words, names in said.items()], 0, width)


def state(report: Report, name: str) -> str:
    """ "wrong", "explained" (by a finding of another property), "ok", "open" (nothing decided) or "skipped"."""
    if any(finding.property == name for finding in report.findings):
        return "wrong"
    tally = report.tallies.get(name)
    if tally is None or not tally.cases:
        return "skipped"
    left_out = report.findings and name in DIFFERENTIATING and not tally.shares  # as it was known to be wrong already
    if tally.failing or tally.stopped == tally.cases or left_out:
        return "explained"
    return "ok" if tally.verified else "open"


def explained(report: Report, name: str) -> str:
    """Which findings explain that a property fails, or could not be tried, as well."""
    implied = properties.get(name).implied_by if name in properties else ()
    found = list(dict.fromkeys(finding.property for finding in report.findings))
    causes = [prop for prop in found if prop in implied] or found[:1]
    return f"explained by {' and '.join(causes)}" if causes else "explained by another finding"


def not_verified(report: Report, width: int | None = None) -> list[str]:
    """What a report leaves out; what has one reason stands in one line, the argument that declares it in the next."""
    alike: dict[str, list[NotVerified]] = {}
    for item in report.verified_by.missing:
        alike.setdefault(item.reason, []).append(item)
    lines = []
    for reason, items in alike.items():
        names, argument = [item.name for item in items], declaration(items)
        lines += _wrapped([f"not verified: {', '.join(names)}: {reason}"], 2 if width else 0, width)
        fixed = constants(items)
        lines += [f"    to declare them: {argument}"] if argument is not None else []
        lines += [f"    if they need none: {fixed}"] if fixed is not None else []
    return lines


def render_finding(finding: Finding, color: bool = False, width: int = 80, replay: str | None = None) -> str:
    """One finding: what is wrong and where, the two gradients, what it looks like, how to see it again."""
    from gradverify.report import ladder

    # the case that is saved, where another one shows more of the fault
    least = [f"smallest case that fails: {shapes(finding.case)}"] if finding.telling else []
    sections = [
        [*_opening(finding, color, width), *_diagnosed(finding, color, width)],
        _compared(finding.shown, color, width),
        ladder.brief(finding, width),
        _pasted(finding.shown, replay),
        [*_wrapped(least, 2, width), *_worst_seen(finding, width), *_replayed(replay)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def undecided(report: Report) -> str:
    """Why nothing was verified, in one line."""
    gradient = report.tallies.get("gradient")
    if report.decided and report.blocking:
        return "\n".join(not_verified(report))
    if report.notes:
        return report.notes[0]
    if gradient is not None and gradient.reason is not None and not gradient.cases:
        return gradient.reason
    if any(tally.cases for tally in report.tallies.values()):
        return "no entry of any gradient could be decided"
    return "; ".join(f"{name}: {reason}" for name, reason in _skipped(report)) or "no property applies"


def side_by_side(comparison: Comparison, color: bool = False, width: int = 80) -> str:
    """Every entry of the analytic and numerical gradients, their difference and its bound."""
    arrays = parts(comparison, "difference", "bound")
    title = f"{comparison.primal} {shape(comparison.analytic)}"
    marked = "" if not comparison.wrong.any() else "   (* disagrees)"
    lines = matrices(comparison, arrays, width - 2, painter("red", color) if color else None)
    return "\n".join([f"{title}{marked}", *(f"  {line}" for line in lines)])


def _headline(report: Report) -> str:
    found = len(report.findings)
    verdict = many(found, "finding") if found else unfounded(report, "nothing was verified")
    entries = sum(tally.entries for tally in report.tallies.values())
    seed = "" if report.seed is None else f", seed {report.seed}"
    unseen = "" if report.lines is None or found or not report.verified else report.lines.headline
    verdict += f", but {unseen}" if unseen else ""
    return f"{report.layer}: {verdict} ({report.cases} cases, {entries} entries compared{seed}, {report.seconds:.3g} s)"


def unfounded(report: Report, nothing: str) -> str:
    """The verdict where there is no finding: "ok", the weights that were left out, or that nothing was verified."""
    if report.decided and report.blocking:
        return f"not verified: {', '.join(item.name for item in report.blocking)}"
    return "ok" if report.verified else nothing


def _verified(report: Report) -> list[str]:
    """A row for each primal and output: entries compared, the error that would have been noticed, how many are open."""
    rows: list[tuple[str, ...]] = [("verified", "entries", "resolution", "unresolved")]
    for share in report.verified_by.verified:
        resolution = "-" if share.resolution is None else short(share.resolution, 2)
        rows.append((_named(share), str(share.entries), resolution, str(sum(share.unresolved.values()) or "-")))
    return columns(rows) if len(rows) > 1 else []


def _why_open(report: Report) -> list[str]:
    """A line for each reason why entries are unresolved, with how many of what."""
    found: dict[str, list[str]] = {}
    for share in report.verified_by.verified:
        for why, count in share.unresolved.items():
            found.setdefault(why, []).append(f"{_named(share)} {count}")
    return [f"{headed(why)}: {', '.join(named)}" for why, named in found.items()]


def _named(share: Share) -> str:
    return share.name if share.kind == "primal" else f"{share.name} (output)"


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


def _skipped(report: Report) -> list[tuple[str, str]]:
    return [(t.property, t.reason or "not tried") for t in report.tallies.values() if t.skipped and not t.cases]


def _opening(finding: Finding, color: bool, width: int) -> list[str]:
    said = f"{finding.case.layer}: {message(finding.shown)}"
    sentence = textwrap.wrap(said, width, subsequent_indent="  ", break_long_words=False)
    title = [painter("bold", color)(painter("red", color)(line)) for line in sentence]
    return [*title, f"  property {finding.property}, {finding.kind}"]


def _compared(finding: Finding, color: bool, width: int) -> list[str]:
    """The entry that disagrees most, and both gradients around it unless that entry is all there is."""
    comparison = finding.comparison
    if comparison is None or comparison.wrong.size == 0:
        return []
    where, wrong = comparison.worst, comparison.wrong
    a, n = apart(comparison.analytic[where], comparison.numerical[where])
    (one, other), most = comparison.sides, max(map(len, comparison.sides))
    lines = [
        f"  at {entry(comparison.primal, where, comparison.labels)}",
        f"    {one:<{most}}  {a}",
        f"    {other:<{most}}  {n} ± {short(comparison.bound[where], 2)}",
    ]
    if wrong.size == 1:
        return lines
    paint = painter("red", color) if color else None
    shown = fitting(comparison, parts(comparison, "bound"), width - 4, paint)
    said = f"  {int(wrong.sum())} of {wrong.size} disagree (*), {_bounds(comparison)}:"
    return [*lines, said, *(f"    {line}" for line in shown)]


def _bounds(comparison: Comparison) -> str:
    known = comparison.bound[np.isfinite(comparison.bound)]
    low, high = (short(f(known), 2) if known.size else "inf" for f in (np.min, np.max))
    return f"bounds {low} to {high}" if low != high else f"bound {high}"


def _diagnosed(finding: Finding, color: bool, width: int) -> list[str]:
    best = finding.diagnoses[:3]
    said = [d.text if d.name == "facts" else f"looks like: {d.text}" for d in best]
    return [painter("yellow", color)(line) for line in _wrapped(said, 2, width)]


def _pasted(finding: Finding, replay: str | None) -> list[str]:
    """The arrays as code at the left edge, so that it can be pasted as it stands."""
    case = finding.case
    if case.size > PASTED:
        return [f"  on {shapes(case)}{'; the arrays are in the case file' if replay else ''}"]
    return ["  on this case:", code.python(case), *code.calls(finding.comparison)]


def _worst_seen(finding: Finding, width: int) -> list[str]:
    if finding.worst is None:
        return []
    seen, most = shapes(finding.worst), finding.facts.get(WORST_SEEN, finding.severity)
    if seen == shapes(finding.case) and not most > finding.severity:
        return []
    told = f", {short(most, 3)} times its bound" if math.isfinite(most) else ""
    return _wrapped([f"worst seen on {seen}{told}"], 2, width)


def _replayed(replay: str | None) -> list[str]:
    return [f"  replay it: {replay}"] if replay else []


def _wrapped(lines: list[str], indent: int, width: int | None) -> list[str]:
    if width is None:
        return [" " * indent + line for line in lines]
    hang = " " * (indent + 2)
    return [
        piece
        for line in lines
        for piece in textwrap.wrap(line, width, initial_indent=" " * indent, subsequent_indent=hang)
    ]


NAMED = 3  # layers of one reason that are named; how many more there are is said


def why_open(shares: Iterable[tuple[str, str, int, Mapping[str, int]]]) -> list[str]:
    """ "unresolved: the forward rounds its input: offset 34.2%, and 3 more layers", the commonest reason first.

    Parameters
    ----------
    shares : of every primal: the layer, "primal" or "output", entries compared, and those left open by the reason;
        outputs are left out, since what they add is told of the same entries
    """
    total: Counter[str] = Counter()
    found: dict[str, Counter[str]] = {}
    for layer, kind, entries, unresolved in shares:
        if kind == "primal":
            total[layer] += entries
            for why, count in unresolved.items():
                found.setdefault(why, Counter())[layer] += count
    by_size = sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))
    return [_line(why, {layer: n / total[layer] for layer, n in layers.items()}) for why, layers in by_size]


def _line(why: str, parts: Mapping[str, float]) -> str:
    ordered = sorted(parts.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{layer} {part:.1%}" if part >= 5e-4 else f"{layer} <0.1%" for layer, part in ordered[:NAMED]]
    more = [f"{len(ordered) - NAMED} more"] if len(ordered) > NAMED else []
    return f"{headed(why)}: {', '.join(named + more)}"


def headed(why: str) -> str:
    """How a line begins that says what is unresolved for a reason, if anybody gave one."""
    return "unresolved" if why == NO_REASON else f"unresolved: {why}"
