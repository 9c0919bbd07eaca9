"""Signatures of a primal that stands transposed, or flipped: right where it is its own mirror image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.diagnose.terms import matters
from gradverify.core.nouns import Array, Diagnosis, Fit

_AXES = 4  # of a primal that may be flipped, as of the kernel of a convolution
Change = Callable[[Array], Array]


@add("symmetric", "INDEX")
def symmetric(evidence: Evidence) -> Diagnosis | None:
    """Right where a square primal is its own transpose, and wrong elsewhere."""
    if not evidence.about_gradient or evidence.situation.needs == "values":
        return None
    name = next(where_symmetric(evidence), None)
    if name is None:
        return None
    text = (
        f"the gradient of {evidence.primal} is right where {name} is symmetric{evidence.given}, and wrong elsewhere: "
        f"{name}, or what is made of it, stands somewhere in backward where its transpose belongs"
    )
    return Diagnosis("symmetric", "INDEX", text, Fit.PLACES, {"cases": len(evidence.situation.failing)})


def where_symmetric(evidence: Evidence) -> Iterator[str]:
    """Square primals that, made symmetric, make the gradient right, without making it nothing."""
    for primal in evidence.layer.primals:
        axes = [axis.text for axis in primal.dims.axes[-2:]]
        if primal.domain.kind == "real" and len(axes) == 2 and axes[0] == axes[1]:
            ways: Sequence[Change] = (_least, _most) if primal.domain.discrete else (_even,)
            if _right(evidence, primal.name, ways):
                yield primal.name


def _least(a: Array) -> Array:
    return np.minimum(a, np.swapaxes(a, -1, -2))


def _most(a: Array) -> Array:
    return np.maximum(a, np.swapaxes(a, -1, -2))


def _even(a: Array) -> Array:
    return np.asarray((a + np.swapaxes(a, -1, -2)) / 2)


@add("flipped", "INDEX")
def flipped(evidence: Evidence) -> Diagnosis | None:
    """Right where another primal reads the same from either end of some axes, and wrong elsewhere."""
    if not evidence.about_gradient or evidence.situation.needs == "values" or not evidence.situation.failing:
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


def _right(evidence: Evidence, name: str, ways: Sequence[Change]) -> bool:
    """Whether every case that fails is right, and not nothing, once a primal is changed in any of some ways."""
    failing = evidence.situation.failing
    made = (variants.but(evidence.layer, probe.case, name, way) for probe in failing for way in ways)
    return bool(failing) and all(evidence.holds(case) and matters(evidence, case) for case in made)
