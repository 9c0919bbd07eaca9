"""Precision: a backward loses no more digits than its arithmetic must, in float32 and in float64.

The same code at the same stored point with more digits is the yardstick: float64 for float32, as verified by the
gradient property, and NumPy's longdouble for float64, where that has more digits and the code keeps them. How much
of the difference is unavoidable is measured, too: by how far the yardstick moves when primals and cotangents move by
one unit of the lower precision.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge import backward_noise, exact
from gradverify.core.nouns import Array, Case, Comparison, Finding, Outcome, Stream, Verdict
from gradverify.core.properties import Property, add

NAME = "precision"
DOUBLE = "double_precision"
# Largest value that is judged, by bytes of the type: exp of it stays in float16's range, and its square in float32's;
# larger ones may leave that range where float64 does not.
_MODERATE = {2: 8.0, 4: 32.0, 8: 1e5}
LOST = 0.3  # a finding needs about half of the digits to be lost
_FEW, _MANY = 6, 60  # neighbours at which the float64 gradient is looked at
_SMALL = 1e-3  # of the largest: entries below share its absolute error, as terms of one sum
_FACTOR = 32.0  # multiples of the unavoidable error that a right backward stays below
# Times by which rounding of what forward saves may grow in a gradient, relative to its terms: a settled softmax of
# scores in the hundreds makes as much of it; moments that cancel, (mean / spread)^2, make more. A gradient of which
# that leaves nothing is a difference of terms that cancel, and may be anything of their size.
_AMPLIFIED = 1e3
# Times as many digits as its forward loses: log p and p - 1 where p is nearly 1, both out of a p that is rounded. A
# digit more is left room for, since one output may be right by luck.
_AS_FORWARD = 10.0


def holds(layer: Layer, case: Case, name: str = NAME, more: Any = np.float64) -> Outcome:
    """Compare the gradient in the precision of the case with the one in a type of more digits."""
    low = [a.real.dtype for a in case.primals.values() if a.dtype.kind in "fc"]
    lowest = max(low, key=lambda t: float(np.finfo(t).eps), default=np.dtype(more))
    if (name == DOUBLE) != (lowest == np.float64):
        return Outcome(name, skipped=f"no primal is of {'float64' if name == DOUBLE else 'a lower type than float64'}")
    called = "more digits" if name == DOUBLE else "float64"
    largest = max(float(np.max(np.abs(a), initial=0.0)) for a in case.primals.values() if a.dtype.kind in "fc")
    if largest > _MODERATE[lowest.itemsize]:
        return Outcome(name, skipped=f"values up to {largest:.2g}: products of them leave no digits to judge")
    eps = max(float(np.finfo(lowest).eps), layer.declared.accuracy)
    case, outputs = evaluate.completed(layer, case)
    if not all(np.isfinite(y).all() for y in outputs if y.dtype.kind in "fc"):
        return Outcome(name, skipped="forward overflows in this precision")
    judged = exact.gradients(layer, case)
    wide = case.but(primals=evaluate.cast(case.primals, more))
    try:
        exactly = exact.gradients(layer, wide)
    except LayerFailure as failure:
        return Outcome(name, skipped=f"the code does not run with {called}: {failure}")
    if any(g.real.dtype.itemsize < np.dtype(more).itemsize for g in exactly.values()):
        return Outcome(name, skipped=f"the code stays in {lowest.name} when given {called}")
    allowed = unavoidable(layer, wide, exactly, eps)
    findings, compared = [], []

    @cache
    def often() -> tuple[dict[str, Array], dict[str, Array], float]:
        """As `allowed`, from many neighbours, and where what is saved is rounded as well; and what forward loses.

        For all primals at once, where one is wrong.
        """
        stored = backward_noise.stored(layer, wide.rng(Stream.WIDE_SAVED_ROUNDING), eps)
        plain, kept = (unavoidable(one, wide, exactly, eps, _MANY, ties=True) for one in (layer, stored))
        return plain, kept, _forward_loses(layer, case, more, eps)

    grain = layer.hooks.gradient_rounding(case.primals) if layer.hooks.gradient_rounding else {}
    for primal, truth in exactly.items():
        terms = _terms(case, primal, outputs) + grain.get(primal, 0.0) / eps
        comparison = _compare(layer, primal, judged[primal], truth, allowed[primal], lowest, terms)
        if comparison.wrong.any():  # a kink next to the point is crossed by some of many, maybe by none of few
            plain, kept, loses = often()
            top = float(np.max(np.abs(truth), initial=0.0, where=np.isfinite(truth)))
            most = _AMPLIFIED * eps * (top + terms) if kept[primal].max(initial=0.0) < top else np.inf
            spread = np.fmax(plain[primal], np.fmin(kept[primal], most))
            spread = spread + loses / _FACTOR * max(_AS_FORWARD * top, terms)  # its terms, where they cancel
            comparison = _compare(layer, primal, judged[primal], truth, spread, lowest, terms)
        compared.append(comparison)
        if comparison.wrong.any():
            findings.append(_finding(case, name, comparison, lowest, called))
    return Outcome(name, tuple(findings), tuple(compared), sum(g.size for g in exactly.values()))


def _free(layer: Layer) -> str | None:
    """A kernel rounds to its type whatever it is given, and the property reference judges that."""
    fixed = hasattr(layer.hooks.reference, "sample")
    return "the code is fixed to a low precision: the property reference judges it" if fixed else None


def more_digits(layer: Layer) -> str | None:
    """Why float64 cannot be judged here; None where it can."""
    if np.finfo(np.longdouble).eps < np.finfo(np.float64).eps:
        return None
    return "this machine has no floating type with more digits than float64"


def unavoidable(
    layer: Layer, wide: Case, truth: dict[str, Array], eps: float, draws: int = _FEW, ties: bool = False
) -> dict[str, Array]:
    """Spread of the gradient in the wide type under relative changes of `eps` in primals and cotangents, by primal.

    With `ties`, zeros that tie are moved as well, in an order of their own: which of them a sort that is not stable
    puts where may differ between types. So are entries that vanish beside 1: `floor(x + 1)` has them on either side.
    """
    rng = wide.rng(Stream.WIDE_ROUNDING)
    spread = {name: np.zeros(g.shape) for name, g in truth.items()}
    for _ in range(draws):
        moved = wide.but(
            primals=_within(layer, wide, eps, rng, ties),
            cotangents=tuple(
                _moved(np.asarray(v, np.longdouble) if v.dtype.kind == "f" else v, eps, rng)
                for v in wide.cotangents or ()
            ),
        )
        for name, gradient in exact.gradients(layer, moved).items():
            with np.errstate(all="ignore"):
                spread[name] = np.fmax(spread[name], np.abs(gradient - truth[name]))
    return spread


def _forward_loses(layer: Layer, case: Case, more: Any, eps: float) -> float:
    """Relative error of the outputs in the precision of the case, as the cotangents weigh them; of a few neighbours.

    The largest counts. At the last of them no number is 0: a mask that is drawn anew in each type, as torch draws it,
    shows there.
    """
    rng, worst = case.rng(Stream.FORWARD_ROUNDING), 0.0
    near = [
        {n: a.astype(case.primals[n].dtype) for n, a in _within(layer, case, eps, rng).items()} for _ in range(_FEW)
    ]
    apart = {n: backward_noise.shifted(a) for n, a in case.primals.items()}
    for primals in (*near, *((apart,) if layer.legal(apart, case.options) else ())):
        moved = case.but(primals=primals)
        low, high = (
            np.concatenate(
                [
                    np.ravel(v).astype(np.longdouble) * np.ravel(y)
                    for v, y in zip(case.cotangents or (), evaluate.run(layer, p, case.options).outputs)
                ]
            )
            for p in (evaluate.copies(moved.primals), evaluate.cast(moved.primals, more))
        )
        with np.errstate(all="ignore"):
            worst = np.fmax(worst, np.linalg.norm((low - high).astype(float)) / np.linalg.norm(high.astype(float)))
    return float(worst)


def _within(layer: Layer, case: Case, eps: float, rng: np.random.Generator, ties: bool = False) -> dict[str, Array]:
    """Primals that are moved: one whose domain ends there towards 0 or away from it, as forward may refuse the rest."""
    sizes = layer.sizes_of(case.primals, case.options)

    def moved(primal: Primal) -> Array:
        array = case.primals[primal.name]
        ways = (_moved(array, eps, rng, ties, way) for way in (0, -1, 1))
        if primal.domain.strategy is not None or not primal.domain.contains(array, sizes):
            return next(ways)
        return next((there for there in ways if primal.domain.contains(there, sizes)), array)

    return {primal.name: moved(primal) for primal in layer.primals}


def _moved(array: Array, eps: float, rng: np.random.Generator, ties: bool = False, way: int = 0) -> Array:
    if array.dtype.kind not in "fc":
        return array
    shares = eps * rng.uniform(-1, 1, array.shape)
    shares = way * np.abs(shares) if way else shares
    tied = (array != 0) | (np.count_nonzero(array == 0) > 1)
    faint = ties & tied & (np.abs(array) < eps)
    return array * (1 + shares) + faint * shares


def _terms(case: Case, name: str, outputs: tuple[Array, ...]) -> float:
    """Typical size of the terms that a gradient is a sum of, also where they cancel: |v y| / |x|.

    Norms subtract the mean first: where rows are nearly constant, their spread takes the place of |x|.
    """
    products = [
        np.abs(np.asarray(v, float) * np.asarray(y, float)).ravel()
        for v, y in zip(case.cotangents or (), outputs)
        if y.dtype.kind == "f"
    ]
    x = np.asarray(case.primals[name])
    x = np.asarray(np.abs(x) if x.dtype.kind == "c" else x, float)
    scale = float(np.sqrt(np.mean(x**2))) if x.size else 0.0
    spreads = [scale, *(float(s) for axis in range(x.ndim if x.size else 0) for s in x.std(axis).ravel())]
    scale = min((s for s in spreads if s > 0), default=1.0)  # zeros tell nothing of their scale
    joined = np.concatenate(products) if products else np.zeros(0)
    return float(joined.max()) / scale if joined.size and scale else 0.0


def _compare(
    layer: Layer, name: str, judged: Array, truth: Array, spread: Array, lowest: np.dtype[Any], terms: float
) -> Comparison:
    """Entries are allowed the larger of their own spread and the primal's typical one, and a few roundings."""
    truth = truth.astype(np.result_type(truth, 0.0), copy=False)  # a gradient may be of whole numbers
    judged = judged.astype(truth.dtype)
    top = float(np.max(np.abs(truth[np.isfinite(truth)]), initial=0.0))
    typical = float(np.median(spread)) if spread.size else 0.0
    eps, tiny = max(float(np.finfo(lowest).eps), layer.declared.accuracy), float(np.finfo(lowest).tiny)
    with np.errstate(all="ignore"):
        bound = _FACTOR * (np.maximum(spread, typical) + eps * np.abs(truth) + eps * terms + tiny)
        bound = np.maximum(bound, LOST * eps**0.5 * np.maximum(np.abs(truth), _SMALL * top))
        error = np.abs(judged - truth)
        # terms that make such an error leave as much as all of the right gradient in the type of more digits
        nothing = np.isfinite(error) & (top <= _FACTOR * error * float(np.finfo(truth.dtype).eps) / eps)
        usable = np.isfinite(truth) & np.isfinite(bound) & (np.abs(truth) < 0.1 / tiny) & ~nothing
        verdicts = np.where(usable, np.where(error <= bound, Verdict.AGREES, Verdict.DISAGREES), Verdict.UNRESOLVED)
    verdicts = np.where(usable & ~np.isfinite(judged), Verdict.DISAGREES, verdicts).astype(np.int8)
    return Comparison(name, judged, truth, bound, verdicts, top, layer.primal(name).dims.labels(truth.ndim))


