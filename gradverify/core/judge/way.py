"""A straight way through a point, and what forward and backward say of it: the change of the outputs, and the integral
of the gradient.
"""

from __future__ import annotations

import numpy as np

from gradverify.core.differentiate.jumps import Jump, largest_jump
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Dispute
from gradverify.core.nouns import Array, Stream

NEAREST = 0.5  # of a step: the shortest way that is looked at
SMALL = 1e-2  # of the largest output: forward's jumps are small beside it where it converges
LITTLE = 1e-6  # outputs that may be below an absolute tolerance
JUMPS = 8.0  # how many of its jumps forward may be off by; at a rate of 0.9 it stops ten of them short of the limit
_PANELS = 4  # of the nodes below: a backward that jumps has its jump in one of them
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_ALONE = 5  # rows of a stack that are evaluated alone as well: where the number of iterations differs, so do most rows


class Way:
    """A straight way through the point, along which the differences of all entries in dispute add up."""

    def __init__(self, dispute: Dispute, step: Array) -> None:
        self.point, self.entries = dispute.point, dispute.entries
        point, rng = self.point, dispute.case.rng(Stream.STOPPED)
        self.size, at = _room(point, step), dispute.entries
        size = self.size
        self.factors = rng.uniform(0.5, 1.0, point.size)
        self.direction = size * rng.choice([-1.0, 1.0], point.size) * self.factors
        self.direction[at] = size[at] * np.sign(dispute.numerical - dispute.analytic)
        self.gap = float(dispute.gap @ size[at])
        weight = np.abs(point.weights)
        self.loud = np.flatnonzero(weight > 0)
        self.noise = np.maximum(point.sigma[self.loud], np.finfo(float).tiny) * weight[self.loud]
        self.own = np.where(np.isin(np.arange(point.size), at), self.direction, 0.0)
        self.terms = float(np.abs(self.gradient(0.0, self.own)) @ np.abs(self.direction))
        least = LITTLE * float(weight.sum())  # of a slope: outputs may be below the tolerance that forward stops at
        self.slight = self.gap <= SMALL * max(least, float(np.abs(dispute.analytic) @ size[at]))
        self.most = 0.0  # that the largest jump that was seen may leave undone
        self.jumps = False  # whether one was seen, or might have been beyond the edge of a domain

    def missing(self, half: float) -> float:
        """What the outputs change by between -half and half, and the integral of backward does not tell."""
        return self.between(-half, half, self.direction)

    def between(self, low: float, high: float, direction: Array, panels: int = _PANELS) -> float:
        """The same between two steps along a direction."""
        above, below = self.outputs(self.point.values + np.array([[high], [low]]) * direction)
        width = 0.5 * (high - low) / panels
        centres = low + width * (2 * np.arange(panels) + 1)
        slopes = [self.slope(c + width * t, direction) * w for c in centres for t, w in zip(_NODES, _WEIGHTS)]
        missing = abs(float(np.sum(above - below)) - width * sum(slopes))
        return missing if np.isfinite(missing) else np.inf

    def slope(self, step: float, direction: Array | None = None) -> float:
        """What backward gives along a direction, a step away."""
        direction = self.direction if direction is None else direction
        return float(self.gradient(step, direction) @ direction)

    def gradient(self, step: float, direction: Array) -> Array:
        """What backward gives a step away, shape (P,)."""
        try:
            return np.nan_to_num(self.point.gradient_at(self.point.values + step * direction))
        except LayerFailure:
            return np.full(self.point.size, np.inf)

    def jump(self, reach: float, centre: Array | None = None, direction: Array | None = None) -> Jump | None:
        """One of forward within reach, here or on another way: small beside the outputs, as where it converges."""
        if not self.loud.size:
            return None
        middle = self.point.values if centre is None else centre
        along = self.direction if direction is None else direction

        def outputs(steps: Array) -> Array:
            return self.outputs(middle + steps[:, None] * along)

        here = self.point.base[self.loud] * self.point.weights[self.loud]
        ends = outputs(np.array([reach, -reach]))
        away = outputs(np.array([NEAREST, -NEAREST]))  # at a point of zeros outputs may be 0 themselves
        largest = np.nanmax(np.abs([here, *ends, *away]), initial=0.0)
        most = SMALL * float(largest)
        jump = largest_jump(outputs, reach, self.noise, most)
        self.jumps |= jump is not None or not np.isfinite(ends).all()
        if jump is None or np.max(np.abs(jump.change)) > most:
            return None
        self.most = max(self.most, undone(jump))
        return jump

    def outputs(self, values: Array) -> Array:
        """Weighted outputs at n other values, shape (n, K) from (n, P); NaN beyond the edge of a domain.

        All in one forward only where some of the rows are what they are alone: stacked copies that iterate together
        do so as often as the slowest, and jump nowhere.
        """
        rows = self._stacked(values) if len(values) > _ALONE else None
        if rows is None:
            rows = np.array([self._alone(row) for row in values])
        return rows[:, self.loud] * self.point.weights[self.loud]

    def _stacked(self, values: Array) -> Array | None:
        try:
            rows = self.point.outputs(self.point.unpacked(np.array(values), self.point.slots), len(values))
        except LayerFailure:
            return None
        some = np.linspace(0, len(values) - 1, _ALONE).astype(int)
        same = self.point.one_by_one or all(self.point.alike(rows[k], self._alone(values[k])) for k in some)
        return rows if same else None

    def _alone(self, row: Array) -> Array:
        try:
            return self.point.flat(self.point.moved_to(row).primals)
        except LayerFailure:
            return np.full(self.point.base.size, np.nan)


def undone(jump: Jump) -> float:
    """How much forward may be off by where it jumps so."""
    return JUMPS * float(np.sum(np.abs(jump.change)))


def _room(point: Point, step: Array) -> Array:
    """How far entries may move, shape (P,): a step, or as much as they are large where that leaves the domain.

    Those that are 0 move by a step where only that stays within it.
    """
    room, sizes = np.abs(point.values).astype(float), point.layer.sizes_of(point.primals, point.options)
    for slot in point.slots:
        part = slice(slot.start, slot.stop)
        domain, values = point.layer.primal(slot.name).domain, point.values[part].reshape(slot.shape)
        away = NEAREST * step[part].reshape(slot.shape)
        for moving in (np.ones(slot.shape, bool), values == 0):
            near = (values + s * np.where(moving, away, 0.0) for s in (-1, 1))
            if domain.name in ("real", "complex") or all(domain.contains(there, sizes) for there in near):
                room[part][moving.ravel()] = step[part][moving.ravel()]
                break
    return room
