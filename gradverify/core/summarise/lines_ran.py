"""The result: which lines and branches of the author's functions ran, in numbers and in words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gradverify.core.texts import many

ROLES = ("forward", "backward")


@dataclass(frozen=True)
class Side:
    """One side of a condition that ran: its line, the condition in the author's words, and the side.

    `value` is None for a lambda in a statement that ran.
    """

    line: int
    text: str
    value: bool | None

    def __str__(self) -> str:
        return f"{self.line}: `{self.text}` {'never ran' if self.value is None else f'was never {self.value}'}"


@dataclass(frozen=True)
class Fixed:
    """An argument that kept one value in every case, as nobody declares it.

    Attributes
    ----------
    role, file, lines : whose it is, "forward" or "backward", and the lines that read it
    name, value : its name, and its value as code
    """

    role: str
    file: str
    lines: tuple[int, ...]
    name: str
    value: str

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.lines))}: `{self.name}` was always {self.value}"


@dataclass(frozen=True)
class Function:
    """One function of the author's.

    Attributes
    ----------
    name, file, line : what it is called and where it begins
    role : "forward" or "backward": during which it began first
    lines : first lines of its statements, and the last line of each
    ran : those that ran in a verified case
    sides : every side of the conditions that ran; a condition that never ran counts by its line
    missed : the sides that never ran
    under : for lines that never ran, the header under which they stand
    """

    name: str
    file: str
    line: int
    role: str
    lines: dict[int, int]
    ran: frozenset[int]
    sides: frozenset[Side] = frozenset()
    missed: frozenset[Side] = frozenset()
    under: dict[int, str] = field(default_factory=dict)

    @property
    def never(self) -> tuple[int, ...]:
        """First lines of the statements that never ran."""
        return tuple(sorted(set(self.lines) - self.ran))

    def merged(self, other: Function) -> Function:
        """What ran in either of two checks."""
        sides = self.sides | other.sides
        done = (self.sides - self.missed) | (other.sides - other.missed)
        return replace(
            self,
            lines={**self.lines, **other.lines},
            ran=self.ran | other.ran,
            sides=sides,
            missed=sides - done,
            under={**self.under, **other.under},
        )


@dataclass(frozen=True)
class Ran:
    """Which lines of the author's code ran in at least one verified case."""

    functions: tuple[Function, ...] = ()  # in the order of files and lines
    reason: str | None = None  # why there is nothing to tell, or None
    fixed: tuple[Fixed, ...] = ()  # arguments that were never varied

    def of(self, role: str) -> tuple[Function, ...]:
        return tuple(function for function in self.functions if function.role == role)

    def counts(self, role: str | None = None) -> tuple[int, int]:
        """Lines that ran and lines that can, each once."""
        chosen = self.functions if role is None else self.of(role)
        every = {(f.file, line) for f in chosen for line in f.lines}
        return len({(f.file, line) for f in chosen for line in f.ran}), len(every)

    @property
    def complete(self) -> bool:
        """Whether every line and every side of a condition ran."""
        return not any(f.never or f.missed for f in self.functions)

    @property
    def percent(self) -> float | None:
        """Lines and sides that ran, of all; None where nothing can be told."""
        lines, sides, done = set(), set(), set()
        for f in self.functions:
            lines |= {(f.file, line) for line in f.lines}
            sides |= {(f.file, side) for side in f.sides}
            done |= {(f.file, line) for line in f.ran} | {(f.file, side) for side in f.sides - f.missed}
        return 100.0 * len(done) / (len(lines) + len(sides)) if lines else None

    def merged(self, other: Ran) -> Ran:
        """What ran in either of two checks of one layer."""
        found = {(f.file, f.line, f.name): f for f in self.functions}
        for f in other.functions:
            key = (f.file, f.line, f.name)
            found[key] = found[key].merged(f) if key in found else f
        functions = tuple(found[key] for key in sorted(found))
        return Ran(
            functions,
            None if functions else self.reason or other.reason,
            tuple(dict.fromkeys((*self.fixed, *other.fixed))),
        )

    def plain(self) -> dict[str, Any]:
        """Plain values, from which `restored` makes the same again."""
        return {
            "reason": self.reason,
            "percent": self.percent,
            "fixed": [{**asdict(argument), "lines": list(argument.lines)} for argument in self.fixed],
            "functions": [
                {
                    "name": f.name,
                    "file": f.file,
                    "line": f.line,
                    "role": f.role,
                    "lines": [[line, f.lines[line], f.under.get(line, "")] for line in sorted(f.lines)],
                    "ran": sorted(f.ran),
                    "sides": [
                        {"line": side.line, "text": side.text, "value": side.value, "ran": side not in f.missed}
                        for side in sorted(f.sides, key=_order)
                    ],
                }
                for f in self.functions
            ],
        }

    def said(self) -> tuple[str, ...]:
        """One line for forward and one for backward: what ran, and what never did."""
        if self.reason is not None:
            return (f"no coverage: {self.reason}",)
        return tuple(self._said(role) for role in ROLES if self.of(role))

    def _said(self, role: str) -> str:
        some, every = self.counts(role)
        fixed = [argument for argument in self.fixed if argument.role == role]
        words = [f"{role}: {some} of {many(every, 'line')} ran"]
        several = len({function.file for function in self.of(role)}) > 1
        never = [part for function in self.of(role) for part in _ranges(function, several)]
        missed = sorted({side for f in self.of(role) for side in f.missed}, key=_order)
        words += [f"never: {', '.join(never)}"] if never else []
        words += [f"one side only: {', '.join(map(str, missed))}"] if missed else []
        words += [f"not declared: {', '.join(map(str, fixed))}"] if fixed else []
        return "; ".join(words)

    @property
    def headline(self) -> str:
        """What a pass has to say in its first line; empty where all ran, or nothing can be told."""
        parts = []
        for role in ROLES:
            some, every = self.counts(role)
            sides = len({(f.file, side) for f in self.of(role) for side in f.missed})
            counts = [many(every - some, "line")] if every > some else []
            counts += [f"{sides} branch{'es' * (sides != 1)}"] if sides else []
            parts += [f"{' and '.join(counts)} of {role} never ran"] if counts else []
        return "; ".join(parts)


