"""Analytic gradients that must be equal up to rounding: no numerical derivative is needed.

Two gradients of the same layer, got in two ways (another layout, another order of calls), may differ by the rounding of
the backward: measured, where a difference is seen, by moving primals and cotangents by a unit in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial, wraps
from itertools import product
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate.jumps import largest_jump
from gradverify.core.evaluate import LayerFailure, once
from gradverify.core.judge.facts import best_ratio
from gradverify.core.nouns import Array, Case, Comparison, Finding, Outcome, Stream, Verdict
from gradverify.core.tuning import current

Gradients = Mapping[str, Array]

CALLS = ("second call", "first call")  # what is compared here, where both are calls of the same case
EXPECTED = ("got", "expected")  # and where the other side is computed from one call or several

_ULPS = 4096.0  # reductions in another order move the last digits; bugs move the first
_GRAINS = 4.0  # roundings of a gradient that is read from a subtraction, on either side of a comparison
_SPREADS = 16.0  # of its own rounding or spread, each heard once or a few times: the largest of many is some times that
_HIDES = 1e-3  # of the largest term: what is rounded by more is a jump, and a mistake of a thousandth would pass for it
_MOVED = 1e-3  # part of themselves by which primals move to hear their terms: far above rounding, far below a change
_REACHES = 10.0 ** -np.arange(5.0)  # changes over which a jump of the gradients is looked for
_UNFINISHED = 1e-3  # of the largest entry: what an iteration that stops leaves undone is small beside it


def gradients(layer: Layer, case: Case, cotangents: tuple[Array, ...] | None = None) -> dict[str, Array]:
    """Usable gradients of one fresh forward and backward, on copies; the case must be completed."""
    given = cotangents if cotangents is not None else case.cotangents or ()
    return usable(layer, case, evaluate.gradients(layer, case.primals, case.options, given))


def expected(layer: Layer, case: Case) -> dict[str, Array]:
    """The same, but evaluated once for all who ask at this case."""
    known = once.at(layer, case)
    return known.gradients if known.gradients is not None else known.keep(gradients(layer, known.case))


def usable(layer: Layer, case: Case, raw: Mapping[str, Any]) -> dict[str, Array]:
    """Copies of gradients that can be compared, since backward may write into them again; LayerFailure where not."""
    good, bad = evaluate.usable(layer, case, raw)
    if bad:
        raise bad[0]
    return {name: np.array(gradient) for name, gradient in good.items()}


def ready(layer: Layer, case: Case) -> tuple[Case, str | None]:
    """The completed case, and the reason why its gradients say nothing, if there is one."""
    known = once.at(layer, case)
    if not all(np.isfinite(y).all() for y in known.outputs if y.dtype.kind in "fc"):
        return known.case, "forward is not finite at the point"
    return known.case, None


def where_finite(name: str) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """A property that is asked of completed cases, where forward is finite; of others it is skipped with the reason."""

    def decorate(holds: Callable[..., Outcome]) -> Callable[..., Outcome]:
        @wraps(holds)
        def asked(layer: Layer, case: Case, **more: Any) -> Outcome:
            case, reason = ready(layer, case)
            return Outcome(name, skipped=reason) if reason is not None else holds(layer, case, **more)

        return asked

    return decorate


def outcome(
    layer: Layer,
    case: Case,
    name: str,
    pairs: Sequence[tuple[str, Gradients, Gradients]],
    *,
    kind: str = "differs",
    terms: Gradients | None = None,
    at: Case | None = None,
    same: bool = False,
    least: float = 0.0,
    loose: float = 1.0,
    sides: tuple[str, str] = CALLS,
) -> Outcome:
    """An Outcome from pairs (what was done, gradients got, gradients expected).

    `terms` are gradients of which the expected ones are sums; their size counts for the rounding.
    `at` is where rounding is measured, if not at the case; with `same`, the very same arithmetic was done
    twice, and how much rounding there is makes no difference; differences below `least` of the largest entry
    are none. `loose` is what gradients were multiplied with after they were rounded. `sides` names what was got and
    what was expected.
    """
    findings: dict[str, Finding] = {}
    entries, known = 0, current().known
    for what, got, every in pairs:
        wanted = {n: g for n, g in every.items() if n not in known}
        entries += sum(np.size(g) for g in wanted.values())
        other = {n: g for n, g in wanted.items() if n not in findings and not np.array_equal(got[n], g)}
        for primal, comparison in compare(layer, at or case, got, other, terms, same, least, loose, sides).items():
            if comparison.wrong.any():
                findings[primal] = _finding(name, kind, what, case, comparison)
    return Outcome(name, tuple(findings.values()), entries=entries)


def compare(
    layer: Layer,
    case: Case,
    got: Gradients,
    expected: Gradients,
    terms: Gradients | None = None,
    same: bool = False,
    least: float = 0.0,
    loose: float = 1.0,
    sides: tuple[str, str] = CALLS,
) -> dict[str, Comparison]:
    """Comparison of two gradients by primal; the bound is the rounding of backward, less where that was the same."""
    found: dict[str, Comparison] = {}
    unit = _unit(layer, case)
    measured = layer.hooks.gradient_rounding
    grain = {} if measured is None else {n: loose * _GRAINS * g for n, g in measured(case.primals).items()}
    spreads = [] if same else [cache(partial(once.measured, m, layer, case)) for m in (rounding, rounding_saved)]
    for primal in expected:
        a, b = np.asarray(got[primal]), np.asarray(expected[primal])
        with np.errstate(all="ignore"):
            error = np.abs(a - b)
            sizes = np.abs(b) if terms is None else np.maximum(np.abs(b), np.abs(terms[primal]))
            top = _top(sizes)
            eps = max(unit, _limit(b))
            smallest = max(least, _share(eps)) * top + _ULPS * _limit(b, "tiny")
            bound = np.full(b.shape, smallest) + grain.get(primal, 0.0)
            far = ~(error <= bound) & ~((a == b) | (np.isnan(a) & np.isnan(b)))
            if narrow(layer, case):
                far &= np.isfinite(a) & np.isfinite(b)  # where the range of the type ends depends on the order of sums
        if far.any():
            natural = natural_size(layer, case, primal)
            bound = bound + _share(eps) * natural
            for spread in (*spreads, None):
                with np.errstate(all="ignore"):
                    far &= ~(error <= bound)
                if same or not far.any():
                    break
                extra = spread().get(primal, 0.0 * bound) if spread else _undone(layer, case, primal, error, bound, far)
                if extra.shape == bound.shape:
                    bound = bound + _allowed(layer, case, primal, extra, far, (top, natural), eps)
            with np.errstate(all="ignore"):
                far &= ~(error <= bound)
        verdicts = np.where(far, Verdict.DISAGREES, Verdict.AGREES).astype(np.int8)
        labels = layer.primal(primal).dims.labels(b.ndim)
        found[primal] = Comparison(primal, a, b, bound, verdicts, top, labels, sides=sides)
    return found


def _share(eps: float) -> float:
    """Of the largest entry, what the order of sums may move."""
    return min(_ULPS * eps, float(eps**0.5))


def alike(a: Array, b: Array) -> bool:
    """Whether two outputs are the same number for number, but for the order of sums; whole numbers are the same."""
    if a.shape != b.shape or a.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    eps = float(np.finfo(a.dtype).eps)
    with np.errstate(all="ignore"):
        near = np.abs(a - b) <= _share(eps) * _top(a)
    return bool((near | (a == b) | (np.isnan(a) & np.isnan(b))).all())


def _allowed(
    layer: Layer, case: Case, primal: str, extra: Array, far: Array, sizes: tuple[float, float], eps: float
) -> Array:
    """What a measured spread adds to the bound, unless it is so large that it would hide anything.

    Parameters
    ----------
    far : entries that are in question
    sizes : of the largest entry, and of the terms that it is a sum of
    """
    cap = max(_HIDES, eps**0.5) * max(sizes) or np.inf
    if (extra[far] > cap).any():
        # the terms of dy - dy * (1 - t**2), as of x - tanh(x) at 1e-8, are the cotangent: nothing that moves shows them
        cap = max(cap, _HIDES * _terms(layer, case, primal), eps * sum(np.abs(v).sum() for v in case.cotangents or ()))
    extra = np.where(np.isfinite(extra) & (extra <= cap), extra, 0.0)
    # a few samples may leave one entry as it is by chance: what others are rounded by counts for it
    pooled = min(float(np.max(extra, initial=0.0)), eps**0.5 * sizes[1])
    return np.asarray(_SPREADS * np.maximum(extra, pooled))


def rounding(layer: Layer, case: Case) -> dict[str, Array]:
    """Spread of the gradients where only rounding differs, by primal.

    Primals and cotangents move by one unit in the last place; and the cotangent is scaled by small odd
    numbers, which a linear pullback returns exactly but for the rounding of what it adds up.
    """
    rng = case.rng(Stream.EXACT_ROUNDING)
    v = case.cotangents or ()
    try:
        base = gradients(layer, case)
        spread = {name: np.zeros(np.shape(g)) for name, g in base.items()}
        samples = [(gradients(layer, case, tuple(factor * a for a in v)), factor) for factor in (3, 5, 7, 11)]
        for _ in range(4):
            primals = {n: nudge(a, rng) for n, a in case.primals.items()}
            nudged = case.but(primals=primals, cotangents=tuple(nudge(a, rng) for a in v))
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


def _undone(layer: Layer, case: Case, primal: str, error: Array, bound: Array, far: Array) -> Array:
    """`unfinished` for each entry, where it decides: an error is so small that the most that it may add settles it."""
    try:
        most = _SPREADS * _UNFINISHED * _top(gradients(layer, case)[primal])
    except LayerFailure:
        return np.zeros(bound.shape)
    with np.errstate(all="ignore"):
        lacking = (error - bound)[far & (error <= bound + most)]
    size = unfinished(layer, case, primal, float(lacking.max()) / _SPREADS) if lacking.size else 0.0
    return np.full(bound.shape, size)


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

    most, found = _UNFINISHED * _top(base), 0.0
    noise = np.full(base.size, 64 * _limit(base) * (_top(base) or 1.0))
    for absolute, reach in product((0.0, 1.0), _REACHES):
        jump = largest_jump(partial(along, absolute=absolute), reach, noise, most)
        change = 0.0 if jump is None else _top(jump.change)
        found = max(found, change if change <= most else 0.0)
        if found >= enough:
            break
    return found


def stored(layer: Layer, rng: np.random.Generator, part: float | None = None) -> Layer:
    """The layer with what forward saves moved by a unit in the last place, or that part of itself, as if rounded so.

    Where a softmax has settled on one item, the gradient p (g - sum p g) is what the rounding of p leaves, and no
    change of the primals shows it. What an adapter keeps moves itself: `nudged(rng, part)`.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return nudge(value, rng, part)
        if type(value) in (tuple, list):
            return type(value)(moved(item) for item in value)
        if hasattr(type(value), "nudged"):
            return value.nudged(rng, part)
        return {key: moved(item) for key, item in value.items()} if type(value) is dict else value

    def forward(*primals: Array, **options: Any) -> tuple[Any, Any]:
        outputs, saved = layer.forward(*primals, **options)
        return outputs, moved(saved)

    return layer.derive(forward=forward)


