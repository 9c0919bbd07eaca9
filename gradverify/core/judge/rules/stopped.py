"""A forward that iterates to a tolerance: backward gives the derivative of the limit, and forward stops short of it.

What is left undone is smooth in the primals as long as the number of iterations is the same, so its own derivative is
part of every difference over small steps. But it stays as small as the tolerance: where the number changes forward
jumps, and takes back what the difference has added up. So a right backward, integrated over a way that crosses such
jumps, is what the outputs change by but for about one of them; a wrong one is off by its error times the way.

Backward jumps as well where it iterates, or takes what forward has saved of an iteration whose result is right to the
square of that. There the gap itself jumps, and is no more than some of its jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gradverify.core.differentiate.jumps import Jump, largest_jump
from gradverify.core.differentiate.point import Point
from gradverify.core.evaluate import LayerFailure
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.table import add
from gradverify.core.nouns import Array, Stream

_FAINT = 0.05  # of what a relative change of the entry would amount to; what is more is no unfinished iteration
_LITTLE = 1e-6  # outputs that may be below an absolute tolerance
_LOW = 0.01  # steps that may change nothing: beside b of 1000, conjugate gradients to 1e-4 see no matrix of 1e-4
_NEAR = (0.5, 2.0, 0.05)  # steps within which a jump is looked for
_SMALL = 1e-2  # of the largest output: forward's jumps are small beside it where it converges
_JUMPS = 8.0  # how many of its jumps forward may be off by; at a rate of 0.9 it stops ten of them short of the limit
_WINDOWS = 4.0 ** np.arange(3.0)  # ways that are wider than the nearest that crosses the jump
_PANELS = 4  # of the nodes below: a backward that jumps has its jump in one of them
_WIDTHS = 2.0 ** -np.arange(4.0, 34.0)  # of a spike: within it, differences lack at least ...
_KEPT = 1.0  # ... half of what the gap comes to over the way, which is twice the width
_ROUNDINGS = 16.0  # of a backward, relative to the terms of its slope along a way
_ASIDE = 1e-3  # of a reach: differences of the fourth order over it are right to 1e-11 of a slope, and cross few jumps
_AMONG = np.array([-0.83, -0.59, -0.31, 0.23, 0.47, 0.71])  # places among stairs, as shares of the reach
_TINY = 1e-9  # a step far below the last place of float32, and far above that of float64
_ALONE = 5  # rows of a stack that are evaluated alone as well: where the number of iterations differs, so do most rows
_BESIDE, _SAME = 1e-7, 0.1  # a step, at most, at which no continuous gradient changes by this share of the gap ...
_LOST = 1e-4  # ... above this share of what a relative change amounts to: a backward that iterates stops short as well
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def _below(dispute: Dispute, share: float) -> bool:
    """Whether every gap is below a share of what a relative change of the entry would amount to.

    That is what the outputs are; where they are 0 at the point, what the slope makes of it. Outputs that are tiny
    beside 1, or beside others, may be smaller than a tolerance that forward stops at.
    """
    point = dispute.point
    move = np.minimum(point.scale[dispute.entries], 1.0)
    largest = float(np.abs(point.base).max(initial=0.0))
    least = max(point.loudness, max(_LITTLE, _SMALL * largest) * float(np.abs(point.weights).sum()))
    effect = np.maximum(least, np.abs(dispute.numerical) * move)
    return bool((dispute.gap * move <= share * effect).all())


@add(
    "stopped",
    "forward, or backward, stops short of its limit: it jumps, and beyond its jumps backward is right",
    cost=1200,  # of all entries together, where copies that iterate go one by one
    applies=lambda dispute: dispute.point.grid is None,
)
def stopped(dispute: Dispute) -> Answer:
    """All entries, where the sum of their differences does not outgrow the jumps of forward or backward; none else.

    A layer that has no jump within any reach is none that stops short, and need not be searched at other points.
    """
    natural = dispute.point.scale
    ways = [_Way(dispute, np.minimum(natural, 1.0))]
    if natural.max() > 1.0:
        ways.append(_Way(dispute, natural))
    unit = _Way(dispute, np.ones_like(natural))
    if natural.min() < _LOW:
        ways.append(unit)
    if not _below(dispute, _LOST) and not ways[0].continuous():
        return answer(np.zeros(dispute.size, bool))
    if any(way.spiked() for way in ways):
        return answer(np.ones(dispute.size, bool))
    if not _below(dispute, _FAINT):
        return answer(np.zeros(dispute.size, bool))
    found = any(way.explains(reach) for way in ways for reach in _NEAR)
    elsewhere = not found and any(unit.explains_elsewhere(reach) for reach in _NEAR)  # shows whether there are jumps
    found = found or (unit.slight and elsewhere)
    found = found or any(way.tells_aside() for way in (*ways, unit))
    found = found or any(way.slight and way.backward_explains(reach) for way in ways for reach in _NEAR)
    return replace(answer(np.full(dispute.size, found)), vain=not any(way.jumps for way in (*ways, unit)))


class _Way:
    """A straight way through the point, along which the differences of all entries in dispute add up."""

    def __init__(self, dispute: Dispute, step: Array) -> None:
        self.entries = dispute.entries
        self.point, self.case = dispute.point, dispute.case
        point, rng = self.point, dispute.case.rng(Stream.STOPPED)
        size, at = _room(point, step), dispute.entries
        self.size = size
        self.factors = rng.uniform(0.5, 1.0, point.size)
        self.direction = size * rng.choice([-1.0, 1.0], point.size) * self.factors
        self.direction[at] = size[at] * np.sign(dispute.numerical - dispute.analytic)
        self.gap = float(dispute.gap @ size[at])
        weight = np.abs(point.weights)
        self.loud = np.flatnonzero(weight > 0)
        self.noise = np.maximum(point.sigma[self.loud], np.finfo(float).tiny) * weight[self.loud]
        self.own = np.where(np.isin(np.arange(point.size), at), self.direction, 0.0)
        self.terms = float(np.abs(self._gradient(0.0, self.own)) @ np.abs(self.direction))
        least = _LITTLE * float(weight.sum())  # of a slope: outputs may be below the tolerance that forward stops at
        self.slight = self.gap <= _SMALL * max(least, float(np.abs(dispute.analytic) @ size[at]))
        self.most = 0.0  # that the largest jump that was seen may leave undone
        self.jumps = False  # whether one was seen, or might have been beyond the edge of a domain

    def continuous(self) -> bool:
        """Whether backward gives next to the point what it gives there; what is wrong at one value alone does not."""
        here, beside = self._slope(0.0), min(_BESIDE, _SMALL * self.gap)
        return all(abs(self._slope(step) - here) <= _SAME * self.gap for step in (-beside, beside))

    def explains(self, reach: float) -> bool:
        """Whether a jump within reach takes the gap back."""
        jump = self._jump(lambda steps: self._outputs(self.point.values + steps[:, None] * self.direction), reach)
        if jump is None or self.gap == 0:
            return False
        nearest, most = 1.1 * abs(jump.at), _undone(jump)
        wider = [h for h in nearest * _WINDOWS if h <= max(reach, nearest)]
        return all(self._missing(h) <= most for h in wider)

    def explains_elsewhere(self, reach: float) -> bool:
        """Whether a jump takes the gap back that forward makes where the entries of each primal are alike.

        Of many entries that differ, some are always among the slowest, and the number of iterations is the same far
        around the point.
        """
        return self._takes_back(*self._alike(), reach)

    def spiked(self) -> bool:
        """Whether the gap is that of a spike, and jumps at its edges take it back: beyond them backward is right.

        Where b is an eigenvector, conjugate gradients end after one step, and so they do beside it, as far as that is
        within their tolerance.
        """
        for width in _WIDTHS:
            if not self._between(-width, width, self.direction, 1) <= _KEPT * self.gap * width:
                return width < _WIDTHS[0] and self._takes_back(self.point.values, self.direction, 4.0 * width)
        return False

    def _takes_back(self, centre: Array, direction: Array, reach: float) -> bool:
        jump = self._jump(lambda steps: self._outputs(centre + steps[:, None] * direction), reach)
        return jump is not None and all(self._missing(_NEAR[0] / h) <= _undone(jump) for h in _WINDOWS)

    def backward_explains(self, reach: float) -> bool:
        """Whether backward itself jumps by as much as the gap comes to, and forward's slope does not jump with it.

        So does one that iterates, or takes what forward has saved of its iterations. At a kink of forward its slope
        jumps as well, and the gap beside it is what it was.
        """
        noise = np.array([_ROUNDINGS * np.finfo(float).eps * self.terms])
        most = _SMALL * self.terms
        jump = largest_jump(lambda steps: np.array([[self._slope(h)] for h in steps]), reach, noise, most)
        if jump is None or not self.gap <= _JUMPS * abs(jump.change[0]):
            return False
        stairs = abs(jump.at) == reach
        if stairs and self._flat(reach):
            return False
        self.jumps, beside, size = True, _ASIDE * reach, abs(jump.change[0])
        if stairs:
            return bool(np.ptp([self._lacking(at, beside) for at in reach * _AMONG]) >= 0.5 * size)
        change = self._lacking(jump.at + 3 * beside, beside) - self._lacking(jump.at - 3 * beside, beside)
        return bool(abs(change - jump.change[0]) <= 0.5 * size)

    def _flat(self, reach: float) -> bool:
        """Whether stairs are flat: of what is rounded to a low type on the way from a primal, and of no iteration."""
        here, places = self._gradient(0.0, self.direction), np.arange(self.point.size)
        inside = [(slot.start <= places) & (places < slot.stop) for slot in self.point.slots]
        for moved in inside:
            alone = np.where(moved, self.direction, 0.0)
            near, far = (self._gradient(step, alone) for step in (_TINY, reach))
            changed = (far != here) & np.isin(places, self.entries)
            if any(np.mean(near[of] == here[of]) > 0.5 for of in (changed & part for part in inside) if of.any()):
                return True
        return False

    def _lacking(self, at: float, h: float) -> float:
        """Backward's slope less forward's: a difference of the fourth order, with nodes up to 2 h away."""
        nodes = at + h * np.array([-2.0, -1.0, 1.0, 2.0])
        sums = self._outputs(self.point.values + nodes[:, None] * self.direction).sum(axis=1)
        return self._slope(at) - float(sums @ [1.0, -8.0, 8.0, -1.0]) / (12.0 * h)

    def _alike(self) -> tuple[Array, Array]:
        """The mean of each primal in place of its entries, and a direction in which they grow together."""
        centre, direction = np.empty(self.point.size), np.empty(self.point.size)
        for slot in self.point.slots:
            part = slice(slot.start, slot.stop)
            centre[part], direction[part] = self.point.values[part].mean(), self.size[part].mean() * self.factors[part]
        return centre, direction

    def _jump(self, outputs: Callable[[Array], Array], reach: float) -> Jump | None:
        """One that is small beside the outputs, as where forward converges."""
        if not self.loud.size:
            return None
        here = self.point.base[self.loud] * self.point.weights[self.loud]
        ends = outputs(np.array([reach, -reach]))
        away = outputs(np.array([_NEAR[0], -_NEAR[0]]))  # at a point of zeros outputs may be 0 themselves
        largest = np.nanmax(np.abs([here, *ends, *away]), initial=0.0)
        most = _SMALL * float(largest)
        jump = largest_jump(outputs, reach, self.noise, most)
        self.jumps |= jump is not None or not np.isfinite(ends).all()
        if jump is None or np.max(np.abs(jump.change)) > most:
            return None
        self.most = max(self.most, _undone(jump))
        return jump

    def _moved(self, values: Array) -> dict[str, Array]:
        return {n: a[0] for n, a in self.point.unpacked(np.array(values)[None], self.point.slots).items()}

    def _outputs(self, values: Array) -> Array:
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
            return self.point.flat(self._moved(row))
        except LayerFailure:
            return np.full(self.point.base.size, np.nan)

    def tells_aside(self) -> bool:
        """Whether jumps that were seen take the gap back along the entries in dispute alone, or on one side.

        The others may lead beyond a pole, and an eigenvector turn round on the other side.
        """
        ways = ((-1.0, 1.0, self.own), (0.0, 1.0, self.direction), (-1.0, 0.0, self.direction))
        lengths = _NEAR[0] / _WINDOWS
        return self.slight and any(
            all(self._between(low * h, high * h, direction) <= self.most for h in lengths)
            for low, high, direction in ways
        )

    def _missing(self, half: float) -> float:
        """What the outputs change by between -half and half, and the integral of backward does not tell."""
        return self._between(-half, half, self.direction)

    def _between(self, low: float, high: float, direction: Array, panels: int = _PANELS) -> float:
        above, below = self._outputs(self.point.values + np.array([[high], [low]]) * direction)
        width = 0.5 * (high - low) / panels
        centres = low + width * (2 * np.arange(panels) + 1)
        slopes = [self._slope(c + width * t, direction) * w for c in centres for t, w in zip(_NODES, _WEIGHTS)]
        missing = abs(float(np.sum(above - below)) - width * sum(slopes))
        return missing if np.isfinite(missing) else np.inf

    def _slope(self, step: float, direction: Array | None = None) -> float:
        direction = self.direction if direction is None else direction
        return float(self._gradient(step, direction) @ direction)

    def _gradient(self, step: float, direction: Array) -> Array:
        moved = self._moved(self.point.values + step * direction)
        try:
            gradient = self.point.gradient(self.case.but(primals={**self.point.primals, **moved}))
        except LayerFailure:
            return np.full(self.point.size, np.inf)
        return np.nan_to_num(gradient)


def _undone(jump: Jump) -> float:
    """How much forward may be off by where it jumps so."""
    return _JUMPS * float(np.sum(np.abs(jump.change)))


def _room(point: Point, step: Array) -> Array:
    """How far entries may move, shape (P,): a step, or as much as they are large where that leaves the domain.

    Those that are 0 move by a step where only that stays within it.
    """
    room, sizes = np.abs(point.values).astype(float), point.layer.sizes_of(point.primals, point.options)
    for slot in point.slots:
        part = slice(slot.start, slot.stop)
        domain, values = point.layer.primal(slot.name).domain, point.values[part].reshape(slot.shape)
        away = _NEAR[0] * step[part].reshape(slot.shape)
        for moving in (np.ones(slot.shape, bool), values == 0):
            near = (values + s * np.where(moving, away, 0.0) for s in (-1, 1))
            if domain.name in ("real", "complex") or all(domain.contains(there, sizes) for there in near):
                room[part][moving.ravel()] = step[part][moving.ravel()]
                break
    return room
