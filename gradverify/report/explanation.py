"""Why: every diagnosis of a finding with what was tried for it, and what each verdict rests on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gradverify.core.judge import says
from gradverify.core.nouns import Comparison, Finding, Verdict
from gradverify.report.numbers import entry, short
from gradverify.report.terminal import painter

_WORDS = dict(zip(Verdict, ("agree", "at kinks", "unresolved", "disagree")))
_SHOWN = 4  # places that are named for each reason


def diagnoses(finding: Finding, color: bool = False, width: int = 80) -> str:
    """What it looks like, the best supported first, each with its class and what was tried."""
    if not finding.diagnoses:
        return "  looks like: nothing that is known here"
    lines = []
    for number, diagnosis in enumerate(finding.diagnoses, start=1):
        head = f"{number}. {diagnosis.bug_class} ({diagnosis.name}, {diagnosis.fit.name.lower()}): {diagnosis.text}"
        wrapped = textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="     ")
        lines += [painter("yellow", color)(line) for line in wrapped]
        said = ", ".join(f"{name} {_plain(value)}" for name, value in diagnosis.evidence.items())
        if said:
            lines += textwrap.wrap(f"evidence: {said}", width, initial_indent="     ", subsequent_indent="     ")
    return "\n".join(lines)


def verdicts(compared: Iterable[Comparison], width: int = 80) -> str:
    """For each primal how many entries have which verdict, and what those that are not plain rest on, and where."""
    lines: list[str] = []
    for comparison in compared:
        counts = np.bincount(comparison.verdicts.ravel().astype(int), minlength=len(Verdict))
        said = ", ".join(f"{counts[v]} {_WORDS[v]}" for v in Verdict if counts[v])
        lines.append(f"  {comparison.primal}: {said or 'no entries'}")
        for verdict, name in comparison.because():
            rule = comparison.rules.index(name)
            at = (comparison.verdicts == Verdict[verdict.upper()]) & (comparison.reasons == rule)
            places = [tuple(map(int, place)) for place in np.argwhere(at)]
            shown = ", ".join(entry(comparison.primal, place, comparison.labels) for place in places[:_SHOWN])
            more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
            text = f"{verdict}: {shown}{more}: {says(name)} ({name})"
            lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="      ")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return short(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v!r}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_plain(v) for v in value) + ")"
    return str(value)