def _terms(layer: Layer, case: Case, primal: str) -> float:
    """Size of the terms of which a gradient is a sum, also where both they and the outputs cancel.

    Primals that move by a thousandth of themselves move each term by about as much.
    """
    rng = case.rng(Stream.TERMS)
    moved = case.but(primals={n: nudge(a, rng, _MOVED) for n, a in case.primals.items()})
    try:
        change = np.abs(gradients(layer, moved)[primal] - gradients(layer, case)[primal])
    except LayerFailure:
        return 0.0
    return float(np.max(change[np.isfinite(change)], initial=0.0)) / _MOVED


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


def natural_size(layer: Layer, case: Case, primal: str) -> float:
    """Size of the terms that a gradient is a sum of, also where they cancel: |v y| / |x|."""
    outputs = evaluate.run(layer, evaluate.copies(case.primals), case.options).outputs
    loudness = sum(float(np.abs(v * y).sum()) for v, y in zip(case.cotangents or (), outputs) if y.dtype.kind in "fc")
    return loudness / size(case.primals[primal]) if np.isfinite(loudness) else 0.0


def _top(array: Array) -> float:
    """The largest finite size of an entry."""
    return float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))


def size(array: Array) -> float:
    """Root mean square of the entries, 1 where that is 0."""
    x = np.abs(np.asarray(array))
    return (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if x.size else 0.0) or 1.0


