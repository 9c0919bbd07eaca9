"""Signatures of what forward keeps in a kernel's low type: its own rounded output, or statistics of rows.

What backward is handed is replaced, and its answer compared with the error: a cause that is named was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import add
from gradverify.core.diagnose.accumulated import made, sizes_of
from gradverify.core.diagnose.evidence import Evidence
from gradverify.core.evaluate import Evaluation
from gradverify.core.nouns import Array, Case, Diagnosis, Fit
from gradverify.core.properties import properties

_TIMES = 16.0  # by which the rounding of an output is enlarged: what is put in its place is itself rounded
_SHARE = 0.8  # of the squared error that a cause must explain
_ULPS = 1.0  # by which a rounded statistic may be off, in units in the last place; half of one in theory
_OFFSETS, _AXIS = (0.0, 4.0, 16.0), 16  # of ordinary cases, and the size of their axes
_DIVIDED = 24  # the same where axes are parted into groups
_LEAST = 3  # entries of a row beside one for each statistic
_HALF = 1.5  # times a statistic: what it reaches moves by more than a rounding


@dataclass(frozen=True)
class _Scene:
    """A case on which a kernel is wrong, and the means to ask its backward again.

    Attributes
    ----------
    truth, error : of the gradient of the primal
    expected : outputs of the reference
    """

    evidence: Evidence
    case: Case
    primal: str
    judged: Array
    truth: Array
    error: Array
    expected: tuple[Array, ...]

    def again(self, change: Any) -> Array:
        """By how much the gradient moves where `change` is done to the kept tensors before backward."""
        evaluation = _run(self.evidence, self.case)
        change(self.evidence.layer.hooks.reference.low(evaluation.saved))  # type: ignore[union-attr]
        return _gradient(evaluation, self.case, self.primal) - self.judged

    def scaled(self, at: int, factors: Callable[[Array], Array]) -> Array:
        """The same where one of the kept tensors is multiplied."""

        def change(lows: list[Any]) -> None:
            lows[at].put(lows[at].values * factors(lows[at].values))

        return self.again(change)

    @property
    def size(self) -> float:
        """The squared error."""
        return float(np.sum(self.error**2))

    def share(self, part: float) -> float:
        """How much a part of the squared error is of what needs a cause: not the one rounding of the result.

        Nothing where the kernel is right: a good one loses as much.
        """
        rounding = float(np.sum((self.evidence.layer.hooks.reference.stored(self.truth) - self.truth) ** 2))  # type: ignore[union-attr]
        beyond = self.size - rounding
        if not beyond > rounding or part < _SHARE * beyond:
            return 0.0
        told = properties.get("reference").holds(self.evidence.layer, self.case)
        return min(1.0, part / beyond) if any(f.primal == self.primal for f in told.findings) else 0.0


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
        share = scene.share(share * scene.size) if 0.5 < slope[0] < 2.0 else 0.0
        if share >= _SHARE:
            which = "the output" if len(scene.expected) == 1 else f"output {number}"
            text = (
                f"the gradient of {scene.primal} is computed again from {which}, which is rounded to "
                f"{_type(evidence)}: what rounding took from it explains {share:.0%} of the squared error "
                "beyond that of the result"
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
    error = scene.error.ravel()
    few = [at for at, k in enumerate(_kept(scene)) if k.output is None and k.values.size * _LEAST < error.size]
    if not few:
        return None
    eps: float = evidence.layer.hooks.reference.eps  # type: ignore[union-attr]
    moves = np.stack([scene.scaled(at, lambda values: np.full(values.shape, 1 + eps)).ravel() for at in few])
    owners = np.stack([_owners(scene, at) for at in few])
    explained = 0.0
    for row in np.unique(owners, axis=1).T:
        inside, known = (owners == row[:, None]).all(axis=0), row >= 0
        if known.any() and inside.sum() > known.sum() + _LEAST:
            by, share = _fit(moves[known][:, inside], error[inside])
            within = bool(np.abs(by).max(initial=0.0) <= _ULPS)
            explained += share * float(error[inside] @ error[inside]) * within
    share = scene.share(explained)
    if share < _SHARE:
        return None
    text = (
        f"the error of the gradient of {scene.primal} is that of statistics of rows which forward keeps in "
        f"{_type(evidence)}: roundings of them explain {share:.0%} of its square "
        "beyond that of the result; keep them in float32"
    )
    return Diagnosis("statistics", "PRECISION", text, Fit.LAW, {"share": share})


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
    """Normal values about one offset or another, and axes of sixteen or nearly, else of what many numbers divide."""
    rng, names = np.random.default_rng([case.seed, k]), sizes_of(layer, case)
    lengths = [
        {n: size if isinstance(s, int) else (size,) for (n, s), size in zip(names.items(), sizes)}
        for sizes in (count(_AXIS), repeat(_DIVIDED))
    ]
    return made(layer, case, lengths, lambda _, shape: _OFFSETS[k] + rng.standard_normal(shape), rng)


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
    truth = np.asarray(truths[primal], float)
    error = judged - truth
    return _Scene(evidence, case, primal, judged, truth, error, expected) if np.isfinite(error).all() else None


def _run(evidence: Evidence, case: Case) -> Evaluation:
    return evaluate.run(evidence.layer, evaluate.copies(case.primals), case.options)


def _gradient(evaluation: Evaluation, case: Case, primal: str) -> Array:
    return np.asarray(evaluation.pull(case.cotangents or ())[primal], float)


def _kept(scene: _Scene) -> list[Any]:
    found: list[Any] = scene.evidence.layer.hooks.reference.low(_run(scene.evidence, scene.case).saved)  # type: ignore[union-attr]
    return found


def _owners(scene: _Scene, at: int) -> Array:
    """Which number of a kept tensor moves each entry of the gradient, shape (entries,); -1 for none, or several.

    It is tried for half of the numbers at a time: those that have a 1, and those that have a 0, in each binary digit.
    """
    found = np.zeros(scene.error.size, int)
    bits = max(1, (_kept(scene)[at].values.size - 1).bit_length())
    for bit in range(bits):

        def factors(values: Array, side: int) -> Array:
            digit = np.arange(values.size) >> bit & 1  # noqa: B023
            return np.where(digit == side, _HALF, 1.0).reshape(values.shape)

        low, high = (scene.scaled(at, lambda v, s=side: factors(v, s)).ravel() != 0 for side in (0, 1))  # type: ignore[misc]
        found = np.where((found < 0) | (low == high), -1, found | high << bit)
    return found


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
