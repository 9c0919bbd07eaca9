"""Signatures of contributions that are overwritten or lost: one, or their mean, is there in place of their sum."""

from __future__ import annotations

from functools import partial
from itertools import combinations, product

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.gates import time_axis
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Case, Diagnosis, Fit


@add("overwritten", "OVERWRITE", ANYWHERE, probes=True)
def overwritten(evidence: Evidence) -> Diagnosis | None:
    """Each entry holds what one output contributes, the last or the first one, where several must be added."""
    facts = {"cases": len(evidence.probes)}
    d = f"the gradient of {evidence.primal}"
    for name, places in _axes(evidence):
        for which, place in (("last", -1), ("first", 0)):
            if not evidence.everywhere(partial(_along, evidence, places, place)):
                continue
            own = which == "first" and name in evidence.probes[0].labels(evidence.primal)
            if own and evidence.everywhere(partial(_to_the_end, evidence, places)):
                return None  # its own share alone, as where what goes on from place to place is not passed back
            one = _sample(evidence, name, places, which)
            text = (
                f"{d} is not summed over {_label(evidence, name)}: it equals the numerical one of the {one} alone"
                f"{evidence.given}"
            )
            plain = evidence.situation.needs == "nothing"
            alone = plain and name != time_axis(evidence)  # what a step gets from later ones is carried by the state
            bug_class = "OVERWRITE" if which == "last" or own else "UNBROADCAST"
            fit = Fit.LAW if which == "last" or alone or own else Fit.FORM
            return Diagnosis("overwritten", bug_class, text, fit, {"axis": name, **facts})
    for which, place in (("last", -1), ("first", 0)):
        if evidence.everywhere(partial(by_entry, evidence, place)):
            text = (
                f"entries of {evidence.primal} that reach several outputs hold the contribution of the {which} of them "
                f"alone{evidence.given}: it is assigned where it must be added"
            )
            return Diagnosis("overwritten", "OVERWRITE", text, Fit.PLACES, facts)
    return _windows(evidence) or _lost(evidence)


def _windows(evidence: Evidence) -> Diagnosis | None:
    """As above, where what the places of some other axes of the output (channels) contribute is added up first."""
    rank = evidence.probes[0].outputs[0].ndim
    labels, own = evidence.labels_of(0, rank), evidence.probes[0].labels(evidence.primal)
    others = [k for k in range(rank) if labels[k] not in own]
    for axes in (axes for count in range(1, rank - 1) for axes in combinations(others, count)):
        for which, place in (("last", -1), ("first", 0)):
            if evidence.everywhere(partial(_by_window, evidence, axes, place)):
                names = " and ".join(labels[k] for k in axes)
                text = (
                    f"entries of {evidence.primal} that reach several places of the output hold the contribution of "
                    f"the {which} of them alone (summed over {names}){evidence.given}: what overlapping windows "
                    "contribute is assigned where it must be added"
                )
                return Diagnosis("overwritten", "OVERWRITE", text, Fit.PLACES, {"cases": len(evidence.probes)})
    return None


def _by_window(evidence: Evidence, axes: tuple[int, ...], place: int, probe: Probe) -> bool:
    if len(probe.outputs) != 1 or probe.outputs[0].dtype.kind != "f":
        return False
    y, (a, n) = probe.outputs[0], evidence.pair(probe)
    terms = probe.contributions(evidence.primal).reshape(*y.shape, *n.shape).sum(axes)
    terms = terms.reshape(-1, *n.shape)
    return len(terms) > 1 and _holds_one(a, n, terms, np.zeros(n.shape), place)


Places = tuple[tuple[int, int], ...]


def _axes(evidence: Evidence) -> list[tuple[str, Places]]:
    """Every axis of the outputs by name, with the (output, axis) pairs that have it."""
    found: dict[str, list[tuple[int, int]]] = {}
    for output, y in enumerate(evidence.probes[0].outputs):
        for axis, name in enumerate(evidence.labels_of(output, y.ndim) if y.dtype.kind == "f" else ()):
            found.setdefault(name, []).append((output, axis))
    return [(name, tuple(pairs)) for name, pairs in found.items()]


