"""Runs of mutants: through gradverify until the first finding, and through the usual checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

from gradverify.core.check.progress import Progress
from gradverify.core.check.search import Search
from gradverify.core.check.settings import Settings
from gradverify.core.declare.layer import Layer
from gradverify.core.summarise.report import Report
from gradverify.mutants import Mutant, baseline, generic, shelf


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one mutant.

    Attributes
    ----------
    number, layer, bug_class, text : of the mutant
    caught : whether a default check has a finding
    property : by which property; None if it escaped
    cases : cases drawn until then, over all properties
    seconds : wall time until then
    usual, gradcheck_slow, gradcheck_fast : whether the usual check and torch's catch it; None where not run
    """

    number: int
    layer: str
    bug_class: str
    text: str
    caught: bool
    property: str | None
    cases: int
    seconds: float
    usual: bool | None = None
    gradcheck_slow: bool | None = None
    gradcheck_fast: bool | None = None

    def row(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "number": self.number,
            "layer": self.layer,
            "class": self.bug_class,
            "text": self.text,
            "caught": self.caught,
            "property": self.property,
            "cases": self.cases,
            "seconds": round(self.seconds, 4),
            "usual_check": self.usual,
            "gradcheck_slow": self.gradcheck_slow,
            "gradcheck_fast": self.gradcheck_fast,
        }


class _Found(BaseException):
    """Ends a check at its first finding; no Exception, so that nothing on the way holds it up."""


def first_finding(layer: Layer, settings: Settings) -> tuple[str | None, int, float]:
    """The property that has the first finding (None if there is none), the cases drawn, and the seconds."""

    def listen(event: Progress) -> None:
        if event.findings:
            raise _Found

    search = Search(layer, settings, listen)
    start = time.perf_counter()
    with suppress(_Found):
        search.run()
    seconds = time.perf_counter() - start
    return next((name for name, _, _ in search.found), None), search.cases, seconds


def chosen(mutants: Iterable[Mutant], numbers: Iterable[int] = (), classes: Iterable[str] = ()) -> tuple[Mutant, ...]:
    """The mutants of those numbers and classes; all of them if none are named."""
    numbers, classes = set(numbers), {name.upper() for name in classes}
    return tuple(m for m in mutants if (not numbers or m.number in numbers) and (not classes or m.bug_class in classes))


def trial(mutant: Mutant, seed: int = 0, usual: bool = True) -> Trial:
    """One mutant through a default check and, if `usual`, through the usual checks."""
    layer = mutant.build()
    name, cases, seconds = first_finding(layer, Settings(seed=seed))
    others = usual_checks(layer, mutant.right(), seed) if usual else (None, None, None)
    caught = name is not None
    return Trial(mutant.number, mutant.layer, mutant.bug_class, mutant.text, caught, name, cases, seconds, *others)


def numbered(watch: Any, layer: Layer | None, settings: Settings, number: int, usual: bool) -> tuple[Report, Trial]:
    """What a worker does: the trial of a mutant of the layer, or of the shelf for None, by its number."""
    mutants = shelf() if layer is None else generic.mutants(layer)
    mutant = next(m for m in mutants if m.number == number)
    return Report(mutant.layer, {}), trial(mutant, int(settings.seed or 0), usual)


def described(watch: Any, layer: Layer, settings: Settings) -> tuple[Report, list[tuple[int, str, str, str]]]:
    """What a worker does first: the check of the right layer, and number, layer, class and text of its mutants."""
    report = watch.check(layer, settings)
    return report, [(m.number, m.layer, m.bug_class, m.text) for m in generic.mutants(layer)]


def ended(mutant: Mutant, report: Report) -> Trial:
    """The trial of a mutant that ended its process, which is caught by that."""
    first = report.findings[0].property
    about = (mutant.number, mutant.layer, mutant.bug_class, mutant.text)
    return Trial(*about, True, first, report.cases, report.seconds)


