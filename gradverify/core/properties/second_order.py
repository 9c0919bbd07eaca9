"""Second order: the backward of the backward agrees with differences of the analytic gradient.

Tried at ordinary points, and as a property of its own at zeros, ties and in the tails, where a second
derivative is most often forgotten, divides by zero or overflows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradverify.core import evaluate
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.regime import Regime
from gradverify.core.differentiate import ladder
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge import backward_noise, exact
from gradverify.core.judge.exact import Gradients
from gradverify.core.nouns import Array, Case, Finding, Outcome, Stream
from gradverify.core.properties import Property, add
from gradverify.core.properties.gradient import working_dtype
from gradverify.core.tuning import current

NAME = "second_order"
SPECIAL = "second_special"
_BESIDE = 1e-6  # distance of neighbours, of the primals' own size
_SAME = 1e-6  # by hand: digits that a right second backward keeps, in tails and beside kinks of common modules
_BEND = 0.05  # of the disagreement: neighbours of a smooth gradient differ by less, those beside a kink by all of it
_MARGIN = 0.02  # of it, by hand: how far beyond its neighbours' slopes a kink's may lie by rounding
_FEW = slice(1, 6)  # rungs that tell most smooth slopes to _SAME; all of them are asked where these do not agree
_ROUNDING = 16.0  # times the noise of the largest step, which is that of one two rungs further down
_DRAWS, _UNSEEN = 4, 8  # the largest of four normal numbers is below an eighth once in ten thousand
_FORWARD = 16  # roundings of a gradient's terms, as of a chain of so many operations
_NEIGHBOURS = 8  # all on one side of a kink through the point: once in 128


def applies(layer: Layer) -> str | None:
    return None if layer.hooks.second is not None else "no second backward is declared (second=...)"


def holds(layer: Layer, case: Case, name: str = NAME) -> Outcome:
    """The second backward against central differences of the first, along a random direction of each primal.

    With g(x) the gradient for fixed cotangent v, and weights u on g, the second backward gives
    d<u, g(x)>/dx; it is compared with (<u, g(x + hd)> - <u, g(x - hd)>) / 2h over a ladder of h. Where
    g has a kink along d, which shows in its one-sided slopes, nothing is said. Along a direction of v it gives <u, g>
    with that direction for v, since g is linear in it.
    """
    case, reason = exact.ready(layer, case)
    second = layer.hooks.second
    if reason is not None or second is None:
        return Outcome(name, skipped=reason)
    asked = [primal.name for primal in layer.differentiable if primal.name not in current().known]
    if not asked:
        return Outcome(name)
    wide = working_dtype(case)
    if wide is not None:  # differences of gradients in a lower type say nothing
        case = case.but(primals=evaluate.cast(case.primals, wide))
    first = exact.gradients(layer, case)
    if not all(np.isfinite(g).all() for g in first.values()):
        return Outcome(name, skipped="the gradient is not finite at the point: it has no derivative")
    rng = case.rng(Stream.SECOND_WEIGHTS)
    weights = {n: _signs(rng, g) * rng.uniform(0.5, 1.5, g.shape) for n, g in first.items()}
    raw, upstream = _second(layer, case, weights)
    findings = [] if upstream is None or name == SPECIAL else _upstream(name, layer, case, weights, upstream)
    for primal in asked:
        d = _signs(rng, case.primals[primal])
        line = _Line(layer, case, primal, d, weights)
        claimed = line.claimed(raw)
        slope = line.slope(few=True)
        if not (slope.sharp and slope.smooth and slope.allows(claimed)):
            slope = line.slope()
        if slope.smooth and not slope.allows(claimed):
            rounding = line.rounding()
            slope = line.slope(rounding)
            doubtful = not slope.smooth or slope.allows(claimed, 4 * rounding / line.unit + line.spread(claimed))
            if not doubtful and not line.kinked(claimed, abs(claimed - slope.value)):
                findings.append(_finding(name, case, primal, claimed, slope, not raw))
    return Outcome(name, tuple(findings), entries=len(asked))


def _signs(rng: np.random.Generator, like: Array) -> Array:
    """Random signs in the shape of an array, of both parts where it is complex."""
    signs: Array = rng.choice([-1.0, 1.0], np.shape(like))
    return signs + 1j * rng.choice([-1.0, 1.0], np.shape(like)) if np.iscomplexobj(like) else signs


def _upstream(name: str, layer: Layer, case: Case, weights: Gradients, found: tuple[Any, ...]) -> list[Finding]:
    """What flows through the cotangents: along a direction of them, <weights, gradient> is that of the direction."""
    rng = case.rng(Stream.SECOND_UPSTREAM)
    d = tuple(
        np.asarray(rng.choice([-1.0, 1.0], v.shape) * (g is not None), v.dtype)
        for v, g in zip(case.cotangents or (), found)
    )
    claimed = float(sum(np.sum(g * v).real for g, v in zip(found, d) if g is not None))
    line = _Line(layer, case.but(cotangents=d), layer.differentiable[0].name, np.zeros(()), weights)
    value, size = line.at(0.0)
    slope = _Slope(value, _SAME * size, smooth=True, sharp=True)
    if not np.isfinite(size) or slope.allows(claimed) or slope.allows(claimed, 4 * line.rounding()):
        return []
    beside = np.array([line.at(0.0, moved)[0] for moved in line.beside(_BESIDE)])
    if _spans(beside, claimed, abs(claimed - value)):  # another convention at a kink
        return []
    message = (
        f"the second derivative along a direction of the upstream gradient is {claimed:.8g}, backward of that "
        f"direction gives {value:.8g}"
    )
    finding = _finding(name, case, "", claimed, slope, False)
    return [finding.but(primal=None, message=message, facts={**finding.facts, "upstream": True})]


def _second(layer: Layer, case: Case, weights: Gradients) -> tuple[Mapping[str, Any], tuple[Any, ...] | None]:
    """The gradient of <weights, gradient> by the declared second backward; by cotangents too, where it tells."""
    assert layer.hooks.second is not None
    arguments = evaluate.copies(case.primals), exact.copied(case.cotangents or ()), dict(weights)
    raw = evaluate.guarded("second backward", layer.hooks.second, *arguments, **case.options)
    upstream = raw.pop(None, None) if isinstance(raw, dict) else None
    return evaluate.by_name(layer, raw, "second backward"), upstream


@dataclass(frozen=True, slots=True)
class _Slope:
    """Derivative of the weighted gradient along a direction, with its bound.

    Attributes
    ----------
    smooth : whether both sides have it
    sharp : whether the bound is no more than what a right second backward is allowed, or than rounding
    """

    value: float
    bound: float
    smooth: bool
    sharp: bool

    def allows(self, claimed: float, slack: float = 0.0) -> bool:
        """Whether a claimed value is this one, but for the bound and what it may be rounded by itself."""
        return abs(claimed - self.value) <= self.bound + slack + _SAME * abs(self.value)


@dataclass(frozen=True, slots=True)
class _Line:
    """<weights, gradient> along a direction of one primal: what the second backward says of it, and differences.

    Attributes
    ----------
    direction : signs, shape of the primal; of both parts where it is complex
    weights : by primal name, in the shapes of the gradients; <u, g> is the sum of Re(conj(u) g)
    """

    layer: Layer
    case: Case
    primal: str
    direction: Array
    weights: Gradients

    @property
    def unit(self) -> float:
        """The size of a step: a power of two, so that steps down to the last place of a large entry are realised."""
        return float(np.exp2(np.floor(np.log2(exact.size(self.case.primals[self.primal])))))

    def claimed(self, raw: Mapping[str, Any]) -> float:
        """What the second backward says along the direction; nothing said is zero."""
        got = raw.get(self.primal)
        if isinstance(got, LayerFailure):
            raise got
        if got is not None and np.shape(got) != self.direction.shape:
            raise LayerFailure(
                "shape",
                "second backward",
                f"the second gradient of {self.primal} has shape {np.shape(got)}, {self.primal} has "
                f"{self.direction.shape}",
                self.primal,
            )
        if got is None:
            return 0.0
        return float(np.sum((got.conj() if self.layer.declared.conjugate else got) * self.direction).real)

    def at(self, h: float, primals: Mapping[str, Array] | None = None) -> tuple[float, float]:
        """<weights, gradient> at a distance, and the size of what adds up to it; NaN beyond the domain."""
        given = self.case.primals if primals is None else primals
        moved = {**given, self.primal: given[self.primal] + h * self.direction}
        try:
            g = exact.gradients(self.layer, self.case.but(primals=moved))
        except LayerFailure:
            return np.nan, 0.0
        terms = [self.weights[n].conj() * g[n] for n in g]
        return sum(float(np.sum(t).real) for t in terms), sum(float(np.sum(np.abs(t))) for t in terms)

    def slope(self, rounding: float = 0.0, few: bool = False) -> _Slope:
        """By a ladder of central differences, or a `few` rungs of it, and whether one-sided ones tell the same."""
        steps = ladder.rungs(np.finfo(float).eps, 0.25)[_FEW if few else slice(None)] * self.unit
        ends = np.array([[self.at(h), self.at(-h)] for h in steps])
        here, size = self.at(0.0)
        right, left = ends[:, 0, 0], ends[:, 1, 0]
        sizes = np.append(ends[..., 1], size)
        top = sizes[np.isfinite(sizes)].max(initial=0.0)
        noise = ((_FORWARD * np.finfo(float).eps + self.layer.declared.accuracy) * top + 4 * rounding) / (2 * steps)
        both = ladder.select(((right - left) / (2 * steps))[None], noise[None], (2, 4, 6))
        value, bound = float(both.value[0]), float(both.bound[0])
        sides = [
            ladder.select((rise / steps)[None], 2 * noise[None], (1, 2, 3)) for rise in (right - here, here - left)
        ]
        slack = sum(float(side.bound[0]) for side in sides) + bound
        apart = max(abs(float(side.value[0]) - value) for side in sides)
        smooth = np.isfinite(value + slack) and apart <= slack + _SAME * abs(value)
        return _Slope(value, bound, bool(smooth), bound <= max(_SAME * abs(value), _ROUNDING * float(noise[0])))

    def rounding(self) -> float:
        """Of <weights, gradient>: measured, and of terms as large as |v y|, or |v|, over |x|, which may cancel."""
        layer, case = self.layer, self.case
        spreads = (backward_noise.rounding(layer, case), backward_noise.rounding_saved(layer, case))
        measured = [sum(float(np.sum(np.abs(w) * s[n])) for n, w in self.weights.items() if n in s) for s in spreads]
        loud = sum(float(np.sum(np.abs(v))) for v in case.cotangents or ())
        terms = sum(
            float(np.sum(np.abs(w))) * max(exact.natural_size(layer, case, n), loud / exact.size(case.primals[n]))
            for n, w in self.weights.items()
        )
        return max(measured) + 4 * np.finfo(float).eps * terms

    def spread(self, claimed: float) -> float:
        """Measured rounding of what the second backward says."""
        rng, found = self.case.rng(Stream.SECOND_ROUNDING), 0.0
        for _ in range(_DRAWS):
            moved = self.case.but(primals={n: backward_noise.nudge(a, rng) for n, a in self.case.primals.items()})
            found = max(found, abs(self.claimed(_second(self.layer, moved, self.weights)[0]) - claimed))
        return _UNSEEN * found if np.isfinite(found) else 0.0

    def kinked(self, claimed: float, gap: float) -> bool:
        """Whether the first backward has a kink at the point, and the second gives a slope of a neighbour.

        Slopes at neighbours differ by more than the disagreement's twentieth, and as much at nearer ones: those of
        a smooth gradient do not.
        """
        far, near = self._slopes(_BESIDE), self._slopes(_BESIDE / 8)
        return min(np.ptp(far), np.ptp(near)) > _BEND * gap and _spans(np.concatenate([far, near]), claimed, gap)

    def _slopes(self, reach: float) -> Array:
        """Slopes at neighbours, by one central difference each."""
        h = 0.01 * reach
        return np.array([(self.at(h, moved)[0] - self.at(-h, moved)[0]) / (2 * h) for moved in self.beside(reach)])

    def beside(self, reach: float) -> Iterator[dict[str, Array]]:
        """Neighbours of the point."""
        rng = self.case.rng(Stream.SECOND_NEIGHBOURS)
        for _ in range(_NEIGHBOURS):
            moved = dict(self.case.primals)
            for primal in self.layer.differentiable:
                array = moved[primal.name]
                away = rng.choice([-1.0, 1.0], np.shape(array)) * rng.uniform(0.5, 1.5, np.shape(array))
                moved[primal.name] = array + reach * away * np.maximum(np.abs(array), exact.size(array))
            yield moved


def _spans(found: Array, claimed: float, gap: float) -> bool:
    """Whether values at neighbours differ by more than a smooth function's, with the claimed one among them."""
    if not np.isfinite(claimed) or not np.isfinite(found).all() or np.ptp(found) <= _BEND * gap:
        return False
    return bool(found.min() - _MARGIN * gap <= claimed <= found.max() + _MARGIN * gap)


def _finding(name: str, case: Case, primal: str, claimed: float, slope: _Slope, nothing: bool) -> Finding:
    message = (
        f"the second derivative along {primal} is {claimed:.8g}, differences of the first backward "
        f"give {slope.value:.8g} ± {slope.bound:.1g}"
    )
    distance = abs(claimed - slope.value)
    severity = distance / slope.bound if slope.bound and np.isfinite(distance) else float("inf")
    facts = {
        "ratio": claimed / slope.value if slope.value else None,
        "nothing": nothing,
        "finite": bool(np.isfinite(claimed)),
    }
    return Finding(name, "wrong", primal, message, case, severity=severity, facts=facts)


def _add(name: str, says: str, special: bool, implied_by: tuple[str, ...]) -> None:
    regime = Regime(special=special, small=True)
    add(Property(name, says, partial(holds, name=name), applies, regime=regime, share=0.3, implied_by=implied_by))


_add(NAME, "the second backward agrees with differences of the first", False, ("gradient",))
_add(SPECIAL, "so it does at zeros, ties and in the tails", True, (NAME, "gradient"))