def _label(evidence: Evidence, name: str) -> str:
    if name.startswith("axis "):
        return f"{name} of the output" if " of " not in name else name
    return f"the batch axis {name}" if name == evidence.layer.batch else f"the axis {name}"


def _sample(evidence: Evidence, name: str, places: Places, which: str) -> str:
    if name == evidence.layer.batch:
        return f"{which} sample"
    every = evidence.everywhere(partial(_all_reach, evidence, places))
    return f"{which} place" if every else f"{which} place that an entry reaches"


def _lost(evidence: Evidence) -> Diagnosis | None:
    """All contributions along an axis but the first, or the last."""
    for name, places in _axes(evidence):
        for which, place, rest in (("first", 0, "begins one too late"), ("last", -1, "ends one too early")):
            if evidence.everywhere(partial(_without, evidence, places, place)):
                text = (
                    f"the gradient of {evidence.primal} lacks the contribution of the {which} place along "
                    f"{_label(evidence, name)}, and has all others{evidence.given}, as when a loop {rest}"
                )
                every = all(len(evidence.others_wrong(p)) == len(evidence.differentiable) > 1 for p in evidence.probes)
                bug_class = "UPSTREAM" if every else "OVERWRITE"  # what none gets is not asked for
                reach = evidence.everywhere(partial(_all_reach, evidence, places))
                facts = {"axis": name, "cases": len(evidence.probes)}
                return Diagnosis("overwritten", bug_class, text, Fit.PLACES if reach else Fit.FORM, facts)
    return None


def _without(evidence: Evidence, places: Places, place: int, probe: Probe) -> bool:
    if any(probe.outputs[k].ndim <= axis or probe.outputs[k].shape[axis] < 2 for k, axis in places):
        return False
    terms, rest = _terms(evidence, places, probe)
    a, n = evidence.pair(probe)
    return close(a, rest + terms.sum(0) - terms[place]) and not close(a, n)


def _terms(evidence: Evidence, places: Places, probe: Probe) -> tuple[Array, Array]:
    """Contributions of each place along an axis that outputs share, shape (places, *primal), and all others."""
    flat = probe.contributions(evidence.primal)
    rest = np.zeros(flat.shape[1:])
    chosen: Array = 0.0
    for k, (y, span) in enumerate(zip(probe.outputs, probe.spans)):
        part = flat[span]
        axis = next((axis for output, axis in places if output == k), None)
        if axis is None:
            rest = rest + part.sum(0)
        else:
            shaped = np.moveaxis(part.reshape(*y.shape, *part.shape[1:]), axis, 0)
            chosen = chosen + shaped.sum(tuple(range(1, y.ndim)))
    return chosen, rest


def _along(evidence: Evidence, places: Places, place: int, probe: Probe) -> bool:
    if any(probe.outputs[k].ndim <= axis or probe.outputs[k].shape[axis] < 2 for k, axis in places):
        return False
    terms, rest = _terms(evidence, places, probe)
    a, n = evidence.pair(probe)
    alone = close(a, rest + terms[place]) and not close(a, n) and bool(np.any(a))
    return alone or _holds_one(a, n, terms, rest, place)


def _all_reach(evidence: Evidence, places: Places, probe: Probe) -> bool:
    return bool(_there(_terms(evidence, places, probe)[0]).all())


def by_entry(evidence: Evidence, place: int, probe: Probe) -> bool:
    """Whether entries that reach several outputs hold the first (0) or last (-1) contribution, others being right."""
    terms = probe.contributions(evidence.primal)
    return len(terms) > 1 == len(probe.outputs) and _holds_one(
        *evidence.pair(probe), terms, np.zeros(terms.shape[1:]), place
    )


def _to_the_end(evidence: Evidence, places: Places, probe: Probe) -> bool:
    """Whether each entry reaches the last place: it is carried on, and not seen through a window."""
    return bool(_there(_terms(evidence, places, probe)[0])[-1].all())


