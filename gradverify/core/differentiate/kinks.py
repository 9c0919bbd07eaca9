"""Whether the forward has a kink at a point: the second difference along a joint direction shrinks with the step, and
that of a smooth function with its square.

Rules about kinks that meet or cancel have nothing to say where there is none. A random direction moves all entries
at once and crosses every kink that goes through the point; outputs are looked at one by one, before the cotangents
could make them cancel.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate.point import Point

STEP = 1e-6  # in natural units, of code in float64; others take the square root of their precision more
RATIO = 4.0  # of the two steps: a power of two, so that the nearer one is exact
SMOOTH = 8.0  # between RATIO, by which a kink's second difference shrinks, and its square, by which a curve's does
LOUD = 64.0  # typical roundings of an output, above which a second difference is heard


def reach(point: Point) -> float:
    """Relative step at which to look for kinks."""
    return float(STEP * max(1.0, point.eps / np.finfo(float).eps) ** 0.5)


def has_kink(point: Point, rounding: float | None = None) -> bool:
    """Whether some output has a kink at the point; also where that cannot be told, as next to the edge of a domain.

    Costs four forwards.

    Parameters
    ----------
    rounding : typical rounding of an output relative to its size, where it is known; else it is measured
    """
    if point.size == 0 or point.base.size == 0:
        return False
    rng = np.random.default_rng(point.size)
    direction = point.scale * rng.choice([-1.0, 1.0], point.size) * rng.uniform(0.5, 1.0, point.size)
    far, near = reach(point), reach(point) / RATIO
    steps = np.array([far, -far, near, -near])
    y = point.outputs(point.displaced_along(direction, steps, 4, None)[0], 4)
    if not np.isfinite(y).all():
        return bool(np.isfinite(point.base).all())
    wide, narrow = (np.abs(up + down - 2 * point.base) for up, down in (y[:2], y[2:]))
    size = np.abs(y).max(axis=0)
    heard = wide > LOUD * (point.relative if rounding is None else rounding) * (size + np.abs(point.base))
    return bool((heard & (narrow * SMOOTH > wide)).any())