def narrow(layer: Layer, case: Case) -> bool:
    """Whether a primal or the kernel has a type whose range everyday numbers overflow: float16 ends at 65,504."""
    ends = [float(np.finfo(a.dtype).max) for a in case.primals.values() if a.dtype.kind == "f"]
    return min([*ends, getattr(layer.hooks.reference, "largest", np.inf)]) < 1e6


def _unit(layer: Layer, case: Case) -> float:
    """Of the arithmetic behind a gradient: what came in, or was computed, with few digits may go out with more."""
    given = (_limit(np.asarray(a)) for a in (*case.primals.values(), *(case.cotangents or ())))
    return max(float(getattr(layer.hooks.reference, "eps", 0.0)), layer.declared.accuracy, *given)


def _limit(array: Array, name: str = "eps") -> float:
    """A limit of the type of an array; 0 for whole numbers."""
    return float(getattr(np.finfo(array.real.dtype), name)) if array.dtype.kind in "fc" else 0.0


def _finding(name: str, kind: str, what: str, case: Case, comparison: Comparison) -> Finding:
    where = comparison.worst
    a, b = comparison.analytic[where], comparison.numerical[where]
    place = f"{comparison.primal}{list(where) if where else ''}"
    message = f"{what}, the gradient of {comparison.primal} changes: at {place} it is {a:.6g} instead of {b:.6g}"
    got, wanted = (np.nan_to_num(np.real(x).ravel().astype(float)) for x in (comparison.analytic, comparison.numerical))
    scalar, remainder = best_ratio(got, wanted)
    facts = {"ratio": scalar, "remainder": remainder, "wrong": int(comparison.wrong.sum()), "what": what}
    return Finding(name, kind, comparison.primal, message, case, comparison, comparison.severity, facts)


def pulled(layer: Layer, case: Case, evaluation: evaluate.Evaluation) -> dict[str, Array]:
    """Usable gradients from an open evaluation, for copies of the case's cotangents."""
    return usable(layer, case, evaluation.pull(copied(case.cotangents or ())))


def copied(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Fresh copies of cotangents."""
    return tuple(np.array(a) for a in arrays)
