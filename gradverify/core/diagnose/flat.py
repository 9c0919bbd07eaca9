"""The signature of a gradient that passes where forward is flat: a clamp, a saturated unit, a rounded value."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit, Stream

_FLAT = 1e-12  # share of the largest derivative: differences of what does not change are exactly zero
_FAR = 1.5  # times the size of an entry, or 1: more than a step between whole numbers
_DRAWS = 6  # cases with values of every size, of which some have none beyond a clamp
_FEW = 3  # values that a clamp leaves


@add("flat", "TERM", ANYWHERE, probes=True)
def flat(evidence: Evidence) -> Diagnosis | None:
    """Right but for what comes from outputs, or goes to entries, that do not change with one another."""
    if evidence.finding.kind != "wrong":
        return None
    facts = {"cases": len(evidence.probes)}
    d = f"the gradient of {evidence.primal}"
    probes = _mixed(evidence) or evidence.probes
    mixed, needs = probes is not evidence.probes, evidence.situation.needs
    given = evidence.with_options if mixed else evidence.given

    def fit(best: Fit) -> Fit:
        """Options then say more, and that values must be large says less; one case of its own tells little."""
        return Fit(best + mixed - (needs == "options")) if mixed or needs != "values" else Fit.PART

    if evidence.everywhere(partial(_in_steps, evidence)):
        text = (
            f"forward changes with {evidence.primal} in steps alone{evidence.given}, as where values are rounded: its "
            f"derivative is 0, and {d} is not; if it is meant to pass all the same (a straight-through estimator), "
            "declare the function whose derivative it is: surrogate=f"
        )
        return Diagnosis("flat", "TERM", text, fit(Fit.LAW), facts)
    if evidence.everywhere(partial(_from_flat_outputs, evidence), probes):
        text = (
            f"{d} passes where forward is flat{given}: it takes part of the upstream gradient of outputs that "
            f"do not change with {evidence.primal}{_values(evidence, probes)}, as where a clamp or a saturated unit is "
            "not masked in backward, and is right without that"
        )
        return Diagnosis("flat", "TERM", text, fit(Fit.PLACES), facts)
    if evidence.everywhere(partial(_to_flat_entries, evidence), probes) and _others_are_right(evidence, probes):
        text = (
            f"{d} passes where forward is flat{given}: it is wrong in just those entries that change no "
            "output (a clamp, a margin that is kept, a saturated unit), and right in the others"
        )
        return Diagnosis("flat", "TERM", text, fit(Fit.SOME), facts)
    return None


def _mixed(evidence: Evidence) -> list[Probe]:
    """Where it takes large values: cases on which it fails, with entries of every size up to those.

    A clamp that plain values do not reach makes all of the finding's own case flat.
    """
    name = evidence.primal
    if evidence.situation.needs != "values" or evidence.case.primals[name].dtype.kind != "f":
        return []
    top, rng = float(np.abs(evidence.case.primals[name]).max(initial=0.0)), evidence.case.rng(Stream.MIXED)
    spread = partial(_spread, 2.0 * max(top, 1.0), rng)
    plain = (evidence.plain(draw) for draw in range(_DRAWS))
    made = (None if case is None else variants.but(evidence.layer, case, name, spread) for case in plain)
    wrong = (probe for probe in map(evidence.probe, made) if probe is not None and evidence.wrong(probe))
    return [probe for probe in wrong if probe.jacobian(name).any()]


def _spread(top: float, rng: np.random.Generator, array: Array) -> Array:
    """Sizes from below 1 up to the top, of both signs where there are both."""
    signs = np.where((array > 0).all(), 1.0, rng.choice([-1.0, 1.0], array.shape))
    return np.asarray(signs * top ** rng.uniform(-0.5, 1.0, array.shape))


def _in_steps(evidence: Evidence, probe: Probe) -> bool:
    """Whether no output has a slope, there or a long way off, over which some change, and the gradient is not zero."""
    name = evidence.primal
    a, _ = evidence.pair(probe)
    array = probe.case.primals[name]
    if array.dtype.kind != "f" or probe.jacobian(name).any() or not a.any():
        return False
    far = (array + _FAR * np.maximum(np.abs(array), 1.0)).astype(array.dtype)
    other = evidence.probe(probe.case.but(primals={**probe.case.primals, name: far}))
    if other is None or other.jacobian(name).any():
        return False
    moved, base = other.point.base, probe.point.base
    return bool(np.abs(moved - base).max() > _FLAT * max(1.0, float(np.abs(base).max())))  # rounding is no step


def _flat_outputs(evidence: Evidence, probe: Probe) -> Array:
    """Mask of the flat outputs that do not change with the primal, though others do."""
    size = np.abs(probe.jacobian(evidence.primal)).max(axis=1, initial=0.0)
    return np.asarray(size <= _FLAT * float(size.max(initial=0.0)))


def _from_flat_outputs(evidence: Evidence, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    mask = _flat_outputs(evidence, probe)
    if not mask.any() or mask.all() or close(a, n):
        return False
    masked = []
    for v, y, span in zip(probe.case.cotangents or (), probe.outputs, probe.spans):
        part = mask[span].reshape(*y.shape, -1).all(-1)
        masked.append(np.where(part, 0, v).astype(v.dtype))
    without = probe.pulled(tuple(masked)).get(evidence.primal)
    return without is not None and close(without, n)


def _values(evidence: Evidence, probes: Sequence[Probe]) -> str:
    """Values of the flat outputs, if they are few, as those of a clamp are."""
    found: set[float] = set()
    for probe in probes:
        if len(probe.outputs) > 1 or probe.outputs[0].dtype.kind != "f":
            return ""
        found |= set(np.round(probe.outputs[0].ravel()[_flat_outputs(evidence, probe)].astype(float), 12).tolist())
    return f" ({' or '.join(f'{v:g}' for v in sorted(found))} all of them)" if len(found) < _FEW else ""


def _flat_entries(evidence: Evidence, probe: Probe) -> Array:
    size = np.abs(probe.jacobian(evidence.primal)).max(axis=0, initial=0.0)
    return np.asarray(size <= _FLAT * float(size.max(initial=0.0))).reshape(probe.shape(evidence.primal))


def _to_flat_entries(evidence: Evidence, probe: Probe) -> bool:
    wrong, entries = probe.wrong(evidence.primal), _flat_entries(evidence, probe)
    return bool(wrong.any()) and not bool((wrong & ~entries).any())


def _others_are_right(evidence: Evidence, probes: Sequence[Probe]) -> bool:
    """Whether as many entries are not flat, and right: what is wrong anyway would show among them."""
    right = sum(int((~_flat_entries(evidence, p)).sum()) for p in probes)
    return right >= _FEW