def _there(terms: Array) -> Array:
    return np.asarray(np.abs(terms) > 1e-7 * float(np.abs(terms).max(initial=0.0)))


def _holds_one(a: Array, n: Array, terms: Array, rest: Array, place: int) -> bool:
    """Whether the analytic gradient is `rest` and, for each entry, the first or last of the terms that are there."""
    there = _there(terms)
    if not (there.sum(0) > 1).any() or close(a, n) or not np.any(a):
        return False
    order = np.argmax(there if place == 0 else there[::-1], axis=0)
    index = order if place == 0 else len(terms) - 1 - order
    return close(a, rest + np.take_along_axis(terms, index[None], 0)[0])


_APART = 9  # places, among which two seldom choose the same
_CROWD = 6  # that must meet where there is one place
_STEP = 1e-3  # of itself: far above what is called close, too little for another choice
_DRAWS = 4  # cases where no two should meet, of which most must be right: by chance two meet now and then


@add("met", "OVERWRITE", ("nothing", "sizes", "values"))
def met(evidence: Evidence) -> Diagnosis | None:
    """Right where no two can meet in one place, wrong where they must, and now this, now that in between.

    Along one axis lie what chooses a place, along another the places, which the primal has. Where an index is
    given as a primal, its repetitions tell more.
    """
    layer = evidence.layer
    if any(p.domain.kind == "int" for p in layer.primals) or evidence.finding.kind != "wrong":
        return None
    names = [n for n in variants.axis_names(layer) if not n.startswith("*")]
    own = layer.primal(evidence.primal).dims.names
    for chooser, place in product([n for n in names if n not in own], [n for n in names if n in own]):
        if not evidence.holds(*_cases(evidence, {chooser: 1}, 2)):
            continue
        if not all(map(evidence.fails, _cases(evidence, {chooser: _CROWD, place: 1}, 2))):
            continue
        apart = _cases(evidence, {chooser: 2, place: _APART}, _DRAWS)
        near = _cases(evidence, {chooser: 2, place: 2}, 2 * _DRAWS)
        failing = [evidence.fails(case) for case in near]
        some = sum(map(evidence.holds, apart)) > _DRAWS // 2 and any(failing) and not all(failing)
        if some and all(_unheard(evidence, case, chooser) for case in _cases(evidence, {chooser: _CROWD, place: 1}, 2)):
            text = (
                f"contributions to one place of {place} overwrite one another in the gradient of {evidence.primal}: it "
                f"is right for {chooser} = 1, mostly right where two of {chooser} choose among {_APART} places, and "
                f"wrong where all must meet in one; the place is computed in forward (a minimum, a nearest "
                "neighbour, a bin), and what meets there must be added up"
            )
            return Diagnosis("met", "OVERWRITE", text, Fit.LAW, {"chooser": chooser, "place": place})
    return None


def _unheard(evidence: Evidence, case: Case | None, chooser: str) -> bool:
    """Whether most of what must meet in one place has no part in the gradient: moved alone, it changes nothing."""
    probe = evidence.probe(case)
    if case is None or probe is None or probe.failure is not None:
        return False
    have = {p.name: p.dims.names.index(chooser) for p in evidence.layer.primals if chooser in p.dims.names}
    silent = 0
    for k in range(_CROWD):

        def move(array: Array, axis: int, k: int = k) -> Array:
            index = (slice(None),) * axis + (k,)
            array[index] += _STEP * np.abs(array[index])
            return array

        moved = case.but(primals={n: move(np.array(a), have[n]) if n in have else a for n, a in case.primals.items()})
        other = evidence.probe(moved.but(cotangents=probe.case.cotangents))
        silent += (
            other is not None
            and other.failure is None
            and close(*(p.analytic[evidence.primal] for p in (probe, other)))
        )
    return silent >= _CROWD // 2


def _cases(evidence: Evidence, sizes: dict[str, int], count: int) -> list[Case | None]:
    return [evidence.plain(draw, sizes=sizes) for draw in range(count)]
