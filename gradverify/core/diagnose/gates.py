"""Signatures of recurrent layers: gates swapped, copied or wrong, a lost state, the mask of another step."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

_STATE = re.compile(r"\w+0(_reverse)?\Z|\w+_0\Z")
_PACKED = re.compile(r"(\d+)\*\(?(\w+)\)?\Z")


def packed(evidence: Evidence, name: str) -> tuple[int, int] | None:
    """Axis that holds several gates side by side ("4*H"), and how many; None if there is none."""
    for axis, token in enumerate(evidence.layer.primal(name).dims.axes):
        match = _PACKED.match(token.text)
        if match and token.kind == "sum" and 2 < int(match[1]) < 9:
            return axis, int(match[1])
    return None


def blocks(array: Array, axis: int, count: int) -> Array:
    """One gate after the other, shape (count, ...)."""
    return np.stack(np.split(array, count, axis))


@add("gates", "GATE", ANYWHERE, probes=True)
def gates(evidence: Evidence) -> Diagnosis | None:
    """Blocks of a packed axis: which are wrong, and whether they hold what belongs to another block."""
    if not any(packed(evidence, n) for n in evidence.differentiable):
        return None
    probes = _one_step(evidence)
    mine = packed(evidence, evidence.primal)
    if mine is not None:
        return _in_blocks(evidence, probes, evidence.primal, *mine)
    for name in evidence.differentiable:  # a primal without gates may be wrong because of a parameter's
        found = packed(evidence, name)
        blocks = found and _in_blocks(evidence, probes, name, *found)
        if blocks:
            text = f"the gradient of {evidence.primal} is wrong together with that of {name}: {blocks.text}"
            return Diagnosis("gates", blocks.bug_class, text, blocks.fit, blocks.evidence)
    return None


def _one_step(evidence: Evidence) -> tuple[Probe, ...]:
    """Cases of a single step, where no error of a gate is carried on to others; if it fails on those."""
    time = time_axis(evidence)
    if time is None:
        return evidence.probes
    return evidence.failing_at([{time: 1}, {time: 1}]) or evidence.probes


def _in_blocks(evidence: Evidence, probes: tuple[Probe, ...], name: str, axis: int, count: int) -> Diagnosis | None:
    d, facts = f"the gradient of {name}", {"cases": len(probes)}
    copies = [_copies(p, name, axis, count) for p in probes]
    if copies[0] and all(c == copies[0] for c in copies):
        said = ", ".join(f"gate {k} holds that of gate {j}" for k, j in copies[0])
        swapped = len(copies[0]) == 2 and copies[0][0] == copies[0][1][::-1]
        text = f"in {d} gates {copies[0][0][0]} and {copies[0][0][1]} are swapped" if swapped else f"in {d} {said}"
        return Diagnosis("gates", "GATE", text, Fit.LAW, facts)
    wrong = [_wrong_blocks(p, name, axis, count) for p in probes]
    if any(w != wrong[0] for w in wrong) or not 0 < len(wrong[0]) < count:
        return None
    if any(not np.any(block) for p in probes for block in blocks(p.numerical(name), axis, count)):
        return None  # a gate without any gradient is right whatever the bug
    said = f"gate{'s' * (len(wrong[0]) > 1)} {', '.join(map(str, wrong[0]))} of {count}"
    only = f"only {said} {'are' if len(wrong[0]) > 1 else 'is'} wrong in {d}"
    if all(not blocks(p.analytic[name], axis, count)[wrong[0]].any() for p in probes):
        text = f"{d} is exactly zero in {said}, and right in the others: that path is dropped"
        return Diagnosis("gates", "DROPPED", text, Fit.PLACES, facts)
    others = [n for n in evidence.differentiable if n != name and packed(evidence, n)]
    same = [n for n in others if all(_wrong_blocks(p, n, *(packed(evidence, n) or (0, 1))) == wrong[0] for p in probes)]
    if same:
        text = f"{only}, and in {', '.join(same)} as well, as when the derivative of the gate itself is wrong"
        return Diagnosis("gates", "GATE", text, Fit.SOME, facts)
    text = f"{only}, and not the same in {', '.join(others) or 'others'}: a factor or a term there is wrong"
    return Diagnosis("gates", "TERM", text, Fit.SOME, facts)


def _copies(probe: Probe, name: str, axis: int, count: int) -> list[tuple[int, int]]:
    """Wrong blocks that hold the right gradient of another block."""
    a, n = (blocks(g, axis, count) for g in (probe.analytic[name], probe.numerical(name)))
    found = []
    for k in range(count):
        if close(a[k], n[k]):
            continue
        match = [j for j in range(count) if j != k and close(a[k], n[j])]
        if not match:
            return []
        found.append((k, match[0]))
    return found


def _wrong_blocks(probe: Probe, name: str, axis: int, count: int) -> list[int]:
    wrong = blocks(probe.wrong(name), axis, count).reshape(count, -1).any(1)
    return [int(k) for k in np.flatnonzero(wrong)]


def time_axis(evidence: Evidence) -> str | None:
    """The axis of time: named T, or the leading axis of an input of a layer with states that carry on."""
    names = variants.axis_names(evidence.layer)
    return "T" if "T" in names and any("T" not in p.dims.names for p in evidence.layer.differentiable) else None


def _not_passed(evidence: Evidence, probe: Probe, time: str, carried: set[str]) -> bool:
    """Whether an upstream gradient of the second of two places alone leaves the first ones at zero."""
    last = _of_place(probe, 1)
    first = _at_first(evidence, probe.pulled(last), time, carried) if any(np.any(v) for v in last) else []
    return bool(first) and not any(np.any(part) for part in first)


def _flows(evidence: Evidence, probe: Probe, time: str, carried: set[str]) -> bool:
    """Whether such an upstream gradient reaches the first places in forward: that it does so rightly says something."""
    last = _of_place(probe, 1)
    weights = np.concatenate([np.ravel(v) for v in last]) if last else np.zeros(0)
    right = {n: probe.under(n, weights) for n in carried & set(evidence.differentiable)}
    return any(np.any(part) for part in _at_first(evidence, right, time, carried))


def _at_first(evidence: Evidence, gradients: Mapping[str, Array], time: str, carried: set[str]) -> list[Array]:
    """Of gradients of states and inputs, what belongs to the first place along the axis of time."""
    found = []
    for name in carried & set(gradients):
        names = evidence.layer.primal(name).dims.names
        found.append(np.take(gradients[name], [0], names.index(time)) if time in names else gradients[name])
    return found


def _of_one_step(evidence: Evidence, probe: Probe) -> bool:
    """Whether an upstream gradient of the first of two places alone is answered rightly, or by 0: one step counts."""
    first = _of_place(probe, 0)
    if not any(np.any(v) for v in first):
        return False
    weights = np.concatenate([np.ravel(v) for v in first])
    a, n = probe.pulled(first).get(evidence.primal), probe.under(evidence.primal, weights)
    return a is not None and bool(np.any(n)) and (close(a, n) or not np.any(a))


def _of_place(probe: Probe, place: int) -> tuple[Array, ...]:
    """Cotangents that are zero but for one place of the axis that has two; what lies along none is of the last step."""
    found = []
    for v in probe.case.cotangents or ():
        axes = [k for k, size in enumerate(v.shape) if size == 2]
        kept = np.zeros_like(v)
        at = (slice(None),) * axes[0] + (place,) if len(axes) == 1 else ()
        if len(axes) == 1 or (not axes and place == 1):
            kept[at] = v[at]
        found.append(kept)
    return tuple(found)


@add("steps", "GATE", ANYWHERE, probes=True)
def steps(evidence: Evidence) -> Diagnosis | None:
    """Right for one step, wrong for two: what is carried from step to step."""
    time = time_axis(evidence)
    if time is None:
        return None
    one, two = ([evidence.plain(draw, sizes={time: count}) for draw in range(2)] for count in (1, 2))
    if not evidence.holds(*one) or not all(map(evidence.fails, two)):
        return None
    lone = {**dict.fromkeys(variants.axis_names(evidence.layer), 3), time: 2}  # so that its axis is told by its size
    probe = evidence.probe(evidence.plain(0, sizes=variants.grouped(lone)))
    if probe is None or not evidence.wrong(probe):
        probe = evidence.probe(two[0])
    assert probe is not None
    wrong = evidence.others_wrong(probe)
    states = {n for n in evidence.layer.primal_names if _STATE.match(n)}
    carried = states | {n for n in evidence.differentiable if time in evidence.layer.primal(n).dims.names}
    d = f"the gradient of {evidence.primal} is right for {time} = 1 and wrong for {time} = 2"
    fit = Fit.FORM if states else Fit.PART  # without a state, what runs along that axis need not be steps
    flows = _flows(evidence, probe, time, carried)
    if carried & set(wrong) and not states and not flows:
        return None  # each place is for itself: what differs from the first place on is no step
    if carried & set(wrong):
        others = [n for n in wrong if n != evidence.primal]
        as_well = f", as are those of {', '.join(others)}" if others else ""
        what = "a state" if states else f"what goes from one place along {time} to another"
        why = (
            f"{what} is not passed back: an upstream gradient of the last place along {time} alone reaches no other"
            if _not_passed(evidence, probe, time, carried)
            else f"the mistake is in {what}, or in which place's values are taken"
        )
        text = f"{d}{as_well}: {why}"
        return Diagnosis("steps", "GATE", text, fit, {"wrong": wrong})
    if flows and _of_one_step(evidence, probe):
        text = f"{d}, while all inputs and states have right gradients: what the steps contribute is not added up"
        return Diagnosis("steps", "OVERWRITE", text, fit, {"wrong": wrong})
    text = f"{d}: what is carried along {time}, or added up over it, is wrong"
    added = bool(carried & set(evidence.differentiable)) and wrong == [evidence.primal]  # of many, the cause is another
    return Diagnosis("steps", "OVERWRITE" if added else "GATE", text, fit, {"wrong": wrong})


@add("step_mask", "RNG", ANYWHERE, probes=True)
def step_mask(evidence: Evidence) -> Diagnosis | None:
    """Right where a mask is the same for every step, or keeps everything; wrong otherwise."""
    if not drops(evidence):
        return None
    for primal in evidence.layer.primals:
        if primal.domain.name != "mask":
            continue
        full = [variants.but(evidence.layer, p.case, primal.name, np.ones_like) for p in evidence.probes]
        if not evidence.holds(*full):
            continue
        d = f"the gradient of {evidence.primal} is right where {primal.name} drops nothing, and wrong where it does"
        labels = primal.dims.labels(np.ndim(evidence.case.primals[primal.name]))
        constant = [variants.but(evidence.layer, p.case, primal.name, _first_of_all) for p in evidence.probes]
        if evidence.holds(*constant) and np.ndim(evidence.case.primals[primal.name]) > 1:
            text = f"{d}, unless it drops the same at every {labels[0]}: backward takes the mask of one place for all"
            return Diagnosis("step_mask", "RNG", text, Fit.LAW)
        return Diagnosis("step_mask", "RNG", f"{d}: forward and backward do not drop the same", Fit.FORM)
    return None


def _first_of_all(mask: Array) -> Array:
    return np.repeat(mask[:1], len(mask), 0) if mask.ndim else mask


def drops(evidence: Evidence) -> bool:
    """Whether the mask is one of dropout: there is a rate among the options, or the name says so."""
    names = {*evidence.layer.options, *evidence.layer.name.split("_")}
    return (
        bool(names & {"p", "rate", "drop", "dropout", "keep", "keep_prob", "zoneout"}) or "drop" in evidence.layer.doc
    )
