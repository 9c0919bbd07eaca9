"""Signatures of what forward keeps in a kernel's low type: its own rounded output, or statistics of rows.

What backward is handed is replaced, and its answer compared with the error: a cause that is named was tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.evaluate import Evaluation
from gradverify.core.nouns import Array, Case, Diagnosis, Fit

_TIMES = 16.0  # by which the rounding of an output is enlarged: what is put in its place is itself rounded
_SHARE = 0.8  # of the squared error that a cause must explain
_ULPS = 1.0  # by which a rounded statistic may be off, in units in the last place; half of one in theory
_OFFSETS, _AXIS = (0.0, 4.0, 16.0), 16  # of ordinary cases, and the size of their axes
_LEAST = 3  # entries of a row beside one for each statistic


@dataclass(frozen=True)
class _Scene:
    """A case on which a kernel is wrong, and the means to ask its backward again.

    Attributes
    ----------
    error : of the gradient of the primal
    expected : outputs of the reference
    """

    evidence: Evidence
    case: Case
    primal: str
    judged: Array
    error: Array
    expected: tuple[Array, ...]

    def again(self, change: Any) -> Array:
        """By how much the gradient moves where `change` is done to the kept tensors before backward."""
        evaluation = _run(self.evidence, self.case)
        change(self.evidence.layer.hooks.reference.low(evaluation.saved))  # type: ignore[union-attr]
        return _gradient(evaluation, self.case, self.primal) - self.judged


@add("recomputed", "PRECISION")
def recomputed(evidence: Evidence) -> Diagnosis | None:
    """Values that backward computes again from an output that was rounded."""
    scenes = _scenes(evidence, [str(evidence.finding.primal)])
    return next((found for scene in scenes if (found := _recomputed(evidence, scene))), None)


def _recomputed(evidence: Evidence, scene: _Scene) -> Diagnosis | None:
    kept = {k.output for k in _kept(scene)}
    for number in sorted(k for k in kept if k is not None):

        def enlarged(lows: list[Any], number: int = number) -> None:
            for low in (low for low in lows if low.output == number):
                low.put(low.values + _TIMES * (scene.expected[number] - low.values))

        predicted = -scene.again(enlarged) / _TIMES
        slope, share = _fit(predicted[None], scene.error)
        if share >= _SHARE and 0.5 < slope[0] < 2.0:
            which = "the output" if len(scene.expected) == 1 else f"output {number}"
            text = (
                f"the gradient of {scene.primal} is computed again from {which}, which is rounded to "
                f"{_type(evidence)}: what rounding took from it explains {share:.0%} of the squared error"
            )
            return Diagnosis("recomputed", "PRECISION", text, Fit.EXACT, {"share": share, "output": number})
    return None


@add("statistics", "PRECISION")
def statistics(evidence: Evidence) -> Diagnosis | None:
    """Means, scales or log-sum-exps of rows that are kept in a low type."""
    others = [p.name for p in evidence.layer.differentiable if p.name != evidence.finding.primal]
    scenes = _scenes(evidence, [str(evidence.finding.primal), *others])  # a sum over rows does not show them
    return next((found for scene in scenes if (found := _statistics(evidence, scene))), None)


def _statistics(evidence: Evidence, scene: _Scene) -> Diagnosis | None:
    counts = [k.values.size for k in _kept(scene) if _of_rows(k, scene)]
    if not counts:
        return None
    moves = []
    for place in range(len(counts)):

        def up(lows: list[Any], place: int = place) -> None:
            low = [k for k in lows if _of_rows(k, scene)][place]
            low.put(low.values * (1 + evidence.layer.hooks.reference.eps))  # type: ignore[union-attr]

        moves.append(scene.again(up))
    explained, total = 0.0, 0.0
    for row in _rows(scene):
        causes = np.stack([m[row].ravel() for m in moves])
        error = scene.error[row].ravel()
        by, share = _fit(causes, error)
        explained += share * float(error @ error) * bool(np.abs(by).max(initial=0.0) <= _ULPS)
        total += float(error @ error)
    if not total or explained < _SHARE * total:
        return None
    text = (
        f"the error of the gradient of {scene.primal} is that of statistics of rows which forward keeps in "
        f"{_type(evidence)}: roundings of them explain {explained / total:.0%} of its square; keep them in float32"
    )
    return Diagnosis("statistics", "PRECISION", text, Fit.LAW, {"share": explained / total})


def _scenes(evidence: Evidence, primals: list[str]) -> Iterator[_Scene]:
    """The case where the finding is worst, and ordinary ones of the same options, for each of the primals."""
    finding, layer = evidence.finding, evidence.layer
    if finding.property != "reference" or finding.kind != "wrong" or not hasattr(layer.hooks.reference, "low"):
        return
    case = finding.worst or finding.case
    for at in (case, *(_ordinary(layer, case, k) for k in range(len(_OFFSETS)))):
        if at is not None:
            yield from (scene for primal in primals if (scene := _scene(evidence, at, primal)) is not None)


def _ordinary(layer: Layer, case: Case, k: int) -> Case | None:
    """Normal values about one offset or another, and axes of sixteen or nearly; None where the author draws them."""
    rng = np.random.default_rng([case.seed, k])
    sizes: dict[str, Any] = {}
    for primal in layer.primals:
        sizes = {**primal.dims.bind(np.shape(case.primals[primal.name]), sizes)}
    free = [n for n in sizes if n not in layer.options]
    sizes |= {n: _AXIS + at if isinstance(sizes[n], int) else (_AXIS,) for at, n in enumerate(free)}
    made: dict[str, Array] = {}
    for primal in layer.primals:
        if primal.domain.strategy is not None:
            return None
        shape = primal.dims.shape(sizes)
        raw = rng.random(shape) if primal.domain.discrete else _OFFSETS[k] + rng.standard_normal(shape)
        made[primal.name] = primal.domain.project(raw, sizes)
    return case.but(primals=made, cotangents=None)


def _scene(evidence: Evidence, case: Case, primal: str) -> _Scene | None:
    """What the kernel and its reference say there; None where that is not finite."""
    layer = evidence.layer
    reference: Any = layer.hooks.reference
    case = case.but(primals=reference.at(case.primals))
    case, _ = evaluate.completed(layer, case)
    case = case.but(cotangents=tuple(reference.stored(v) for v in case.cotangents or ()))
    raw, tape = reference.forward(*(case.primals[p.name] for p in layer.primals), **case.options)
    expected = evaluate.outputs_of(layer, raw)
    v = case.cotangents or ()
    truths = reference.backward(v if len(v) > 1 else v[0], tape)
    judged = _gradient(_run(evidence, case), case, primal)
    error = judged - np.asarray(truths[primal], float)
    return _Scene(evidence, case, primal, judged, error, expected) if np.isfinite(error).all() else None


def _run(evidence: Evidence, case: Case) -> Evaluation:
    return evaluate.run(evidence.layer, evaluate.copies(case.primals), case.options)


def _gradient(evaluation: Evaluation, case: Case, primal: str) -> Array:
    return np.asarray(evaluation.pull(case.cotangents or ())[primal], float)


def _kept(scene: _Scene) -> list[Any]:
    found: list[Any] = scene.evidence.layer.hooks.reference.low(_run(scene.evidence, scene.case).saved)  # type: ignore[union-attr]
    return found


def _of_rows(kept: Any, scene: _Scene) -> bool:
    """Whether a tensor has one number for each row of the gradient, and rows are long enough to tell."""
    shape = tuple(n for n in kept.values.shape if n != 1)
    rest = scene.error.shape[len(shape) :]
    fits = scene.error.shape[: len(shape)] == shape and int(np.prod(rest)) > _LEAST
    return kept.output is None and bool(shape) and bool(rest) and fits


def _rows(scene: _Scene) -> Iterator[tuple[int, ...]]:
    depth = min(len([n for n in k.values.shape if n != 1]) for k in _kept(scene) if _of_rows(k, scene))
    return iter(np.ndindex(*scene.error.shape[:depth]))


def _fit(causes: Array, error: Array) -> tuple[Array, float]:
    """Least squares of the error by causes: the factors, and the share of the squared error that they explain."""
    left, right = causes.reshape(len(causes), -1).T, error.ravel()
    size = float(right @ right)
    if not np.isfinite(left).all() or size == 0.0:
        return np.zeros(len(causes)), 0.0
    factors = np.linalg.lstsq(left, right, rcond=None)[0]
    return factors, 1 - float(np.sum((right - left @ factors) ** 2)) / size


def _type(evidence: Evidence) -> str:
    return str(evidence.layer.hooks.reference.type)  # type: ignore[union-attr]
