"""Every diagnosis of a finding as text, with what was tried for it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from gradverify.report.numbers import short
from gradverify.report.terminal import painter
from gradverify.types import Diagnosis, Finding


def diagnoses(finding: Finding, color: bool = False, width: int = 80) -> str:
    """What it looks like, the best supported first, each with its class and what was tried."""
    if not finding.diagnoses:
        return "  looks like: nothing that is known here"
    lines = []
    for number, diagnosis in enumerate(finding.diagnoses, start=1):
        head = f"{number}. {diagnosis.bug_class} ({diagnosis.name}, {diagnosis.confidence:.2f}): {diagnosis.text}"
        wrapped = textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="     ")
        lines += [painter("yellow", color)(line) for line in wrapped]
        said = _evidence(diagnosis)
        if said:
            lines += textwrap.wrap(f"evidence: {said}", width, initial_indent="     ", subsequent_indent="     ")
    return "\n".join(lines)


def _evidence(diagnosis: Diagnosis) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in diagnosis.evidence.items())


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return short(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v!r}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_plain(v) for v in value) + ")"
    return str(value)
