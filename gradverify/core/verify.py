"""The pipeline: one Case through the properties. Read this first; there is no arithmetic in it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Protocol

import numpy as np

from gradverify.core import tuning
from gradverify.core.declare.dims import sizes_in
from gradverify.core.declare.layer import Layer
from gradverify.core.errors import DeclarationError, NothingVerified, PartlyVerified, UsageError
from gradverify.core.evaluate import LayerFailure, completed, gradients
from gradverify.core.evaluate.failures import COMPLETE, ELSEWHERE, failed, out_of_memory, undefined, unpatched
from gradverify.core.evaluate.limits import BEYOND, SLOW, time_limit
from gradverify.core.evaluate.outside import Outside
from gradverify.core.nouns import Array, Case, Finding, Outcome, Stream
from gradverify.core.properties import Property, properties
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import Tally

SECONDS = 10.0  # for one property on one case; a right layer takes milliseconds
NO_MEMORY = "out of memory"
_BESIDE = 1e-6  # of a value, by which a matrix is singular no longer
_MUCH = 1 << 18  # elements of a case from which on it is no fault of a layer that memory runs out


class Watcher(Protocol):
    """Hears of every case before and after the layer's code sees it, e.g. to name the case that ends the process."""

    def before(self, layer: Layer, case: Case, prop: Property) -> None: ...

    def after(self, layer: Layer, outcome: Outcome) -> None: ...


watcher: ContextVar[Watcher | None] = ContextVar("gradverify_watcher", default=None)


def aware(layer: Layer, case: Case, prop: Property) -> None:
    """Tell whoever watches that the layer's code is about to see a case, so that it is known which one ends it."""
    watching = watcher.get()
    if watching is not None:
        watching.before(layer, case, prop)


def verify_layer(layer: Layer, case: Case, names: Sequence[str] | str | None = None) -> Report:
    """One Case through the properties that apply, or those of these names; raises UsageError if it does not fit."""
    case = checked(layer, case)
    start = time.perf_counter()
    tallies: dict[str, Tally] = {}
    found: dict[tuple[str, str, str], Finding] = {}
    for prop in selected(None if names is None else listed(names)):
        begun = time.perf_counter()
        outcome = examine(layer, case, prop)
        tallies.setdefault(prop.name, Tally(prop.name)).add(outcome, time.perf_counter() - begun)
        for finding in outcome.findings:
            found.setdefault(finding.fingerprint, finding)
    outside = Outside(layer)
    if outside.due(case):
        outside.look(case)  # at the end: what a module keeps of earlier calls is of those that are asked for
    return Report(
        layer.name,
        tallies,
        ranked(found.values()),
        layer.declared.lines(),
        seconds=time.perf_counter() - start,
        examples=1,
        unverified=(*layer.left_out, *outside.missing()),
        origin=layer.origin,
    )


def verify_again(layer: Layer, case: Case, names: Sequence[str] | str | None = None) -> Report:
    """`verify_layer`, and where nothing is found so once more after a call with other values.

    What is kept in a module from an earlier call is not there in a new process. A finding that shows only then says
    so: on the case itself, or, where what is kept is the first that was met, on the same sizes with other values.
    """
    report = verify_layer(layer, case, names)
    if not report.ok:
        return report
    case = checked(layer, case)
    other = case.but(primals={n: _other(a) for n, a in case.primals.items()}, cotangents=None)
    if not layer.allows(other.primals, other.options) or not _runs(layer, other):
        return report
    for again, words in ((case, "only after a call with other values"), (other, "after a call with other values")):
        later = verify_layer(layer, again, names)
        if later.findings:
            return replace(later, findings=tuple(f.but(message=f"{words}: {f.message}") for f in later.findings))
    return report


def _other(array: Array) -> Array:
    """Other values of the same sizes, in most domains: each entry of a floating array is 0.3 % smaller, and no zero."""
    return np.where(array == 0, 1e-3, array * 0.997).astype(array.dtype) if array.dtype.kind in "fc" else array


def listed(names: Sequence[str] | str) -> tuple[str, ...]:
    """One name or several, as a tuple; raises UsageError if they are no names."""
    found = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else (names,)
    for name in found:
        if not isinstance(name, str):
            raise UsageError(f"expected names of properties, got {name!r}")
    if not found:
        raise UsageError("properties must name at least one property, got none (leave it out for all that apply)")
    return found


def selected(names: Sequence[str] | None) -> list[Property]:
    """Properties by name, in a fixed order with `complete` first; all that are tried by default for None.

    Raises TargetError if a name is not registered.
    """
    chosen = [properties.get(name) for name in (names if names is not None else properties.names())]
    chosen = [prop for prop in chosen if prop.default or names is not None]
    return sorted(chosen, key=lambda prop: (prop.turn, prop.name))


