"""Signatures of a primal that stands transposed, flipped or for another: right where both are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, PLAIN, Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

_AXES = 4  # of a primal that may be flipped, as of the kernel of a convolution
Change = Callable[[Array], Array]


@add("symmetric", "INDEX", PLAIN)
def symmetric(evidence: Evidence) -> Diagnosis | None:
    """Right where a square primal is its own transpose, and wrong elsewhere."""
    name, how = next(where_symmetric(evidence), ("", ""))
    if not name:
        return None
    text = (
        f"the gradient of {evidence.primal} is right where {name} is {how}{evidence.given}, and wrong elsewhere: "
        f"{name}, or what is made of it, stands somewhere in backward where its transpose belongs"
    )
    return Diagnosis("symmetric", "INDEX", text, Fit.PLACES, {"cases": len(evidence.situation.failing)})


@add("order", "INDEX", PLAIN, probes=True)
def order(evidence: Evidence) -> Diagnosis | None:
    """Right where two square primals commute, being equal or diagonal, and wrong where both are only symmetric."""
    changed = partial(variants.with_arrays, evidence.layer)
    for one, two in combinations(_square(evidence), 2):
        equal = [changed(p.case, {two: p.case.primals[one]}) for p in evidence.probes]
        diagonal, even = (
            [changed(p.case, {n: change(p.case.primals[n]) for n in (one, two)}) for p in evidence.probes]
            for change in (_diagonal, partial(_with_transpose, _mean))
        )
        if evidence.holds(*equal, *diagonal) and all(map(evidence.fails, even)):
            text = (
                f"the gradient of {evidence.primal} is right where {one} and {two} commute (both the same, or both "
                f"diagonal){evidence.given}, and wrong elsewhere: backward takes them, or what is made of them, in the "
                "wrong order"
            )
            return Diagnosis("order", "INDEX", text, Fit.PLACES, {"cases": len(evidence.probes)})
    return None


@add("own_transpose", "TERM", ANYWHERE)
def own_transpose(evidence: Evidence) -> Diagnosis | None:
    """The right gradient is this one plus, or minus, its own transpose: forward takes the primal in two places."""
    if evidence.primal not in _square(evidence, also_discrete=True):
        return None
    for sign, share, words in (
        (1, 1.0, "plus its own transpose"),
        (-1, 1.0, "minus its own transpose"),
        (1, 0.5, "and its own transpose, half of each"),
        (-1, 0.5, "minus its own transpose, half of each"),
    ):
        if evidence.everywhere(partial(_is_folded, evidence, sign, share)):
            text = (
                f"the right gradient of {evidence.primal} is this one {words}{evidence.given}: {evidence.primal} goes "
                "into forward as it is and transposed, and one of the two is left out"
            )
            return Diagnosis("own_transpose", "TERM", text, Fit.LAW, {"cases": len(evidence.probes)})
    return None


def _is_folded(evidence: Evidence, sign: int, share: float, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    return bool(np.any(n)) and not close(a, n) and close(n, share * (a + sign * np.swapaxes(a, -1, -2)))


def _square(evidence: Evidence, also_discrete: bool = False) -> list[str]:
    """Real primals whose last two axes are one and the same."""
    found = []
    for primal in evidence.layer.primals:
        axes = [axis.text for axis in primal.dims.axes[-2:]]
        if primal.domain.kind == "real" and len(axes) == 2 and axes[0] == axes[1]:
            found += [primal.name] if also_discrete or not primal.domain.discrete else []
    return found


def where_symmetric(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Square primals that, made symmetric, make the gradient right, and what they are then in words."""
    for name in _square(evidence, also_discrete=True):
        domain = evidence.layer.primal(name).domain
        kinds = (np.minimum, np.maximum) if domain.discrete else (_mean,)
        ways: Sequence[Change] = [partial(_with_transpose, kind) for kind in kinds]
        if _right(evidence, name, ways):
            yield name, "symmetric"
        elif domain.name in ("mask", "bool") and _right(evidence, name, (_ring,), _rings(evidence, name)):
            yield name, "symmetric, with as many in each row"


def _with_transpose(kind: Callable[[Array, Array], Array], a: Array) -> Array:
    return kind(a, np.swapaxes(a, -1, -2))


def _mean(a: Array, b: Array) -> Array:
    return np.asarray((a + b) / 2)


def _ring(a: Array) -> Array:
    """Each place beside its two neighbours: its own transpose, whatever its rows or its columns are divided by."""
    one = np.eye(a.shape[-1])
    return np.broadcast_to(np.roll(one, 1, 0) + np.roll(one, -1, 0), a.shape)


