"""The tutorial's central difference: one entry moved by +h and -h, (phi(+h) - phi(-h)) / 2h."""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate.point import Point
from gradverify.core.nouns import Array, Estimate

NOISE_FACTOR = 4.0  # standard deviations of the noise of a difference that count as its bound


def best_step(eps: float) -> float:
    """Relative step that balances h^2 truncation against eps/h rounding (Nocedal and Wright, sec. 8.1)."""
    return float(eps ** (1.0 / 3.0))


def central(
    point: Point, entries: Array, step: float | Array, analytic: Array | None = None
) -> tuple[Estimate, Array, Array]:
    """Central differences at one relative step, or at several.

    Parameters
    ----------
    entries : flat indices, shape (n,)
    step : relative to the scale of each entry; an array of shape (s,) gives results of shape (s, n)
    analytic : flat gradient, shape (P,), finite at these entries, or None

    Returns
    -------
    estimate : `value`, shape (n,); `rounding` is measured; `truncation` is unknown from one step, and 0 here
    residual : value - analytic, shape (n,), formed before the division so that no digits are lost
    moved : whether any output changed, shape (n,)
    """
    h = np.multiply.outer(step, point.scale[entries])
    d = point.slopes(np.broadcast_to(entries, h.shape).ravel(), h.ravel(), -h.ravel())
    known = np.zeros(entries.size) if analytic is None else analytic[entries]
    gap = d.gap.reshape(h.shape)
    with np.errstate(all="ignore"):
        residual = (d.change.reshape(h.shape) - known * gap) / gap
        rounding = NOISE_FACTOR * d.noise.reshape(h.shape) / np.abs(gap)
    rounding = np.where(np.isfinite(residual) & np.isfinite(rounding), rounding, np.inf)
    residual = np.where(np.isfinite(rounding), residual, 0.0)
    estimate = Estimate(residual + known, np.zeros(h.shape), rounding.astype(float, copy=False))
    return estimate, residual, d.moved.reshape(h.shape)


def paired(point: Point, entries: Array, step: float, analytic: Array | None = None) -> tuple[Estimate, Array]:
    """Central differences at `step` and twice that; their difference bounds the truncation.

    The error of a central difference is c h^2 + O(h^4), so D(2h) - D(h) = 3 c h^2 (Richardson 1911);
    the bound is that difference, three times what it says.
    """
    fine, residual, _ = central(point, entries, step, analytic)
    coarse, wide, _ = central(point, entries, 2 * step, analytic)
    truncation = np.where(np.isfinite(coarse.rounding), np.abs(wide - residual), np.inf)
    return Estimate(fine.value, truncation, fine.rounding), residual
