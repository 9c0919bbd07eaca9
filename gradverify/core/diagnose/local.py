"""Signatures of a local derivative that is missing, surplus or wrong: the ratio is a function of an array."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations

import numpy as np

from gradverify.core.diagnose import add
from gradverify.core.diagnose.evidence import ANYWHERE, Evidence
from gradverify.core.diagnose.probe import APART, CLOSE, Probe, close
from gradverify.core.nouns import Array, Diagnosis, Fit

_TOLD = 3  # entries on all cases together: fewer may follow one of so many functions by chance
_SATURATED = 1e-3  # relative error of a difference that was divided by the slope of a saturated unit, at the most
Function = Callable[[Array], Array]


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


# Ratios of analytic over numerical, by what they mean; of an input z, and of an output y.
OF_INPUT: dict[str, Function] = {
    "sigmoid'({0})": lambda z: _sigmoid(z) * _sigmoid(-z),
    "tanh'({0}) = 1 - tanh({0})^2": lambda z: 1 - np.tanh(z) ** 2,
    "sigmoid({0})": _sigmoid,
    "{0}": lambda z: z,
    "{0}^2": lambda z: z * z,
    "{0} (1 - {0})": lambda z: z * (1 - z),
    "1 - {0}^2": lambda z: 1 - z * z,
    "2 {0}": lambda z: 2 * z,
    "exp({0})": np.exp,
    "cos({0})": np.cos,
    "|{0}|": np.abs,
    "sqrt({0})": lambda z: np.sqrt(np.abs(z)),
}
OF_OUTPUT: dict[str, Function] = {
    "{0}": lambda y: y,
    "{0} (1 - {0})": lambda y: y * (1 - y),
    "1 - {0}": lambda y: 1 - y,
    "1 - {0}^2": lambda y: 1 - y * y,
    "2 {0}": lambda y: 2 * y,
    "{0}^2": lambda y: y * y,
}


@add("local", "TERM", ANYWHERE, probes=True)
def local(evidence: Evidence) -> Diagnosis | None:
    """The ratio of the gradients is a known function of a primal or an output: a factor of the chain is missing."""
    if not evidence.probes or np.ptp(np.concatenate([_ratio(evidence, p) for p in evidence.probes])) <= APART:
        return None
    told = sum(np.count_nonzero(p.numerical(evidence.primal)) for p in evidence.probes) >= _TOLD
    for source, name in _sources(evidence) if told else ():
        for words, function in (OF_OUTPUT if source == "output" else OF_INPUT).items():
            for sign in (1.0, -1.0):
                said = words.format(name)
                test = partial(_is, evidence, (source, name), partial(_signed, function, sign))
                if evidence.everywhere(partial(test, 1)):
                    what = f"a factor {said} too many"
                elif evidence.everywhere(partial(test, -1)):
                    what = f"the factor {said} missing"
                else:
                    continue
                minus = ", and the wrong sign" if sign < 0 else ""
                text = f"the gradient of {evidence.primal} has {what}{minus}{evidence.given}"
                one = source == "primal" and not np.ndim(evidence.case.primals[name])
                facts = {"cases": len(evidence.probes)}
                return Diagnosis("local", "FACTOR" if one else "TERM", text, Fit.PLACES, facts)
    if not evidence.everywhere(lambda p: bool(np.ptp(_ratio(evidence, p)) > APART)):
        return None  # one number for each case
    return _mistaken(evidence) or _last_step(evidence) or _by_place(evidence)


def _mistaken(evidence: Evidence) -> Diagnosis | None:
    """A derivative in terms of the output, with the input put in."""
    x, y = evidence.primal, (list(evidence.layer.returns) or ["y"])[0]
    for words, function in OF_OUTPUT.items():
        if evidence.everywhere(partial(_at_input, evidence, function)):
            right, wrong = words.format(y), words.format(x)
            text = f"the gradient of {x} has {wrong} where {right} belongs: the input in place of the output {y}"
            return Diagnosis("local", "TERM", text + evidence.given, Fit.PLACES, {"cases": len(evidence.probes)})
    return None


def _last_step(evidence: Evidence) -> Diagnosis | None:
    """The derivative of the last step of forward, which all that comes before it shares."""
    y = (list(evidence.layer.returns) or ["y"])[0]
    for words, function in OF_OUTPUT.items():
        for what, power in (("missing", -1), ("taken twice", 1)):
            if evidence.everywhere(partial(_under, evidence, function, power)):
                factor = words.format(y)
                use = f"dy {'/' if power < 0 else '*'} ({factor})"
                text = (
                    f"the gradient of {evidence.primal} is the right one for {use}: the factor {factor} of the last "
                    f"step is {what}{evidence.given}"
                )
                return Diagnosis("local", "TERM", text, Fit.PLACES, {"cases": len(evidence.probes)})
    return None


def _under(evidence: Evidence, function: Function, power: int, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    factor = function(probe.point.base)
    right = probe.under(evidence.primal, probe.point.weights * factor**power)
    size = np.abs(factor)
    tolerance = min(_SATURATED, CLOSE * float(np.max(size) / np.min(size)))  # differences are divided by it, too
    return bool(np.any(a)) and close(a, right, tolerance) and not close(a, n, tolerance)


def _by_place(evidence: Evidence) -> Diagnosis | None:
    """One factor for each place of some axes: what is missing depends on those alone."""
    labels = evidence.probes[0].labels(evidence.primal)
    for axes in (axes for count in range(1, len(labels)) for axes in combinations(range(len(labels)), count)):
        if not evidence.everywhere(partial(_scaled_along, evidence, axes)):
            continue
        names = " and ".join(labels[k] for k in axes)
        known = next((w for w, test in _statistics(evidence, axes) if evidence.everywhere(test)), "")
        ratios = np.concatenate([_ratio(evidence, p) for p in evidence.probes])
        text = (
            f"the gradient of {evidence.primal} is the right one times one number for each place along {names}"
            f"{evidence.given} ({known or f'from {ratios.min():.3g} to {ratios.max():.3g}'}): a factor that goes with "
            f"{names} is missing, surplus or wrong"
        )
        return Diagnosis("local", "TERM", text, Fit.PLACES if known else Fit.FORM, {"cases": len(evidence.probes)})
    return None


def _factors(evidence: Evidence, axes: tuple[int, ...], probe: Probe) -> Array | None:
    """The number for each place along some axes that gives the analytic gradient; None if there is none."""
    a, n = (np.moveaxis(g, axes, tuple(range(len(axes)))) for g in evidence.pair(probe))
    shape = a.shape[: len(axes)]
    a, n = (g.reshape(int(np.prod(shape)), -1) for g in (a, n))
    power = (n * n).sum(1)
    if n.shape[0] < 2 or n.shape[1] < 2 or not np.isfinite(a).all() or not power.all():
        return None
    ratio = (a * n).sum(1) / power
    return ratio.reshape(shape) if close(a, ratio[:, None] * n) else None


def _scaled_along(evidence: Evidence, axes: tuple[int, ...], probe: Probe) -> bool:
    ratio = _factors(evidence, axes, probe)
    return ratio is not None and float(np.ptp(ratio)) > APART and bool(np.all(ratio))


# Of all other axes of a primal; eps under a root is left out, so that the numbers are nearly these.
_STATISTICS: dict[str, Function] = {
    "the standard deviation of {}": lambda x: x.std(-1),
    "the variance of {}": lambda x: x.var(-1),
    "the norm of {}": lambda x: np.linalg.norm(x, axis=-1),
    "the square of the norm of {}": lambda x: (x * x).sum(-1),
    "the root mean square of {}": lambda x: np.sqrt((x * x).mean(-1)),
    "the mean square of {}": lambda x: (x * x).mean(-1),
    "the sum of {}": lambda x: x.sum(-1),
    "the mean of {}": lambda x: x.mean(-1),
}
_NEARLY = 0.03  # of the largest entry


def _statistics(evidence: Evidence, axes: tuple[int, ...]) -> Iterator[tuple[str, Callable[[Probe], bool]]]:
    """Numbers of the primal, one for each place along some axes, that the factors may be, in words."""
    for power, before in ((1, "{}"), (-1, "1 over {}")):
        for words, statistic in _STATISTICS.items():
            said = before.format(words.format(evidence.primal))
            yield f"nearly {said}", partial(_is_statistic, evidence, axes, statistic, power)
        for primal in evidence.layer.primals:
            if primal.domain.name in ("labels", "offsets"):
                said = before.format(f"how many there are of each by {primal.name}")
                yield said, partial(_is_count, evidence, axes, primal.name, power)


def _is_count(evidence: Evidence, axes: tuple[int, ...], name: str, power: int, probe: Probe) -> bool:
    """Whether the factors are how often each label is there, or how long each sequence is."""
    factors, array = _factors(evidence, axes, probe), probe.case.primals[name]
    labels = evidence.layer.primal(name).domain.name == "labels"
    counts = np.bincount(array[array >= 0].ravel()) if labels else np.diff(array)
    if factors is None:
        return False
    if labels and factors.shape == array.shape and (array >= 0).all():
        counts = counts[array]  # one number for each that has a label
    return counts.shape == factors.shape and bool(counts.all()) and close(factors, counts.astype(float) ** power)


def _is_statistic(evidence: Evidence, axes: tuple[int, ...], of: Function, power: int, probe: Probe) -> bool:
    three = *evidence.pair(probe), np.asarray(probe.case.primals[evidence.primal])
    if three[2].dtype.kind != "f":
        return False
    a, n, x = (np.moveaxis(array, axes, tuple(range(len(axes)))) for array in three)
    shape = x.shape[: len(axes)]
    factor = (of(x.reshape(*shape, -1)) ** power).reshape(*shape, *[1] * (x.ndim - len(axes)))
    noise = probe.slack(evidence.primal) * float(np.abs(factor).max())
    return bool((np.abs(a - n * factor) <= _NEARLY * float(np.abs(a).max()) + noise).all())


def _at_input(evidence: Evidence, function: Function, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    x, y = (np.asarray(array) for array in (probe.case.primals[evidence.primal], probe.outputs[0]))
    if len(probe.outputs) > 1 or not x.shape == y.shape == a.shape or n.size < 4:
        return False
    dy = (probe.case.cotangents or (np.zeros(()),))[0]
    return close(n, dy * function(y)) and close(a, dy * function(x)) and not close(a, n)


def _ratio(evidence: Evidence, probe: Probe) -> Array:
    a, n = evidence.pair(probe)
    large = np.abs(n) > 1e-7 * max(float(np.abs(n).max(initial=0.0)), 1e-300)
    return np.asarray((a[large] / n[large]).ravel()) if large.any() else np.zeros(1)


def _sources(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Arrays that can be stretched to the gradient's shape."""
    names = list(evidence.layer.returns) or ["y"]
    probe = evidence.probes[0]
    shape = probe.shape(evidence.primal)
    for name in evidence.layer.primal_names:
        domain = evidence.layer.primal(name).domain
        fits = _fits(np.shape(probe.case.primals[name]), shape)
        if not domain.discrete and domain.kind != "complex" and fits:
            yield "primal", name
    for k, y in enumerate(probe.outputs):
        if y.dtype.kind == "f" and _fits(y.shape, shape):
            yield "output", names[k] if k < len(names) else f"output {k}"


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, wanted) == wanted
    except ValueError:
        return False


def _signed(function: Function, sign: float, array: Array) -> Array:
    return sign * function(array)


def _is(evidence: Evidence, array_of: tuple[str, str], function: Function, power: int, probe: Probe) -> bool:
    a, n = evidence.pair(probe)
    source, name = array_of
    if source == "primal":
        array = np.asarray(probe.case.primals[name], float)
    else:
        names = list(evidence.layer.returns) or ["y"]
        array = np.asarray(probe.outputs[names.index(name) if name in names else int(name.split()[-1])], float)
    factor = np.broadcast_to(function(array), n.shape)
    left, right = (a, n * factor) if power == 1 else (a * factor, n)
    return bool(np.any(n)) and close(left, right)
