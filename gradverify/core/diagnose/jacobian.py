"""Signatures read off the Jacobian of backward: what each entry gets from each output.

Backward applies the transpose of a matrix J to the cotangent. Its own matrix is found by one cotangent
for each output, and laid beside that of forward: is it its transpose, are its rows in another order,
which places does it join that forward does not?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradverify.core import evaluate
from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import DRAWS, Evidence
from gradverify.core.diagnose.probe import APART, CLOSE, Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

_MOST = 250  # outputs, each of which costs one backward
_THERE, _GONE = 1e-6, 1e-9  # shares of the largest element that are a dependency, and none; between them is open


@dataclass(frozen=True, slots=True)
class Jacobians:
    """Both matrices at one case, shape (outputs, entries): that of backward, and the numerical one of forward."""

    probe: Probe
    analytic: Array
    numerical: Array

    def there(self, which: str) -> Array:
        """Elements that are surely not zero."""
        return np.asarray(np.abs(getattr(self, which)) > _THERE * self._top)

    def gone(self, which: str) -> Array:
        """Elements that are surely zero."""
        return np.asarray(np.abs(getattr(self, which)) < _GONE * self._top)

    @property
    def apart(self) -> Array:
        """Elements in which the two differ."""
        return np.asarray(np.abs(self.analytic - self.numerical) > CLOSE * self._top)

    @property
    def _top(self) -> float:
        return float(np.abs(self.numerical).max(initial=0.0))


def jacobians(evidence: Evidence) -> list[Jacobians]:
    """Both matrices on every case on which it fails; empty where backward is not linear, or one is too large."""
    if not evidence.about_gradient or evidence.situation.needs == "values" or not evidence.probes:
        return []
    found = [_jacobians(evidence, probe) for probe in _small_enough(evidence)]
    known = [j for j in found if j is not None]
    return known if len(known) == len(found) and any(j.analytic.any() for j in known) else []


def _outputs(probe: Probe) -> int:
    return sum(y.size for y in probe.outputs)


def _small_enough(evidence: Evidence) -> Sequence[Probe]:
    """Cases on which it fails, of smaller sizes where one has too many outputs."""
    if all(_outputs(probe) <= _MOST for probe in evidence.probes) or evidence.situation.needs == "sizes":
        return evidence.probes
    return evidence.failing_at(variants.small(evidence.layer, k) for k in range(DRAWS)) or evidence.probes


def _jacobians(evidence: Evidence, probe: Probe) -> Jacobians | None:
    count = _outputs(probe)
    if count > _MOST or any(a.dtype.kind == "c" for a in (*probe.outputs, *probe.case.primals.values())):
        return None
    a, _ = evidence.pair(probe)
    rows = []
    for k in range(count):
        row = probe.pulled(evaluate.unit_cotangents(probe.case.cotangents or (), k)).get(evidence.primal)
        if row is None or not np.isfinite(row).all():
            return None
        rows.append(row.ravel())
    matrix = np.array(rows)
    if not close((probe.point.weights @ matrix).reshape(a.shape), a):
        return None
    return Jacobians(probe, matrix, probe.jacobian(evidence.primal))


@add("jacobian", "TERM")
def jacobian(evidence: Evidence) -> Diagnosis | None:
    """How the matrix of backward differs from the transpose of that of forward."""
    pairs = jacobians(evidence)
    if not pairs or all(close(j.analytic, j.numerical) for j in pairs):  # what is wrong is finer than this can see
        return None
    description = _transposed(evidence, pairs) or _reordered(evidence, pairs) or _backwards(evidence, pairs)
    description = description or _joined(evidence, pairs)
    description = description or _lost(evidence, pairs) or _weights(evidence, pairs)
    if description is None:
        return None
    bug_class, fit, text = description
    less = int(evidence.situation.needs != "nothing")  # options and sizes then say more
    return Diagnosis(
        "jacobian", bug_class, text + evidence.given, Fit(max(fit - less, Fit.VAGUE)), {"cases": len(pairs)}
    )


Description = tuple[str, Fit, str]


def _transposed(evidence: Evidence, pairs: Sequence[Jacobians]) -> Description | None:
    square = [j for j in pairs if j.numerical.shape[0] == j.numerical.shape[1]]
    if len(square) < len(pairs) or not all(close(j.analytic, j.numerical.T) for j in pairs):
        return None
    text = (
        f"the gradient of {evidence.primal} is J dy where it must be J^T dy, with J the derivative of forward: "
        "something is not transposed, or not reversed"
    )
    return "INDEX", Fit.PLACES, text


def _reordered(evidence: Evidence, pairs: Sequence[Jacobians]) -> Description | None:
    """Rows of the right matrix in another order: each cotangent goes where another belongs."""
    if not all(_same_rows(j.analytic, j.numerical) for j in pairs):
        return None
    text = (
        f"the gradient of {evidence.primal} is the right one for an upstream gradient with its entries in another "
        "order: places are mixed up"
    )
    return "INDEX", Fit.FORM, text


def _same_rows(a: Array, n: Array) -> bool:
    left = list(n)
    for row in a:
        match = next((k for k, other in enumerate(left) if close(row, other)), None)
        if match is None:
            return False
        del left[match]
    return len(a) > 1 and not close(a, n)


def _backwards(evidence: Evidence, pairs: Sequence[Jacobians]) -> Description | None:
    """Along an axis each place takes from outputs on one side of it, and the right ones lie on the other."""
    for name in evidence.probes[0].labels(evidence.primal):
        for side, right, ours in ((1, "behind", "before"), (-1, "before", "behind")):
            gaps = [(j, side * gap) for j in pairs for label, gap in _gaps(evidence, j) if label == name]
            if gaps and all(_other_side(j, gap) for j, gap in gaps):
                text = (
                    f"the gradient of {evidence.primal} at a place along {name} takes from outputs {ours} it, the "
                    f"right one from outputs {right} it: a sum or a loop runs the wrong way"
                )
                return "INDEX", Fit.PLACES, text
    return None


def _other_side(j: Jacobians, gap: Array) -> bool:
    """Whether no output below the entry counts for the right matrix, and none above it for that of backward."""
    right = (j.there("numerical") & (gap > 0)).any() and j.gone("numerical")[gap < 0].all()
    return bool(right and (j.there("analytic") & (gap < 0)).any() and j.gone("analytic")[gap > 0].all())


def _joined(evidence: Evidence, pairs: Sequence[Jacobians]) -> Description | None:
    """Axes along which backward joins different places and forward does not, or the other way round."""
    ours, theirs = (_labels(evidence, pairs, which, there=True) for which in ("analytic", "numerical"))
    surplus = sorted(ours & _labels(evidence, pairs, "numerical", there=False) - theirs)
    lacking = sorted(theirs & _labels(evidence, pairs, "analytic", there=False) - ours)
    d, more, less = f"the gradient of {evidence.primal}", " and ".join(surplus), " and ".join(lacking)
    if surplus and lacking:
        return (
            "INDEX",
            Fit.PLACES,
            f"{d} joins places along {more}, the right one places along {less}: "
            "a sum, a mean or a product runs over the wrong axis",
        )
    if surplus:
        return "INDEX", Fit.SOME, f"{d} joins places along {more} that have nothing to do with one another in forward"
    if len(lacking) == 1 and all(_onward(j, gap) for j in pairs for label, gap in _gaps(evidence, j) if label == less):
        return (
            "GATE",
            Fit.FORM,
            f"{d} lacks what an entry at one place along {less} does to later ones: what is carried on from there "
            "is not passed back",
        )
    if lacking:
        return (
            "TERM",
            Fit.FORM,
            f"{d} lacks what an entry does to other places along {less}: each place gets its own share alone, as "
            "where terms are left out, a sum runs over another axis, or a matrix is not transposed",
        )
    return None


def _onward(j: Jacobians, gap: Array) -> bool:
    """Whether in forward all of an entry goes to its own place or to later ones, up to the last."""
    there = j.there("numerical") & (gap == gap.max(0))
    return bool(j.gone("numerical")[gap < 0].all() and there.any(0).all())


def _labels(evidence: Evidence, pairs: Sequence[Jacobians], which: str, there: bool) -> set[str]:
    """Axes shared with an output along which different places are joined on some case, or on none (`there` False)."""
    found: dict[str, bool] = {}
    for j in pairs:
        for label, gap in _gaps(evidence, j):
            apart = gap != 0
            joined = (j.there(which) & apart).any() if there else not (j.gone(which) | ~apart).all()
            found[label] = found.get(label, False) or bool(joined)
    return {label for label, joined in found.items() if joined == there}


def _gaps(evidence: Evidence, j: Jacobians) -> Iterator[tuple[str, Array]]:
    """Each axis that an output shares with the primal, and how many places of it the output lies behind the entry."""
    shape, own = j.probe.shape(evidence.primal), j.probe.labels(evidence.primal)
    entries = np.indices(shape).reshape(len(shape), j.numerical.shape[1])
    for k, (y, span) in enumerate(zip(j.probe.outputs, j.probe.spans)):
        places = np.indices(y.shape).reshape(y.ndim, y.size)
        labels = evidence.labels_of(k, y.ndim)
        for axis, label in enumerate(labels):
            if own.count(label) == 1 == labels.count(label):
                gap = np.zeros(j.numerical.shape, int)
                gap[span] = places[axis][:, None] - entries[own.index(label)]
                yield label, gap


_LOST = "the others are right, so these are overwritten, or a slice, a mask or an index leaves them out"
_SURPLUS = "all others are right, so that a place beyond the end, or one that is masked, stands for another"


def _lost(evidence: Evidence, pairs: Sequence[Jacobians]) -> Description | None:
    """Elements of the right matrix that are zero in backward's, or the other way round; all others are right."""
    d = f"the gradient of {evidence.primal}"
    for mine, other in (("analytic", "numerical"), ("numerical", "analytic")):
        zero = [j.gone(mine) & j.there(other) for j in pairs]
        if not all(z.any() and (z == j.apart).all() and (z < j.there(other)).any() for z, j in zip(zero, pairs)):
            continue
        if mine == "analytic":
            for name in evidence.probes[0].labels(evidence.primal):
                gaps = [(z, j, gap) for z, j in zip(zero, pairs) for label, gap in _gaps(evidence, j) if label == name]
                if gaps and all((z == (j.there(other) & (gap == 0))).all() for z, j, gap in gaps):
                    why = "the others are right, so that an index or a range begins or ends one off"
                    return "INDEX", Fit.FORM, f"{d} lacks what comes from outputs at its own place along {name}; {why}"
            return "OVERWRITE", Fit.PART, f"{d} lacks some of the terms that the outputs contribute to it; {_LOST}"
        return "INDEX", Fit.VAGUE, f"{d} has terms from outputs in which some entries have no part; {_SURPLUS}"
    return None


