"""The signature of a factor on a part: inner bins, entries off the diagonal, all places but the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import PLAIN, Evidence
from gradverify.core.diagnose.probe import CLOSE, NOTHING, Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

_NAMED = {2.0: "twice", 0.5: "half", -1.0: "minus"}


@dataclass(frozen=True, slots=True)
class Part:
    """Places of an array by a rule: its words, and the mask for a shape (and the lengths of the primal's axes)."""

    words: str
    mask: Callable[[tuple[int, ...], tuple[int, ...]], Array]


@add("partly", "FACTOR", PLAIN, probes=True)
def partly(evidence: Evidence) -> Diagnosis | None:
    """One factor on a part of the entries, or of the outputs' upstream gradients, and right in the others."""
    if not all(p.wrong(evidence.primal).ndim for p in evidence.probes):
        return None
    if evidence.layer.primal(evidence.primal).domain.kind == "complex":
        return None  # of a part that is minus the right one, "conjugated" says more
    probe = evidence.probes[0]
    labels = probe.labels(evidence.primal)
    for part in _parts(labels, probe.shape(evidence.primal)):
        factor = _common([_of_entries(evidence, part, p) for p in evidence.probes])
        if factor is not None:
            return _diagnosis(evidence, factor, part.words)
    shapes = {y.shape for y in probe.outputs}
    if len(shapes) != 1 or any(y.dtype.kind != "f" for y in probe.outputs):
        return None
    shape = shapes.pop()
    for part in _parts(evidence.labels_of(0, len(shape)), shape):
        factor = _common([_of_outputs(evidence, part, p) for p in evidence.probes])
        if factor is not None:
            where = "" if "output" in part.words else " of the output"
            return _diagnosis(evidence, factor, part.words + where, "the part that comes from ")
    return None


def _diagnosis(evidence: Evidence, factor: float, words: str, what: str = "") -> Diagnosis:
    said = next((f"{name} the right one" for v, name in _NAMED.items() if abs(factor - v) < CLOSE), "")
    said = said or f"{factor:.6g} times the right one"
    text = f"the gradient of {evidence.primal} is {said} in {what}{words}{evidence.given}, and right in the rest"
    facts = {"factor": factor, "cases": len(evidence.probes)}
    bug_class = "SIGN" if abs(factor + 1) < CLOSE else "FACTOR"
    known = bool(said) and "times" not in said
    return Diagnosis("partly", bug_class, text, Fit.LAW if known else Fit.FORM, facts)


def _common(factors: list[float | None]) -> float | None:
    """The one factor of all cases that is no plain 1 or 0; cases in which the part is empty say nothing."""
    known = [f for f in factors if f is not None and not np.isnan(f)]
    if len(known) < 2 or None in factors or max(known) - min(known) > CLOSE * abs(known[0]):
        return None
    return None if abs(known[0]) < CLOSE or abs(known[0] - 1) < CLOSE else known[0]


def _of_entries(evidence: Evidence, part: Part, probe: Probe) -> float | None:
    a, n = evidence.pair(probe)
    mask = part.mask(n.shape, n.shape)
    if mask.shape != n.shape:
        return None
    return _factor(a, np.where(mask, n, 0), np.where(mask, 0, n))


def _of_outputs(evidence: Evidence, part: Part, probe: Probe) -> float | None:
    a, n = evidence.pair(probe)
    masks = [part.mask(y.shape, n.shape) for y in probe.outputs]
    if any(m.shape != y.shape for m, y in zip(masks, probe.outputs)):
        return None
    mask = np.concatenate([m.ravel() for m in masks])
    weights = probe.point.weights
    inside = probe.under(evidence.primal, np.where(mask, weights, 0))
    return _factor(a, inside, n - inside)


def _factor(a: Array, inside: Array, outside: Array) -> float | None:
    """c with a = c * inside + outside; NaN if nothing is inside, None if there is none or all is inside."""
    top = float(np.abs(inside + outside).max(initial=0.0))
    if not np.isfinite(a).all() or float(np.abs(outside).max(initial=0.0)) <= NOTHING * top:
        return None
    power = float(np.sum(inside * inside))
    if power <= (NOTHING * top) ** 2:
        return float("nan") if close(a, outside) else None
    c = float(np.sum((a - outside) * inside)) / power
    return c if close(a, c * inside + outside) else None


def _parts(labels: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Part]:
    """Rules for an array, simplest first."""
    for axis, label in enumerate(labels):
        for words, rule in _ALONG.items():
            yield Part(words.format(label), partial(_along, axis, rule))
        yield Part(
            f"all bins but the first (and the last, where there is one in the middle) along {label}",
            partial(_one_sided, axis),
        )
    for one in range(len(shape)):
        for other in range(one + 1, len(shape)):
            if shape[one] == shape[other]:
                for words, square in _SQUARE.items():
                    yield Part(words.format(labels[one], labels[other]), partial(_across, one, other, square))


def _inner(k: Array, n: int) -> Array:
    return np.asarray((k > 0) & (k < n - 1))


_ALONG: dict[str, Callable[[Array, int], Array]] = {
    "all places but the first and the last along {}": _inner,
    "all places but the first along {}": lambda k, n: k > 0,
    "all places but the last along {}": lambda k, n: k < n - 1,
    "the first and the last place along {}": lambda k, n: (k == 0) | (k == n - 1),
    "the first place along {}": lambda k, n: k == 0,
    "the last place along {}": lambda k, n: k == n - 1,
    "every second place along {} (1, 3, ...)": lambda k, n: k % 2 == 1,
    "every second place along {} (0, 2, ...)": lambda k, n: k % 2 == 0,
    "the first half along {}": lambda k, n: k < n // 2,
    "the second half along {}": lambda k, n: k >= n // 2,
}
_SQUARE: dict[str, Callable[[Array, Array], Array]] = {
    "the entries off the diagonal of {} and {}": lambda i, j: i != j,
    "the entries above the diagonal of {} and {}": lambda i, j: i < j,
    "the entries below the diagonal of {} and {}": lambda i, j: i > j,
    "the diagonal of {} and {}": lambda i, j: i == j,
}


def _along(axis: int, rule: Callable[[Array, int], Array], shape: tuple[int, ...], primal: tuple[int, ...]) -> Array:
    if axis >= len(shape):
        return np.zeros(0, bool)
    return np.asarray(rule(np.indices(shape)[axis], shape[axis]))


def _one_sided(axis: int, shape: tuple[int, ...], primal: tuple[int, ...]) -> Array:
    """Bins that stand for two frequencies; the last is a single one if the length of the signal is even."""
    if axis >= len(shape):
        return np.zeros(0, bool)
    lengths = [n for n in (*primal[axis : axis + 1], *primal) if n // 2 + 1 == shape[axis]]
    if not lengths:
        return np.zeros(0, bool)
    k = np.indices(shape)[axis]
    return np.asarray((k > 0) & ((k < shape[axis] - 1) | (lengths[0] % 2 == 1)))


def _across(
    one: int, other: int, rule: Callable[[Array, Array], Array], shape: tuple[int, ...], primal: tuple[int, ...]
) -> Array:
    if max(one, other) >= len(shape) or shape[one] != shape[other]:
        return np.zeros(0, bool)
    places = np.indices(shape)
    return np.asarray(rule(places[one], places[other]))
