"""Screen, then localise: all primals at once for a handful of forwards, whatever their number.

A random signed direction over every entry compares <gradient, direction> with one ladder. When it
disagrees, the place is weighed: along the same direction times a ramp from 0 to 1, the residual of a
single wrong entry comes back times its place on the ramp. Where no single entry makes up for all of it,
the coordinates are bisected (group testing, R. Dorfman 1943): half of them move, the residual of the
other half follows by subtraction of what is known, until single entries are left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from gradverify.core.differentiate import ladder
from gradverify.core.differentiate.central import NOISE_FACTOR, best_step
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Array, Stream

_SLACK = 1.0 / 64  # share of a residual by which a weighed one may be off: truncation is not in its bound
_ALOUD = 3  # bounds of its own noise, above which a share of the residual stands out: none of thousands does by chance
_STEPS = 4  # times the best step: less noise, and the truncation that comes with it is confirmed away entry by entry


@dataclass(frozen=True, slots=True)
class Screened:
    """Residuals along random directions.

    Attributes
    ----------
    residual, bound : numerical minus analytic derivative along each direction, shape (k,)
    power : smallest error of a single entry that the screen would have noticed, relative to the
        largest entry of the gradient
    forwards : evaluations spent
    """

    residual: Array
    bound: Array
    power: float
    forwards: int

    @property
    def agrees(self) -> bool:
        return bool((np.abs(self.residual) <= self.bound).all())


def directions(point: Point, seed: int, count: int) -> Iterator[Array]:
    """Signed directions with magnitudes in [1, 2) natural steps: two equal errors do not cancel."""
    rng = np.random.default_rng([seed, Stream.SCREEN])
    for _ in range(count):
        yield point.scale * rng.choice([-1.0, 1.0], point.size) * rng.uniform(1.0, 2.0, point.size)


def screen(point: Point, analytic: Array, seed: int, count: int = 2) -> Screened:
    """Compare along `count` joint directions: the first by a ladder, the others at its best step, or by one, too."""
    before = point.forwards
    chosen = directions(point, seed, count)
    first = ladder.directional(point, next(chosen), analytic)
    residual, bound = [float(first.value[0])], [float(first.bound[0])]
    fits = abs(residual[0]) <= bound[0]
    for direction in chosen:
        value, width = probe(point, direction, analytic)
        if fits and abs(value) > max(width, bound[0]):  # what is best for the first may be too long a step here
            again = ladder.directional(point, direction, analytic)
            value, width = float(again.value[0]), float(again.bound[0])
        residual.append(value)
        bound.append(max(width, float(first.bound[0])))
    smallest = float(point.scale.min(initial=np.inf))
    top = float(np.max(np.abs(np.nan_to_num(analytic)), initial=0.0)) or 1.0
    power = 2 * float(np.max(bound)) / (smallest * top) if point.size else 0.0
    return Screened(np.array(residual), np.array(bound), power, point.forwards - before)


def probe(point: Point, direction: Array, analytic: Array, step: float | None = None) -> tuple[float, float]:
    """Residual along one direction from two forwards, and its rounding bound."""
    h = np.array([step or best_step(point.eps)])
    d = point.along(direction, h, -h, analytic)
    rounding = NOISE_FACTOR * d.noise[0] + 8 * point.eps * abs(d.gap[0])
    return float((d.change[0] - d.gap[0]) / (2 * h[0])), float(rounding / (2 * h[0]))


def localise(point: Point, analytic: Array, seed: int, limit: int = 16) -> Array:
    """Flat indices of entries whose residual stands out, at most `limit`, found by weighing or else by bisection.

    Each level of the bisection costs two forwards for a group that is split; the half that moves is measured and
    the other half is measured too, so that errors that cancel in their parent still show.
    """
    direction = next(directions(point, seed, 1))
    step = _STEPS * best_step(point.eps)
    total, width = probe(point, direction, analytic, step)
    threshold = max(_ALOUD * width, 1e-3 * abs(total) / max(1, limit))
    alone = _weighed(point, direction, analytic, step, total, width)
    if alone is not None:
        place, held = alone
        rest = abs(total - held)
        if rest > threshold:  # a third of what doubling the step changes is truncation
            rest -= abs(probe(point, direction, analytic, 2 * step)[0] - total)
        if rest <= threshold:  # nothing stands out of what is left
            return np.array([place], dtype=np.intp)
    found: list[int] = []
    groups = [(np.arange(point.size), total)]
    while groups and len(found) < limit:
        groups.sort(key=lambda group: -abs(group[1]))
        members, residual = groups.pop(0)
        if members.size == 1:
            found.append(int(members[0]))
            continue
        half = members[: members.size // 2]
        part = np.zeros(point.size)
        part[half] = direction[half]
        left, _ = probe(point, part, analytic, step)
        right = residual - left
        for child, value in ((half, left), (members[members.size // 2 :], right)):
            if abs(value) > threshold:
                groups.append((child, value))
    return np.array(sorted(found), dtype=np.intp)


def _weighed(
    point: Point, direction: Array, analytic: Array, step: float, total: float, width: float
) -> tuple[int, float] | None:
    """The one entry that may have all of the residual, and its residual; None where there are several.

    Each probe leaves as small a share of the entries as its noise allows. The fewer entries n move, the longer the
    step h may be, and the less the noise: truncation of n terms of either sign grows as h^2 sqrt(n).

    Parameters
    ----------
    total, width : residual along the direction, and its rounding bound
    """

    def along(low: int, high: int, ramp: Array | float = 1.0) -> tuple[float, float]:
        part = np.zeros(point.size)
        part[low:high] = direction[low:high] * ramp
        return probe(point, part, analytic, step * (point.size / (high - low)) ** 0.25)

    low, high = 0, point.size
    while high - low > 1:
        count = high - low
        value, noise = along(low, high, (np.arange(count) + 0.5) / count)
        slack = noise + width + _SLACK * abs(total)
        if slack > 0.25 * abs(total):
            return None
        ends = sorted(((value - slack) / total, (value + slack) / total))
        inside = low + max(0, floor(ends[0] * count)), low + min(count, ceil(ends[1] * count))
        if not 0 < inside[1] - inside[0] < count:
            return None  # nowhere, or no nearer: two neighbours have it
        if count == point.size:  # several entries: each pulls the place its way
            within, width = along(*inside)
            if abs(within - total) > slack:
                return None
            total = within
        low, high = inside
    return low, along(low, high)[0]