def _weights(evidence: Evidence, pairs: Sequence[Jacobians]) -> Description | None:
    """The right places are joined with wrong weights, or others as well, or not all of them."""
    d, one = f"the gradient of {evidence.primal}", all(len(j.numerical) == 1 for j in pairs)
    if not one and all((j.there("analytic") & j.gone("numerical")).any() for j in pairs):
        return (
            "INDEX",
            Fit.VAGUE,
            f"{d} has terms from outputs in which some entries have no part, and others are wrong",
        )
    if not one and all((j.there("numerical") & j.gone("analytic")).any() for j in pairs):
        return "TERM", Fit.VAGUE, f"{d} lacks what some of the outputs contribute to it, and the rest is wrong, too"
    if not one and not all(_in_its_places(j) for j in pairs):
        return None
    alone = all((~j.gone("numerical")).sum(0).max(initial=0) <= 1 for j in pairs)
    right = [(j, j.there("numerical")) for j in pairs]
    ratios = np.concatenate([j.analytic[there] / j.numerical[there] for j, there in right])
    if np.ptp(ratios) < APART * np.abs(ratios).max():
        return None  # one factor, of which others tell more
    if close(np.abs(ratios), np.ones(ratios.size)):
        return "SIGN", Fit.PART, f"{d} joins the right places with weights of the right size, some with the wrong sign"
    spread = f"from {ratios.min():.3g} to {ratios.max():.3g} times the right one"
    if one:  # then all places are the right ones
        return "TERM", Fit.VAGUE, f"{d} is wrong by no law that is known, {spread}: a term or a factor in it is wrong"
    if alone:
        return "TERM", Fit.VAGUE, f"{d} comes from the right places, and the derivative there is wrong: {spread}"
    return (
        "TERM",
        Fit.VAGUE,
        f"{d} joins the right places with wrong weights, {spread}: a term or a factor in it is wrong",
    )


def _in_its_places(j: Jacobians) -> bool:
    """Whether nothing is joined that forward does not join; where all is, a weight may be 0 in some cases."""
    return bool(j.there("numerical").any()) and not (j.there("analytic") & j.gone("numerical")).any()
