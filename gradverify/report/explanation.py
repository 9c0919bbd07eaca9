"""Everything known of one finding as text: every diagnosis with its evidence, and the error against the step."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradverify.report.numbers import entry, short
from gradverify.report.terminal import columns, painter
from gradverify.types import Diagnosis, Finding

if TYPE_CHECKING:
    from gradverify.diagnosis.steps import Steps


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


def ladder(found: Steps, labels: tuple[str, ...], color: bool = False, width: int = 80) -> str:
    """The error against the step, large steps first, and what it shows."""
    place = entry(found.primal, found.index, labels)
    rows: list[tuple[str, ...]] = [("step", "numerical", "|analytic - numerical|", "noise")]
    for h, n, e, noise in zip(found.step, found.numerical, found.error, found.noise):
        rows.append((short(h, 2), short(n, 8), short(e, 3), short(noise, 2)))
    title = f"error against step at {place}, analytic {short(found.analytic, 8)}:"
    says = textwrap.wrap(found.says, width, initial_indent="  ", subsequent_indent="  ")
    lines = [f"  {title}", *(f"    {line}" for line in columns(rows)), *(painter("bold", color)(s) for s in says)]
    return "\n".join(lines)
