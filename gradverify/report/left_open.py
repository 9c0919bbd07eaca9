"""Why entries are unresolved, over all layers of a run: a line for each reason, with the layers that it hits most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from gradverify.core.nouns.ledger import NO_REASON

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
