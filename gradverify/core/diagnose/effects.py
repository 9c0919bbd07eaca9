"""Signatures that other properties tell: mutation, aliases, layout, state, races, memory, precision, second order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.diagnose import add, variants
from gradverify.core.diagnose.evidence import ABOUT_GRADIENTS, Evidence
from gradverify.core.diagnose.masked import drawn_again, draws
from gradverify.core.diagnose.probe import CLOSE
from gradverify.core.diagnose.untouched import explains
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge import exact
from gradverify.core.judge.randomness import KEPT
from gradverify.core.nouns import Array, Case, Diagnosis, Finding, Fit, Stream
from gradverify.core.properties import fresh, properties
from gradverify.core.verify import examine

SECONDS = 1.0  # that one numerical gradient may take for the last signature
_ONCE = "if it is meant to be differentiable once, mark it with @once_differentiable (torch), or say second=False"
ABOUT_CALLS = ("layout", "repeatable", "reusable", "reuse", "linear")


def asked(evidence: Evidence, name: str) -> tuple[Finding, ...]:
    """What another property finds on the case of the finding, and on the plain cases on which it fails."""
    cases = [evidence.case]
    if evidence.about_gradient:
        cases += [p.case for p in evidence.situation.failing[:1]]
    found: dict[Any, Finding] = {}
    for case in cases:
        for finding in examine(evidence.layer, case, properties.get(name)).findings:
            found.setdefault(finding.fingerprint, finding)
    return tuple(found.values())


def mutations(evidence: Evidence) -> list[Finding]:
    """Arrays of the caller's that are changed in place on the cases of the finding."""
    if evidence.finding.property not in (*ABOUT_GRADIENTS, *ABOUT_CALLS):
        return []
    return [f for f in asked(evidence, "pure") if f.kind == "mutates"]


def unfilled(evidence: Evidence) -> bool:
    """Whether a gradient depends on what fresh memory holds, on the cases of the finding."""
    finding = evidence.finding
    if finding.property not in (fresh.NAME, *ABOUT_GRADIENTS, *ABOUT_CALLS):
        return False
    found = (finding,) if finding.property == fresh.NAME else asked(evidence, fresh.NAME)
    return any(f.primal == finding.primal and fresh.unwritten(f) for f in found)


def explained(evidence: Evidence) -> bool:
    """Whether two calls differ for a reason of which no order of calls and no layout is the cause."""
    return unfilled(evidence) or bool(mutations(evidence))


@add("mutation", "MUTATE")
def mutation(evidence: Evidence) -> Diagnosis | None:
    """An array of the caller's is changed in place, or a gradient is an alias of one."""
    finding = evidence.finding
    if finding.property == "pure":
        return Diagnosis("mutation", "MUTATE", finding.message, Fit.SEEN, dict(finding.facts))
    crash = finding.property == "layout" and finding.kind == "crash"
    changes = mutations(evidence)
    if not changes:
        own = kept(evidence)
        text = f"backward changes {own} as the layer keeps it; what reads it after that gets wrong values"
        return Diagnosis("mutation", "MUTATE", text, Fit.EXACT, {"what": own}) if own else None
    stage, what = changes[0].facts["stage"], changes[0].facts["what"]
    if crash:
        text = f"{stage} changes {what} in place, and fails where that array cannot be written"
        return Diagnosis("mutation", "MUTATE", text, Fit.SEEN, dict(changes[0].facts))
    if evidence.about_gradient and stage == "backward" and not explains(evidence):
        text = (
            f"{stage} changes {what} in place besides: what is read of it after that alone does not explain the error"
        )
        return Diagnosis("mutation", "MUTATE", text, Fit.PART, dict(changes[0].facts))
    text = f"{stage} changes {what} in place; what reads it after that gets wrong values"
    return Diagnosis("mutation", "MUTATE", text, Fit.EXACT, dict(changes[0].facts))


def kept(evidence: Evidence) -> str | None:
    """A primal of which the layer keeps a copy of its own that backward changes."""
    asks = evidence.finding.property in (*ABOUT_GRADIENTS, "linear") and evidence.layer.declared.stateful
    probe = evidence.probe(evidence.plain()) if asks else None
    if probe is None:
        return None
    primals = probe.case.primals
    run = evaluate.run(evidence.layer, evaluate.copies(primals), probe.case.options)
    held = [(n, a, a.copy()) for a in _arrays(run.saved, 4) for n, p in primals.items() if np.array_equal(a, p)]
    run.pull(tuple(np.array(v) for v in probe.case.cotangents or ()))
    return next((n for n, now, before in held if not np.array_equal(now, before)), None)


