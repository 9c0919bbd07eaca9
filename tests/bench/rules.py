"""What each rule of the court is needed for: how often it was asked, how often it excused, and how often it alone did.

    python -m tests.bench.rules [--cases N] [--seed S] [--only right|wrong] [--without RULE ...]

Every rule is asked about every dispute, whatever the others say; `--without` counts what only the rules named excuse.
Right layers are the catalogue and the awkward ones of the false-alarm bench; wrong ones are the mutants, where an
excuse may be one too many.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.registry import layers
from gradverify.core.draw import cases, each
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import time_limit
from gradverify.core.judge import sweep, table
from gradverify.core.judge.dispute import Dispute
from gradverify.core.nouns import DISAGREES, Array, Case
from gradverify.core.properties import Property, properties
from gradverify.mutants import shelf
from tests.bench.false_alarms import shelf as awkward

TOGETHER = "without them"


@dataclass
class Count:
    """Of one rule over one set of layers: entries, and CPU seconds."""

    asked: int = 0
    excused: int = 0
    alone: int = 0
    seconds: float = 0.0
    layers: Counter[str] = field(default_factory=Counter)


@contextmanager
def counted(counts: dict[str, Count], name: list[str], without: Sequence[str] = ()) -> Iterator[None]:
    """Inside, every rule is asked about every dispute, and what it says is counted; and what only `without` excuse."""
    original = table.tried

    def tried(dispute: Dispute) -> tuple[Array, Array]:
        everyone = []
        for rule in table.ordered():
            count = counts.setdefault(rule.name, Count())
            excused = np.zeros(dispute.size, bool)
            if rule.applies(dispute):
                start = time.process_time()
                count.asked += dispute.size
                with suppress(LayerFailure):
                    excused = table.asked(rule, dispute.only(np.arange(dispute.size))).verdicts != DISAGREES
                count.seconds += time.process_time() - start
            everyone.append((count, excused))
        total = sum(excused.astype(int) for _, excused in everyone)
        kept = sum(excused.astype(int) for count, excused in everyone if all(count is not counts[n] for n in without))
        lost = int(((total > 0) & (kept == 0)).sum()) if without else 0
        if lost:
            counts.setdefault(TOGETHER, Count()).layers[name[0]] += lost
        for count, excused in everyone:
            count.excused += int(excused.sum())
            alone = int((excused & (total == 1)).sum())
            count.alone += alone
            if alone:
                count.layers[name[0]] += alone
        return original(dispute)

    sweep.tried = tried
    try:
        yield
    finally:
        sweep.tried = original


def examined(layer: Layer, prop: Property, count: int, seed: int) -> None:
    def body(case: Case) -> None:
        try:
            with time_limit(60), np.errstate(all="ignore"):
                prop.holds(layer, case)
        except LayerFailure:
            pass

    each(cases(layer, prop.regime), count, seed, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("right", "wrong"))
    parser.add_argument("--without", nargs="*", default=[])
    given = parser.parse_args()
    right = [layers.get(name) for name in layers.names()] + awkward()
    wrong = [mutant.build() for mutant in shelf()]
    for title, chosen in (("right", right), ("wrong", wrong)):
        if given.only not in (None, title):
            continue
        counts: dict[str, Count] = {}
        name = [""]
        with counted(counts, name, given.without):
            for layer in chosen:
                name[0] = layer.name
                number = given.cases if title == "right" else max(2, given.cases // 10)
                for prop in (properties.get("gradient"), properties.get("special")):
                    if prop.applies(layer) is None:
                        examined(layer, prop, number, given.seed)
        print(f"\n{title} layers: {len(chosen)}")
        print(f"{'rule':<16}{'asked':>8}{'excused':>9}{'alone':>7}{'ms':>8}  alone on")
        for rule in table.ordered():
            c = counts.get(rule.name, Count())
            most = ", ".join(f"{layer} {n}" for layer, n in c.layers.most_common(4))
            cost = 1e3 * c.seconds / max(1, c.asked)
            print(f"{rule.name:<16}{c.asked:>8}{c.excused:>9}{c.alone:>7}{cost:>8.2f}  {most}")
        if given.without:
            lost = counts.get(TOGETHER, Count()).layers
            names, most = ", ".join(given.without), dict(lost.most_common(6))
            print(f"without {names}: {lost.total()} entries more disagree {most}")


if __name__ == "__main__":
    main()
