"""Signatures of masks, padding and repeated indices: what goes when all is kept, or none repeats; a mask drawn anew."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.gates import drops
from gradverify.core.diagnose.jacobian import jacobians
from gradverify.core.diagnose.mirrored import where_symmetric
from gradverify.core.diagnose.overwritten import by_entry
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Case, Diagnosis, Fit, Stream


@add("mask", "MASK", ANYWHERE)
def mask(evidence: Evidence) -> Diagnosis | None:
    """Right where a mask keeps all; wrong where it does not, or where a row of it keeps nothing."""
    if not evidence.situation.failing:
        return None
    for primal in evidence.layer.primals:
        if primal.domain.name not in ("mask", "bool"):
            continue
        cases = [p.case for p in evidence.situation.failing]
        kept = [variants.but(evidence.layer, c, primal.name, np.ones_like) for c in cases]
        if not evidence.holds(*kept) or primal.name in dict(where_symmetric(evidence)):
            continue  # all ones are their own transpose, too
        if evidence.probes and not evidence.everywhere(partial(_hides, evidence, primal.name)):
            continue  # what is called a mask is a label, or tells two branches apart
        one = [variants.but(evidence.layer, c, primal.name, _one_kept) for c in cases]
        rows = evidence.holds(*one)
        d = f"the gradient of {evidence.primal} is right where {primal.name} is 1 everywhere"
        text = (
            f"{d}, or at least at one place of each row, and wrong where a row is 0"
            if rows
            else f"{d}, and wrong where it is not"
        )
        return Diagnosis(
            "mask",
            "MASK",
            text + evidence.with_options,
            Fit.PART if drops(evidence) else Fit.LAW,
            {"cases": len(cases)},
        )
    return None


def _hides(evidence: Evidence, name: str, probe: Probe) -> bool:
    """Whether entries that are wrong, and 0 in a mask of their own shape, have no gradient."""
    kept, wrong = np.asarray(probe.case.primals[name]), probe.wrong(evidence.primal)
    return kept.shape != wrong.shape or not np.any(probe.numerical(evidence.primal)[wrong & (kept == 0)])


def _one_kept(mask: Array) -> Array:
    """Rows that keep nothing get their first place kept."""
    if mask.ndim == 0:
        return np.ones_like(mask)
    mask[..., 0] = np.where(mask.any(-1), mask[..., 0], 1)
    return mask


_ADDED_UP = "what repeated indices contribute must be added up"
_MIXED = "what belongs to one value is taken for that of others"
_COUNTED = (
    "all that they contribute is there, and the weights are wrong, as where their number is left out or another's"
)


@add("repeats", "REPEAT-IDX", ANYWHERE)
def repeats(evidence: Evidence) -> Diagnosis | None:
    """Right where no index is repeated (or all are in order), wrong where one is."""
    if not evidence.situation.failing:
        return None
    for primal in evidence.layer.primals:
        if primal.domain.kind != "int" or primal.domain.name not in ("indices", "labels", "integers"):
            continue
        for words, tail, why, change in (
            ("no value is repeated", "a value is repeated", _ADDED_UP, _distinct),
            ("places are taken in their own order", "a value is taken elsewhere, or repeated", _ADDED_UP, _identity),
            ("all values are the same", "they differ", _MIXED, _alike),
        ):
            mixed = change is _alike
            if mixed and evidence.situation.needs != "nothing":
                continue  # an option, such as an index that is left out, then tells more
            cases = [change(evidence, p.case, primal.name) for p in evidence.situation.failing]
            if evidence.holds(*cases):
                assigned = change is _distinct and evidence.everywhere(partial(by_entry, evidence, -1))
                last = "; it holds the last contribution alone" if assigned else ""
                counted = not mixed and _all_there(evidence)
                text = (
                    f"the gradient of {evidence.primal} is right where in {primal.name} {words}, and wrong where "
                    f"{tail}{last}{evidence.with_options}: {_COUNTED if counted else why}"
                )
                exact = primal.domain.name == "indices" and not mixed and not counted
                bug_class = "INDEX" if mixed else "TERM" if counted else "REPEAT-IDX"
                return Diagnosis("repeats", bug_class, text, Fit.EXACT if exact else Fit.FORM, {"cases": len(cases)})
    return None


def _all_there(evidence: Evidence) -> bool:
    """Whether each entry gets something from every output that it reaches: nothing is overwritten."""
    pairs = jacobians(evidence)
    told = bool(pairs) and all(len(j.numerical) > 1 for j in pairs)  # of one output, all is there
    return told and not any((j.gone("analytic") & j.there("numerical")).any() for j in pairs)


def _alike(evidence: Evidence, case: Case, name: str) -> Case | None:
    """The case with all indices equal, where they are not."""
    several = bool(np.ptp(case.primals[name]))
    return variants.but(evidence.layer, case, name, lambda a: np.full_like(a, a.flat[0])) if several else None


def _identity(evidence: Evidence, case: Case, name: str) -> Case | None:
    """The case with as many places to take from as are taken, each place from itself."""
    layer = evidence.layer
    labels = layer.primal(name).dims.labels(np.ndim(case.primals[name]))
    counted = layer.primal(name).domain.arguments[-1]
    free = variants.axis_names(layer)
    for axis, label in enumerate(labels):
        if counted not in free or label not in free or label in layer.primal(evidence.primal).dims.names:
            continue
        made = evidence.plain(0, case.options, {counted: 3, label: 3})
        if made is None:
            continue
        order = np.arange(3).reshape([3 if k == axis else 1 for k in range(len(labels))])
        own, other = (variants.but(layer, made, name, partial(_spread, index)) for index in (order, np.roll(order, 1)))
        if evidence.holds(own) and evidence.fails(other):
            return own
    return None


def _spread(index: Array, array: Array) -> Array:
    return np.asarray(np.broadcast_to(index, array.shape))


def _distinct(evidence: Evidence, case: Case, name: str) -> Case | None:
    """The case with indices that are all different along the last axis, and with sizes that have room for them."""
    layer = evidence.layer
    domain = layer.primal(name).domain
    array = np.asarray(case.primals[name])
    counted = domain.arguments[-1]
    sizes: dict[str, Any] = layer.named_sizes(case.primals, case.options) or {}
    free = variants.axis_names(layer)
    count = sizes[counted] if isinstance(sizes.get(counted), int) else int(counted) if str(counted).isdigit() else 0
    own = [n for n in layer.primal(name).dims.labels(array.ndim) if n in free]
    if array.size > count > 1 and counted not in free and own:  # a fixed number of values: fewer places then
        few = max(1, count // 2 ** (len(own) - 1))
        made = evidence.plain(0, case.options, {**dict.fromkeys(own, 2), own[-1]: few})
        case, array = (case, array) if made is None else (made, np.asarray(made.primals[name]))
    if array.size > count and counted in free:
        fixed = {n: v for n, v in sizes.items() if n in free}
        made = evidence.plain(0, case.options, {**fixed, counted: array.size})
        if made is None:
            return None
        case, count = made, array.size
        twice = np.arange(array.size).reshape(array.shape) // 2
        again = (variants.but(layer, case, name, partial(_spread, index)) for index in (twice, 0 * twice))
        if not any(map(evidence.fails, again)):
            return None  # then it is the size and not the repetition
    if array.size > count:
        return None
    flat = case.rng(Stream.REPEATED).permutation(count)[: array.size]
    return variants.but(layer, case, name, partial(_spread, flat.reshape(array.shape)))


_CHANGES = (-1.0, 2.0**-6, 2.0**6)  # of all values: beside a clamp, forward keeps other places then


_CALLS = 12  # of which a race changes some
_DRAWN = 6  # cases, on few of which two draws are the same by chance


@add("redrawn", "RNG", ("nothing",), probes=True)
def redrawn(evidence: Evidence) -> Diagnosis | None:
    """Forward and backward multiply by 0 or one number, in other places, and those of forward do not go with values."""
    if any(p.domain.name in ("mask", "bool") for p in evidence.layer.primals):
        return None  # a mask that is given is not drawn
    if not evidence.everywhere(partial(_other_places, evidence)):
        return None
    if not evidence.everywhere(partial(_whatever_the_values, evidence)):
        return None
    text = (
        f"forward keeps some places of {evidence.primal}, whatever their values, and backward others, by the same "
        "factor: the mask is drawn again in backward, where that of forward must be kept"
    )
    return Diagnosis("redrawn", "RNG", text, Fit.LAW, {"cases": len(evidence.probes)})


def _factors(evidence: Evidence, probe: Probe) -> tuple[Array, Array] | None:
    """What backward and forward multiply with in each place, if an output goes with each entry of the primal."""
    a, n = evidence.pair(probe)
    dy = (probe.case.cotangents or (np.zeros(()),))[0]
    if len(probe.outputs) != 1 or np.shape(dy) != a.shape or a.size < 4:
        return None
    return a / dy, n / dy


def _other_places(evidence: Evidence, probe: Probe) -> bool:
    found = _factors(evidence, probe)
    if found is None:
        return False
    ours, theirs = found
    top = float(np.abs(theirs).max(initial=0.0))
    clean = all(bool(np.all((np.abs(f) < 1e-6 * top) | (np.abs(f - top) < 1e-6 * top))) for f in found)
    return clean and top > 0 and bool(np.any(np.abs(ours) > 0)) and not close(ours, theirs)


def drawn_again(evidence: Evidence) -> bool:
    """Whether backward, which answers by chance, multiplies by 0 or one number, and forward in other places."""
    found = [evidence.probe(evidence.plain(draw)) for draw in range(_DRAWN)]
    probes = [p for p in found if p is not None and p.failure is None and evidence.primal in p.analytic]
    return sum(_other_places(evidence, p) for p in probes) > _DRAWN // 2


def draws(evidence: Evidence) -> bool:
    """Whether what changes from call to call stays once backward starts its random numbers from one state."""
    steady = evidence.layer.hooks.steady
    probes = [p for p in (evidence.own, evidence.probe(evidence.plain(0))) if p is not None]

    def changes(probe: Probe) -> bool:
        first, *others = [probe.pulled(probe.case.cotangents or ()).get(evidence.primal) for _ in range(_CALLS)]
        return not all(first is not None and g is not None and np.array_equal(first, g) for g in others)

    changing = [p for p in probes if steady is not None and changes(p)]
    if steady is None or not changing:
        return False
    with steady():
        return not any(changes(p) for p in changing)


def _whatever_the_values(evidence: Evidence, probe: Probe) -> bool:
    """Whether forward keeps the same places where all values have the other sign, and where they are small or large."""
    x, found = probe.case.primals[evidence.primal], _factors(evidence, probe)
    for change in _CHANGES:
        other = evidence.probe(probe.case.but(primals={**probe.case.primals, evidence.primal: change * x}))
        changed = None if other is None else _factors(evidence, other)
        if found is None or changed is None or not close(found[1], changed[1]):
            return False
    return True
