"""Cases that show a fault: small ones whose sizes differ and whose values are whole numbers, and none of them 0.

The smallest case that fails is often a single entry among zeros. It proves the fault, and a reader sees neither a
factor nor an axis in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import variants
from gradverify.core.evaluate import LayerFailure
from gradverify.core.nouns import Array, Case

_SHOWN = 40  # elements of all primals that are read at a glance; a larger case is a picture
_FIXED = 60  # and at most as many of primals whose sizes are fixed, as three 4 x 4 weights
_DRAWS = 3  # sums of whole numbers may be 0 by chance


def tells(case: Case, wrong: int) -> bool:
    """Whether a case shows the fault itself: two entries are wrong, and no primal is all zeros."""
    floating = (a for a in map(np.asarray, case.primals.values()) if a.dtype.kind in "fc" and a.size)
    return wrong > 1 and all(a.any() for a in floating)


def telling(layer: Layer, case: Case, primal: str) -> Iterator[Case]:
    """Cases to try in place of the smallest; the roundest values first.

    At sizes of 2 and 3 first, then at its own with one axis of the primal longer than 1, then at its own. All are
    legal, and have the options of the smallest.
    """
    names = variants.axis_names(layer)
    own = layer.named_sizes(case.primals, case.options) or {}
    longer = ({**own, n: 2} for n in layer.primal(primal).dims.names if own.get(n) == 1)
    given: list[dict[str, Any]] = [dict(sizes=s) for s in (_lengths(own, names), *longer)] if names else []
    fixed = sum(np.size(case.primals[primal.name]) for primal in layer.primals if not primal.dims.names)
    for at, whole, draw in product((*given, dict(like=case)), (_whole, _tenths), range(_DRAWS)):
        plain = variants.plain(layer, case, case.options, draw, **at)
        if plain is not None and plain.size <= max(_SHOWN + min(fixed, _FIXED), case.size):
            rounded = _with_values(layer, plain, whole)
            if rounded is not None:
                yield rounded


def _lengths(own: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """3, 2, 3, ... for the axes in turn, so that neighbours differ; groups of axes keep their number."""
    length = cycle((3, 2))
    return {n: tuple(next(length) for _ in own.get(n, (1,))) if n.startswith("*") else next(length) for n in names}


def _with_values(layer: Layer, case: Case, whole: Callable[[Array], Array]) -> Case | None:
    """The case with rounded values and cotangents; None if it is then not legal."""
    given = {p: np.asarray(case.primals[p.name]) for p in layer.primals}
    free = {p for p in layer.primals if p.domain.strategy is None and not p.domain.discrete}
    rounded = case.but(primals={p.name: whole(a) if p in free else a for p, a in given.items()})
    if not variants.legal(layer, rounded):
        return None
    try:
        full, _ = evaluate.completed(layer, rounded)
    except LayerFailure:
        return None
    return full.but(cotangents=tuple(map(_whole, full.cotangents or ())))


def _whole(array: Array) -> Array:
    """Whole numbers of either sign, none 0: entries of normal size become 1 to 5, and few are equal."""
    return _rounded(array, lambda x: np.sign(x) * np.ceil(2 * np.abs(x)))


def _tenths(array: Array) -> Array:
    return _rounded(array, lambda x: np.sign(x) * np.ceil(10 * np.abs(x)) / 10)


def _rounded(array: Array, how: Callable[[Array], Array]) -> Array:
    if array.dtype.kind == "c":
        return np.asarray(how(array.real) + 1j * how(array.imag)).astype(array.dtype)
    return how(array).astype(array.dtype) if array.dtype.kind == "f" else array