def _finding(case: Case, name: str, comparison: Comparison, lowest: np.dtype[Any], called: str) -> Finding:
    where = comparison.worst
    a, n, b = (float(np.real(x[where])) for x in (comparison.analytic, comparison.numerical, comparison.bound))
    lost = math.log10(max(abs(a - n), 1e-300) / (b / _FACTOR)) if b > 0 and math.isfinite(a) else float("inf")
    has = max(0.0, -math.log10(max(abs(a - n) / abs(n), 1e-17))) if n and math.isfinite(a) else 0.0
    kind, more = lowest.name, f"{'with' if name == DOUBLE else 'in'} {called}"
    message = (
        f"in {kind} the gradient of {comparison.primal} loses {lost:.1f} digits more than its arithmetic must: "
        f"at {comparison.primal}{list(where) if where else ''} it is {a:.6g}, {more} {n:.6g} "
        f"({has:.1f} digits right)"
    )
    facts = {"digits_lost": lost, "digits_right": has, "dtype": kind, "wrong": int(comparison.wrong.sum())}
    return Finding(name, "precision", comparison.primal, message, case, comparison, comparison.severity, facts)


add(
    Property(
        NAME,
        "in float32 the gradient loses no more digits than its arithmetic must",
        holds,
        applies=_free,
        regime=Regime(dtype="float32"),
        share=0.3,
        implied_by=("gradient", "special"),
    )
)
add(
    Property(
        DOUBLE,
        "in float64 the gradient loses no more digits than its arithmetic must",
        partial(holds, name=DOUBLE, more=np.longdouble),
        applies=more_digits,
        implied_by=("gradient", "special"),
        default=False,  # gates that are open or closed to the last digits lose most of theirs in every recurrent cell
    )
)
