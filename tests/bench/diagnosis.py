"""The class that a diagnosis names first, whether what it says holds on fresh cases, and how small cases become.

For every mutant that is caught: the class named first and among the first three; each sentence asked again of cases
that were not looked at (other sizes, other values); the elements of the minimal case; and the time from the first
failure to the minimal, diagnosed finding.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gradverify.core.check.search import Search
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import SOMETIMES, Evidence, signatures, variants
from gradverify.core.nouns import Diagnosis, Finding
from gradverify.core.summarise.report import Report
from gradverify.mutants import Mutant, shelf

SHOWN = 3  # diagnoses that a report shows
# sizes that no signature looks at: others, in another order
_FRESH = ((5, 7, 3, 2, 4, 6), (3, 4, 7, 5, 2, 6), (7, 3, 4, 6, 5, 2), (4, 6, 5, 2, 7, 3), (2, 5, 6, 3, 4, 7))
_FRESH_SMALL = ((2, 3, 3, 2, 2, 2), (3, 2, 2, 2, 3, 2), (3, 3, 2, 2, 2, 3))


@dataclass(frozen=True)
class Result:
    """One mutant: what is said of the finding that a report shows first, and what became of it."""

    mutant: Mutant
    finding: Finding | None
    said: tuple[Diagnosis, ...] = ()
    false: tuple[str, ...] = ()
    seconds: float = 0.0
    others: tuple[tuple[str, str], ...] = field(default=())

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(d.bug_class for d in self.said))

    @property
    def first(self) -> bool:
        return self.classes[:1] == (self.mutant.bug_class,)

    @property
    def three(self) -> bool:
        return self.mutant.bug_class in self.classes[:SHOWN]


class Timed(Search):
    """A search that notes how long each finding takes to become small and diagnosed."""

    def minimal(self, *arguments: object, **keywords: object) -> Finding:
        begun = time.perf_counter()
        try:
            return super().minimal(*arguments, **keywords)  # type: ignore[arg-type]
        finally:
            self.spent = [*getattr(self, "spent", []), time.perf_counter() - begun]


def checked(mutant: Mutant, examples: int, seed: int) -> Result:
    """Check a mutant, and try what is said on fresh cases."""
    layer = mutant.build()
    search = Timed(layer, Settings(examples=examples, seed=seed), lambda event: None)
    report: Report = search.run()
    if not report.findings:
        return Result(mutant, None)
    finding = report.findings[0]
    false = tuple(d.text for d in finding.diagnoses[:SHOWN] if not holds(layer, finding, d))
    rest = tuple((f"{f.property}/{f.kind}/{f.primal}", _class_of(f)) for f in report.findings[1:])
    return Result(mutant, finding, finding.diagnoses, false, max(getattr(search, "spent", [0.0])), rest)


def holds(layer: Layer, finding: Finding, diagnosis: Diagnosis) -> bool:
    """Whether the same sentence is found again where sizes, values and cotangents are others; numbers may differ."""
    if diagnosis.name == "facts":
        return True  # which are of the cases that they were measured on, and claim nothing beyond
    fresh = finding.but(case=finding.case.but(seed=finding.case.seed + 7919))
    within = next(part for part in (layer, *layer.parts) if set(part.primal_names) == set(finding.case.primals))
    with _fresh_sizes():
        again = signatures.get(diagnosis.name).fits(Evidence(within, fresh))
    return again is not None and _sentence(again) == _sentence(diagnosis)


@contextmanager
def _fresh_sizes() -> Iterator[None]:
    pools, small = variants._POOLS, variants._SMALL
    variants._POOLS, variants._SMALL = _FRESH, _FRESH_SMALL  # type: ignore[assignment]
    try:
        yield
    finally:
        variants._POOLS, variants._SMALL = pools, small


def _sentence(diagnosis: Diagnosis) -> tuple[str, str]:
    """Class and text without what is measured on one case: ratios, counts, bounds."""
    number = r"-?\d+(\.\d+)?(e[-+]?\d+)?"
    measured = (
        rf"(from|between) {number} (to|and) {number}",
        r"\d+ entries and \d+",
        r"all of \d+ cases",
        r"\([\d, ]+ of \d+\)",
        rf"about {number} on|at most {number}|to {number} of its",
        r"(?<!times )(?<![\d.])-?\d+(\.\d+|e[-+]?\d+)+",
    )
    return diagnosis.bug_class, re.sub("|".join(measured), "#", diagnosis.text.removesuffix(SOMETIMES))


def _class_of(finding: Finding) -> str:
    return finding.diagnoses[0].bug_class if finding.diagnoses else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", action="store_true", help="print what is said")
    parser.add_argument("numbers", type=int, nargs="*", help="mutants, default all")
    given = parser.parse_args(arguments)
    mutants = [m for m in shelf() if not given.numbers or m.number in given.numbers]
    results = []
    for mutant in mutants:
        results.append(checked(mutant, given.examples, given.seed))
        if given.texts:
            _print_texts(results[-1])
    print(_aligned([_row(r) for r in results]))
    print("\n".join(figures(results)))


def figures(results: Sequence[Result]) -> Iterator[str]:
    """Shares, sizes and times over the mutants that were caught."""
    caught = [r for r in results if r.finding is not None]
    for words, count in (("first", sum(r.first for r in caught)), ("first three", sum(r.three for r in caught))):
        yield f"right class {words}: {count} of {len(caught)} ({count / max(1, len(caught)):.1%})"
    sentences, false = sum(len(r.said[:SHOWN]) for r in caught), [t for r in caught for t in r.false]
    yield f"sentences that hold on fresh cases: {sentences - len(false)} of {sentences}"
    yield from (f"    not found again: {text}" for text in false)
    for words, values in (
        ("elements of the minimal case", [r.finding.case.size for r in caught if r.finding is not None]),
        ("seconds from the first failure to the report", [r.seconds for r in caught]),
    ):
        middle, high = np.percentile(values or [0], (50, 90))
        yield f"{words}: median {middle:.3g}, 90th percentile {high:.3g}, largest {max(values, default=0):.3g}"


def _row(r: Result) -> list[str]:
    mark = "-" if r.finding is None else "first" if r.first else "three" if r.three else "MISSED"
    what = "-" if r.finding is None else f"{r.finding.property}/{r.finding.kind}/{r.finding.primal}"
    size = "-" if r.finding is None else str(r.finding.case.size)
    return [str(r.mutant.number), r.mutant.bug_class, mark, " ".join(r.classes), what, size, f"{r.seconds:.2f}"]


def _print_texts(r: Result) -> None:
    print(r.mutant.number, r.mutant.bug_class, r.mutant.text, flush=True)
    for d in r.said:
        print(f"     {'? ' if d.text in r.false else ''}{d.fit.name:6} {d.bug_class}: {d.text}", flush=True)
    print("    ", r.others, flush=True)


def _aligned(rows: list[list[str]]) -> str:
    rows = [["mutant", "class", "named", "classes", "finding", "elements", "s"], *rows]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    main()
