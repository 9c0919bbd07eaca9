"""Signatures of a missing, doubled or wrong term: where the error lies, and what it takes to make it go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, combinations

import numpy as np

from gradverify.core import evaluate
from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, PLAIN, Evidence
from gradverify.core.diagnose.probe import CLOSE, NOTHING, Probe, close
from gradverify.core.diagnose.scaled import ratios
from gradverify.core.diagnose.valued import changed
from gradverify.core.nouns import Array, Case, Diagnosis, Fit, Stream

_SEVERAL = 5  # entries on either side of a bound
_CLEAR = 1e-3  # of an entry, that it may be off by to be right
_CLEARLY = 8.0  # times what two gradients may differ by, that an entry next to it is off by
SMALL = 2e-2  # error below which a gradient is nearly right
_LEFT = 1e-5  # share of the error that a span may leave


@add("span", "TERM", PLAIN, probes=True)
def span(evidence: Evidence) -> Diagnosis | None:
    """The error is, along some axes, a multiple of 1, of the primal, or of both: a term of the mean or the variance."""
    if ratios(evidence):
        return None  # the error is a multiple of the gradient itself
    probes = _wide(evidence)
    labels = evidence.probes[0].labels(evidence.primal)
    axes_sets = chain.from_iterable(combinations(range(len(labels)), count) for count in range(len(labels), 0, -1))
    for axes in axes_sets:
        for words, kinds in (("1", ("one",)), (evidence.primal, ("x",)), (f"1 and {evidence.primal}", ("one", "x"))):
            if evidence.everywhere(partial(_in_span, evidence, axes, kinds), probes):
                names = " and ".join(labels[k] for k in axes)
                return _diagnosis(evidence, names, words, kinds)
        picked = any(p.domain.kind == "int" for p in evidence.layer.primals)  # of which others tell more
        if not picked and evidence.everywhere(partial(_one_number_or_none, evidence, axes), probes):
            names = " and ".join(labels[k] for k in axes)
            text = (
                f"the error of the gradient of {evidence.primal} is along {names} one number at some places and 0 at "
                f"the others{evidence.given}: a sum or a mean over some of these places is missing or wrong, as where "
                "it is divided by the number of all"
            )
            return Diagnosis("span", "TERM", text, Fit.SOME, {"axes": names})
    return None


def _one_number_or_none(evidence: Evidence, axes: tuple[int, ...], probe: Probe) -> bool:
    """Whether each row of the error holds 0 and one other number, at several places of some rows.

    Each output by itself must reach several of these places: where all go into one number, or each into its own, the
    error may be alike and nothing be summed.
    """
    a, n = evidence.pair(probe)
    error = _rows(a - n, axes)
    off = np.abs(error) > CLOSE * max(float(np.abs(error).max()), float(np.abs(n).max()))
    alike = np.where(off, (error * off).sum(1, keepdims=True) / np.maximum(off.sum(1, keepdims=True), 1), 0)
    known = int((off.sum(1) - off.any(1)).sum())  # places whose error another place of their row tells
    if known < 2 or off.all(1).any() or not close(error, alike, _LEFT):
        return False
    matrix = probe.jacobian(evidence.primal)

    def reached(k: int) -> int:
        got = probe.pulled(evaluate.unit_cotangents(probe.case.cotangents or (), k)).get(evidence.primal)
        if got is None:
            return 0
        far = np.abs(got - matrix[k].reshape(n.shape)) > CLOSE * float(np.abs(matrix).max())
        return int(_rows(far, axes).sum(1).max())

    return len(matrix) > 1 and max(map(reached, {0, len(matrix) // 2, len(matrix) - 1})) > 1


def _wide(evidence: Evidence) -> Sequence[Probe]:
    """Cases with axes long enough that lying in a span says something; the plain ones where sizes cannot be chosen."""
    tokens = evidence.layer.primal(evidence.primal).dims.axes
    free = [n for axis in tokens for n in axis.names if n not in evidence.layer.options]
    lengths = ((5, 6, 4, 5), (6, 4, 5, 4)) if evidence.situation.equal is None else ()
    return evidence.failing_at(variants.grouped(dict(zip(free, some))) for some in lengths) or evidence.probes


def _diagnosis(evidence: Evidence, names: str, words: str, kinds: tuple[str, ...]) -> Diagnosis:
    meaning = {
        ("one",): "what is the same for all of these places, as of a sum or a mean over them, is missing or wrong",
        ("x",): f"a term along {evidence.primal} is missing or wrong, as of a penalty, or of a norm",
        ("one", "x"): "terms of mean and variance are missing or wrong",
    }[kinds]
    d = f"the error of the gradient of {evidence.primal}"
    normaliser = _normaliser(evidence, names.split(" and "))
    if normaliser:
        text = (
            f"{d} is along {names} a multiple of {words}, and vanishes where {normaliser} = 1: the mean in backward "
            f"does not count {normaliser}, so its divisor is wrong{evidence.given}"
        )
        return Diagnosis("span", "FACTOR", text, Fit.SOME, {"axes": names, "span": words, "divisor": normaliser})
    text = f"{d} is along {names} a multiple of {words}: {meaning}{evidence.given}"
    return Diagnosis("span", "TERM", text, Fit.SOME, {"axes": names, "span": words})


def _in_span(evidence: Evidence, axes: tuple[int, ...], kinds: tuple[str, ...], probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    x = np.asarray(probe.case.primals[evidence.primal])
    if x.shape != a.shape:
        return False
    error, values = (_rows(array, axes) for array in (a - n, x))
    if error.shape[1] <= len(kinds) + 1 or not np.any(error) or np.linalg.norm(error) < 1e-6 * np.linalg.norm(n):
        return False
    left = 0.0
    for row, value in zip(error, values):
        basis = np.stack([np.ones_like(value) if kind == "one" else value for kind in kinds], -1)
        left += float(np.sum((row - basis @ np.linalg.lstsq(basis, row, rcond=None)[0]) ** 2))
    return bool(left**0.5 <= _LEFT * float(np.linalg.norm(error)))


def _rows(array: Array, axes: tuple[int, ...]) -> Array:
    moved = np.moveaxis(array, axes, tuple(range(-len(axes), 0)))
    return np.asarray(moved.reshape(-1, int(np.prod([array.shape[k] for k in axes]))))


def _normaliser(evidence: Evidence, span: list[str]) -> str:
    """Some of the axes of the span, not all, that at size 1 make the error vanish; empty if none do."""
    dims = evidence.layer.primal(evidence.primal).dims
    names = [axis.text for axis in dims.axes if axis.kind == "name" and axis.text not in evidence.layer.options]
    names = [n for n in names if n in span]
    if len(names) < 2 or evidence.situation.needs == "sizes":
        return ""
    for count in (1, 2, 3):
        for group in combinations(names, count):
            if len(group) == len(names):
                continue
            cases = [evidence.plain(draw, sizes=dict.fromkeys(group, 1)) for draw in range(2)]
            if evidence.holds(*cases):
                return "*".join(group)
    return ""


def relative(evidence: Evidence, probe: Probe) -> float:
    """Size of the error, of the largest entry of the right gradient."""
    a, n = evidence.pair(probe)
    top = float(np.abs(n).max(initial=0.0))
    return float(np.abs(a - n).max(initial=0.0)) / top if top else 0.0


@add("region", "TERM", PLAIN, probes=True)
def region(evidence: Evidence) -> Diagnosis | None:
    """Wrong only where an entry lies on one side of a bound: a branch of the derivative."""
    more = [evidence.probe(evidence.plain(draw)) for draw in range(3, 6)]
    probes = [*evidence.probes, *(p for p in more if p is not None and evidence.primal in p.analytic)]
    masks = [p.wrong(evidence.primal) for p in probes]
    if sum(bool(m.any() and not m.all()) for m in masks) < 2:
        return None  # where all of a case is wrong or right, it is the case that tells, and no entry
    for words, values in _values(evidence):
        ranges = [values(p) for p in probes]
        if any(v.shape != m.shape for v, m in zip(ranges, masks)):
            continue
        wrong = np.concatenate([v[m] for v, m in zip(ranges, masks)])
        right = np.concatenate([v[~m] for v, m in zip(ranges, masks)])
        ours, told = (
            np.concatenate([evidence.pair(p)[k].reshape(m.shape)[~m] for p, m in zip(probes, masks)]) for k in (0, 1)
        )
        if min(wrong.size, right.size) < _SEVERAL or not np.any(told):  # 0 is right by itself
            continue
        if not np.allclose(ours, told, _CLEAR, NOTHING * float(np.abs(told).max())):
            return None  # beside others that are so large, nobody sees that these are wrong
        off = np.concatenate([np.nan_to_num(p.times(evidence.primal), nan=np.inf)[m] for p, m in zip(probes, masks)])
        for sign, word in ((1, "above"), (-1, "below")):
            nearest = off[np.argmin(sign * wrong)]  # of an error that fades away, the bound makes a border
            if (sign * wrong).min() > (sign * right).max() and nearest > _CLEARLY:
                low, high = sorted((sign * float((sign * wrong).min()), sign * float((sign * right).max())))
                two = not np.ptp(wrong) and not np.ptp(right)
                where = f"{wrong[0]:g}" if two else f"{word} a bound between {low:.3g} and {high:.3g}"
                text = (
                    f"the gradient of {evidence.primal} is wrong where {words} is {where}, and right elsewhere "
                    f"({wrong.size} entries and {right.size}): a branch of the derivative is wrong"
                )
                return Diagnosis("region", "TERM", text, Fit.PART)
    return None


def _values(evidence: Evidence) -> Iterator[tuple[str, Callable[[Probe], Array]]]:
    ours = evidence.primal
    if evidence.layer.primal(ours).domain.kind == "complex":
        return

    def own(probe: Probe) -> Array:
        return np.asarray(probe.case.primals[ours], float)

    yield ours, own
    yield f"|{ours}|", lambda p: np.abs(own(p))
    for primal in evidence.layer.primals:
        if primal.name != ours and primal.domain.kind == "real":
            if not primal.domain.discrete:
                yield f"{ours} - {primal.name}", partial(_together, ours, primal.name, np.subtract)
                yield f"{ours} * {primal.name}", partial(_together, ours, primal.name, np.multiply)
            yield primal.name, partial(_together, ours, primal.name, lambda one, other: other)


def _together(one: str, other: str, how: Callable[[Array, Array], Array], probe: Probe) -> Array:
    """Two primals, entry by entry; empty if their shapes differ."""
    first, second = (np.asarray(probe.case.primals[name], float) for name in (one, other))
    return how(first, second) if first.shape == second.shape else np.zeros(0)


@add("positive", "TERM", ("nothing",))
def positive(evidence: Evidence) -> Diagnosis | None:
    """Right where no primal is negative: what forward does with negative values is not what backward does."""
    if evidence.situation.some:
        return None
    cases = [changed(evidence, probe.case, np.abs) for probe in evidence.probes]
    if not evidence.holds(*cases) or region.fits(evidence) is not None:
        return None
    text = (
        f"the gradient of {evidence.primal} is right where no primal is negative{evidence.given}, and wrong elsewhere: "
        "what forward does below 0 (a slope of its own there, a clamp, a magnitude) backward does not"
    )
    return Diagnosis("positive", "TERM", text, Fit.FORM, {"cases": len(cases)})


@add("skip", "TERM", ANYWHERE)
def skip(evidence: Evidence) -> Diagnosis | None:
    """The error is a multiple of the upstream gradient itself: a residual connection is left out, or counted twice."""
    if len(evidence.probes) < 2:
        return None
    if evidence.everywhere(partial(_is_upstream, evidence)):
        text = (
            f"the gradient of {evidence.primal} is the upstream gradient itself{evidence.given}: what forward does "
            f"with {evidence.primal} beside passing it on is left out"
        )
        return Diagnosis("skip", "TERM", text, Fit.FORM)
    found = [c for c in (_of_upstream(evidence, probe) for probe in evidence.probes) if c is not None]
    if len(found) < len(evidence.probes) or max(found) - min(found) > CLOSE:
        return None
    c = found[0]
    what = {
        -1.0: "lacks the upstream gradient itself, as where x + f(x) counts f alone",
        1.0: "counts the upstream gradient itself once too often",
    }
    said = what.get(round(c, 6), f"is off by {c:.6g} times the upstream gradient")
    return Diagnosis("skip", "TERM", f"the gradient of {evidence.primal} {said}{evidence.given}", Fit.LAW)


def _is_upstream(evidence: Evidence, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    given = probe.case.cotangents or ()
    return n.size > 2 and not close(a, n) and any(dy.shape == a.shape and close(a, dy) for dy in given)


def _of_upstream(evidence: Evidence, probe: Probe) -> float | None:
    """The number c with error = c dy, for an output of the primal's own shape."""
    a, n = evidence.pair(probe)
    for dy in probe.case.cotangents or ():
        if dy.shape == n.shape and n.size > 2 and dy.dtype.kind == "f":
            c = float(np.sum((a - n) * dy) / np.sum(dy * dy))
            if abs(c) > CLOSE and close(a, n + c * dy):
                return c
    return None


