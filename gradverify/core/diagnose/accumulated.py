"""Signature of a sum that a kernel keeps in its low type: the law by which the error grows with the terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Diagnosis, Fit, Stream

_TERMS = (256, 1024, 4096)  # N, 4N, 16N: fewer say little, and more take long
_SHORTEST = 128  # of an axis of fixed size: eight terms, 32 and all
_ELEMENTS = 1 << 23  # of a case
# Of N terms of random sign, one rounding of the result loses a N in the mean square, and a sum kept low b N^2 besides:
# the error outgrows what must be lost by an exponent between 0 and a half. Means over 24 entries or more are good to
# 15 %, and an exponent over 16-fold terms to 0.07, so 0.2 is three times what chance does.
_STEEPER = 0.2
_PARTS = 64  # of the terms, which are pulled one after the other
_LESS = 0.7  # of the error that is left then: 64 parts of four terms leave 8 * 4^p / 256^p, 0.5 where p = 0.7
_END = 16  # of so many parts the last is pulled alone
_LOST = 0.4  # of the error that it has: 16^-p of a sum, 0.14 where p = 0.7, and all where terms at the end are lost
_ALIKE = 0.5  # of an error: that of a formula is linear but for three roundings of the result, others are not at all
_ROUGH = 0.3  # relative errors above this are no rounding: ten times what bfloat16 loses in 256 terms, 2^-9 sqrt(256)
_OTHERS = 8  # length of other axes
_DRAWS, _PLENTY = 3, 1 << 20  # cases at each N, and elements from which on one is enough

Errors = tuple[float, float, float]


@add("accumulated", "PRECISION")
def accumulated(evidence: Evidence) -> Diagnosis | None:
    """The error of a sum outgrows the one rounding that is left where the sum is kept in float32."""
    finding, layer = evidence.finding, evidence.layer
    if finding.property != "reference" or finding.kind not in ("wrong", "random") or finding.primal is None:
        return None
    if not hasattr(layer.hooks.reference, "sample"):
        return None
    law = next((law for law in _laws(evidence, finding.primal) if _of_their_sum(evidence, law)), None)
    if law is None:
        return None
    kind, n = layer.hooks.reference.type, law["symbol"]  # type: ignore[union-attr]
    where = f" in the number {n} of rows of the upstream gradient that are not zero" if law["fixed"] else ""
    text = (
        f"the error of the gradient of {finding.primal} grows like {n}^{law['exponent']:.1f}{where}, and what must be "
        f"lost like {n}^{law['unavoidable']:.1f}: its sum over {law['axis']} is kept in {kind}; float32 would lose "
        f"{law['lost']:.1f} digits less at {n} = {law['terms'][-1]}"
    )
    sure = Fit.EXACT if finding.kind == "wrong" else Fit.SEEN  # where runs differ, it is why: told before that they do
    return Diagnosis("accumulated", "PRECISION", text, sure, law)


def _laws(evidence: Evidence, primal: str) -> Iterator[dict[str, Any]]:
    """Of axes by name, or where those tell none, of long ones; each takes a dozen runs at the longest."""
    told = False
    for axis in _summed(evidence.layer, primal):
        if (law := _over_named(evidence, axis)) is not None:
            told = True
            yield law
    for at, size in () if told else _fixed(evidence):
        if (law := _over_fixed(evidence, at, size)) is not None:
            yield law


def _summed(layer: Layer, primal: str) -> list[str]:
    """Axes that the gradient of a primal is summed over: those of others that it has not itself."""
    own = set(layer.primal(primal).dims.names)
    names = dict.fromkeys(n for p in layer.primals for n in p.dims.names)
    return [n for n in names if n not in own and not n.startswith("*") and n not in layer.options]


def _over_named(evidence: Evidence, axis: str) -> dict[str, Any] | None:
    """The law over an axis that can be made longer."""
    finding, layer = evidence.finding, evidence.layer
    case = finding.worst or finding.case

    def errors(count: int, k: int) -> Errors | None:
        grown = _grown(layer, case, {axis: count})
        if grown is None or grown.size > _ELEMENTS:
            return None
        return errors_of(layer, grown.but(seed=case.seed + k), str(finding.primal), k)

    law = measured(errors, _TERMS, _DRAWS)
    return None if law is None else {"axis": axis, "symbol": axis, "fixed": False, **law}


def _fixed(evidence: Evidence) -> list[tuple[int, int]]:
    """Long axes of outputs, and their sizes; nobody can make them longer, but an upstream gradient may stop early."""
    layer, case = evidence.layer, _grown(evidence.layer, evidence.finding.worst or evidence.finding.case, {})
    if case is None or case.size > _ELEMENTS:
        return []
    _, outputs = evaluate.completed(layer, case)
    found = ((axis, size) for y in outputs for axis, size in enumerate(y.shape) if size >= _SHORTEST)
    return list(dict.fromkeys(found))


def _over_fixed(evidence: Evidence, axis: int, size: int) -> dict[str, Any] | None:
    """The law over the rows of the upstream gradient that are not zero: the first N of them."""
    finding, layer = evidence.finding, evidence.layer
    case = _grown(layer, finding.worst or finding.case, {})
    if case is None:
        return None

    def first(values: Array, count: int) -> Array:
        if values.ndim <= axis or values.shape[axis] != size:
            return values * 0.0
        kept = np.arange(size) < count
        return values * kept.reshape([-1 if k == axis else 1 for k in range(values.ndim)])

    def errors(count: int, k: int) -> Errors:
        made = case.but(seed=case.seed + k)
        return errors_of(layer, made, str(finding.primal), k, lambda values: first(values, count))

    law = measured(errors, (size // 16, size // 4, size), 1 if case.size > _PLENTY else _DRAWS)
    return None if law is None else {"axis": f"the axis of {size}", "symbol": "N", "fixed": True, **law}


def _of_their_sum(evidence: Evidence, law: Mapping[str, Any]) -> bool:
    """Whether it is the sum that is wrong, and not its terms, nor that some of the last of many are lost.

    Terms that are pulled a few at a time and added afterwards are right then: what a sum of N terms loses grows faster
    than sqrt(N), which is how it grows over parts.
    """
    layer, primal, case = evidence.layer, str(evidence.finding.primal), evidence.finding.worst or evidence.finding.case

    def grown(size: int) -> Case | None:
        return _grown(layer, case, {} if law["fixed"] else {law["symbol"]: size})

    size = law["terms"][-1 if law["fixed"] else 0]
    short, long = grown(size), grown(law["terms"][-1])
    if short is None or long is None:
        return False
    short, v, truth = _posed(layer, short, primal, 0, lambda values: values)
    if not any(size in part.shape for part in v):
        return sum(part.size for part in v) == 1 or not _linear(layer, short, primal, v)

    def pulled(first: int, last: int) -> Array:
        parts = tuple(_between(part, size, first, last) for part in v)
        return np.asarray(exact.gradients(layer, short, parts)[primal], float)

    step = -(-size // _PARTS)
    apart = sum(pulled(first, first + step) for first in range(0, size, step))
    if not _rms(apart - truth) < _LESS * _rms(pulled(0, size) - truth):
        return False
    many = law["terms"][-1]
    whole, _, _ = errors_of(layer, long, primal, 0)
    at_end, _, all_of_it = errors_of(
        layer, long, primal, 0, lambda part: _between(part, many, many - many // _END, many)
    )
    return at_end < _LOST * whole and at_end <= _ROUGH * all_of_it


def _linear(layer: Layer, case: Case, primal: str, shaped: tuple[Array, ...]) -> bool:
    """Whether two upstream gradients together have the sum of their errors, as by a wrong formula; roundings do not."""
    reference: Any = layer.hooks.reference
    _, tape = reference.forward(*(case.primals[p.name] for p in layer.primals), **case.options)
    rng = case.rng(Stream.LAW_OF_A_SUM, 0, 1)
    one, other = (
        tuple(rng.integers(-4, 5, part.shape) * 1.0 for part in shaped) for _ in range(2)
    )  # exact in any type

    def error(v: tuple[Array, ...]) -> Array:
        truth = reference.backward(v if len(v) > 1 else v[0], tape)[primal]
        return np.asarray(exact.gradients(layer, case, v)[primal], float) - truth

    both = error(tuple(a + b for a, b in zip(one, other)))
    return _rms(both - error(one) - error(other)) < _ALIKE * _rms(both)


def _between(part: Array, size: int, first: int, last: int) -> Array:
    """An upstream gradient that is zero outside some of its rows; without rows it belongs to the first of them."""
    if size not in part.shape:
        return part * (first == 0)
    kept = (np.arange(size) >= first) & (np.arange(size) < last)
    return part * kept.reshape([-1 if k == part.shape.index(size) else 1 for k in range(part.ndim)])


def measured(errors: Callable[[int, int], Errors | None], counts: tuple[int, ...], draws: int) -> dict[str, Any] | None:
    """Exponents of the error and of what must be lost, over N, 4N and 16N terms; None where they tell no sum.

    Parameters
    ----------
    errors : (number of terms, which draw) -> see `errors_of`; None where that case cannot be made
    """
    rows: list[Errors] = []
    for count in counts:
        found = [part for k in range(draws) if (part := errors(count, k)) is not None]
        if len(found) < draws:
            break
        row = tuple(float(np.mean(part)) for part in zip(*found))
        if not all(map(math.isfinite, row)) or min(row) <= 0:
            return None
        rows.append((row[0], row[1], row[2]))
    if len(rows) < 2 or rows[0][0] > _ROUGH * rows[0][2]:
        return None
    terms = counts[: len(rows)]
    error, must = (np.log([row[at] for row in rows]) for at in (0, 1))
    exponent, unavoidable = (float(np.polyfit(np.log(terms), part, 1)[0]) for part in (error, must))
    lost = math.log10(rows[-1][0] / rows[-1][1])
    if exponent - unavoidable < _STEEPER or lost < _STEEPER:
        return None
    return {"exponent": exponent, "unavoidable": unavoidable, "lost": lost, "terms": list(terms)}


def _grown(layer: Layer, case: Case, longer: Mapping[str, int]) -> Case | None:
    """The case with axes of these lengths: normal values and ids that repeat, and the other axes of 8, or at most 8."""
    sizes = sizes_of(layer, case)
    most = {n: min(s, _OTHERS) if isinstance(s, int) else tuple(min(k, _OTHERS) for k in s) for n, s in sizes.items()}
    wide = {n: _OTHERS if isinstance(s, int) else s for n, s in most.items()}  # few entries tell no law
    rng = case.rng(Stream.GROWN, *longer.values())
    return made(layer, case, ({**wide, **longer}, {**most, **longer}), lambda _, shape: rng.standard_normal(shape), rng)


def sizes_of(layer: Layer, case: Case) -> dict[str, Any]:
    """Sizes by the name of their axis, in a case; without those that are options."""
    sizes = layer.named_sizes(case.primals, case.options) or {}
    return {n: s for n, s in sizes.items() if n not in layer.options}


def made(
    layer: Layer,
    case: Case,
    lengths: Iterable[Mapping[str, Any]],
    values: Callable[[str, tuple[int, ...]], Array],
    rng: np.random.Generator,
) -> Case | None:
    """A case of the first of some sizes that the layer allows; None where the author draws values.

    Parameters
    ----------
    values : (name of a primal, shape) -> raw values; whole numbers are ids that repeat
    """
    if any(primal.domain.strategy is not None for primal in layer.primals):
        return None
    options = {n: v for n, v in case.options.items() if isinstance(v, int)}
    for some in lengths:
        sizes, primals = {**options, **some}, {}
        for primal in layer.primals:
            shape = primal.dims.shape(sizes)
            whole = primal.domain.discrete
            raw = 4.0 ** -rng.integers(0, 6, shape) * rng.random(shape) if whole else values(primal.name, shape)
            primals[primal.name] = primal.domain.project(raw, sizes)
        if layer.allows(primals, case.options):
            return case.but(primals=primals, cotangents=None)
    return None


def errors_of(
    layer: Layer, case: Case, primal: str, k: int, change: Callable[[Array], Array] = lambda values: values
) -> Errors:
    """Root mean squares of the error, of what must be lost (a rounding and float32's own), and of the gradient.

    Parameters
    ----------
    change : what is done to upstream gradients
    """
    case, v, truth = _posed(layer, case, primal, k, change)
    judged = np.asarray(exact.gradients(layer, case, v)[primal], float)
    # float32 sums hardly show beside it: their bound is for the worst order, and no measure of what is lost
    must = 0.5 * layer.hooks.reference.eps / 2 * np.abs(truth)  # type: ignore[union-attr]
    return _rms(judged - truth), _rms(must), _rms(truth)


def _posed(
    layer: Layer, case: Case, primal: str, k: int, change: Callable[[Array], Array]
) -> tuple[Case, tuple[Array, ...], Array]:
    """The case as the kernel stores it, upstream gradients, and the gradient of a primal that the reference gives."""
    reference: Any = layer.hooks.reference
    case = case.but(primals=reference.at(case.primals))
    case, outputs = evaluate.completed(layer, case)
    rng = case.rng(Stream.LAW_OF_A_SUM, k)
    v = tuple(reference.stored(rng.standard_normal(y.shape)) if y.dtype.kind == "f" else y * 0.0 for y in outputs)
    v = tuple(change(part) for part in v)
    arrays = tuple(case.primals[p.name] for p in layer.primals)
    _, tape = reference.forward(*arrays, **case.options)
    return case.but(cotangents=v), v, reference.backward(v if len(v) > 1 else v[0], tape)[primal]


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
