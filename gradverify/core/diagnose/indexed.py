"""Signatures of a wrong index: the right numbers in the wrong places, or of the wrong array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, permutations

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, PLAIN, Evidence
from gradverify.core.diagnose.probe import CLOSE, NOTHING, Probe, close
from gradverify.core.diagnose.scaled import ratio_of
from gradverify.core.judge.facts import best_ratio
from gradverify.core.nouns import Array, Diagnosis, Fit

_MOST = 40  # changed primals that are tried
_SEVERAL = 6  # numbers that differ, of a gradient that is told to be another one in another order
Move = Callable[[Array], Array]


def moves(labels: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[tuple[str, Move]]:
    """Ways to put the entries of an array elsewhere without changing its shape, in words."""
    axes = [k for k, n in enumerate(shape) if n > 1]
    for i, j in ((i, j) for i in axes for j in axes if i < j and shape[i] == shape[j]):
        yield f"transposed over {labels[i]} and {labels[j]}", partial(np.swapaxes, axis1=i, axis2=j)
    for k in axes:
        yield f"flipped along {labels[k]}", partial(np.flip, axis=k)
    for i, j in ((i, j) for i in axes for j in axes if i < j):
        yield f"flipped along {labels[i]} and {labels[j]}", partial(np.flip, axis=(i, j))
    for k in axes:
        for by in (1, -1):
            yield f"shifted by {by} along {labels[k]}", partial(np.roll, shift=by, axis=k)


def _twins(evidence: Evidence) -> tuple[Probe, ...]:
    """Cases where two axes of the primal have one size, so that a transposition keeps the shape."""
    names = variants.axis_names(evidence.layer)
    return evidence.failing_at(variants.grouped(dict.fromkeys(names, 3 + draw)) for draw in range(2))


@add("moved", "INDEX", ANYWHERE)
def moved(evidence: Evidence) -> Diagnosis | None:
    """The numerical gradient, transposed, flipped, shifted or permuted along an axis."""
    if not evidence.differentiable:
        return None
    for probes in (evidence.probes, _twins(evidence)):
        if not probes:
            continue
        shape, labels = probes[0].shape(evidence.primal), probes[0].labels(evidence.primal)
        for words, move in moves(labels, shape):
            if probes is not evidence.probes and not words.startswith("transposed"):
                continue  # equal sizes are for what needs them
            negated = evidence.everywhere(partial(_is_moved, evidence, move, -1), probes)
            if negated or evidence.everywhere(partial(_is_moved, evidence, move, 1), probes):
                square = "" if probes is evidence.probes else " where all sizes are equal"
                minus = ", and negated" if negated else ""
                text = f"the gradient of {evidence.primal} is the right one {words}{minus}{square or evidence.given}"
                return Diagnosis("moved", "INDEX", text, Fit.LAW, {"cases": len(probes)})
    found = _permuted(evidence)
    if found is not None:
        text = f"the gradient of {evidence.primal} is the right one with its places along {found} in another order"
        return Diagnosis("moved", "INDEX", text, Fit.FORM, {"cases": len(evidence.probes)})
    if evidence.everywhere(partial(_same_numbers, evidence), _many(evidence)):
        text = (
            f"the gradient of {evidence.primal} holds the right numbers in other places{evidence.given}: entries are "
            "mixed up, as by a reshape or a transpose in another order"
        )
        fit = Fit.FORM if evidence.situation.needs == "options" else Fit.SOME  # which then say more
        return Diagnosis("moved", "INDEX", text, fit, {"cases": len(evidence.probes)})
    return None


def _many(evidence: Evidence) -> Sequence[Probe]:
    """Cases on which it fails, of longer axes where a gradient has too few numbers to tell."""
    axes = [n for axis in evidence.layer.primal(evidence.primal).dims.axes for n in axis.names]
    if len(axes) > 1 or evidence.situation.needs == "sizes":
        return evidence.probes
    return evidence.failing_at(dict.fromkeys(axes, _SEVERAL + 1 + draw) for draw in range(2)) or evidence.probes


def _same_numbers(evidence: Evidence, probe: Probe) -> bool:
    """Whether all entries are those of the right gradient, in another order, and many enough to be so by no chance."""
    a, n = evidence.pair(probe)
    told = n[np.abs(n) > 1e-6 * float(np.abs(n).max(initial=0.0))]
    many = np.unique(np.round(told / (np.abs(told).max(initial=0.0) or 1.0), 6)).size >= _SEVERAL
    return many and not close(a, n) and close(np.sort(a, axis=None), np.sort(n, axis=None))


def _is_moved(evidence: Evidence, move: Move, sign: int, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    decisive = sign > 0 or n.size > 2  # of two entries, the one with the other's sign is no evidence of two slips
    return decisive and move(n).shape == n.shape and close(a, sign * move(n)) and not close(a, n) and not close(a, -n)


def _permuted(evidence: Evidence) -> str | None:
    """The axis along which the slices of the analytic gradient are those of the numerical one, in another order."""
    if not evidence.probes:
        return None
    labels = evidence.probes[0].labels(evidence.primal)
    for axis, label in enumerate(labels):
        if evidence.everywhere(partial(_other_order, evidence, axis)):
            return label
    return None


def _other_order(evidence: Evidence, axis: int, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    if axis >= a.ndim or not 2 < a.shape[axis] <= 6 or close(a, n) or not np.isfinite(a).all():
        return False
    if not np.moveaxis(n, axis, 0).reshape(n.shape[axis], -1).any(1).all():
        return False  # zeros in other places may be what is left out
    return any(close(a, np.take(n, order, axis)) for order in permutations(range(a.shape[axis])))


@add("swapped", "INDEX", ANYWHERE)
def swapped(evidence: Evidence) -> Diagnosis | None:
    """The gradient of another primal of the same shape, as it is or times one number, as when it is negated besides."""
    if len(evidence.differentiable) < 2:
        return None
    for probes in (evidence.probes, _twins(evidence)):
        for other in evidence.differentiable:
            if other == evidence.primal or not probes:
                continue
            mine = _times(probes, evidence.primal, other)
            if mine is None or evidence.everywhere(lambda p: ratio_of(evidence, p) is not None, probes):
                continue  # it is its own right gradient times a number, which is simpler
            theirs = _times(probes, other, evidence.primal)
            d = f"the gradient of {evidence.primal}"
            most = all(p.wrong(evidence.primal).mean() > 0.5 for p in probes)
            square = "" if probes is evidence.probes else " where all sizes are equal"
            text = f"{d} is that of {other}" if theirs is None else f"{d} and that of {other} are swapped"
            lacking = mine != 1 and in_common.fits(evidence) is not None  # which leaves a multiple by itself
            fit = Fit.LAW if most and not lacking else Fit.FORM
            text += (square or evidence.given) + _besides(evidence.primal, mine, other, theirs)
            return Diagnosis("swapped", "INDEX", text, fit, {"cases": len(probes)})
    return None


@add("in_common", "TERM", PLAIN, probes=True)
def in_common(evidence: Evidence) -> Diagnosis | None:
    """The error is the right gradient of another primal, or minus it: that of a - b in a loss of a - b and a - c."""
    for other in evidence.differentiable:
        for sign, words in ((1, ""), (-1, "minus ")):
            if other != evidence.primal and evidence.everywhere(partial(_off_by, evidence, other, sign)):
                text = (
                    f"the error of the gradient of {evidence.primal} is {words}the right gradient of {other}"
                    f"{evidence.given}: what comes of {evidence.primal} together with {other}, as of their difference, "
                    "is missing, or counted twice"
                )
                return Diagnosis("in_common", "TERM", text, Fit.LAW, {"cases": len(evidence.probes)})
    return None


def _off_by(evidence: Evidence, other: str, sign: int, probe: Probe) -> bool:
    """Not where one right gradient is a multiple of the other: then it is off by its own."""
    (a, n), theirs = evidence.pair(probe), probe.numerical(other)
    if theirs.shape != n.shape or n.size < 3 or not np.any(theirs) or not close(a - n, sign * theirs):
        return False
    ratio, _ = best_ratio(n.ravel(), theirs.ravel())
    return not (np.isfinite(ratio) and close(n, ratio * theirs))


def _times(probes: tuple[Probe, ...], name: str, other: str) -> float | None:
    """The number r with gradient = r times the right one of another primal, the same on every probe."""
    found = []
    for probe in probes:
        a, right = probe.analytic.get(name), probe.numerical(other)
        if a is None or a.shape != right.shape or not np.isfinite(a).all() or close(a, probe.numerical(name)):
            return None
        ratio, _ = best_ratio(a.ravel(), right.ravel())
        if not np.isfinite(ratio) or abs(ratio) < NOTHING or not close(a, ratio * right):
            return None
        found.append(1.0 if close(a, right) else ratio)
    several = len(found) > 1 and all(np.count_nonzero(p.numerical(other)) > 2 for p in probes)
    same = max(found) - min(found) <= CLOSE * abs(found[0])
    return found[0] if set(found) == {1.0} or (several and same) else None


def _besides(name: str, mine: float, other: str, theirs: float | None) -> str:
    """What else is wrong with gradients that stand in each other's place."""

    def said(r: float) -> str:
        return "negated" if abs(r + 1) < CLOSE else f"multiplied by {r:.6g}"

    wrong = [(n, r) for n, r in ((name, mine), (other, theirs)) if r is not None and abs(r - 1) > CLOSE]
    if len(wrong) == 2 and abs(wrong[0][1] - wrong[1][1]) <= CLOSE * abs(wrong[0][1]):
        return f", and both are {said(wrong[0][1])}"
    return "".join(f", and what stands for {n} is {said(r)}" for n, r in wrong)


