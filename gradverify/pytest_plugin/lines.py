"""Which lines of the layers' code ran in a run of pytest: the checks of one layer together."""

from __future__ import annotations

from collections.abc import Iterable

from gradverify.core.summarise.lines_ran import below
from gradverify.core.texts import many
from gradverify.pytest_plugin.shared import Record, merged, united


def said(records: Iterable[Record]) -> list[str]:
    """A line for each layer of whose code something never ran; how much of all ran, where all of it did."""
    ran = united(records)
    known = [each for each in ran.values() if each.percent is not None]
    lines = [f"{name}: {line}" for name, each in ran.items() if not each.complete for line in each.said()]
    if known and not lines:
        lines.append(f"coverage: every line and branch of {many(len(known), 'layer')} ran")
    return lines


def too_low(records: Iterable[Record], least: float) -> list[str]:
    """A line for each layer of which less ran than a share that is asked for, in percent."""
    return below(united(merged(records)), least)
