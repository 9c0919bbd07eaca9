"""Adaptive ladder: steps from large to small, extrapolated, the rung chosen by Lepski's principle.

Going from the smallest step upward, each rung (and each extrapolation of it) is an interval as wide
as its rounding noise. The running intersection is kept, and a larger step counts only while it is
consistent with every smaller one; the last consistent one with the least noise is the estimate.
O. V. Lepski, "On a problem of adaptive estimation in Gaussian white noise" (1990); extrapolation
after L. F. Richardson (1911). Choosing the rung where neighbours differ least would accept the
false plateau that every bounded function has beyond its own length scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gradverify.core.differentiate.central import NOISE_FACTOR
from gradverify.core.differentiate.flat import Differences
from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Array, Estimate

RATIO = 4.0  # of a step to the next; powers of it are exact in binary, and one divides h^2 by 16
# What a consistent larger step may hide: the truth lies in the intersection of the smaller steps, at most RATIO
# times as wide, and the larger step's interval meets that; so it is at most 1 + 2 RATIO of its half-widths away.
SAFETY = 1.0 + 2.0 * RATIO
AUDIBLE = 32.0  # multiples of the noise that a change must reach at some step, where the noise is magnified
COARSEST = 1e-5  # a last place above this is no small step for a function that varies over distances of 1 ...
CLEAR = 1e6  # ... and its changes must be this many times as loud as the noise
SUPPORT = 3  # plain rungs that must agree before any of them is believed; twice as many where only extrapolations do
_CENTRAL = (2, 4, 6)  # powers of h in the error of a central difference
_ONE_SIDED = (1, 2, 3)  # and of a one-sided one, which no symmetry rids of odd powers


def rungs(eps: float, reach: float = 1.0, depth: float = 0.6) -> Array:
    """Relative steps, large to small, from `reach` down to about eps^depth."""
    count = int(np.ceil((np.log(reach) - depth * np.log(eps)) / np.log(RATIO))) + 1
    return reach * RATIO ** -np.arange(count, dtype=float)


def steps(point: Point, entries: Array, scale: Array | None = None) -> Array:
    """Steps of each entry, shape (n, R), large to small, each a power of two.

    Where a larger number is added inside, it takes the last digits of every other step away, the same share of
    each rung, and no rung tells.
    """
    first = np.frexp(point.scale[entries] if scale is None else scale)[1] - 1
    return np.ldexp(1.0, first)[:, None] * rungs(point.eps)


def entrywise(
    point: Point,
    entries: Array,
    analytic: Array | None = None,
    *,
    side: int = 0,
    scale: Array | None = None,
    wary: bool = False,
) -> Estimate:
    """Derivatives along single entries, shape (n,).

    Parameters
    ----------
    analytic : of these entries, shape (n,); the ladder then runs on the residual, which for a right gradient is
        truncation plus noise
    side : 0 for central differences, +1 or -1 for one-sided slopes
    scale : step of the first rung for each entry, default the point's own
    wary : as if values as large as primals and outputs, or 1, were rounded inside at all steps; log(1 + x)
        rounds a small x away, and neither x nor the output tells of the 1
    """
    known = np.zeros(entries.size) if analytic is None else np.nan_to_num(analytic)
    if entries.size == 0:
        return Estimate(known, known, known)
    rate, noise = quotients(point, entries, known, side=side, scale=scale)
    return chosen(point, entries, known, rate, noise, side=side, scale=scale, wary=wary)


def chosen(
    point: Point,
    entries: Array,
    known: Array,
    rate: Array,
    noise: Array,
    *,
    side: int = 0,
    scale: Array | None = None,
    wary: bool = False,
) -> Estimate:
    """Derivatives from `quotients` of the same entries, so that two readings of them cost the forwards of one.

    Parameters
    ----------
    known : derivatives that were subtracted, shape (n,); others as for `quotients` and `entrywise`
    """
    h = steps(point, entries, scale)
    with np.errstate(all="ignore"):
        limit, inside = quantum(point) / h, NOISE_FACTOR * point.unseen / h
    estimate = select(rate, noise, _ONE_SIDED if side else _CENTRAL, limit, inside if wary else None)
    return Estimate(estimate.value + known, estimate.truncation, estimate.rounding)


def quotients(
    point: Point, entries: Array, known: Array, *, side: int = 0, scale: Array | None = None
) -> tuple[Array, Array]:
    """Residual difference quotients and their noise along single entries, shape (n, R), large steps first.

    Parameters
    ----------
    known : derivatives that are subtracted, shape (n,); others as for `entrywise`
    """
    h = steps(point, entries, scale)
    tiled = np.repeat(entries, h.shape[1])
    d = _differences(lambda a, b: point.slopes(tiled, a, b, h.shape[1]), h.ravel(), side)
    with np.errstate(all="ignore"):
        residual = (d.change - np.repeat(known, h.shape[1]) * d.gap).reshape(h.shape)
    gap = d.gap.reshape(h.shape)
    noise = _audible(point, d.change.reshape(h.shape), d.noise.reshape(h.shape), point.scale[entries])
    return _rates(residual, gap, noise)


def directional(point: Point, direction: Array, analytic: Array | None = None, *, side: int = 0) -> Estimate:
    """Residual derivative along one joint direction, shape (1,): numerical minus <analytic, direction>."""
    return select(*quotients_along(point, direction, analytic, side=side), _ONE_SIDED if side else _CENTRAL)


def quotients_along(
    point: Point, direction: Array, analytic: Array | None = None, *, side: int = 0
) -> tuple[Array, Array]:
    """Residual difference quotients and their noise along one joint direction, shape (1, R), large steps first."""
    h = rungs(point.eps, 0.25, 0.53)  # all primals are heard at once, so that the smallest steps add little
    zero = np.zeros(point.size) if analytic is None else analytic
    d = _differences(lambda a, b: point.along(direction, a, b, zero), h, side)
    gap = side * h if side else 2 * h
    noise = _audible(point, d.change[None], d.noise[None], np.max(point.scale, initial=0.0, keepdims=True))
    return _rates((d.change - d.gap)[None], gap[None], noise)


def _audible(point: Point, change: Array, noise: Array, scale: Array) -> Array:
    """Noise, shape (n, R), infinite where no step of an entry is heard above it though it is magnified rounding.

    A bounded function whose length scale is a few units in the last place never rises above its noise: all
    its quotients agree on 0, and none of them knows anything. Primals so large that their own last place is
    no small step (sin at 1e13) leave noise that is smaller than it should be.
    """
    large = point.eps * scale > COARSEST
    if not point.magnified and not large.any():
        return noise
    with np.errstate(all="ignore"):
        loudest = np.nanmax(np.where(noise > 0, np.abs(change) / noise, 0.0), axis=1, initial=0.0)
    heard = loudest > np.where(large, CLEAR, AUDIBLE)
    return np.where((heard | ~(large | point.magnified))[:, None], noise, np.inf)


def coarse(point: Point) -> bool:
    """Whether the last place of some primal is no small step: next to 1e16 lie points where another branch is taken."""
    return bool((point.eps * point.scale > COARSEST).any())


def _differences(primitive: Callable[[Array, Array | None], Differences], h: Array, side: int) -> Differences:
    return primitive(h, -h) if side == 0 else primitive(side * h, None)


def _rates(change: Array, gap: Array, noise: Array) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        rate, width = change / gap, NOISE_FACTOR * noise / np.abs(gap)
    usable = np.isfinite(rate) & np.isfinite(width)
    return np.where(usable, rate, np.nan).astype(float), np.where(usable, width, np.nan).astype(float)


_UNITS = 256  # by hand: of the point's own rounding; float32 inside float64 leaves many more
_SHARE = 1e-3  # by hand: of the outputs; a plateau as high as they are is the function's own


def quantum(point: Point) -> float:
    """Largest change of the contracted outputs that may be one unit of a value that was rounded inside.

    A bounded function falls back as 1/h beyond its length scale, too, but by as much as the outputs are large.
    """
    return max(_UNITS * point.inner, _SHARE * point.loudness)


def select(
    rate: Array, noise: Array, powers: tuple[int, ...], limit: Array | None = None, more: Array | None = None
) -> Estimate:
    """Lepski's choice over rungs and extrapolations, on noise that includes what was rounded inside.

    Same arguments and result as `_lepski`; `limit`, shape (n, R), is the most that can have been rounded inside,
    and `more` is noise that comes on top once that is known.
    """
    estimate, first = _lepski(rate, noise, powers)
    inner = _inner_noise(rate, noise, estimate.value, first, np.full(rate.shape, np.inf) if limit is None else limit)
    if more is None and not inner.any():
        return estimate
    return _lepski(rate, np.maximum(noise + (0.0 if more is None else more), inner), powers)[0]


def _inner_noise(rate: Array, noise: Array, value: Array, first: Array, limit: Array) -> Array:
    """Noise of values that were rounded inside the layer, and so hide from the outputs at small steps.

    Below its quantum such a value does not move: the quotients form a plateau, with less noise than there
    is. At the first step that moves it the quotient jumps, and falls back as 1/h from there. A kink
    jumps, too, but does not fall back; truncation sets in gently.

    Parameters
    ----------
    first : index of the smallest rung that was not consistent with smaller ones, shape (n,); -1 if none
    """
    rows = np.flatnonzero(first >= 1)
    inner = np.zeros(rate.shape)
    if rows.size == 0:
        return inner
    at = first[rows]
    with np.errstate(all="ignore"):
        jump, after = (np.abs(rate[rows, k] - value[rows]) for k in (at, at - 1))
        sudden = (
            (jump > 2 * after)
            & (jump <= limit[rows, at])
            & (jump > 64 * noise[rows, at + 1])  # a smaller rung has been consistent
        )
    chosen = rows[sudden]
    power = np.arange(rate.shape[1])[None] - first[chosen, None]
    inner[chosen] = 2 * jump[sudden, None] * RATIO**power
    return inner


def _lepski(rate: Array, noise: Array, powers: tuple[int, ...]) -> tuple[Estimate, Array]:
    """Lepski's choice over rungs and extrapolations.

    Parameters
    ----------
    rate, noise : difference quotients and their noise, shape (n, R), large steps first; NaN where unusable
    powers : of h in the error expansion, lowest first

    Returns
    -------
    Estimate of shape (n,), the bound infinite where no rung was usable; and the index of the smallest
    plain rung that was inconsistent with smaller ones, -1 if there is none
    """
    levels = extrapolations(rate, noise, powers)
    biases = [_bias(*level, power) for level, power in zip(levels, (*powers, powers[-1] + powers[0]))]
    valid = [np.isfinite(value) & np.isfinite(spread) for value, spread in levels]
    every = [tuple(part.tolist() for part in (*level, bias, ok)) for level, bias, ok in zip(levels, biases, valid)]
    chosen = [_row([tuple(part[k] for part in level) for level in every]) for k in range(rate.shape[0])]
    best, width, first = (np.array([row[field] for row in chosen], float) for field in range(3))
    return Estimate(best, (SAFETY - 1.0) * width, width), first.astype(int)


Level = tuple[list[float], list[float], list[float], list[bool]]  # of each rung, large steps first, see `_row`


def _row(levels: list[Level]) -> tuple[float, float, int]:
    """The choice for one entry: value, noise (infinite where nothing can be told), first inconsistent plain rung.

    In plain numbers: most ladders are of few entries, and arrays of one element cost twenty times as much.

    Parameters
    ----------
    levels : the rungs, then each extrapolation: value, noise, bias, and whether value and noise are finite
    """
    low, high, best, width, first = -math.inf, math.inf, 0.0, math.inf, -1
    alive, started = [True] * len(levels), False
    support = extrapolated = 0
    for j in range(len(levels[0][0]) - 1, -1, -1):
        # noise may drop by more than the ratio of the steps, truncation does not: never trust more than that
        least = (high - low) / (2 * RATIO) if started else 0.0
        agreed = False
        for order, (value, spread, bias, valid) in enumerate(levels):
            if j >= len(value) or not (valid[j] or started):
                continue
            v, s = value[j], spread[j]
            s = s if s > least else least
            if not (valid[j] and alive[order] and v - s <= high and v + s >= low):
                if order == 0 and first < 0 and valid[j] and started:
                    first = j
                alive[order] = False
                continue
            s = s if s > bias[j] else bias[j]
            low, high = (v - s if v - s > low else low), (v + s if v + s < high else high)
            if s < width:
                best, width = v, s
            started = agreed = True
            support += order == 0
        extrapolated += agreed
        if not any(alive):  # no larger step can count
            break
    supported = support >= SUPPORT or extrapolated >= 2 * SUPPORT
    return best, width if supported else math.inf, first  # a lone rung says nothing of its truncation


def _bias(value: Array, noise: Array, power: int) -> Array:
    """What each rung may be off by, as its neighbours tell, so that its interval does not cut off the truth; or 0.

    Twice what the change from the next larger step says of its truncation. And where the change from the next smaller
    step is more than noise, all that it says: c h^p = (D(h) - D(h / RATIO)) / (1 - RATIO^-p), and the noise of both. On
    the false plateau of a bounded function the first is nothing, and the second as much as there is.
    """
    bias, rest = np.zeros(value.shape), RATIO**power - 1.0
    with np.errstate(all="ignore"):
        change = np.abs(np.diff(value, axis=1))
        heard = noise[:, 1:] + np.maximum(noise[:, :-1], noise[:, 1:] / RATIO)  # as in `_row`, no less is believed
        bias[:, 1:] = np.nan_to_num(change * (2.0 / rest), posinf=0.0)
        own = np.where(change > heard, (change + heard) * (1.0 + 1.0 / rest), 0.0)
    bias[:, :-1] = np.maximum(bias[:, :-1], np.nan_to_num(own, posinf=0.0))
    return bias


def extrapolations(rate: Array, noise: Array, powers: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """The rungs themselves, then Richardson's eliminations of one power of h after the other."""
    levels = [(rate, noise)]
    for power in powers:
        value, spread = levels[-1]
        if value.shape[1] < 2:
            break
        factor = RATIO**power
        levels.append(
            (
                (factor * value[:, 1:] - value[:, :-1]) / (factor - 1.0),
                (factor * spread[:, 1:] + spread[:, :-1]) / (factor - 1.0),
            )
        )
    return levels
