"""The pipeline: one Case through the properties. Read this first; there is no arithmetic in it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Protocol

import numpy as np

from gradverify import evaluate
from gradverify.evaluate import LayerFailure
from gradverify.failures import COMPLETE, failed
from gradverify.layer import Layer
from gradverify.limits import time_limit
from gradverify.properties import Property, properties
from gradverify.types import Case, Finding, Outcome, Report, Tally

SECONDS = 10.0  # for one property on one case; a right layer takes milliseconds


class Watcher(Protocol):
    """Hears of every case before and after the layer's code sees it, e.g. to name the case that ends the process."""

    def before(self, layer: Layer, case: Case, prop: Property) -> None: ...

    def after(self, layer: Layer, outcome: Outcome) -> None: ...


watcher: ContextVar[Watcher | None] = ContextVar("gradverify_watcher", default=None)


def verify(layer: Layer, case: Case, names: Sequence[str] | None = None) -> Report:
    """Verify one concrete Case; no Hypothesis, no shrinking.

    Parameters
    ----------
    layer : a Layer, or anything that `gradverify.register` takes
    case : primals, options and cotangents; cotangents that are None are drawn from the Case's seed
    names : properties to try, default all that apply

    Raises
    ------
    DeclarationError, UsageError
        If the layer cannot be used, or the case lacks a primal.
    """
    if not isinstance(layer, Layer):
        from gradverify.adapters import as_layer

        layer = as_layer(layer)
    case = checked(layer, case)
    start = time.perf_counter()
    tallies: dict[str, Tally] = {}
    found: dict[tuple[str, str, str], Finding] = {}
    for prop in selected(names):
        begun = time.perf_counter()
        outcome = examine(layer, case, prop)
        tallies.setdefault(prop.name, Tally(prop.name)).add(outcome, time.perf_counter() - begun)
        for finding in outcome.findings:
            found.setdefault(finding.fingerprint, finding)
    return Report(
        layer.name,
        tallies,
        ranked(found.values()),
        layer.declared.lines(),
        seconds=time.perf_counter() - start,
        examples=1,
    )


def selected(names: Sequence[str] | None) -> list[Property]:
    """Properties by name, in a fixed order with `complete` first; all that are tried by default for None.

    Raises
    ------
    TargetError
        If a name is not registered.
    """
    chosen = [properties.get(name) for name in (names if names is not None else properties.names())]
    chosen = [prop for prop in chosen if prop.default or names is not None]
    return sorted(chosen, key=lambda prop: (prop.name != COMPLETE, prop.name != "gradient", prop.name))


def checked(layer: Layer, case: Case) -> Case:
    """The case, if it holds what the layer declares.

    Raises
    ------
    UsageError
        Naming the primal that is missing or whose shape does not fit.
    """
    from gradverify.errors import DeclarationError, UsageError

    sizes = {k: v for k, v in case.options.items() if isinstance(v, int) and not isinstance(v, bool)}
    for primal in layer.primals:
        if primal.name not in case.primals:
            raise UsageError(f"the case has no array for the primal {primal.name!r} of layer {layer.name!r}")
        try:
            sizes = primal.dims.bind(np.shape(case.primals[primal.name]), sizes)  # type: ignore[assignment]
        except DeclarationError as error:
            raise UsageError(f"primal {primal.name!r} of layer {layer.name!r}: {error}") from None
    arrays = {name: np.asarray(a) for name, a in case.primals.items()}
    for primal in layer.differentiable:
        if arrays[primal.name].dtype.kind not in "fc":
            raise UsageError(
                f"primal {primal.name!r} of layer {layer.name!r} is differentiable and holds "
                f"{arrays[primal.name].dtype}: give it as floating point, or declare it in constants=(...)"
            )
    return case.but(primals=arrays, options={**layer.default_options, **case.options})


def examine(layer: Layer, case: Case, prop: Property, seconds: float | None = SECONDS) -> Outcome:
    """One property on one Case. What the layer's own code breaks becomes a finding of `complete`.

    A disagreement is only reported as one if the forward gives the same outputs when asked again.
    """
    reason = prop.applies(layer)
    if reason is not None:
        return Outcome(prop.name, skipped=reason)
    watching = watcher.get()
    if watching is None:
        return _examine(layer, case, prop, seconds)
    watching.before(layer, case, prop)
    outcome = _examine(layer, case, prop, seconds)
    watching.after(layer, outcome)
    return outcome


def _examine(layer: Layer, case: Case, prop: Property, seconds: float | None) -> Outcome:
    try:
        with time_limit(seconds):
            outcome = prop.holds(layer, case)
            if outcome.findings and prop.name != "repeatable":
                return _unless_random(layer, case, outcome)
            return outcome
    except LayerFailure as failure:
        if prop.name != COMPLETE and failure.kind in ("missing", "surplus", "shape", "dtype"):
            return Outcome(prop.name, skipped=f"the gradient is incomplete: {failure}")
        return Outcome(prop.name, findings=(failed(case, failure),))


def _unless_random(layer: Layer, case: Case, outcome: Outcome) -> Outcome:
    first, second = (evaluate.run(layer, evaluate.copies(case.primals), case.options).outputs for _ in range(2))
    if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second)):
        return outcome
    message = "forward gives different outputs for the same inputs, so its derivative is not defined"
    return Outcome(outcome.property, findings=(Finding("repeatable", "random", None, message, case),))


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Most severe first; failures of the code itself before disagreements."""
    return tuple(sorted(findings, key=lambda f: (-f.severity, f.fingerprint)))