def checked(layer: Layer, case: Case) -> Case:
    """The case with arrays in place of lists and defaults in place of missing options, if it fits the layer.

    Raises UsageError, naming the primal, option or field that is missing, unknown or does not fit.
    """
    if not isinstance(case, Case):
        raise UsageError(f"expected a gradverify.Case, got {type(case).__name__}")
    if case.step is not None and not 0 < case.step < 1:
        raise UsageError(f"the case has the step {case.step!r}; it must be between 0 and 1, or None")
    if case.seed < 0:
        raise UsageError(f"the case has the seed {case.seed!r}; it must not be negative")
    for kind, given, known in (
        ("primal", case.primals, layer.primal_names),
        ("option", case.options, tuple(layer.options)),
    ):
        surplus = [name for name in given if name not in known]
        if surplus:
            raise UsageError(
                f"the case gives the {kind} {surplus[0]!r}, which layer {layer.name!r} does not declare "
                f"(has {', '.join(known) or 'none'})"
            )
    primals = _primals(layer, case)
    cotangents = case.cotangents
    if cotangents is not None:
        parts = (cotangents,) if isinstance(cotangents, np.ndarray) else tuple(cotangents)
        cotangents = tuple(_numbers(part, f"cotangent {k}") for k, part in enumerate(parts))
    return case.but(primals=primals, cotangents=cotangents, options={**layer.default_options, **case.options})


def _primals(layer: Layer, case: Case) -> dict[str, Array]:
    sizes = sizes_in(case.options)
    arrays = {}
    for primal in layer.primals:
        label = f"primal {primal.name!r} of layer {layer.name!r}"
        if primal.name not in case.primals:
            raise UsageError(f"the case has no array for the {label}")
        array = _numbers(case.primals[primal.name], label)
        try:
            sizes = primal.dims.bind(array.shape, sizes)
        except DeclarationError as error:
            raise UsageError(f"{label}: {error}") from None
        arrays[primal.name] = array.astype(float) if primal.differentiable and array.dtype.kind in "iub" else array
    return arrays


def _numbers(value: object, label: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"{label} is no array: {error}") from None
    if array.dtype.kind in "OSUMm":
        raise UsageError(f"{label} is no array of numbers but of type {array.dtype}")
    return array


def examine(layer: Layer, case: Case, prop: Property, seconds: float | None = SECONDS) -> Outcome:
    """One property on one Case. What the layer's own code breaks becomes a finding of `complete`.

    A disagreement is only reported as one if no other property declares it moot, as where forward gives other outputs
    when it is asked again.
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
    seconds = None if seconds is None else max(seconds, prop.seconds)
    try:
        with time_limit(seconds), unpatched(), np.errstate(all="ignore"):  # what overflows here is told by the verdict
            outcome = prop.holds(layer, case)
            return _unless_moot(layer, case, prop, outcome) if outcome.findings else outcome
    except LayerFailure as failure:
        if failure.kind == BEYOND:  # its forward is not called there again
            return _examine(layer, case, prop, seconds)
        if failure.kind in (SLOW, ELSEWHERE):
            return Outcome(prop.name, skipped=str(failure))
        if failure.kind == "crash" and case.size >= _MUCH and out_of_memory(failure):
            shapes = (f"{name} {'x'.join(map(str, a.shape)) or 'scalar'}" for name, a in case.primals.items())
            return Outcome(prop.name, skipped=f"{NO_MEMORY} on {', '.join(shapes)}: {failure}")
        if undefined(failure) and (failure.stage == "forward" or _runs_beside(layer, case)):
            note = f"not checked where linear algebra has no answer: {failure}"
            return Outcome(prop.name, skipped=note, notes=(note,) if prop.name == COMPLETE else ())
        if prop.name != COMPLETE and failure.kind in ("missing", "surplus", "shape", "dtype"):
            return Outcome(prop.name, skipped=f"the gradient is incomplete: {failure}")
        return Outcome(prop.name, findings=(failed(case, failure),))


def _runs_beside(layer: Layer, case: Case) -> bool:
    """Whether forward and backward run on values that differ a little."""
    rng = case.rng(Stream.BESIDE)
    primals = {
        n: a * (1 + _BESIDE * rng.normal(size=a.shape)) if a.dtype.kind in "fc" else a for n, a in case.primals.items()
    }
    return _runs(layer, case.but(primals={n: np.asarray(a, case.primals[n].dtype) for n, a in primals.items()}))


def _runs(layer: Layer, case: Case) -> bool:
    try:
        case, _ = completed(layer, case)
        gradients(layer, case.primals, case.options, case.cotangents or ())
    except LayerFailure:
        return False
    return True


def property_of(outcome: Outcome, prop: Property) -> Property:
    """The property that an outcome is of: the one that was tried, or the one that tells why it cannot be."""
    return properties.get(outcome.property) if outcome.property in properties else prop


def _unless_moot(layer: Layer, case: Case, prop: Property, outcome: Outcome) -> Outcome:
    """The outcome, or what another property puts in its place."""
    with tuning.using(replace(tuning.current(), known=frozenset())):  # what one property knows tells nothing of others
        for other in map(properties.get, properties.names()):
            instead = other.moot(layer, case, outcome) if other.moot is not None and other is not prop else None
            if instead is not None:
                return instead
    return outcome


def no_pass(report: Report) -> AssertionError:
    """The error for a report that has no finding, and in which not all that was asked for was verified."""
    if report.decided and report.blocking:
        names = ", ".join(item.name for item in report.blocking)
        return PartlyVerified(report, f"{report.layer}: no gradient was found for {names}\n{report}")
    return NothingVerified(report, f"{report.layer}: nothing could be verified\n{report}")


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Most severe first; failures of the code itself before disagreements."""
    return tuple(sorted(findings, key=lambda f: (-f.severity, f.fingerprint)))


def behind(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """In the order given, but that what follows another finding stands right behind it."""
    leads = (f for f in findings if f.follows is None)
    return tuple(f for lead in leads for f in (lead, *(f for f in findings if f.follows == lead.fingerprint)))