def _rings(evidence: Evidence, name: str) -> Sequence[Probe]:
    """Cases that fail where a ring is not all there is: one that is leaves nothing out, as a mask that is forgotten."""
    axis = evidence.layer.primal(name).dims.axes[-1].text
    return evidence.failing_at(variants.grouped({axis: n}) for n in (5, 6))


def _diagonal(a: Array) -> Array:
    return np.asarray(a * np.eye(a.shape[-1]))


@add("flipped", "INDEX", PLAIN)
def flipped(evidence: Evidence) -> Diagnosis | None:
    """Right where another primal reads the same from either end of some axes, and wrong elsewhere."""
    if not evidence.situation.failing:
        return None
    for primal in evidence.layer.primals:
        count = len(primal.dims.axes)
        if primal.name == evidence.primal or primal.domain.kind != "real" or primal.domain.discrete or count > _AXES:
            continue
        for axes in [(k,) for k in range(count)] + [(count - 2, count - 1)] * (count > 1):
            if _right(evidence, primal.name, (partial(_folded, axes=axes),)):
                labels = evidence.situation.failing[0].labels(primal.name)
                names = " and ".join(f"axis {k}" if labels[k].isdigit() else labels[k] for k in axes)
                text = (
                    f"the gradient of {evidence.primal} is right where {primal.name} is the same from either end along "
                    f"{names}{evidence.given}, and wrong elsewhere: it is flipped where it must not be, or not flipped"
                )
                return Diagnosis("flipped", "INDEX", text, Fit.LAW, {"cases": len(evidence.situation.failing)})
    return None


def _folded(a: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray((a + np.flip(a, axes)) / 2)


def _right(evidence: Evidence, name: str, ways: Sequence[Change], among: Sequence[Probe] | None = None) -> bool:
    """Whether every case that fails is right, and not nothing, once a primal is changed in any of some ways."""
    failing = evidence.situation.failing if among is None else among
    made = (variants.but(evidence.layer, probe.case, name, way) for probe in failing for way in ways)
    return bool(failing) and evidence.holds(*made)


@add("constant_along", "INDEX", PLAIN, probes=True)
def constant_along(evidence: Evidence) -> Diagnosis | None:
    """Right where another primal is the same at all places of one axis: the place whose value is taken is another.

    Not where the primal itself is: a softmax, or a variance, of what is constant has lost its own terms.
    """
    real = (p.name for p in evidence.layer.primals if p.domain.kind == "real" and not p.domain.discrete)
    for name in (n for n in real if n != evidence.primal):
        for axis, label in enumerate(evidence.layer.primal(name).dims.labels(np.ndim(evidence.case.primals[name]))):
            cases = [variants.but(evidence.layer, p.case, name, partial(_first, axis)) for p in evidence.probes]
            several = all(np.shape(p.case.primals[name])[axis] > 1 for p in evidence.probes)
            if several and evidence.holds(*cases):
                along = f"axis {axis}" if label.isdigit() else label
                text = (
                    f"the gradient of {evidence.primal} is right where {name} is the same at all places along {along}"
                    f"{evidence.given}, and wrong elsewhere: the value of one place is taken for that of another, or "
                    "what comes of their difference is wrong"
                )
                return Diagnosis("constant_along", "INDEX", text, Fit.FORM, {"cases": len(cases)})
    return None


@add("one_for_another", "INDEX", PLAIN, probes=True)
def one_for_another(evidence: Evidence) -> Diagnosis | None:
    """Right where two primals of one shape are equal: one is taken for the other."""
    for one, other in _pairs(evidence):
        cases = [variants.with_arrays(evidence.layer, p.case, {other: p.case.primals[one]}) for p in evidence.probes]
        if evidence.holds(*cases):
            text = (
                f"the gradient of {evidence.primal} is right where {one} and {other} are the same{evidence.given}, and "
                "wrong elsewhere: one of them, or what is made of it, is taken for the other, or a term that vanishes "
                "there is wrong"
            )
            return Diagnosis("one_for_another", "INDEX", text, Fit.SOME, {"cases": len(cases)})
    return None


def _pairs(evidence: Evidence) -> Iterator[tuple[str, str]]:
    kinds = {
        p.name: ([axis.text for axis in p.dims.axes], p.domain.kind, p.domain.discrete and p.domain)
        for p in evidence.layer.primals
    }
    return ((one, other) for one, other in combinations(kinds, 2) if kinds[one] == kinds[other])


def _first(axis: int, array: Array) -> Array:
    return np.broadcast_to(np.take(array, [0], axis), array.shape)