@add("another_value", "INDEX", ANYWHERE)
def another_value(evidence: Evidence) -> Diagnosis | None:
    """The gradient that would be right if another primal were transposed, flipped or shifted."""
    for probes in (evidence.probes, _twins(evidence)):
        if not probes:
            continue
        for name, words, move in islice(_other_values(evidence, probes[0]), _MOST):
            if probes is not evidence.probes and not words.startswith("transposed"):
                continue
            if evidence.everywhere(partial(as_if, evidence, name, move), probes):
                square = "" if probes is evidence.probes else " where all sizes are equal"
                text = (
                    f"the gradient of {evidence.primal} is the one that would be right if {name} were "
                    f"{words}{square or evidence.given}"
                )
                return Diagnosis("another_value", "INDEX", text, Fit.LAW, {"cases": len(probes)})
    return None


def _other_values(evidence: Evidence, probe: Probe) -> Iterator[tuple[str, str, Move]]:
    """Every primal with every way to move its entries."""
    for name in evidence.layer.primal_names:
        shape = np.shape(probe.case.primals[name])
        for words, move in moves(evidence.layer.primal(name).dims.labels(len(shape)), shape):
            yield name, words, move


def as_if(evidence: Evidence, name: str, move: Move, probe: Probe) -> bool:
    """The gradient is linear in `name` where this can be seen from outside: forward keeps the rest as it was."""
    array = np.asarray(probe.case.primals[name])
    if move(array).shape != array.shape or np.array_equal(move(array), array):
        return False
    a, n = evidence.pair(probe)
    other = evidence.probe(probe.case.but(primals={**probe.case.primals, name: np.ascontiguousarray(move(array))}))
    if other is None or other.shape(evidence.primal) != a.shape:
        return False
    right = other.numerical(evidence.primal)
    return close(a, right) and not close(n, right)


@add("equal_sizes", "INDEX")
def equal_sizes(evidence: Evidence) -> Diagnosis | None:
    """Wrong only where two axes have one size: with other sizes the mix-up could not run."""
    names = evidence.situation.equal if evidence.about_gradient else None
    if names is None:
        return None
    apart = [evidence.plain(draw, evidence.case.options) for draw in range(2)]
    other = "right" if evidence.holds(*apart) else "not to be had"
    d = f"the gradient of {evidence.primal} is wrong{evidence.given}, and {other} where they differ"
    if evidence.everywhere(partial(_one_number, evidence)):
        text = f"{d}: it is one number everywhere, as when two arrays of one axis are multiplied into a number"
        return Diagnosis("equal_sizes", "SHAPE", text, Fit.PLACES, {"axes": names})
    text = f"{d}: a transpose, or an array taken for another, that only equal sizes let pass"
    return Diagnosis("equal_sizes", "INDEX", text, Fit.SOME, {"axes": names})


def _one_number(evidence: Evidence, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    return a.ndim > 1 and a.size > 2 and bool(np.ptp(a) == 0) and bool(np.ptp(n) > 0)