def below(ran: Mapping[str, Ran], least: float) -> list[str]:
    """A line for each layer of which less ran than a share in percent. Code without a source cannot be low."""
    shares = {name: each.percent for name, each in ran.items()}
    return [
        f"coverage of {name} is {share:.1f} %, less than the {least:g} % asked for"
        for name, share in shares.items()
        if share is not None and share < least
    ]


def restored(plain: Mapping[str, Any]) -> Ran:
    """What `Ran.plain` gave, as a Ran again."""
    fixed = (Fixed(**{**argument, "lines": tuple(argument["lines"])}) for argument in plain["fixed"])
    return Ran(tuple(map(_function, plain["functions"])), plain["reason"], tuple(fixed))


def _function(plain: Mapping[str, Any]) -> Function:
    sides = {Side(s["line"], s["text"], s["value"]): s["ran"] for s in plain["sides"]}
    return Function(
        plain["name"],
        plain["file"],
        plain["line"],
        plain["role"],
        {line: last for line, last, _ in plain["lines"]},
        frozenset(plain["ran"]),
        frozenset(sides),
        frozenset(side for side, done in sides.items() if not done),
        {line: under for line, _, under in plain["lines"]},
    )


def _order(side: Side) -> tuple[int, str]:
    return side.line, str(side)


def _ranges(function: Function, named: bool) -> Iterator[str]:
    """Lines that never ran as "57-59 (`if mode == 'sum'`)", neighbours under one header together."""
    place = f"{os.path.basename(function.file)}:" if named else ""
    for first, last, under in _runs(function):
        span = f"{first}" if first == last else f"{first}-{last}"
        yield f"{place}{span}{f' (`{under}`)' if under else ''}"


def _runs(function: Function) -> Iterable[tuple[int, int, str]]:
    runs: list[tuple[int, int, str]] = []
    order = sorted(function.lines)
    before: int | None = None
    for line in order:
        if line not in function.ran:
            under = function.under.get(line, "")
            if runs and before == runs[-1][0] and before is not None:
                runs[-1] = (runs[-1][0], max(runs[-1][1], function.lines[line]), runs[-1][2])
            else:
                runs.append((line, function.lines[line], under))
            before = runs[-1][0]
        else:
            before = None
    return runs
