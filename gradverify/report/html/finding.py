"""The article of one finding: what is wrong, the pictures, the case as code, and how to see it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradverify.core.nouns import Comparison, Diagnosis, Finding
from gradverify.corpus import replay_command
from gradverify.report import code
from gradverify.report.html.heatmap import heatmaps
from gradverify.report.html.ladder import ladder_plot
from gradverify.report.html.markup import Markup, details, el, join, pairs
from gradverify.report.jsonreport import plain
from gradverify.report.numbers import apart, entry, message, shape, shapes, short
from gradverify.report.terminal import PASTED

LIKELY = 3  # diagnoses that are shown
_LONG = 300  # characters of a fact
_HIDDEN = {"ladder", "ladder_shows"}  # facts that have a picture of their own


def article(finding: Finding, file: str | None, prefix: str, level: int = 3) -> Markup:
    """One finding.

    Parameters
    ----------
    file : path of its Case file, if one was written
    prefix : id of the article
    level : of its heading
    """
    compared = finding.shown.comparison
    return el(
        "article",
        el(f"h{level}", message(finding.shown), id=f"{prefix}-h"),
        el("p", _kind(finding), cls="dim"),
        _diagnoses(finding),
        None if compared is None else _worst(compared),
        _pictures(finding, level + 1),
        _facts(finding.facts),
        _case(finding, file, level + 1),
        id=prefix,
        cls="finding",
        aria_labelledby=f"{prefix}-h",
    )


def _kind(finding: Finding) -> str:
    said = f"property {finding.property}, {finding.kind}"
    return f"{said}, {short(finding.severity, 3)} times its bound" if np.isfinite(finding.severity) else said


def _diagnoses(finding: Finding) -> Markup | None:
    best = finding.diagnoses[:LIKELY]
    if not best:
        return None
    return el("ul", *(el("li", *_diagnosis(d)) for d in best), cls="diagnoses", aria_label="Diagnosis")


def _diagnosis(diagnosis: Diagnosis) -> list[Markup | None]:
    evidence = pairs([(_words(key), _fact(value)) for key, value in diagnosis.evidence.items()])
    return [
        el("p", el("b", "Looks like: "), diagnosis.text),
        None if evidence is None else details(f"Evidence for {_words(diagnosis.name)}", evidence),
    ]


def _worst(comparison: Comparison) -> Markup | None:
    if comparison.wrong.size == 0:
        return None
    where = comparison.worst
    analytic, numerical = apart(comparison.analytic[where], comparison.numerical[where])
    items: list[tuple[Any, Any]] = [
        ("worst entry", entry(comparison.primal, where, comparison.labels)),
        (comparison.sides[0], analytic),
        (comparison.sides[1], f"{numerical} ± {short(comparison.bound[where], 2)}"),
        ("disagree", f"{int(comparison.wrong.sum())} of {comparison.wrong.size}"),
    ]
    return pairs(items)


def _pictures(finding: Finding, level: int) -> Markup | None:
    """Both gradients, of a larger case where the smallest shows too little, and the error against the step."""
    drawn = finding.shown.comparison
    maps = None if drawn is None else heatmaps(drawn)
    if maps is not None and finding.telling is not None:
        maps = join(el(f"h{level}", "A larger case, which shows more"), maps)
    shown = [part for part in (maps, _ladder(finding)) if part is not None]
    return el("div", *(el("div", part) for part in shown), cls="pictures") if shown else None


def _ladder(finding: Finding) -> Markup | None:
    rungs, compared = finding.facts.get("ladder"), finding.shown.comparison
    if not rungs or compared is None or compared.wrong.size == 0:
        return None
    gap = compared.numerical[compared.worst] - compared.analytic[compared.worst]
    shows = str(finding.facts.get("ladder_shows", ""))
    return None if np.iscomplexobj(gap) else ladder_plot(rungs, float(gap), shows)


def _facts(facts: Mapping[str, Any]) -> Markup | None:
    known = pairs([(_words(key), _fact(value)) for key, value in facts.items() if _telling(key, value)])
    return None if known is None else details("Facts", known)


def _telling(key: str, value: Any) -> bool:
    return key not in _HIDDEN and value is not None and not (isinstance(value, (Mapping, tuple, list)) and not value)


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _fact(value: Any) -> str:
    value = plain(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = short(value) if isinstance(value, float) else str(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]} …"


def _case(finding: Finding, file: str | None, level: int) -> Markup:
    case, least = finding.shown.case, shapes(finding.case)
    items = [(name, f"{shape(a)} {np.asarray(a).dtype.name}") for name, a in case.primals.items()]
    items += [(f"option {name}", repr(value)) for name, value in case.options.items()]
    items += [("seed", str(case.seed)), *([("step", short(case.step))] if case.step is not None else [])]
    pasted = [code.python(case), *code.calls(finding.shown.comparison)]
    worst = None if finding.worst is None else shapes(finding.worst)
    large = f"The arrays are too large to show{'; they are in the case file' if file else ''}."
    return el(
        "div",
        el(f"h{level}", "The smallest case found" if finding.telling is None else "A small case that shows it"),
        pairs(items),
        _code("\n".join(pasted), "the case as code") if case.size <= PASTED else el("p", large),
        None if finding.telling is None else el("p", f"The smallest case that fails: {least}."),
        el("p", f"Worst seen on {worst}.") if worst and worst != least else None,
        None if file is None else el("p", "Replay it:"),
        None if file is None else _code(replay_command(file, case), "the replay command"),
    )


def _code(text: str, label: str) -> Markup:
    """Code that can be selected; the script adds a button that copies it."""
    return el("div", el("pre", el("code", text), tabindex=0, role="region", aria_label=label), cls="code")
