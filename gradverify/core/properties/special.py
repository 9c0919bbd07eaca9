"""Special points: zeros, ties, borders, saturation, equal rows, repeated indices, empty axes.

The comparison is that of the gradient property. On top of it, entries that hold the same value are
moved together: at a tie each of two maxima may claim the whole gradient without leaving its own
one-sided slopes, and only the joint direction shows that together they claim too much.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.central import NOISE_FACTOR
from gradverify.core.differentiate.inner_precision import computes_in
from gradverify.core.differentiate.point import Point
from gradverify.core.judge.dispute import Dispute
from gradverify.core.judge.rules.cancelling import coincident_along
from gradverify.core.judge.rules.plateau import in_a_row
from gradverify.core.judge.rules.stopped import stops_short
from gradverify.core.judge.verdicts import FIRM
from gradverify.core.nouns import Array, Case, Finding, Outcome, Verdict
from gradverify.core.properties import Property, add, gradient
from gradverify.core.properties.complete import not_a_number
from gradverify.core.properties.gradient import Compared
from gradverify.core.tuning import current

NAME = "special"
_GROUPS = 6  # tied values tried for each case
_STEP = 2.0**-14  # truncation is some 1e-9 of the derivative, far below what is allowed
# Steps at which what disagrees must show as well: a gate with weights of 1e9 looks flat over all others. A kink, and a
# formula that is wrong, are the same at any step.
_CLOSE = 2.0**-20
_MODERATE = 100.0  # and more, in place of entries that absorb 1: what is settled there is settled at 1e16


def holds(layer: Layer, case: Case) -> Outcome:
    """Every entry agrees at a special point, and so does every group of tied entries."""
    found = gradient.compared(layer, case)
    if found is None:
        return Outcome(NAME, skipped=gradient.NOTHING)
    outcome = found.outcome
    findings = {f.primal: f.but(property=NAME) for f in (*_undefined(found), *outcome.findings)}
    legal = not outcome.findings and layer.declared.kinks == "between" and not current().known  # entry by entry
    for finding in _ties(found) if legal else ():
        findings.setdefault(finding.primal, finding)
    return Outcome(NAME, tuple(findings.values()), outcome.compared, outcome.entries, outputs=outcome.outputs)


def _undefined(found: Compared) -> list[Finding]:
    """Gradients that are NaN, also in float64: the comparison leaves such entries open."""
    told = (not_a_number(name, gradient, found.case) for name, gradient in found.good.items())
    findings = [finding for finding in told if finding is not None]
    return [] if findings and _absorbed(found) else findings


def _absorbed(found: Compared) -> bool:
    """Whether forward loses at entries that absorb 1 what it gives where these are large, and no matter how large.

    sparsemax of 1e50 is 0, and not 1 as of 100 or 200, unless the largest entry is subtracted first: then nothing
    can be asked of backward.
    """
    point, lost = found.point, False
    for name, array in found.case.primals.items():
        far = np.abs(array) * point.eps > 1 if array.dtype.kind == "f" else np.zeros(0, bool)
        if far.any():
            least = 4.0 * float(np.abs(array[~far]).max(initial=0.0)) + _MODERATE  # so that they tie with no other
            stack = np.stack([np.where(far, np.sign(array) * size, array) for size in (least, 2.0 * least)])
            large, larger = point.outputs({name: stack.astype(array.dtype)}, 2)
            lost |= bool(np.allclose(large, larger) and not np.allclose(large, np.ravel(point.base)))
    return lost


def _ties(found: Compared) -> list[Finding]:
    """Groups of equal entries, moved together: a smooth direction across ties that disagrees is wrong."""
    point, case, analytic = found.point, found.case, found.analytic
    declared = point.layer.declared
    if point.size == 0 or declared.zero or declared.factor != 1.0 or found.bad or not np.isfinite(analytic).all():
        return []
    findings = []
    groups = [(value, members, False) for value, members in _in_question(point, analytic, tied_groups(point.values))]
    for value, members, apart in groups:  # grows: what reaches no common output is moved apart
        residual, slack = _together(point, case, value, members, analytic)
        if abs(residual) <= slack:
            continue
        parts = [members] if apart else _reaching_alike(point, members)
        if len(parts) > 1:
            groups += [(value, part, True) for part in parts if part.size > 1]
        elif not _each_agrees(found, members) and not _stops(point, members, analytic, residual):
            findings.append(_finding(point, case, value, members, analytic, residual, slack))
    return findings


def _each_agrees(found: Compared, members: Array) -> bool:
    """Whether each tied entry agrees by itself: then no other gradient is right, as where singular values are equal."""
    verdicts = np.full(found.point.size, Verdict.UNRESOLVED)
    for comparison in found.outcome.compared:
        slot = next(slot for slot in found.point.slots if slot.name == comparison.primal)
        verdicts[slot.start : slot.stop] = comparison.verdicts.ravel()
    return bool((verdicts[members] == Verdict.AGREES).all())


Groups = list[tuple[float, Array]]


def _in_question(point: Point, analytic: Array, groups: Groups) -> Groups:
    """Those of the groups that one step each does not settle, in a single forward for all of them.

    A tie is at the point itself, so that a small step sees the same kink as any; a ladder takes thirteen.
    """
    steps = np.array([_STEP * _size(value) for value, _ in groups])
    told = point.together([members for _, members in groups], steps) if groups else None
    if told is None:
        return groups
    claimed = np.array([analytic[members].sum() for _, members in groups])
    with np.errstate(all="ignore"):
        off = np.abs(told.change - claimed * told.gap) + NOISE_FACTOR * told.noise
        allowed = [_slack(point, analytic, members, _size(value)) for value, members in groups]
        settled = off <= np.array(allowed) * 2.0 * _STEP
    return [group for group, fine in zip(groups, settled) if not fine]


def _size(value: float) -> float:
    return max(1.0, abs(value))


def _slack(point: Point, analytic: Array, members: Array, size: float) -> float:
    """By how much a derivative along tied entries may disagree, however well it is known."""
    slack = 1e-3 * size * float(np.abs(analytic[members]).sum()) + 1e4 * point.eps * point.loudness
    return slack + 4 * point.inner * size / float(np.min(point.scale[members]))


def _together(point: Point, case: Case, value: float, members: Array, analytic: Array) -> tuple[float, float]:
    """By how much the derivative of tied entries that move as one disagrees, and what it may; 0 where it is legal."""
    direction = np.zeros(point.size)
    direction[members] = _size(value)
    estimate = ladder.directional(point, direction, analytic)
    residual = float(estimate.value[0])
    slack = FIRM * estimate.bound[0] + _slack(point, analytic, members, _size(value))
    legal = 0.0, float(slack)
    if not 0 < slack < np.inf or abs(residual) <= slack or not _smooth(point, direction, analytic):
        return legal
    close = ladder.directional(point, _CLOSE * direction, analytic)
    if not abs(close.value[0]) > _CLOSE * slack + FIRM * close.bound[0]:
        return legal
    spread = gradient.backward_rounding(point, case, analytic)
    # a jump is a tie that came apart, not rounding, unless no smaller change than that can be made
    small = (spread <= 1e-4 * float(np.max(np.abs(analytic)))) | ladder.coarse(point)
    if abs(residual) <= slack + float(np.where(small, spread, 0.0) @ direction) or computes_in(point) is not None:
        return legal
    return legal if value == 0 and coincident_along(point, direction) else (residual, float(slack))


def _stops(point: Point, members: Array, analytic: Array, residual: float) -> bool:
    """Whether what is missing along tied entries is what an iteration leaves undone."""
    known, share = analytic[members], np.full(members.size, residual / members.size)
    return stops_short(Dispute(point, members, known, known + share, np.zeros(members.size)))[0]


def _reaching_alike(point: Point, members: Array) -> list[Array]:
    """Tied entries, those together that reach a common output, or are linked by others that do.

    Kinks of entries that reach no common output are each its own; moved as one they may cancel in the sum over the
    outputs, as relu(x) - relu(-x), and no direction of a single row would be smooth.
    """
    step = np.maximum(1e-3 * point.scale[members], np.abs(point.values[members]) * 1e-3)
    rows = np.concatenate([step, -step])
    at = np.arange(rows.size), np.concatenate([members, members])
    flat = np.tile(point.values, (rows.size, 1))
    flat[at] += rows
    with np.errstate(all="ignore"):
        y = point.outputs(point.unpacked(flat, point.slots), rows.size)
        changed = (y != point.base) | ~np.isfinite(y)
    reached = changed[: members.size] | changed[members.size :]
    parts: list[tuple[Array, Array]] = []  # entries, and what they reach
    for k in range(members.size):
        mine, outputs = np.array([k]), reached[k]
        apart = []
        for entries, theirs in parts:
            if (theirs & outputs).any():
                mine, outputs = np.concatenate([entries, mine]), outputs | theirs
            else:
                apart.append((entries, theirs))
        parts = [*apart, (mine, outputs)]
    return [members[np.sort(entries)] for entries, _ in parts]


def tied_groups(values: Array) -> list[tuple[float, Array]]:
    """Values that several entries share, most frequent first, with the flat indices of those entries."""
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared = [k for k in np.argsort(-counts, kind="stable") if counts[k] > 1][:_GROUPS]
    return [(float(unique[k]), np.flatnonzero(inverse.ravel() == k)) for k in shared]


def _smooth(point: Point, direction: Array, analytic: Array) -> bool:
    """No kink along the direction: both one-sided slopes are the same, and disagree."""
    right = ladder.directional(point, direction, analytic, side=+1)
    left = ladder.directional(point, direction, analytic, side=-1)
    slack = right.bound[0] + left.bound[0]
    same = abs(right.value[0] - left.value[0]) <= slack
    if not same or min(abs(right.value[0]), abs(left.value[0])) <= slack:
        return False
    residual, _ = ladder.quotients_along(point, direction, analytic)
    return not in_a_row(residual, np.abs(right.value), np.zeros(1, bool))[0]


def _finding(
    point: Point, case: Case, value: float, members: Array, analytic: Array, residual: float, slack: float
) -> Finding:
    slot = next(s for s in point.slots if s.start <= members[0] < s.stop)
    claimed = float(np.sum(analytic[members])) * _size(value)
    message = (
        f"{members.size} tied entries (all {value:g}, the first in {slot.name}) together have the derivative "
        f"{claimed + residual:.6g} when they move as one; their analytic gradients add up to {claimed:.6g}"
    )
    facts = {"tied": int(members.size), "value": value, "residual": residual, "claimed": claimed}
    return Finding(NAME, "tie", slot.name, message, case, severity=abs(residual) / slack, facts=facts)


add(
    Property(
        NAME,
        "the gradient is right at zeros, ties, borders, saturation and repeated indices",
        holds,
        gradient.applies,
        regime=Regime(special=True),
        implied_by=("gradient", "complete"),
        joint=("tie",),
    )
)
