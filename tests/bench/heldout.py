"""What a diagnosis says of layers that no signature was written for: `tests/heldout`.

For every layer: whether it is found, whether the right class is named first or among the first three, and the CPU
seconds to the report. `--texts` prints what is said beside what a good reading says, to be read by a person.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradverify.core.check.search import Search
from gradverify.core.check.settings import Settings
from gradverify.core.diagnose import diagnose
from gradverify.core.nouns import Finding
from tests.heldout import Wrong, shelf

SHOWN = 3


@dataclass(frozen=True)
class Reading:
    """One wrong layer and what is said of its first finding."""

    wrong: Wrong
    finding: Finding | None
    others: tuple[str, ...]
    seconds: float
    diagnosing: float

    @property
    def named(self) -> tuple[str, ...]:
        """Classes in the order in which they are named."""
        return tuple(dict.fromkeys(d.bug_class for d in self.finding.diagnoses)) if self.finding else ()

    @property
    def mark(self) -> str:
        if self.finding is None:
            return "NOT FOUND"
        shown = self.named[:SHOWN]
        if set(shown[:1]) & set(self.wrong.classes):
            return "first"
        return "three" if set(shown) & set(self.wrong.classes) else "-"


def read(wrong: Wrong, examples: int, seed: int) -> Reading:
    """Check one layer, and diagnose its first finding once more to time that alone."""
    layer = wrong.build()
    begun = time.process_time()
    report = Search(layer, Settings(examples=examples, seed=seed), lambda event: None).run()
    seconds = time.process_time() - begun
    if not report.findings:
        return Reading(wrong, None, (), seconds, 0.0)
    first = report.findings[0]
    begun = time.process_time()
    diagnose(layer, first)
    diagnosing = time.process_time() - begun
    others = tuple(f"{f.property}/{f.kind}/{f.primal}" for f in report.findings[1:])
    return Reading(wrong, first, others, seconds, diagnosing)


def figures(readings: Sequence[Reading]) -> Iterator[str]:
    """Shares and seconds over all layers."""
    found = [r for r in readings if r.finding is not None]
    yield f"found: {len(found)} of {len(readings)}"
    for words, marks in (("first", ("first",)), ("among the first three", ("first", "three"))):
        count = sum(r.mark in marks for r in found)
        yield f"right class {words}: {count} of {len(found)} ({count / max(1, len(found)):.1%})"
    for words, values in (
        ("CPU seconds to the report", [r.seconds for r in found]),
        ("CPU seconds of diagnosing one finding", [r.diagnosing for r in found]),
    ):
        ordered = sorted(values) or [0.0]
        median, high = ordered[len(ordered) // 2], ordered[len(ordered) * 9 // 10]
        yield f"{words}: median {median:.2f}, 90th percentile {high:.2f}, largest {ordered[-1]:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each layer and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", action="store_true", help="print what is said")
    parser.add_argument("names", nargs="*", help="parts of names of layers, default all")
    given = parser.parse_args(arguments)
    chosen = [w for w in shelf() if not given.names or any(n in w.name for n in given.names)]
    readings = []
    for wrong in chosen:
        reading = read(wrong, given.examples, given.seed)
        readings.append(reading)
        what = (
            ""
            if reading.finding is None
            else f"{reading.finding.property}/{reading.finding.kind}/{reading.finding.primal}"
        )
        print(
            f"{wrong.name:34}{'|'.join(wrong.classes):22}{reading.mark:10}{' '.join(reading.named):32}{what:26}"
            f"{reading.seconds:6.1f}{reading.diagnosing:6.2f}",
            flush=True,
        )
        if given.texts and reading.finding is not None:
            print(f"      right: {wrong.sentence}")
            for d in reading.finding.diagnoses[:SHOWN]:
                print(f"      {d.fit.name:6} {d.name}: {d.text}")
            print(f"      others: {', '.join(reading.others)}", flush=True)
    print("\n".join(figures(readings)))


if __name__ == "__main__":
    main()