def _arrays(value: Any, deep: int) -> Iterator[np.ndarray[Any, Any]]:
    """Arrays among what an object, a dict or a list holds."""
    if isinstance(value, np.ndarray):
        yield value
    elif deep and isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _arrays(part, deep - 1)
    elif deep and hasattr(value, "__dict__") and not isinstance(value, type):
        yield from _arrays(dict(vars(value)), deep - 1)


@add("uninitialised", "OVERWRITE")
def uninitialised(evidence: Evidence) -> Diagnosis | None:
    """Backward reads a fresh buffer that it has not filled."""
    if not unfilled(evidence):
        return None
    text = (
        f"the gradient of {evidence.primal} depends on what fresh memory holds: a buffer from numpy.empty or "
        "torch.empty is read, or added to, before all of it is written"
    )
    return Diagnosis("uninitialised", "OVERWRITE", text, Fit.SEEN)


@add("layout", "LAYOUT")
def layout(evidence: Evidence) -> Diagnosis | None:
    """The same values in another memory layout give another gradient."""
    finding = evidence.finding
    if finding.property != "layout" or explained(evidence):
        return None
    what = finding.facts.get("what", "in another layout")
    text = f"{what}, backward gives another gradient of {evidence.primal}: it counts on memory that is contiguous"
    if finding.kind == "crash":
        text = f"{what}, the code fails: it counts on memory that is contiguous or writeable"
    return Diagnosis("layout", "LAYOUT", text, Fit.LAW, {"what": what})


@add("state", "STALE")
def state(evidence: Evidence) -> Diagnosis | None:
    """A gradient that depends on other calls; and whether it is that of another call."""
    finding = evidence.finding
    if finding.kind == KEPT:
        text = (
            f"the buffer that the gradient of {evidence.primal} is summed in is kept from call to call and not zeroed: "
            "each call adds to what those before it left"
        )
        return Diagnosis("state", "STALE", text, Fit.SEEN)
    if finding.property not in ("reusable", "reuse", "repeatable", "accumulates") or finding.kind == "random":
        return None
    what = str(finding.facts.get("what", ""))
    if finding.kind == "overwrites":
        text = f"{what} returns an array that it keeps and writes into again: the caller needs a copy, or a new array"
        return Diagnosis("state", "OVERWRITE", text, Fit.SEEN, {"what": what})
    if finding.kind == "crash":
        text = "backward fails after a call with other sizes: state of another call reaches it"
        return Diagnosis("state", "STALE", text, Fit.PLACES, {"what": what})
    d = f"the gradient of {evidence.primal} changes {what}"
    if finding.property == "accumulates":
        return Diagnosis("state", "OVERWRITE", f"{d}: buffers are overwritten, not added to", Fit.LAW)
    if finding.kind == "nondeterministic" or explained(evidence) or _varies(evidence):
        return None
    if finding.property == "reuse" and "passed for both" in what:
        return Diagnosis("state", "OVERWRITE", f"{d}: arrays are told apart by identity", Fit.FORM)
    comparison = finding.comparison
    times = finding.facts.get("ratio")
    if (
        comparison is not None
        and times is not None
        and np.isfinite(times)
        and abs(times - round(times)) < 1e-9
        and round(times) > 1
    ):
        clean = np.allclose(comparison.analytic, round(times) * comparison.numerical)
        if clean and "twice" in what:
            text = f"{d}: it is {round(times)} times itself, so gradients of earlier calls are still in its buffer"
            return Diagnosis("state", "STALE", text, Fit.LAW)
    text = f"{d}: state of another call reaches it (a cache, or statistics)"
    return Diagnosis("state", "STALE", text, Fit.PLACES, {"what": what})


