"""Signatures of sums: an axis not summed over, summed over though it should not be, or averaged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

_REDUCTIONS: dict[str, Callable[..., Array]] = {"sum": np.sum, "mean": np.mean}


@add("summed", "UNBROADCAST", ANYWHERE, probes=True)
def summed(evidence: Evidence) -> Diagnosis | None:
    """Every place along an axis holds the sum, or the mean, over that axis."""
    labels = evidence.probes[0].labels(evidence.primal)
    for count in range(1, len(labels) + 1):
        for axes in combinations(range(len(labels)), count):
            names = " and ".join(labels[k] for k in axes)
            for how, reduce in _REDUCTIONS.items():
                if evidence.everywhere(partial(_is_reduced, evidence, axes, reduce)):
                    text = (
                        f"the gradient of {evidence.primal} is its {how} over {names}, the same in every place: "
                        f"a {how} over an axis that {evidence.primal} has itself"
                    )
                    return Diagnosis("summed", "UNBROADCAST", text, Fit.EXACT, {"axes": names, "how": how})
    return None


def _is_reduced(evidence: Evidence, axes: tuple[int, ...], reduce: Callable[..., Array], probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    if any(n.shape[k] < 2 for k in axes):
        return False
    return close(a, np.broadcast_to(reduce(n, axis=axes, keepdims=True), n.shape))


def _to_end(array: Array, axis: int) -> Array:
    return np.flip(np.cumsum(np.flip(array, axis), axis), axis)


def _own_to_end(array: Array, axis: int) -> Array:
    return -np.diff(array, axis=axis, append=0)


def _own(array: Array, axis: int) -> Array:
    return np.diff(array, axis=axis, prepend=0)


_FROM_START, _TO_END = "from the start to there", "from there to the end"
# What backward made of the right gradient along an axis: class, words, and the steps.
_RUNNING: tuple[tuple[str, str, tuple[Callable[[Array, int], Array], ...]], ...] = (
    ("INDEX", f"a running sum {_FROM_START}, where the right one is the sum {_TO_END}", (_own_to_end, np.cumsum)),
    ("INDEX", f"a running sum {_TO_END}, where the right one is the sum {_FROM_START}", (_own, _to_end)),
    ("TERM", f"the part of each place alone, where the right one is their sum {_TO_END}", (_own_to_end,)),
    ("TERM", f"the part of each place alone, where the right one is their sum {_FROM_START}", (_own,)),
    ("TERM", f"a running sum {_TO_END} of what each place should hold alone", (_to_end,)),
    ("TERM", f"a running sum {_FROM_START} of what each place should hold alone", (np.cumsum,)),
)


@add("running", "INDEX", ANYWHERE, probes=True)
def running(evidence: Evidence) -> Diagnosis | None:
    """A running sum along an axis that is left out, surplus, or taken from the other end."""
    for axis, label in enumerate(evidence.probes[0].labels(evidence.primal)):
        for bug_class, words, steps in _RUNNING:
            if evidence.everywhere(partial(_runs, evidence, axis, steps)):
                text = f"the gradient of {evidence.primal} is along {label} {words}{evidence.given}"
                return Diagnosis("running", bug_class, text, Fit.LAW, {"axis": label})
    return None


def _runs(evidence: Evidence, axis: int, steps: tuple[Callable[[Array, int], Array], ...], probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    if n.shape[axis] < 2 or not np.isfinite(a).all():
        return False
    made = n
    for step in steps:
        made = step(made, axis)
    return close(a, made) and not close(a, n)


@add("shape", "UNBROADCAST")
def shape(evidence: Evidence) -> Diagnosis | None:
    """A gradient of another shape: what must be done to it to get the right one."""
    if evidence.finding.kind != "shape" or not evidence.situation.failing:
        return None
    found = [_repair(p, evidence.primal) for p in evidence.situation.failing]
    names = dict.fromkeys(found)
    if len(names) != 1 or found[0] is None:
        found = [_other_sum(evidence, p) for p in evidence.situation.failing]
        if len(dict.fromkeys(found)) != 1 or found[0] is None:
            return _other_axes(evidence)
    bug_class, words = found[0]
    text = f"the gradient of {evidence.primal} has another shape: {words}{evidence.given}"
    return Diagnosis("shape", bug_class, text, Fit.LAW, {"cases": len(found)})


def _repair(probe: Probe, name: str) -> tuple[str, str] | None:
    got, n = np.asarray(probe.raw.get(name), float), probe.numerical(name)
    if got.ndim == n.ndim and got.shape != n.shape and close(np.transpose(got), n):
        return "INDEX", "it is the transpose of the right one"
    if got.size == n.size and close(got.reshape(n.shape), n):
        return "UNBROADCAST", "its entries are right, but axes are missing, or surplus ones of size 1 are left"
    extra = got.ndim - n.ndim
    stretched = [k for k in range(max(extra, 0), got.ndim) if extra >= 0 and n.shape[k - extra] == 1 != got.shape[k]]
    if extra >= 0 and (extra or stretched):
        total = got.sum((*range(extra), *stretched)).reshape(n.shape) if _fits(got, n, stretched) else None
        if total is not None and close(total, n):
            return "UNBROADCAST", "it is not summed over the axes along which it was broadcast"
    if got.ndim == 0 < n.ndim and close(got, n.sum()):
        return "UNBROADCAST", "backward gives a scalar, the right one summed over all its axes"
    if got.ndim <= n.ndim and _is_sum(got, n):
        return "UNBROADCAST", "it is summed over an axis that it should keep"
    return None


def _other_sum(evidence: Evidence, probe: Probe) -> tuple[str, str] | None:
    """Whether it is summed over all axes of the output but one that is not among those to be kept."""
    got = np.asarray(probe.raw.get(evidence.primal), float)
    if got.ndim != 1 or len(probe.outputs) != 1:
        return None
    y = probe.outputs[0]
    parts = probe.contributions(evidence.primal).reshape(*y.shape, -1).sum(-1)
    for kept, label in enumerate(evidence.labels_of(0, y.ndim)):
        others = tuple(k for k in range(y.ndim) if k != kept)
        if close(got, parts.sum(others)) and label not in probe.labels(evidence.primal):
            return "UNBROADCAST", f"it is summed over all axes but {label}, where it must be summed over {label}"
    return None


def _other_axes(evidence: Evidence) -> Diagnosis | None:
    """What its axes look like, if each of them has the size of one dimension on every case."""
    shapes = [np.asarray(p.raw.get(evidence.primal)).shape for p in evidence.situation.failing]
    named = [variants.lone_sizes(evidence.layer, p.case) for p in evidence.situation.failing]
    if len({len(s) for s in shapes}) != 1 or len(set(shapes)) < 2:
        return None
    axes = [
        [n for n in named[0] if all(m.get(n) == s[k] for m, s in zip(named, shapes))] for k in range(len(shapes[0]))
    ]
    if not all(len(names) == 1 for names in axes):
        return None
    has = ", ".join(names[0].lstrip("*") for names in axes) or "none"
    wanted = ", ".join(evidence.situation.failing[0].labels(evidence.primal)) or "none"
    text = f"the gradient of {evidence.primal} has the axes {has}, and {evidence.primal} has {wanted}{evidence.given}"
    return Diagnosis("shape", "INDEX", text, Fit.FORM, {"cases": len(shapes)})


def _fits(got: Array, n: Array, stretched: list[int]) -> bool:
    extra = got.ndim - n.ndim
    kept = [m for k, m in enumerate(got.shape) if k >= extra and k not in stretched]
    return bool(np.prod(kept) == n.size)


def _is_sum(got: Array, n: Array) -> bool:
    for count in range(1, n.ndim + 1):
        for axes in combinations(range(n.ndim), count):
            if close(got.squeeze(), n.sum(axes).squeeze()):
                return True
    return False


@add("stretched", "UNBROADCAST", ("sizes",), probes=True)
def stretched(evidence: Evidence) -> Diagnosis | None:
    """Right for operands of one shape, wrong where one is stretched; it may hold one place of the sum."""
    primal = evidence.layer.primal(evidence.primal)
    if not any(axis.optional for axis in primal.dims.axes):
        return None
    held = (which for which, k in (("first", 0), ("last", -1)) if evidence.everywhere(partial(_one_place, evidence, k)))
    words = next((f"; it holds the {which} place of those to be summed" for which in held), "")
    text = (
        f"the gradient of {evidence.primal} is right where no axis is broadcast, and wrong where {evidence.primal} is "
        f"stretched: it is not summed over the axes along which it was broadcast{words}"
    )
    return Diagnosis("stretched", "UNBROADCAST", text, Fit.PLACES, {"cases": len(evidence.probes)})


def _one_place(evidence: Evidence, place: int, probe: Probe) -> bool:
    a, _ = evidence.pair(probe)
    if len(probe.outputs) != 1:
        return False
    parts = probe.contributions(evidence.primal).reshape(*probe.outputs[0].shape, *a.shape)
    chosen = np.zeros(probe.outputs[0].shape)
    extra = probe.outputs[0].ndim - a.ndim
    index = tuple(place if k < extra or a.shape[k - extra] == 1 else slice(None) for k in range(probe.outputs[0].ndim))
    chosen[index] = 1
    axes = tuple(range(chosen.ndim))
    return close(a, np.tensordot(chosen, parts, (axes, axes)))
