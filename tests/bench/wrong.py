"""How long an author waits for the report on a wrong layer: CPU seconds from the call to the report, all findings
shrunk and diagnosed.

    OPENBLAS_NUM_THREADS=1 python -m tests.bench.wrong [NUMBER ...] [--seed S] [--json FILE]

One line for each mutant: CPU seconds, forwards, cases, findings, and the largest minimal case; then the right layer
beside it, whose check says what a passing case costs. A failing case is counted twice: while cases are drawn, where
evidence is bought for it, and with the forwards that make findings small and read them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.check.progress import DRAWING, Progress
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate import forward
from gradverify.core.summarise.report import Report
from gradverify.mutants import shelf


@dataclass(frozen=True)
class Row:
    """One check: what it cost and what it found."""

    name: str
    seconds: float
    forwards: int
    drawing: int  # of the forwards, those before findings are made small
    cases: int
    findings: tuple[str, ...]
    minimal: int
    lines: int


class Forwards(Counter[str]):
    """Calls of forwards by the stage of a check; a stack of copies is one call."""

    stage = DRAWING

    def listen(self, event: Progress) -> None:
        """Hear of the stage, as progress is shown."""
        self.stage = event.stage


@contextmanager
def counted() -> Iterator[Forwards]:
    """The forwards that are called inside."""
    calls, original = Forwards(), evaluate.guarded

    def guarded(stage: str, *arguments: Any, **keywords: Any) -> Any:
        calls[calls.stage] += stage == "forward"
        return original(stage, *arguments, **keywords)

    places = (evaluate, forward)
    for place in places:
        place.guarded = guarded
    try:
        yield calls
    finally:
        for place in places:
            place.guarded = original


def measured(layer: Layer, seed: int = 0) -> tuple[Row, Report]:
    """One default check of a layer."""
    with counted() as calls:
        start = time.process_time()
        report = check_layer(layer, Settings(seed=seed), calls.listen)
        seconds = time.process_time() - start
    found = tuple(f"{f.property} {f.kind} {f.primal or ''}".strip() for f in report.findings)
    largest = max((f.case.size for f in report.findings), default=0)
    examined = sum(tally.cases for tally in report.tallies.values())
    lines = str(report).count("\n") + 1
    return Row(layer.name, seconds, calls.total(), calls[DRAWING], examined, found, largest, lines), report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    parser.add_argument("--right", action="store_true", help="check the right layer beside each, and compare forwards")
    given = parser.parse_args()
    rows, ratios = [], []
    check_layer(shelf()[0].right(), Settings())  # imports, and the constants of local modules, once
    for mutant in shelf():
        if given.numbers and mutant.number not in given.numbers:
            continue
        row, _ = measured(mutant.build(), given.seed)
        rows.append(row)
        line = (
            f"{mutant.number:4} {mutant.layer:<14} {row.seconds:7.2f} s {row.forwards:8} forwards {row.cases:5} cases"
        )
        line += f" {row.minimal:4} elements {row.lines:4} lines  {', '.join(row.findings) or 'NOT FOUND'}"
        if given.right:
            right, _ = measured(mutant.right(), given.seed)
            a_case, passing = np.array([row.drawing, row.forwards]) / row.cases, right.forwards / right.cases
            ratios.append([*a_case / passing, row.forwards / right.forwards])
            line += f"  | right: {right.seconds:.2f} s; a case {ratios[-1][0]:.1f} times its forwards while drawn,"
            line += f" {ratios[-1][1]:.1f} in all; the check {ratios[-1][2]:.1f}"
        print(line, flush=True)
    times = np.array([row.seconds for row in rows])
    found = sum(bool(row.findings) for row in rows)
    print(
        f"{found} of {len(rows)} found; CPU seconds: median {np.median(times):.2f}, "
        f"90th percentile {np.quantile(times, 0.9):.2f}, largest {times.max():.2f}, total {times.sum():.0f}"
    )
    for what, values in zip(("a case while drawn", "a case in all", "the check"), zip(*ratios)):
        print(f"forwards against the right layer, {what}: median {np.median(values):.1f}, largest {max(values):.1f}")
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump([row.__dict__ for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