@add("first_call", "STALE", ("nothing", "sizes"))
def first_call(evidence: Evidence) -> Diagnosis | None:
    """Right for the first call with arrays of a shape and wrong for later ones: something is kept from the first."""
    names = [n for n in variants.axis_names(evidence.layer) if not n.startswith("*")]
    if not names:
        return None
    cases: list[tuple[Case | None, int]] = []
    lengths = evidence.case.rng(Stream.SIZES_OF_NO_OTHER).integers(9, 15, (2, len(names)))
    for turn in range(2):  # sizes that no other signature asks for, and other values first at each
        sizes = {n: int(lengths[turn, k]) for k, n in enumerate(names)}
        cases += [(evidence.plain(draw, sizes=sizes), place) for place, draw in enumerate((turn, 1 - turn))]
    if _costs(evidence, cases[0][0]) > SECONDS:
        return None
    if not all(evidence.fails(case) if later else evidence.holds(case) for case, later in cases):
        return None
    text = (
        f"the gradient of {evidence.primal} is right in the first call with arrays of a shape, and wrong in later ones "
        "with other values: something of the first call is kept, and not told from theirs"
    )
    return Diagnosis("first_call", "STALE", text, Fit.SEEN, {"cases": len(cases)})


def _costs(evidence: Evidence, case: Case | None) -> float:
    """Seconds that a numerical gradient at a case takes, if its forward is no slower than at a plain one."""
    if case is None or not evidence.probes:
        return 0.0
    plain = evidence.probes[0].case
    begun = time.thread_time()
    evidence.probe(plain)
    return 2 * np.size(case.primals[evidence.primal]) * (time.thread_time() - begun)


def _varies(evidence: Evidence) -> bool:
    """Whether fresh calls on one case differ from each other without any order in it."""
    own = evidence.own
    if own is None:
        return False
    seen = [own.pulled(own.case.cotangents or ()).get(evidence.primal) for _ in range(12)]
    if any(g is None for g in seen):
        return False
    changes = [not np.array_equal(seen[0], g, equal_nan=True) for g in seen[1:]]  # type: ignore[arg-type]
    return any(changes) and not all(changes)


@add("race", "RACE")
def race(evidence: Evidence) -> Diagnosis | None:
    """The same call gives now this and now that."""
    finding = evidence.finding
    if finding.kind == "random" and finding.primal is None:
        text = (
            "forward gives other outputs from call to call: it draws numbers of its own (pass them in as a primal, or "
            "fix the seed), or keeps something of earlier calls"
        )
        return Diagnosis("race", "RNG", text, Fit.SOME)
    if unfilled(evidence) or finding.kind == KEPT:
        return None
    failed = finding.property == "complete" or finding.primal is None  # code, rather than the gradient of something
    if failed and finding.kind == "nondeterministic":
        stage = finding.facts.get("stage", "the code")
        text = f"{stage} fails in some calls of one case and not in others: what earlier calls left, a race, or chance"
        return Diagnosis("race", "RACE", text, Fit.SEEN)
    if finding.kind in ("nondeterministic", "random") or _varies(evidence):
        d = f"the gradient of {evidence.primal} differs from run to run on one case"
        if drawn_again(evidence):
            text = f"{d}, by zeros in other places than forward has: the mask of forward is drawn again in backward"
            return Diagnosis("race", "RNG", text, Fit.SEEN)
        if draws(evidence):
            text = (
                f"{d}, and not where random numbers start from one state: they are drawn in backward, as a mask or "
                "noise that must be that of forward"
            )
            return Diagnosis("race", "RNG", text, Fit.SEEN)
        return Diagnosis("race", "RACE", f"{d}: a race, or random numbers in backward", Fit.SEEN)
    return None


def _as_asked(name: str, bug_class: str, fit: Fit, why: str) -> None:
    """A signature that says what its property has asked, and what follows."""

    @add(name, bug_class)
    def told(evidence: Evidence) -> Diagnosis | None:
        if (evidence.finding.property, evidence.finding.kind) != (name, "differs"):
            return None
        text = f"{evidence.finding.facts.get('what', '')}, the gradient of {evidence.primal} {why}"
        return Diagnosis(name, bug_class, text, fit)


_as_asked("wants", "MODE", Fit.EXACT, "is another one: it is computed along with one not wanted then")
_as_asked("modes", "MODE", Fit.LAW, "changes: the mode is read too late")
_as_asked("batch", "INDEX", Fit.FORM, "changes: what one row gets depends on the other rows")


