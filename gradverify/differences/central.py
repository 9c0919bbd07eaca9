"""The tutorial's central difference: one entry moved by +h and -h, (phi(+h) - phi(-h)) / 2h."""

from __future__ import annotations

import numpy as np

from gradverify.differences.point import Point
from gradverify.types import Array, Estimate

NOISE_FACTOR = 4.0  # standard deviations of the noise of a difference that count as its bound


def best_step(eps: float) -> float:
    """Relative step that balances h^2 truncation against eps/h rounding (Nocedal and Wright, sec. 8.1)."""
    return float(eps ** (1.0 / 3.0))


def central(
    point: Point, entries: Array, step: float | Array, analytic: Array | None = None
) -> tuple[Estimate, Array, Array]:
    """Central differences at one relative step.

    Parameters
    ----------
    entries : flat indices, shape (n,)
    step : relative to the scale of each entry, one for all or shape (n,)
    analytic : flat gradient, shape (P,), or None

    Returns
    -------
    estimate : `value`, shape (n,); `rounding` is measured; `truncation` is unknown from one step, and 0 here
    residual : value - analytic, shape (n,), formed before the division so that no digits are lost
    moved : whether any output changed, shape (n,)
    """
    h = step * point.scale[entries]
    d = point.slopes(entries, h, -h)
    known = np.zeros(entries.size) if analytic is None else np.nan_to_num(analytic[entries])
    with np.errstate(all="ignore"):
        residual = (d.change - known * d.gap) / d.gap
        rounding = NOISE_FACTOR * d.noise / np.abs(d.gap)
    rounding = np.where(np.isfinite(residual) & np.isfinite(rounding), rounding, np.inf)
    residual = np.where(np.isfinite(rounding), residual, 0.0)
    return Estimate(residual + known, np.zeros(entries.size), rounding.astype(float)), residual, d.moved


def paired(point: Point, entries: Array, step: float, analytic: Array | None = None) -> tuple[Estimate, Array]:
    """Central differences at `step` and twice that; their difference bounds the truncation.

    The error of a central difference is c h^2 + O(h^4), so D(2h) - D(h) = 3 c h^2 (Richardson 1911);
    the bound is that difference, three times what it says.
    """
    fine, residual, _ = central(point, entries, step, analytic)
    coarse, wide, _ = central(point, entries, 2 * step, analytic)
    truncation = np.where(np.isfinite(coarse.rounding), np.abs(wide - residual), np.inf)
    return Estimate(fine.value, truncation, fine.rounding), residual