def usual_checks(layer: Layer, right: Layer, seed: int) -> tuple[bool | None, bool | None, bool | None]:
    """Whether the usual check, gradcheck and its fast mode catch a layer, at a typical case of the right one."""
    case = baseline.typical(right, seed)
    slow, fast = (baseline.gradcheck(layer, case, fast=mode) for mode in (False, True))
    caught = not baseline.usual_check(layer, case)
    return caught, None if slow is None else not slow, None if fast is None else not fast


def run(mutants: Sequence[Mutant], *, seed: int = 0, usual: bool = True) -> Iterator[Trial]:
    """Trials in the order of the mutants, in this process."""
    yield from (trial(m, seed, usual) for m in mutants)


def details(trials: Iterable[Trial]) -> list[str]:
    """One line of text for each mutant: who catches it."""
    trials = list(trials)
    named = [f"{t.number} {t.layer}, {t.text}" for t in trials]
    width = max((len(name) for name in named), default=0) + 2
    lines = [f"{'mutant':<{width}}{'gradverify':<24}{'usual check':<13}{'gradcheck':<13}fast"]
    for name, t in zip(named, trials):
        found = f"{t.property}, {t.cases} cases" if t.caught else "NOT CAUGHT"
        others = "".join(
            f"{_word(c):<{w}}" for c, w in zip((t.usual, t.gradcheck_slow, t.gradcheck_fast), (13, 13, 13))
        )
        lines.append(f"{name:<{width}}{found:<24}{others}".rstrip())
    return [*lines, ""]


def _word(caught: bool | None) -> str:
    return {True: "caught", False: "let through", None: "-"}[caught]


def table(trials: Iterable[Trial]) -> list[str]:
    """Lines of text: what escaped, one line for each class, one for each property, and the count at the end."""
    trials = list(trials)
    lines = [_header(), *(_class_line(name, group) for name, group in _grouped(trials, lambda t: t.bug_class))]
    lines += [_class_line("all", trials), ""]
    lines += [f"not caught: {t.number} {t.layer}, {t.text}" for t in trials if not t.caught]
    lines += _properties(trials)
    return [*lines, f"caught {sum(t.caught for t in trials)} of {len(trials)}"]


def _grouped(trials: list[Trial], key: Callable[[Trial], str]) -> Iterator[tuple[str, list[Trial]]]:
    for name in sorted({key(t) for t in trials}):
        yield name, [t for t in trials if key(t) == name]


def _header() -> str:
    return f"{'class':<12}{'caught':>8}{'cases':>7}{'seconds':>9}{'usual check':>13}{'gradcheck':>11}{'fast':>7}  by"


def _class_line(name: str, trials: list[Trial]) -> str:
    caught = [t for t in trials if t.caught]
    cases = f"{median(t.cases for t in caught):.0f}" if caught else "-"
    seconds = f"{median(t.seconds for t in trials):.2f}" if trials else "-"
    by = ", ".join(dict.fromkeys(str(t.property) for t in caught)) if name != "all" else ""
    others = (
        _share([t.usual for t in trials]),
        *(_share(s) for s in zip(*((t.gradcheck_slow, t.gradcheck_fast) for t in trials))),
    )
    columns = "".join(f"{text:>{width}}" for text, width in zip(others, (13, 11, 7)))
    return f"{name:<12}{f'{len(caught)}/{len(trials)}':>8}{cases:>7}{seconds:>9}{columns}  {by}".rstrip()


def _share(caught: Iterable[bool | None]) -> str:
    known = [c for c in caught if c is not None]
    return f"{sum(known)}/{len(known)}" if known else "-"


def _properties(trials: list[Trial]) -> list[str]:
    caught = [t for t in trials if t.caught]
    if not caught:
        return []
    found = [
        f"{name} {len(group)} (median {median(t.cases for t in group):.0f} cases)"
        for name, group in _grouped(caught, lambda t: str(t.property))
    ]
    notes = [] if any(t.gradcheck_slow is not None for t in trials) else ["gradcheck: torch is not installed"]
    return [f"by property: {', '.join(found)}", *notes]