@add("second_order", "ORDER2")
def second_order(evidence: Evidence) -> Diagnosis | None:
    """The first order is right, the second is not."""
    finding = evidence.finding
    if finding.property not in ("second_order", "second_special"):
        return None
    ratio = finding.facts.get("ratio")
    how = "zero" if not ratio else "wrong"
    if examine(evidence.layer, evidence.case, properties.get("gradient")).findings:
        text = (
            f"the second along {evidence.primal} is {how}, and so is a first derivative: what is saved goes through "
            "backward once more, so that this may follow from that"
        )
        return Diagnosis("second_order", "ORDER2", text, Fit.PART)
    first = "the first derivative is right, "
    why = "a saved array is taken for a constant, or detached"
    if not finding.facts.get("finite", True):
        how, why = "not finite", "something overflows in the second backward, or is divided by zero"
    if finding.facts.get("nothing"):
        why = f"nothing of backward is recorded, as where it runs a kernel of its own; {_ONCE}"
    if finding.facts.get("upstream") and how != "not finite":
        text = f"{first}what flows through the upstream gradient into the second is {'lost' if not ratio else 'wrong'}"
        return Diagnosis("second_order", "ORDER2", f"{text}, as where it is detached", Fit.EXACT)
    lost = lost_flows(evidence.layer, evidence.case, evidence.primal) if finding.facts.get("finite", True) else ()
    if lost and not finding.facts.get("nothing"):
        names = " and ".join(lost)
        why = (
            f"what flows through {evidence.primal} into the gradient of {names} is lost, as where it is detached, or "
            f"backward reads what forward computed and saved; {_ONCE}"
        )
    text = f"{first}the second along {evidence.primal} is {how}: {why}"
    return Diagnosis("second_order", "ORDER2", text, Fit.EXACT)


@add("forward_mode", "TERM")
def forward_mode(evidence: Evidence) -> Diagnosis | None:
    """The forward-mode rule, which has no matrices to look at."""
    finding = evidence.finding
    if finding.property != "forward_mode":
        return None
    if finding.facts.get("right"):
        text = "backward is not the transpose of the forward-mode rule, and differences agree with that rule"
        return Diagnosis("forward_mode", "TERM", text, Fit.VAGUE)
    ratio = finding.facts.get("ratio")
    signed = ratio is not None and abs(ratio + 1) < CLOSE
    text = "the forward-mode rule has the wrong sign" if signed else "the forward-mode rule misses or mistakes a term"
    return Diagnosis(
        "forward_mode", "SIGN" if signed else "TERM", text, Fit.FORM if signed else Fit.VAGUE, {"ratio": ratio}
    )


_STEP = 1e-5  # of a lost flow: of the primal's size, for a central difference of the gradient
_GONE, _THERE = 1e-9, 1e-4  # shares of the gradient's change that are none, and that are one for certain


def lost_flows(layer: Layer, case: Case, primal: str) -> tuple[str, ...]:
    """Primals whose gradient changes with this primal, while the second backward says that it does not."""
    second = layer.hooks.second
    if second is None:
        return ()
    case, _ = evaluate.completed(layer, case)
    try:
        first = exact.gradients(layer, case)
        changes = _changes(layer, case, primal)
        top = max((float(np.abs(c).max(initial=0.0)) for c in changes.values()), default=0.0)
        lost = []
        for name, change in changes.items():
            if not np.isfinite(change).all() or float(np.abs(change).max(initial=0.0)) <= _THERE * top:
                continue
            weights = {n: np.ones_like(g) if n == name else np.zeros_like(g) for n, g in first.items()}
            arguments = evaluate.copies(case.primals), exact.copied(case.cotangents or ()), weights
            got = evaluate.guarded("second backward", second, *arguments, **case.options).get(primal)
            if got is None or float(np.abs(got).max(initial=0.0)) <= _GONE * top:
                lost.append(name)
    except LayerFailure:
        return ()
    return tuple(lost)


def _changes(layer: Layer, case: Case, primal: str) -> dict[str, Array]:
    """Derivative of every gradient along a direction of a primal, by one central difference."""
    x = case.primals[primal]
    h = _STEP * exact.size(x)
    rng = case.rng(Stream.DETACHED)
    direction = rng.uniform(0.5, 1.5, np.shape(x)) * rng.choice([-1.0, 1.0], np.shape(x))
    up, down = (
        exact.gradients(layer, case.but(primals={**case.primals, primal: x + sign * h * direction})) for sign in (1, -1)
    )
    return {n: (up[n] - down[n]) / (2 * h) for n in up}
