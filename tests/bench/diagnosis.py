"""The class that a diagnosis names first, and among the first three, for every mutant that is caught."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gradverify.checking import Settings, check_layer
from gradverify.diagnosis import diagnose
from gradverify.mutants import Mutant, shelf
from gradverify.types import Finding


@dataclass(frozen=True)
class Result:
    """One mutant: classes named for the finding that a report shows first, and the time it took to name them."""

    mutant: Mutant
    finding: Finding | None
    classes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    seconds: float = 0.0
    others: tuple[tuple[str, str], ...] = ()

    @property
    def first(self) -> bool:
        return self.classes[:1] == (self.mutant.bug_class,)

    @property
    def three(self) -> bool:
        return self.mutant.bug_class in self.classes[:3]


def diagnosed(mutant: Mutant, examples: int, seed: int) -> Result:
    """Check a mutant, and diagnose what is found."""
    layer = mutant.build()
    report = check_layer(layer, Settings(examples=examples, seed=seed))
    if not report.findings:
        return Result(mutant, None)
    begun = time.perf_counter()
    all_of_them = [(finding, diagnose(layer, finding)) for finding in report.findings]
    seconds = (time.perf_counter() - begun) / len(all_of_them)
    finding, named = all_of_them[0]
    classes = tuple(dict.fromkeys(d.bug_class for d in named))
    rest = tuple((f"{f.property}/{f.kind}/{f.primal}", ds[0].bug_class if ds else "-") for f, ds in all_of_them[1:])
    return Result(mutant, finding, classes, tuple(d.text for d in named), seconds, rest)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and the two figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", action="store_true", help="print what is said")
    parser.add_argument("numbers", type=int, nargs="*", help="mutants, default all")
    given = parser.parse_args(arguments)
    mutants = [m for m in shelf() if not given.numbers or m.number in given.numbers]
    results = [diagnosed(m, given.examples, given.seed) for m in mutants]
    rows = []
    for r in results:
        mark = "-" if r.finding is None else "first" if r.first else "three" if r.three else "MISSED"
        what = "-" if r.finding is None else f"{r.finding.property}/{r.finding.kind}/{r.finding.primal}"
        rows.append([str(r.mutant.number), r.mutant.bug_class, mark, " ".join(r.classes), what, f"{r.seconds:.2f}"])
        if given.texts:
            print(r.mutant.number, r.mutant.bug_class, r.mutant.text)
            for text in r.texts:
                print("    ", text)
            print("    ", r.others)
    print(_aligned(rows))
    caught = [r for r in results if r.finding is not None]
    for words, count in (("first", sum(r.first for r in caught)), ("first three", sum(r.three for r in caught))):
        print(f"right class {words}: {count} of {len(caught)} ({count / max(1, len(caught)):.1%})")
    print(f"slowest: {max((r.seconds for r in caught), default=0):.2f} s for one finding")


def _aligned(rows: list[list[str]]) -> str:
    rows = [["mutant", "class", "named", "classes", "finding", "s"], *rows]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    main()
