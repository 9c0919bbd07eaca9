"""Analytic gradients that must be equal up to rounding: no numerical derivative is needed.

Two gradients of the same layer, got in two ways (another layout, another order of calls), may differ by the rounding of
the backward: measured, where a difference is seen, by moving primals and cotangents by a unit in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial, wraps
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure, once
from gradverify.core.judge import backward_noise
from gradverify.core.judge.backward_noise import limit, top
from gradverify.core.judge.facts import best_ratio
from gradverify.core.nouns import Array, Case, Comparison, Finding, Outcome, Stream, Verdict
from gradverify.core.tuning import current

Gradients = Mapping[str, Array]
gradients, usable = once.gradients, once.usable  # of calls that are compared here

CALLS = ("second call", "first call")  # what is compared here, where both are calls of the same case
EXPECTED = ("got", "expected")  # and where the other side is computed from one call or several

_ULPS = 4096.0  # reductions in another order move the last digits; bugs move the first
_GRAINS = 4.0  # roundings of a gradient that is read from a subtraction, on either side of a comparison
_SPREADS = 16.0  # of its own rounding or spread, each heard once or a few times: the largest of many is some times that
_HIDES = 1e-3  # of the largest term: what is rounded by more is a jump, and a mistake of a thousandth would pass for it
_DRAWS = 4  # of moved saved values: of two that are softmax's, a third of the draws leaves the sum as it is
_MOVED = 1e-3  # part of themselves by which primals move to hear their terms: far above rounding, far below a change


def expected(layer: Layer, case: Case) -> dict[str, Array]:
    """Usable gradients, evaluated once for all who ask at this case."""
    known = once.at(layer, case)
    return known.gradients if known.gradients is not None else known.keep(gradients(layer, known.case))


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
    at: Case | None = None,
    **how: Any,
) -> Outcome:
    """An Outcome from pairs (what was done, gradients got, gradients expected).

    `at` is where rounding is measured, if not at the case; `how` is for `compare`.
    """
    findings: dict[str, Finding] = {}
    entries, known = 0, current().known
    for what, got, every in pairs:
        wanted = {n: g for n, g in every.items() if n not in known}
        entries += sum(np.size(g) for g in wanted.values())
        other = {n: g for n, g in wanted.items() if n not in findings and not np.array_equal(got[n], g)}
        for primal, comparison in compare(layer, at or case, got, other, **how).items():
            if comparison.wrong.any():
                findings[primal] = _finding(name, kind, what, case, comparison)
    return Outcome(name, tuple(findings.values()), entries=entries)


def compare(
    layer: Layer,
    case: Case,
    got: Gradients,
    expected: Gradients,
    *,
    terms: Gradients | None = None,
    same: bool = False,
    least: float = 0.0,
    loose: float = 1.0,
    sides: tuple[str, str] = CALLS,
) -> dict[str, Comparison]:
    """Comparison of two gradients by primal; the bound is the rounding of backward, less where that was the same.

    `terms` are gradients of which the expected ones are sums; their size counts for the rounding. With `same`, the very
    same arithmetic was done twice, and how much rounding there is makes no difference; differences below `least` of the
    largest entry are none. `loose` is what gradients were multiplied with after they were rounded. `sides` names what
    was got and what was expected.
    """
    found: dict[str, Comparison] = {}
    unit = _unit(layer, case)
    own = layer.hooks.gradient_rounding
    grain = {} if own is None else {n: loose * _GRAINS * g for n, g in own(case.primals).items()}
    measures = () if same else (backward_noise.rounding, backward_noise.rounding_saved)
    spreads = [cache(partial(once.measured, measure, layer, case)) for measure in measures]
    for primal in expected:
        a, b = np.asarray(got[primal]), np.asarray(expected[primal])
        with np.errstate(all="ignore"):
            error = np.abs(a - b)
            sizes = np.abs(b) if terms is None else np.maximum(np.abs(b), np.abs(terms[primal]))
            largest = top(sizes)
            eps = max(unit, limit(b))
            smallest = max(least, _share(eps)) * largest + _ULPS * limit(b, "tiny")
            bound = np.full(b.shape, smallest) + grain.get(primal, 0.0)
            far = ~(error <= bound) & ~((a == b) | (np.isnan(a) & np.isnan(b)))
            if narrow(layer, case):
                far &= np.isfinite(a) & np.isfinite(b)  # where the range of the type ends depends on the order of sums
        if far.any():
            natural = natural_size(layer, case, primal)
            bound = bound + _share(eps) * natural
            for measured in (*spreads, None):
                with np.errstate(all="ignore"):
                    far &= ~(error <= bound)
                if same or not far.any():
                    break
                extra = (
                    measured().get(primal, 0.0 * bound) if measured else _undone(layer, case, primal, error, bound, far)
                )
                if extra.shape == bound.shape:
                    bound = bound + _allowed(layer, case, primal, extra, far, (largest, natural), eps)
            with np.errstate(all="ignore"):
                far &= ~(error <= bound)
        verdicts = np.where(far, Verdict.DISAGREES, Verdict.AGREES).astype(np.int8)
        labels = layer.primal(primal).dims.labels(b.ndim)
        found[primal] = Comparison(primal, a, b, bound, verdicts, largest, labels, sides=sides)
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
        near = np.abs(a - b) <= _share(eps) * top(a)
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


def _undone(layer: Layer, case: Case, primal: str, error: Array, bound: Array, far: Array) -> Array:
    """`unfinished` for each entry, where it decides: an error is so small that the most that it may add settles it.

    A gradient that jumps nowhere around a case is of no backward that iterates, and is not looked at again.
    """
    vain, name = current().vain, f"unfinished {primal}"
    if vain is not None and name in vain:
        return np.zeros(bound.shape)
    try:
        most = _SPREADS * backward_noise.UNFINISHED * top(gradients(layer, case)[primal])
    except LayerFailure:
        return np.zeros(bound.shape)
    with np.errstate(all="ignore"):
        lacking = (error - bound)[far & (error <= bound + most)]
    if not lacking.size:
        return np.zeros(bound.shape)
    size = _jump(layer, case, primal, float(lacking.max()) / _SPREADS)
    if vain is not None and not size:
        vain.add(name)
    return np.full(bound.shape, size)


def _jump(layer: Layer, case: Case, primal: str, enough: float) -> float:
    """The largest jump of the gradient of a primal, or one that is enough; what was found at a case stays known."""
    known = once.measured(_searched(primal), layer, case)[primal]
    if known[0] < enough and known[1] < enough:
        known[:] = backward_noise.unfinished(layer, case, primal, enough), enough
    return float(known[0])


@cache
def _searched(primal: str) -> Callable[[Layer, Case], dict[str, Array]]:
    """The largest jump so far, and how large a one was looked for."""
    return lambda layer, case: {primal: np.zeros(2)}


def _terms(layer: Layer, case: Case, primal: str) -> float:
    """Size of the terms of which a gradient is a sum, also where both they and the outputs cancel.

    Primals that move by a thousandth of themselves move each term by about as much. Where two scores of 1e30 are equal,
    that makes one of them win, and its terms are gone; so what forward saved is moved as well, and nothing else.
    """
    rng = case.rng(Stream.TERMS)
    moved = case.but(primals={n: backward_noise.nudge(a, rng, _MOVED) for n, a in case.primals.items()})
    try:
        base = gradients(layer, case)[primal]
        others = [gradients(layer, moved)[primal]]
        others += [gradients(backward_noise.stored(layer, rng, _MOVED), case)[primal] for _ in range(_DRAWS)]
    except LayerFailure:
        return 0.0
    changes = (np.abs(other - base) for other in others)
    return max(float(np.max(c[np.isfinite(c)], initial=0.0)) for c in changes) / _MOVED


def natural_size(layer: Layer, case: Case, primal: str) -> float:
    """Size of the terms that a gradient is a sum of, also where they cancel: |v y| / |x|."""
    outputs = evaluate.run(layer, evaluate.copies(case.primals), case.options).outputs
    loudness = sum(float(np.abs(v * y).sum()) for v, y in zip(case.cotangents or (), outputs) if y.dtype.kind in "fc")
    return loudness / size(case.primals[primal]) if np.isfinite(loudness) else 0.0


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
    given = (limit(np.asarray(a)) for a in (*case.primals.values(), *(case.cotangents or ())))
    return max(float(getattr(layer.hooks.reference, "eps", 0.0)), layer.declared.accuracy, *given)


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
