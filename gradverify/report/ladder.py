"""The error against the step as text: some steps side by side, or every one with the quotient itself.

A wrong gradient keeps its error at every step, truncation falls with the step, rounding noise rises.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from gradverify.core.nouns import Finding
from gradverify.report.numbers import columns, entry, short

Rungs = Sequence[tuple[float, float, float]]  # step, quotient - analytic value, noise
FEW = 7  # steps side by side


def brief(finding: Finding, width: int = 80) -> list[str]:
    """A few steps from the largest to the smallest, and what all of them show; empty where there are none."""
    rungs: Rungs = finding.facts.get("ladder") or ()
    if len(rungs) < 2:
        return []
    chosen = [rungs[k] for k in np.unique(np.linspace(0, len(rungs) - 1, FEW).round().astype(int))]
    rows = {
        "step": [h for h, _, _ in chosen],
        "error": [abs(e) for _, e, _ in chosen],
        "noise": [n for *_, n in chosen],
    }
    lines = columns([(name, *(short(value, 2) for value in values)) for name, values in rows.items()])
    return ["  error against step:", *(f"    {line}" for line in lines), *_shown(finding, width, "    ")]


def full(finding: Finding, width: int = 80) -> list[str]:
    """Every step with its difference quotient; empty where there are none."""
    rungs: Rungs = finding.facts.get("ladder") or ()
    compared = finding.shown.comparison
    if not rungs or compared is None:
        return []
    analytic = float(np.real(compared.analytic[compared.worst]))
    rows: list[tuple[str, ...]] = [("step", "numerical", "|analytic - numerical|", "noise")]
    rows += [(short(h, 2), short(analytic + e, 8), short(abs(e), 3), short(noise, 2)) for h, e, noise in rungs]
    place = entry(compared.primal, compared.worst, compared.labels)
    title = f"  error against step at {place}, analytic {short(analytic, 8)}:"
    return [title, *(f"    {line}" for line in columns(rows)), *_shown(finding, width, "  ")]


def _shown(finding: Finding, width: int, indent: str) -> list[str]:
    said = str(finding.facts.get("ladder_shows", ""))
    return textwrap.wrap(said, width, initial_indent=indent, subsequent_indent=indent)
