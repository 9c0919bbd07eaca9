"""Signatures of special values: ties, exact points such as zero, values beyond a bound."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import CLOSE, close
from gradverify.core.nouns import Array, Case, Diagnosis, Fit, Stream
from gradverify.core.properties import properties
from gradverify.core.verify import examine

_JITTER = 1e-3  # of the largest entry: ties come apart, and little else changes
_VISIBLE = 10 * CLOSE  # an error that jitter has moved a little is seen all the same


def changed(evidence: Evidence, case: Case, change: Callable[[Array], Array]) -> Case | None:
    """The case with every real primal changed, cotangents kept; None if that is not legal."""
    primals = {}
    for primal in evidence.layer.primals:
        array = np.asarray(case.primals[primal.name])
        real = primal.domain.kind == "real" and not primal.domain.discrete and array.dtype.kind == "f"
        primals[primal.name] = np.asarray(change(array.copy()), array.dtype) if real else array
    made = case.but(primals=primals)
    return made if variants.legal(evidence.layer, made) else None


def jittered(evidence: Evidence, case: Case, draw: int = 0, away: int = 0) -> Case | None:
    """All real entries moved by about a thousandth, so that nothing is equal or exact.

    Parameters
    ----------
    away : 1 if all entries grow, -1 if all shrink, 0 for either by chance
    """
    rng = case.rng(Stream.JITTERED, draw)

    def move(array: Array) -> Array:
        scale = np.maximum(np.abs(array), 0.1 * (float(np.abs(array).max(initial=0.0)) or 1.0))
        signs = away * np.where(array < 0, -1, 1) if away else rng.choice([-1, 1], array.shape)
        return np.asarray(array + _JITTER * scale * rng.uniform(0.5, 1.5, array.shape) * signs)

    return changed(evidence, case, move)


def exact(evidence: Evidence) -> bool:
    """Whether the failure goes when values are moved a little to either side: they must be equal, or exact."""
    if evidence.situation.needs != "values" or not evidence.situation.failing or _faint(evidence):
        return False
    cases = [jittered(evidence, evidence.case, k, away) for k, away in enumerate((0, 0, 0, 1, -1))]
    usable = [c for c in cases if c is not None]
    return bool(usable) and all(_right(evidence, case) for case in usable)


def _faint(evidence: Evidence) -> bool:
    """Whether the error is so small that moved values would be called right with it."""
    own = evidence.own
    if own is None or own.failure is not None or evidence.primal not in own.analytic:
        return False
    return close(*evidence.pair(own), _VISIBLE)


def _right(evidence: Evidence, case: Case) -> bool:
    """Whether the gradient is right on a case: by a probe or, where slopes are steep, by the check itself."""
    probe = evidence.probe(case)
    if probe is None or probe.failure is not None or not np.isfinite(probe.analytic.get(evidence.primal, np.nan)).all():
        return False
    if evidence.holds(case):
        return True
    outcome = examine(evidence.layer, case, properties.get("gradient"))
    return not any(f.primal == evidence.primal for f in outcome.findings)


def tied(evidence: Evidence, case: Case) -> Case | None:
    """Entries that are equal moved apart, each other one as it was."""
    rng = case.rng(Stream.UNTIED)
    seen: set[float] = set()

    def move(array: Array) -> Array:
        flat = array.ravel()
        for k, value in enumerate(flat):
            if float(value) in seen:
                flat[k] = value + _JITTER * max(abs(value), 0.1) * rng.uniform(0.5, 1.5) * rng.choice([-1, 1])
            seen.add(float(value))
        return flat.reshape(array.shape)

    return changed(evidence, case, move)


@add("tie", "TIE")
def tie(evidence: Evidence) -> Diagnosis | None:
    """Wrong only where two values are equal, or where one lies exactly on a border."""
    d = f"the gradient of {evidence.primal}"
    if evidence.finding.kind == "tie":
        value = evidence.finding.facts.get("value")
        text = f"{d} is wrong at a tie: entries that all are {value:g} together claim another slope than they have"
        return Diagnosis("tie", "TIE", text, Fit.LAW)
    own = evidence.own
    if not evidence.about_gradient or own is None or own.failure is not None or not exact(evidence):
        return None
    analytic = own.analytic.get(evidence.primal)
    if analytic is None or not np.isfinite(analytic).all():
        return None
    apart = tied(evidence, evidence.case)
    values = np.unique(own.case.primals[evidence.primal][own.wrong(evidence.primal)])
    where = f"{evidence.primal} = {', '.join(f'{v:g}' for v in values[:3])}"
    if apart is not None and evidence.holds(apart):
        text = f"{d} is right as soon as equal values are moved apart by a thousandth: it is wrong at ties ({where})"
        return Diagnosis("tie", "TIE", text, Fit.SOME)
    text = f"{d} is wrong at exactly {where}, and right a thousandth beside: a border or a kink"
    return Diagnosis("tie", "TIE", text, Fit.PART)


@add("singular", "SINGULAR", ANYWHERE)
def singular(evidence: Evidence) -> Diagnosis | None:
    """NaN, infinite or wrong at an exact point: zero, a zero vector; finite and right beside it."""
    own = evidence.own
    if own is None or own.failure is not None or not exact(evidence):
        return None
    a = own.analytic.get(evidence.primal)
    if a is None:
        return None
    infinite = not np.isfinite(a).all()
    point = _zeros(evidence)
    what = "NaN or infinite" if infinite else "wrong"
    if point is None and not infinite:
        return None
    where = point or "exactly these values"
    beside = [evidence.probe(jittered(evidence, evidence.case, k)) for k in range(3)]
    sound = "finite" if any(p is not None and p.fails(evidence.primal) for p in beside) else "right"
    text = f"the gradient of {evidence.primal} is {what} at {where}, and {sound} a thousandth beside it"
    return Diagnosis("singular", "SINGULAR", text, Fit.PLACES if infinite else Fit.PART, {"at": where})


def _zeros(evidence: Evidence) -> str | None:
    """The zeros that the failure needs, in words."""
    for name in evidence.layer.primal_names:
        array = np.asarray(evidence.case.primals[name])
        if array.dtype.kind != "f" or not (array == 0).any():
            continue
        filled = variants.but(evidence.layer, evidence.case, name, lambda x: np.where(x == 0, 0.25, x))
        if filled is not None and evidence.holds(filled):
            row = array.ndim > 0 and array.shape[-1] > 1 and bool((array == 0).all(-1).any())
            return f"a vector {name} that is all zero" if row else f"{name} = 0"
    return None


_SATURATES = 8.0  # exp(-8) beside 1 keeps 12 digits in float64: nothing overflows, cancels or saturates below


@add("tail", "TAIL", ("values",))
def tail(evidence: Evidence) -> Diagnosis | None:
    """Wrong only for large, or tiny, values; the bound is found by bisection."""
    own = evidence.own
    if own is None or exact(evidence):
        return None
    if not evidence.situation.failing:
        return None
    largest = max((_top(a) for a in evidence.case.primals.values()), default=0.0)
    if largest <= 1.0 or own.failure is not None:
        return None
    low, high = min(1.0, 1.0 / largest), 1.0
    if not _right_at(evidence, low):
        return None
    for _ in range(12):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _right_at(evidence, middle) else (low, middle)
    bound = high * largest
    a = own.analytic.get(evidence.primal)
    broken = a is not None and not np.isfinite(a).all()
    what = (
        "NaN or infinite"
        if broken
        else "exactly zero"
        if a is not None and not np.any(a[own.wrong(evidence.primal)])
        else "wrong"
    )
    cause = (
        "a branch or a clamp of its own there"
        if bound < _SATURATES
        else "a formula that overflows, cancels or saturates"
    )
    text = (
        f"the gradient of {evidence.primal} is {what} for large values only: from about {bound:.3g} on"
        f"{evidence.with_options}, found by scaling the case down; {cause}"
    )
    nearer = evidence.situation.options and not by_size(evidence)  # an option that it needs is nearer to the cause
    fit = Fit.PART if nearer else Fit.PLACES
    return Diagnosis("tail", "TAIL", text, fit, {"bound": bound})


_LARGER = (4.0, 32.0, 256.0)  # times the values, at which an option that scales them has no part any more


def by_size(evidence: Evidence) -> bool:
    """Whether it fails without the options that it needs, too, once values are larger: these only scale them."""
    needed = evidence.situation.options
    if evidence.situation.needs != "values" or not needed:
        return False
    case = evidence.case.but(options={**evidence.case.options, **{n: evidence.defaults[n] for n in needed}})
    return any(evidence.fails(changed(evidence, case, partial(np.multiply, by))) for by in _LARGER)


def _right_at(evidence: Evidence, scale: float) -> bool:
    """Whether the case scaled down is right, judged as the finding was."""
    case = changed(evidence, evidence.case, lambda a: a * scale)
    if case is None:
        return False
    if evidence.finding.kind == "nan":
        return not evidence.fails(case)
    name = evidence.finding.property
    outcome = examine(evidence.layer, case, properties.get(name if name != "complete" else "gradient"))
    wrong = any(f.primal == evidence.finding.primal for f in outcome.findings)
    return not wrong and not (name == "complete" and evidence.fails(case))


def _top(array: Array) -> float:
    array = np.asarray(array)
    return float(np.max(np.abs(array), initial=0.0)) if array.dtype.kind == "f" else 0.0
