"""Signatures of scale: one clean factor for all entries, named; the sign; half, a mean for a sum."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, permutations
from math import prod
from typing import Any

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, DRAWS, Evidence
from gradverify.core.diagnose.probe import APART, CLOSE, NOTHING, Probe, close
from gradverify.core.judge.facts import best_ratio
from gradverify.core.nouns import Array, Diagnosis, Fit

# Factors that are left out or put in by mistake: squares, means, decades, norms and circles.
_NUMBERS = (2.0, 0.5, 3.0, 1 / 3, 4.0, 0.25, 10.0, 0.1, 2**0.5, 0.5**0.5, np.pi, 1 / np.pi, 2 * np.pi, 0.5 / np.pi)

_OTHERS = 6  # plain cases, of other sizes and values, that a factor is tried on before it is offered
_FURTHER = 5  # plain cases, of which the last are of sizes that no other has looked at
_SMALL = 12  # the largest denominator that is told: of so few numbers, few are hit by chance
_COUNTED = "number of"
_OFFSETS = (-1, 1, -2, 2, -3, 3)  # of a size: what is counted between n places, or at them and beside them


def ratio_of(evidence: Evidence, probe: Probe) -> float | None:
    """The factor of analytic over numerical, if it is one number for all entries that is neither 0 nor 1."""
    a, n = evidence.pair(probe)
    if not (np.isfinite(a).all() and np.isfinite(n).all()):
        return None
    ratio, _ = best_ratio(a.ravel(), n.ravel())
    if not np.isfinite(ratio) or abs(ratio) < NOTHING or not close(a, ratio * n) or np.count_nonzero(n) < 1:
        return None
    return None if abs(ratio - 1) < CLOSE else ratio


def _informative(evidence: Evidence) -> list[Probe]:
    """Probes with more than one entry: a single number has a factor always."""
    return [p for p in evidence.probes if np.count_nonzero(p.numerical(evidence.primal)) > 1]


def ratios(evidence: Evidence) -> list[tuple[Probe, float]]:
    """The factor on each probe; empty unless there is one on all of them."""
    probes = _informative(evidence) or (list(evidence.probes) if len(evidence.probes) > 1 else [])
    found = [(p, ratio_of(evidence, p)) for p in probes]
    if not found or any(r is None for _, r in found):
        return []
    return [(p, r) for p, r in [*found, *_at_other_options(evidence)] if r is not None]


def _at_other_options(evidence: Evidence) -> Iterator[tuple[Probe, float | None]]:
    """The factor where it is clean after one option was changed: it may follow that option."""
    for options in variants.other_options(evidence.layer, evidence.options):
        probe = evidence.probe(evidence.plain(1, options))
        if probe is not None and probe.failure is None and np.count_nonzero(probe.numerical(evidence.primal)) > 1:
            yield probe, ratio_of(evidence, probe)


@add("sign", "SIGN", ANYWHERE)
def sign(evidence: Evidence) -> Diagnosis | None:
    """The negated gradient: everywhere, or in some entries."""
    d = f"the gradient of {evidence.primal}"
    found = ratios(evidence)
    if found and all(abs(r + 1) < CLOSE for _, r in found):
        meant = "; if it is meant to be (a descent direction, a maximised objective), declare factor=-1"
        hint = meant if _declarable(evidence, -1.0) else ""
        return Diagnosis("sign", "SIGN", f"{d} has the wrong sign{evidence.given}{hint}", Fit.EXACT, _tried(found))
    if evidence.everywhere(lambda p: _some_signs(*evidence.pair(p))):
        return Diagnosis("sign", "SIGN", f"{d} has the right size, but the wrong sign in some entries", Fit.FORM)
    return None


def _some_signs(a: Array, n: Array) -> bool:
    return a.size > 2 and not close(a, n) and close(np.abs(a), np.abs(n)) and bool((np.abs(n) > 1e-6).sum() > 2)


@add("factor", "FACTOR", ANYWHERE)
def factor(evidence: Evidence) -> Diagnosis | None:
    """One factor for all entries, which follows sizes or options from case to case, or stays."""
    found = ratios(evidence)
    if not found or all(abs(r + 1) < CLOSE for _, r in found):
        return None
    d = f"the gradient of {evidence.primal}"
    negated = all(r < 0 for _, r in found)
    fitting = _fitting(evidence, found)
    if fitting and max(r for _, r in found) - min(r for _, r in found) > APART:
        more = _at_other_sizes(evidence)
        kept = [name for name in _fitting(evidence, [*found, *more]) if name in fitting]
        found, fitting = found if kept else [*found, *more], kept
    tried = _tried(found)
    if fitting:
        words, of_options = fitting[0]
        alike = next((w for w, option in fitting if option and w.strip("1/").isidentifier()), "")
        mean = words.strip("1/").isidentifier() and not of_options
        where = " (sum for mean, or the other way round)" if mean else ""
        where += "" if of_options or not alike else f", which is {alike} here"
        where += ", and the sign is wrong" if negated else ""
        words = f"-{words}" if negated else words
        text = f"{d} is the right one times {words}{where}{evidence.given}, in all of {len(found)} cases tried"
        open_ = of_options or alike or not _declarable(evidence, found[0][1])
        hint = "" if open_ else f"; if this is meant, declare factor={words}"
        sure = Fit.EXACT if _COUNTED in words else _fit(evidence, of_options)  # no other law would follow that number
        return Diagnosis("factor", "FACTOR", text + hint, sure, tried)
    low, high = min(r for _, r in found), max(r for _, r in found)
    if high - low < APART and abs(high - 1) < APART:
        return None  # a small error of any kind is nearly a factor
    same = high - low <= CLOSE * abs(high)
    if not same and not _informative(evidence):
        return None  # one number for each case is what any gradient of one entry is off by
    value = _fraction(found[0][1]) if same else f"a number from {low:.4g} to {high:.4g}, one for each case"
    text = f"{d} is the right one times {value}{evidence.given}"
    return Diagnosis("factor", "FACTOR", text, Fit.PART if same else Fit.VAGUE, tried)


def _fitting(evidence: Evidence, found: list[tuple[Probe, float]]) -> list[tuple[str, bool]]:
    """Names of numbers that are the factor in every case but for the sign, and whether an option is in each."""
    negated = found[0][1] < 0
    return [
        (words, of_options)
        for words, values, of_options in _names(evidence, [p for p, _ in found])
        if all(abs(abs(r) - v) <= CLOSE * abs(v) and (r < 0) == negated for (_, r), v in zip(found, values))
    ]


def _at_other_sizes(evidence: Evidence) -> list[tuple[Probe, float]]:
    """The factor at sizes that were not looked at: one size may be another, or one less, on few cases by chance."""
    made = (evidence.probe(evidence.plain(draw)) for draw in range(DRAWS, _FURTHER))
    probes = [p for p in made if p is not None and evidence.wrong(p) and evidence.primal in p.analytic]
    return [(p, r) for p in probes if (r := ratio_of(evidence, p)) is not None]


def _fraction(value: float) -> str:
    """A number as a fraction of small numbers, where it is one."""
    told = Fraction(value).limit_denominator(_SMALL)
    return str(told) if abs(float(told) - value) <= CLOSE * abs(value) else f"{value:.6g}"


def _fit(evidence: Evidence, of_options: bool) -> Fit:
    """A factor that is there at some options or sizes only is less of a cause than those are."""
    situation = evidence.situation
    if situation.needs == "options" and not of_options:
        return Fit.PART if any(not isinstance(v, float) for v in situation.options.values()) else Fit.LAW
    return Fit.PART if situation.needs == "sizes" else Fit.LAW


def _declarable(evidence: Evidence, factor: float) -> bool:
    """Whether a declared factor would make it right: it holds of every gradient, on other cases as well."""
    cases = [evidence.probe(evidence.plain(draw, evidence.defaults)) for draw in range(_OTHERS)]
    probes = [probe for probe in cases if probe is not None]
    return bool(probes) and all(
        probe.failure is None and all(close(a, factor * probe.numerical(n)) for n, a in probe.analytic.items())
        for probe in probes
    )


def _tried(found: list[tuple[Probe, float]]) -> dict[str, Any]:
    return {"factors": [round(r, 9) for _, r in found], "cases": len(found)}


def _names(evidence: Evidence, probes: list[Probe]) -> Iterator[tuple[str, list[float], bool]]:
    """Numbers that have a name, each with its value on every probe and whether an option is in it, simplest first."""
    for number in _NUMBERS:
        yield _number(number), [number] * len(probes), False
    sizes = [_sizes(p) for p in probes]
    names = [n for n in dict.fromkeys(n for s in sizes for n in s) if all(n in s for s in sizes)]
    names = [n for n in names if any(s[n] != 1 for s in sizes)]
    yield from _counted(sizes, names)
    given = set(evidence.layer.options)
    for n in names:
        values = [s[n] for s in sizes]
        if all(0 < v < 1 for v in values) and n in given:
            yield f"(1 - {n})", [1 - v for v in values], True
            yield f"1/(1 - {n})", [1 / (1 - v) for v in values], True
    for count in (1, 2, 3, 4):
        for group in combinations(names, count):
            values = [float(prod(s[n] for n in group)) for s in sizes]
            if not all(values):
                continue
            option = any(n in evidence.layer.options or "[" in n for n in group)
            words = " ".join(group) if count == 1 else "*".join(group)
            for scale, before in ((1.0, ""), (2.0, "2*"), (0.5, "0.5*")):
                yield f"{before}{words}", [scale * v for v in values], option
                over = f"({before}{words})" if count > 1 or before else words
                yield f"1/{over}", [1 / (scale * v) for v in values], option
            for scale, before in ((1.0, ""), (2.0, "2*")):
                yield f"sqrt({before}{words})", [abs(scale * v) ** 0.5 for v in values], option
                yield f"1/sqrt({before}{words})", [abs(scale * v) ** -0.5 for v in values], option
        if count == 1:
            yield from _of_one_axis(sizes, [n for n in names if n not in given])


def _counted(sizes: list[dict[str, float]], names: list[str]) -> Iterator[tuple[str, list[float], bool]]:
    """What is counted for all there is, or the other way round: no size follows it but by chance."""
    for one in (n for n in names if _COUNTED in n and all(s[n] for s in sizes)):
        others = [n for n in names if n != one and all(s[n] for s in sizes)]
        for group in (group for count in (1, 2) for group in combinations(others, count)):
            all_ = "*".join(group) if len(group) == 1 else f"({'*'.join(group)})"
            values = [s[one] / prod(s[n] for n in group) for s in sizes]
            yield f"{one}/{all_}", values, False
            yield f"{all_}/{one}", [1 / v for v in values], False


def _of_one_axis(sizes: list[dict[str, float]], names: list[str]) -> Iterator[tuple[str, list[float], bool]]:
    """One size for another, and one less than a size, as of the variance of a sample."""
    for n in names:
        values = [s[n] for s in sizes]
        if all(v > 1 for v in values):
            yield f"({n} - 1)/{n}", [(v - 1) / v for v in values], False
            yield f"{n}/({n} - 1)", [v / (v - 1) for v in values], False
        for k in _OFFSETS if len(set(values)) > 1 else ():
            if all(v + k > 0 for v in values):
                yield f"({n} {'-' if k < 0 else '+'} {abs(k)})", [v + k for v in values], False
                yield f"1/({n} {'-' if k < 0 else '+'} {abs(k)})", [1 / (v + k) for v in values], False
    for one, two in permutations(names, 2):
        if all(s[two] for s in sizes):
            yield f"{one}/{two}", [s[one] / s[two] for s in sizes], False
            yield f"sqrt({one}/{two})", [(s[one] / s[two]) ** 0.5 for s in sizes], False


def _number(value: float) -> str:
    named = {1 / 3: "1/3", 0.5: "1/2", 0.25: "1/4", 2**0.5: "sqrt(2)", 0.5**0.5: "1/sqrt(2)", np.pi: "pi"}
    named |= {1 / np.pi: "1/pi", 2 * np.pi: "2 pi", 0.5 / np.pi: "1/(2 pi)"}
    return named.get(value, f"{value:g}")


def _sizes(probe: Probe) -> dict[str, float]:
    """Sizes by name, numeric options, parts of tuples, axes of outputs, and how many labels or places count."""
    layer, case = probe.layer, probe.case
    found: dict[str, float] = {}
    for name, value in (layer.named_sizes(case.primals, case.options) or {}).items():
        if isinstance(value, tuple):
            found |= {(f"{name[1:]}[{k}]" if len(value) > 1 else name[1:]): float(v) for k, v in enumerate(value)}
        else:
            found[name] = float(value)
    for name, value in case.options.items():
        if isinstance(value, tuple) and all(isinstance(v, (int, float)) for v in value):
            found |= {f"{name}[{k}]": float(v) for k, v in enumerate(value)}
    if not layer.returns and len(probe.outputs) == 1:
        found |= {f"output axis {k}": float(v) for k, v in enumerate(probe.outputs[0].shape)}
    for primal in layer.primals:
        of, array = primal.domain, case.primals[primal.name]
        if of.name == "labels" and len(of.arguments) > 1:
            found[f"({_COUNTED} {primal.name} that are not {of.arguments[1]})"] = float(
                (array != int(of.arguments[1])).sum()
            )
        elif of.name in ("mask", "bool"):
            found[f"({_COUNTED} {primal.name} that are on)"] = float(array.sum())
    return found
