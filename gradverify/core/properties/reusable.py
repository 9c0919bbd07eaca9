"""Reusability: what one call leaves behind does not reach the next, in any order of calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.declaration import Primal
from gradverify.core.declare.layer import Layer
from gradverify.core.evaluate import LayerFailure
from gradverify.core.evaluate.limits import SLOW, TIMEOUT, TRIAL, time_limit
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Finding, Outcome, Stream
from gradverify.core.properties import Property, add

NAME = "reusable"


@exact.where_finite(NAME)
def holds(layer: Layer, case: Case) -> Outcome:
    """Forward a, backward a, forward b, backward b; without state also forward a, forward b, backward a."""
    other = _other(layer, case)
    if all(np.shape(other.primals[n]) == np.shape(a) for n, a in case.primals.items()):
        return _calls(layer, case, other)
    try:
        return _calls(layer, case, other)
    except LayerFailure as failure:  # what is kept may also be seen at one size, where more can be said of it
        outcome = _calls(layer, case, _other(layer, case, shorten=False))
        if outcome.findings or _alone(layer, other):
            return outcome
        message = f"in a second call with other sizes, {failure}"
        return Outcome(NAME, (Finding(NAME, "crash", failure.primal, message, case, facts={"what": "sizes"}),))


def _alone(layer: Layer, case: Case) -> bool:
    """Whether a case breaks down with no call before it: then none is the cause."""
    try:
        exact.expected(layer, case)
    except LayerFailure:
        return True
    return False


def _calls(layer: Layer, case: Case, other: Case) -> Outcome:
    pair = layer.hooks.session() if layer.hooks.session else None
    expected = exact.expected(layer, case)
    expected_other = exact.expected(layer, other)

    def forward(which: Case) -> evaluate.Evaluation:
        return evaluate.run(layer, evaluate.copies(which.primals), which.options, pair)

    def backward(which: Case, evaluation: evaluate.Evaluation) -> dict[str, Array]:
        return exact.pulled(layer, which, evaluation)

    between = _two_objects(layer, case, other, expected) if layer.hooks.session else []
    one = forward(case)
    given = exact.copied(one.outputs)
    first = backward(case, one)
    two = forward(other)
    kept = "" if _same(one.outputs, given) else "forward"
    second = backward(other, two)
    pairs = [("in the first of two calls", first, expected), *between]
    if not layer.declared.stateful:
        one, two = forward(case), forward(other)
        raw = one.pull(exact.copied(case.cotangents or ()))
        held = exact.usable(layer, case, raw)
        pairs.append(("after another forward ran in between", held, expected))
        pairs.append(("after its forward ran first", backward(case, forward(case)), expected))
        second_late = backward(other, two)
        kept = kept or ("" if _same([raw[n] for n in held], held.values()) else "backward")
        if kept:
            says = f"what one {kept} returned is changed by the next: {kept} keeps the array, and writes into it again"
            overwritten = Finding(NAME, "overwrites", None, says, case, facts={"what": kept})
            return Outcome(NAME, (overwritten,), entries=sum(y.size for y in given))
        outcome_other = exact.outcome(
            layer, other, NAME, [("after the other backward ran", second_late, expected_other)]
        )
    else:
        outcome_other = Outcome(NAME)
    outcome = exact.outcome(layer, case, NAME, pairs)
    late = exact.outcome(layer, other, NAME, [("in a second call with other values", second, expected_other)])
    findings = {f.primal: f for f in (*late.findings, *outcome_other.findings, *outcome.findings)}
    ours = tuple(f.but(case=case) for f in findings.values())
    entries = outcome.entries + late.entries + outcome_other.entries
    return Outcome(NAME, ours, entries=entries, notes=(_WRITES,) if kept else ())


Pairs = list[tuple[str, dict[str, Array], dict[str, Array]]]


def _two_objects(layer: Layer, case: Case, other: Case, expected: dict[str, Array]) -> Pairs:
    """Forward of one object, forward of another one of the class, backward of the first.

    What is kept on the class, or in the module, instead of on the object belongs to the last forward then.
    """
    assert layer.hooks.session is not None
    ours, theirs = layer.hooks.session(), layer.hooks.session()
    one = evaluate.run(layer, evaluate.copies(case.primals), case.options, ours)
    evaluate.run(layer, evaluate.copies(other.primals), other.options, theirs)
    got = exact.pulled(layer, case, one)
    return [("after the forward of another object of the class", got, expected)]


_WRITES = (
    "forward writes into the array that it returned before: of two calls, copy what the first returns "
    "(an object that is stateful may do so)"
)


def _same(arrays: Iterable[Any], before: Iterable[Array]) -> bool:
    """Whether arrays are still what they were, all that are plain ones."""
    return all(exact.alike(now, then) for now, then in zip(arrays, before) if isinstance(now, np.ndarray))


def _other(layer: Layer, case: Case, shorten: bool = True) -> Case:
    """Another legal case: other values, signs included, and in half of the cases one axis shorter by one.

    State that is kept by shape is only seen at the same shape, state that is kept of the first size only at
    another, so both are tried.
    """
    rng = case.rng(Stream.OTHER_CASE)
    arrays = {p.name: np.array(case.primals[p.name]) for p in layer.primals}
    names = shortened(layer, case) if rng.random() < 0.5 and shorten else ()
    shorter = _cut(layer, arrays, names[rng.integers(len(names))]) if names else arrays
    turned = rng.random() < 0.3  # the same values in another order, now and then
    for sizes in (shorter, arrays):
        for factors in (None, *_FACTORS) if turned else _FACTORS:
            moved = {p.name: _moved(p, sizes[p.name], factors, rng) for p in layer.primals}
            other = case.but(primals=moved, cotangents=None, seed=case.seed + 7)
            if not layer.legal(other.primals, other.options):
                continue
            try:
                with time_limit(TRIAL, inner=True):
                    completed, reason = exact.ready(layer, other)
            except LayerFailure as failure:  # told by `complete`, if these sizes are legal
                if failure.kind in (TIMEOUT, SLOW):
                    break
                continue
            if reason is None:
                return completed
    return case


# by which values are multiplied: of either sign, of one sign where a domain wants it, and not at all
_FACTORS = ((-1.25, -0.75, 0.5, 1.0, 1.25), (0.5, 0.75, 1.0, 1.25), (1.0,))


def _moved(primal: Primal, array: Array, factors: tuple[float, ...] | None, rng: np.random.Generator) -> Array:
    """Other values of the same domain: scaled, some of them by 1, or the same ones in another order.

    A cache that is keyed by the first value, or by a sum, takes the one or the other for the same array.
    """
    if primal.differentiable and primal.domain.name in ("real", "complex") and factors is not None:
        return np.asarray(array * rng.choice(factors, array.shape), dtype=array.dtype)
    return np.ascontiguousarray(np.flip(array)) if array.ndim and (factors is None or primal.domain.discrete) else array


def shortened(layer: Layer, case: Case) -> tuple[str, ...]:
    """Names of axes that can be one shorter; of an object with parameters, what looks like its batch alone.

    A name that an option, a domain or another axis depends on stays as it is.
    """
    taken = {a for p in layer.primals for a in p.domain.arguments}
    sizes: dict[str, set[int]] = {}
    for primal in layer.primals:
        extents = np.shape(case.primals[primal.name])
        plain = len(extents) == len(primal.dims.axes) and all(a.kind != "many" for a in primal.dims.axes)
        for k, axis in enumerate(primal.dims.axes):
            if axis.kind != "name" or not plain:
                taken |= set(axis.names)
            else:
                sizes.setdefault(axis.names[0], set()).add(extents[k])
    free = tuple(n for n, found in sizes.items() if n not in taken and n not in layer.options and min(found) > 1)
    if layer.batch is not None:
        return (layer.batch,) if layer.batch in free else ()
    if layer.hooks.session is None:
        return free
    first = layer.primals[0]
    elsewhere = {*layer.declared.built_with, *(n for p in layer.primals[1:] for n in p.dims.names)}
    return tuple(n for n in first.dims.names[:1] if n in free and n not in elsewhere)


def _cut(layer: Layer, arrays: dict[str, Array], name: str) -> dict[str, Array]:
    shorter = {}
    for primal in layer.primals:
        index = tuple(slice(None, -1) if axis.names == (name,) else slice(None) for axis in primal.dims.axes)
        array = arrays[primal.name]
        shorter[primal.name] = np.array(array[index]) if name in primal.dims.names else array
    return shorter


add(Property(NAME, "one call leaves nothing behind that reaches the next", holds, share=0.5))
