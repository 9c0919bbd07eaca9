"""How far gradients of one case may lie apart although nothing is wrong: by rounding, and by iterations that stop."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate.jumps import largest_jump
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.once import gradients
from gradverify.core.nouns import Array, Case, Stream

_REACHES = 10.0 ** -np.arange(5.0)  # changes over which a jump of the gradients is looked for
UNFINISHED = 1e-3  # of the largest entry: what an iteration that stops leaves undone is small beside it


def rounding(layer: Layer, case: Case) -> dict[str, Array]:
    """Spread of the gradients where only rounding differs, by primal.

    Primals and cotangents move by one unit in the last place, of the gradients where that is coarser, as of code that
    casts what it is given; and the cotangent is scaled by small odd numbers, which a linear pullback returns exactly
    but for the rounding of what it adds up.
    """
    rng = case.rng(Stream.EXACT_ROUNDING)
    v = case.cotangents or ()
    try:
        base = gradients(layer, case)
        spread = {name: np.zeros(np.shape(g)) for name, g in base.items()}
        samples = [(gradients(layer, case, tuple(factor * a for a in v)), factor) for factor in (3, 5, 7, 11)]
        unit = max(map(limit, base.values()), default=0.0)
        for _ in range(4):
            primals = {n: nudge(a, rng, max(unit, limit(a))) for n, a in case.primals.items()}
            nudged = case.but(primals=primals, cotangents=tuple(nudge(a, rng, max(unit, limit(a))) for a in v))
            samples.append((gradients(layer, nudged), 1))
        for sample, factor in samples:
            for name, gradient in sample.items():
                with np.errstate(all="ignore"):
                    spread[name] = np.fmax(spread[name], np.abs(gradient / factor - base[name]))
    except LayerFailure:
        return {}
    return spread


def rounding_saved(layer: Layer, case: Case) -> dict[str, Array]:
    """Spread of the gradients where what forward saves moves by one unit in the last place, by primal."""
    rng = case.rng(Stream.SAVED_ROUNDING)
    try:
        base = gradients(layer, case)
        samples = [gradients(stored(layer, rng), case) for _ in range(6)]
    except LayerFailure:
        return {}
    with np.errstate(all="ignore"):
        return {name: np.max([np.abs(s[name] - g) for s in samples], axis=0) for name, g in base.items()}


def unfinished(layer: Layer, case: Case, primal: str, enough: float = np.inf) -> float:
    """The largest jump of a gradient between neighbours, as of a backward that iterates to a tolerance; 0 for none.

    Then gradients of the same case are equal to about that only: a batch that is split stops earlier, and the sum of
    two cotangents later. What jumps by more than a small part of the gradient is a choice. After one as large as
    `enough` no other is looked for: each of ten searches costs 65 gradients.
    """
    rng, v = case.rng(Stream.UNFINISHED), case.cotangents or ()
    turns = {n: rng.uniform(-0.5, 0.5, a.shape) for n, a in case.primals.items()}
    twists = [rng.uniform(-1.0, 1.0, np.shape(a)) for a in v]
    try:
        base = np.asarray(gradients(layer, case)[primal])
    except LayerFailure:
        return 0.0
    if base.dtype.kind != "f" or not base.size:
        return 0.0

    def at(step: float, absolute: float) -> Array:
        """Primals move in proportion to themselves, or to 1: those that are small may change nothing."""
        floating = {n: a for n, a in case.primals.items() if a.dtype.kind in "fc"}
        away = {n: step * turns[n] * np.maximum(np.abs(a), absolute) for n, a in floating.items()}
        primals = {**case.primals, **{n: (a + away[n]).astype(a.dtype) for n, a in floating.items()}}
        moved = tuple((a * (1 + step * w)).astype(a.dtype) for a, w in zip(v, twists))
        try:
            there = gradients(layer, case.but(primals=primals), moved)[primal]
        except LayerFailure:
            return np.full(base.size, np.nan)
        return np.asarray(there, float).ravel()

    def along(steps: Array, absolute: float) -> Array:
        return np.array([at(float(step), absolute) for step in steps])

    most, found = UNFINISHED * top(base), 0.0
    noise = np.full(base.size, 64 * limit(base) * (top(base) or 1.0))
    for absolute, reach in product((0.0, 1.0), _REACHES):
        jump = largest_jump(partial(along, absolute=absolute), reach, noise, most)
        change = 0.0 if jump is None else top(jump.change)
        found = max(found, change if change <= most else 0.0)
        if found >= enough:
            break
    return found


def stored(layer: Layer, rng: np.random.Generator, part: float | None = None) -> Layer:
    """The layer with what forward saves moved by a unit in the last place, or that part of itself, as if rounded so.

    Where a softmax has settled on one item, the gradient p (g - sum p g) is what the rounding of p leaves, and no
    change of the primals shows it. What an adapter keeps moves itself: `nudged(rng, part)`.
    """

    def forward(*primals: Array, **options: Any) -> tuple[Any, Any]:
        outputs, saved = layer.forward(*primals, **options)
        return outputs, moved(saved, rng, part)

    return layer.derive(forward=forward)


def moved(value: Any, rng: np.random.Generator, part: float | None = None) -> Any:
    """The arrays within what forward saves, moved so."""
    if isinstance(value, np.ndarray):
        return nudge(value, rng, part)
    if type(value) in (tuple, list):
        return type(value)(moved(item, rng, part) for item in value)
    if hasattr(type(value), "nudged"):
        return value.nudged(rng, part)
    return {key: moved(item, rng, part) for key, item in value.items()} if type(value) is dict else value


def nudge(array: Array, rng: np.random.Generator, part: float | None = None, zeros: bool = False) -> Array:
    """The array with each entry moved by -1, 0 or +1 unit in the last place, or that part of itself.

    With `zeros`, small entries and zeros move by as much as the largest entry does, or 1 where all are 0.
    """
    if array.dtype.kind not in "fc":
        return array
    eps = np.finfo(array.real.dtype).eps if part is None else part
    turns = eps * rng.integers(-1, 2, array.shape)
    if zeros:
        return np.asarray(array + turns * (np.max(np.abs(array), initial=0.0) or 1.0)).astype(array.dtype)
    return (array * (1 + turns)).astype(array.dtype)


def shifted(array: Array) -> Array:
    """The array with each entry of a floating one moved by a thousandth of itself, or of 1 where that is more."""
    if array.dtype.kind not in "fc":
        return array
    return (array + 1e-3 * np.maximum(np.abs(array), 1.0)).astype(array.dtype)


def top(array: Array) -> float:
    """The largest finite size of an entry."""
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))


def limit(array: Array, name: str = "eps") -> float:
    """A limit of the type of an array; 0 for whole numbers."""
    return float(getattr(np.finfo(array.real.dtype), name)) if array.dtype.kind in "fc" else 0.0
