"""Is this entry wrong? Measurements decide most; what is in dispute goes before the rules.

`sweep` compares a gradient entry by entry, `measure` climbs from single steps to the ladder, `verdicts` gives the
verdict of one measurement, `dispute` holds what disagrees, `table` asks the `rules` about it, one file each.
"""

from __future__ import annotations

from gradverify.core.judge import (
    rules,  # noqa: F401  so that they are registered
    table,
)
from gradverify.core.judge.verdicts import PLAIN


def says(reason: str) -> str:
    """The reason of a verdict in one clause, by the name that a Comparison gives; that name if nobody knows it."""
    if reason in PLAIN or not reason:
        return PLAIN.get(reason, "")
    return table.rules.get(reason).says if reason in table.rules else reason
