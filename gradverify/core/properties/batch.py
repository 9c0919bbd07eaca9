"""Batch: rows of a declared batch axis do not see each other; splitting and permuting changes nothing."""

from __future__ import annotations

import numpy as np

from gradverify.core.declare.layer import Layer
from gradverify.core.judge import exact
from gradverify.core.nouns import Array, Case, Outcome, Stream
from gradverify.core.properties import Property, add

NAME = "batch"


def applies(layer: Layer) -> str | None:
    if layer.batch is None:
        return 'no batch axis is declared (batch="N")'
    if not layer.returns or not all(layer.batch in dims.names for dims in layer.returns.values()):
        return f"the outputs do not declare the batch axis {layer.batch} (returns=...)"
    return None


@exact.where_finite(NAME)
def holds(layer: Layer, case: Case) -> Outcome:
    """Gradients of two halves: joined for primals with the batch axis, added for the others; same permuted."""
    size = _size(layer, case)
    if size < 2:
        return Outcome(NAME, skipped="a batch of one cannot be split")
    whole = exact.expected(layer, case)
    order = case.rng(Stream.BATCH_ORDER).permutation(size)
    shuffled = exact.gradients(layer, _take(layer, case, order))
    expected = {n: _rows(layer, n, g, order) for n, g in whole.items()}
    cut = size // 2
    halves = [exact.gradients(layer, _take(layer, case, rows)) for rows in (np.arange(cut), np.arange(cut, size))]
    joined = {n: _join(layer, n, [half[n] for half in halves]) for n in whole}
    pairs = [(f"with the batch {layer.batch} split in two", joined, whole)]
    outcome = exact.outcome(layer, case, NAME, pairs, sides=exact.EXPECTED)
    if not outcome.findings:
        pairs = [(f"with the batch {layer.batch} in another order", shuffled, expected)]
        outcome = exact.outcome(layer, case, NAME, pairs, sides=exact.EXPECTED)
    return Outcome(NAME, outcome.findings, entries=2 * outcome.entries)


def _axis(layer: Layer, name: str, rank: int) -> int | None:
    labels = layer.primal(name).dims.labels(rank)
    return labels.index(layer.batch) if layer.batch in labels else None


def _size(layer: Layer, case: Case) -> int:
    for name, array in case.primals.items():
        axis = _axis(layer, name, np.ndim(array))
        if axis is not None:
            return int(np.shape(array)[axis])
    return 0


def _rows(layer: Layer, name: str, array: Array, rows: Array) -> Array:
    axis = _axis(layer, name, np.ndim(array))
    return array if axis is None else np.take(array, rows, axis)


def _take(layer: Layer, case: Case, rows: Array) -> Case:
    primals = {n: _rows(layer, n, np.asarray(a), rows) for n, a in case.primals.items()}
    cotangents = []
    for v, dims in zip(case.cotangents or (), layer.returns.values()):
        cotangents.append(np.take(v, rows, dims.labels(v.ndim).index(layer.batch or "")))
    return case.but(primals=primals, cotangents=tuple(cotangents))


def _join(layer: Layer, name: str, parts: list[Array]) -> Array:
    axis = _axis(layer, name, np.ndim(parts[0]))
    return parts[0] + parts[1] if axis is None else np.concatenate(parts, axis)


add(Property(NAME, "rows of the batch do not see each other", holds, applies, share=0.5, implied_by=("gradient",)))