_SAME = 1e-9  # relative change of outputs that counts as none


@add("invariant", "TERM", PLAIN, probes=True)
def invariant(evidence: Evidence) -> Diagnosis | None:
    """Adding one number along an axis changes no output, and yet the gradient tells of it.

    A softmax does not see a number that is added to all of its scores, nor a norm one that is added to all it norms. So
    the right gradient adds up to zero there, and gradients of other primals stay what they are; both hold because one
    term takes away what another gives, and are lost with either of them.
    """
    for name in (evidence.primal, *(n for n in evidence.differentiable if n != evidence.primal)):
        for axis, label in enumerate(evidence.probes[0].labels(name)):
            if not evidence.everywhere(partial(_broken, evidence, name, axis)):
                continue
            own = name == evidence.primal
            right = f"adds up to 0 along {label}" if own else f"of {evidence.primal} stays the same"
            text = (
                f"adding one number to {name} at all places along {label} changes no output, so the right gradient "
                f"{right}; that of backward does not: a term is missing or wrong{evidence.given}"
            )
            return Diagnosis("invariant", "TERM", text, Fit.VAGUE, {"of": name, "along": label})
    return None


def _broken(evidence: Evidence, name: str, axis: int, probe: Probe) -> bool:
    """Whether outputs stay what they are when numbers are added along an axis, and the analytic gradient does not."""
    array = np.asarray(probe.case.primals[name])
    if array.dtype.kind != "f" or array.ndim <= axis or array.shape[axis] < 2:
        return False
    rng = probe.case.rng(Stream.LIFTED)
    shape = tuple(1 if k == axis else n for k, n in enumerate(array.shape))
    lifted = variants.but(probe.layer, probe.case, name, lambda a: a + rng.uniform(0.5, 1.0, shape))
    uneven = variants.but(probe.layer, probe.case, name, lambda a: a + rng.uniform(0.5, 1.0, a.shape))
    if lifted is None or uneven is None or not _same_outputs(probe, lifted) or _same_outputs(probe, uneven):
        return False
    analytic = probe.analytic[evidence.primal]
    if name == evidence.primal:
        sums, sizes = np.abs(analytic.sum(axis)), np.abs(analytic).sum(axis)
        return bool(np.max(sums) > 1e-3 * np.max(sizes)) and _adds_up(probe.numerical(name), axis)
    there = evidence.probe(lifted)
    return there is not None and not close(there.analytic[evidence.primal], analytic, 1e-3)


def _adds_up(gradient: Array, axis: int) -> bool:
    return bool(np.max(np.abs(gradient.sum(axis))) <= CLOSE * np.max(np.abs(gradient).sum(axis)))


def _same_outputs(probe: Probe, case: Case) -> bool:
    outputs = evaluate.run(probe.layer, evaluate.copies(case.primals), case.options).outputs
    return all(close(a, b, _SAME) for a, b in zip(outputs, probe.outputs))
