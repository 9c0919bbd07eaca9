"""Differences of torch code, formed on its device: only contracted numbers, or outputs, come back as arrays.

The copies of a primal are made once, and reused: each chunk writes its perturbed entries into them and takes
them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradverify.adapters._torch.arrays import Array, Tensor, import_torch, same, tensor, tensors_in
from gradverify.adapters._torch.direct import fixed, from_the_start, one_by_one, one_thread, unmoved, without_tape
from gradverify.adapters._torch.engine import Engine
from gradverify.core.declare.hooks import Contraction, Moves
from gradverify.core.evaluate import LayerFailure

_SHARE = 8  # of a device's free memory, one part in this many is taken by copies and outputs
_AHEAD = 1 << 28  # bytes of copies that cost a device less than another call
_JOINED = 1 << 25  # elements of copies up to which several primals go together, where a launch costs more than they do
_APART = 1 << 27  # and from which on the two sides of a step go one after the other, since copies cost more


@dataclass(frozen=True, slots=True)
class _Span:
    """Where the rows of one primal lie among those of all."""

    name: str
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class OnDevice:
    """Torch code at one point; see `hooks.NativePoint`. Primals are sent once, when they are first needed."""

    engine: Engine
    primals: Mapping[str, Array]
    options: Mapping[str, Any]
    weights: Array
    shapes: tuple[tuple[int, ...], ...]
    memory: int

    @property
    def ahead(self) -> int:
        """Bytes of copies that cost less than another call."""
        return _AHEAD if _launches_cost(self.engine.device) else 0

    def slopes(self, moves: Sequence[Moves], how: Contraction) -> list[tuple[Array, Array, Array, Array]]:
        """Contracted differences along single entries."""
        engine, torch = self.engine, import_torch()
        if engine.updated:
            raise LayerFailure("crash", "forward", "the code updates its primals in place")
        # large ones first: while the device is busy with them, the others are on their way
        ordered = sorted(moves, key=lambda m: -m.entries.size)
        ends = np.cumsum([m.entries.size for m in ordered])
        spans = [_Span(m.name, int(end) - m.entries.size, int(end)) for m, end in zip(ordered, ends)]
        context = unmoved if how.way == "broadcast" else fixed
        try:
            at = self._sent(np.concatenate([m.entries for m in ordered]))
            steps = self._sent(np.stack([np.concatenate([getattr(m, side) for m in ordered]) for side in "ab"]))
            rule = _Rule(self._sent(np.stack([self.weights, how.sigma])), how)
            with torch.no_grad(), without_tape(), self._intact(), context(engine.device):
                rows = [self._together(group, at, steps, rule) for group in self._groups(spans)]
            told = torch.stack([torch.cat(parts).double() for parts in zip(*rows)]).cpu().numpy()
        except LayerFailure:
            raise
        except Exception as error:  # whatever it is, the caller's own way says it better
            raise LayerFailure("crash", "forward", f"not contracted: {error}") from error
        found = {s.name: told[:, s.rows] for s in spans}
        return [(change, noise, moved != 0, gap) for change, noise, moved, gap in (found[m.name] for m in moves)]

    def along(
        self, directions: Mapping[str, Array], a: Array, b: Array | None, gradients: Mapping[str, Array] | None
    ) -> tuple[tuple[Array, ...], Array]:
        """Moves all primals where they lie; on the CPU they lie with the caller already."""
        engine, torch = self.engine, import_torch()
        if not _launches_cost(engine.device) or engine.kernel is not None or engine.updated:
            raise LayerFailure("crash", "forward", "done as well by the caller")
        try:
            ways = {n: self._sent(d) for n, d in directions.items()}
            slopes = {n: self._sent(gradients[n]).double().nan_to_num() for n in ways} if gradients else {}

            def moved(step: float) -> dict[str, Tensor]:
                return {n: self._leaves[n] + (step * d).to(self._leaves[n].dtype) for n, d in ways.items()}

            def outputs(at: dict[str, Tensor]) -> tuple[Tensor, ...]:
                with fixed(engine.device):
                    return tensors_in(engine.call({**self._leaves, **at}, dict(self.options)))

            near, far, gaps = [], [], []
            with torch.no_grad(), without_tape(), self._intact():
                for k, step in enumerate(a.tolist()):
                    here, there = moved(step), self._leaves if b is None else moved(float(b[k]))
                    gaps.append(
                        sum(((here[n] - there[n]).double().mul_(g).sum().item() for n, g in slopes.items()), 0.0)
                    )
                    near.append(outputs(here))
                    far += [] if b is None else [outputs(there)]
            stacked = tuple(torch.stack(ys).cpu().numpy() for ys in zip(*near, *far))
        except Exception as error:  # whatever it is, the caller's own way says it better
            raise LayerFailure("crash", "forward", f"not moved: {error}") from error
        return stacked, np.array(gaps)

    def _sent(self, values: Array) -> Tensor:
        return tensor(values, self.engine.device)

    @cached_property
    def _leaves(self) -> dict[str, Tensor]:
        return {n: tensor(self.primals[n], self.engine.device, self.engine.kernel) for n in self.engine.names}

    @contextmanager
    def _intact(self) -> Iterator[None]:
        """What the code does inside must leave the primals as they are, which others will be computed from."""
        before = self._seal
        yield
        if not same(before, self._sums()):
            vars(self).pop("_leaves")
            raise LayerFailure("crash", "forward", "the code overwrites its primals")

    @cached_property
    def _seal(self) -> Tensor:
        return self._sums()

    def _sums(self) -> Tensor:
        torch = import_torch()
        real = [torch.view_as_real(t) if t.is_complex() else t for t in self._leaves.values()]
        return torch.stack([t.sum().double() for t in real])

    def _elements(self, spans: Sequence[_Span]) -> int:
        """Of the primals of these spans together."""
        return sum(self._leaves[s.name].numel() for s in spans)

    def _groups(self, spans: Sequence[_Span]) -> Iterator[list[_Span]]:
        """Neighbouring spans that go through one forward: launches cost a device more than a few small copies."""
        group: list[_Span] = []
        for span in spans:
            more = [*group, span]
            size = 2 * (span.stop - more[0].start) * self._elements(more)
            if group and (size > _JOINED or not _launches_cost(self.engine.device)):
                yield group
                more = [span]
            group = more
        if group:
            yield group

    def _together(self, group: list[_Span], at: Tensor, steps: Tensor, rule: _Rule) -> tuple[Tensor, ...]:
        """The four results for the rows of some primals; fewer rows at once where memory runs out."""
        torch = import_torch()
        elements = self._elements(group)
        rows = self._rows(group[-1].stop - group[0].start, elements)
        while True:
            try:
                with one_thread(rows * elements):
                    parts = list(self._chunks(group, at, steps, rows, rule))
                return tuple(torch.cat(p) for p in zip(*parts))
            except torch.cuda.OutOfMemoryError as error:
                if rows == 1:
                    raise LayerFailure("crash", "forward", f"out of memory for a single copy: {error}") from error
                rows = (rows + 1) // 2

    def _rows(self, wanted: int, elements: int) -> int:
        """How many of the rows that are wanted go at once."""
        width: int = 16 * (elements + 4 * self.weights.size + 1)
        device = self.engine.device
        if device.type != "cuda":
            return max(1, min(wanted, self.memory // width))
        if wanted * width <= _AHEAD:
            return wanted
        cuda = import_torch().cuda
        kept = cuda.memory_stats_as_nested_dict(device)  # by torch, for tensors to come
        idle = kept["reserved_bytes"]["all"]["current"] - kept["allocated_bytes"]["all"]["current"]
        free = int(cuda.mem_get_info(device)[0]) + int(idle)
        return max(1, min(wanted, free // (_SHARE * width)))

    def _chunks(
        self, group: list[_Span], at: Tensor, steps: Tensor, rows: int, rule: _Rule
    ) -> Iterator[tuple[Tensor, ...]]:
        """Change, noise, number of outputs that moved, and realised step, for one chunk of entries after the other."""
        torch = import_torch()
        apart = rows * self._elements(group) > _APART
        sides = (slice(0, 1), slice(1, 2)) if apart else (slice(0, 2),)
        copies = [
            _Copies(self._leaves[s.name], rows if apart else 2 * rows, at[s.rows], steps[:, s.rows]) for s in group
        ]
        gap = torch.cat([c.ends[0] - c.ends[1] for c in copies]).to(rule.weights.dtype)
        run, start, last = self._forward(rule.how.way), group[0].start, group[-1].stop
        for first in range(start, last, rows):
            n, ys = min(rows, last - first), []
            for side in sides:
                with ExitStack() as stack:
                    moved = {
                        s.name: stack.enter_context(c.moved(side, first - s.start, n)) for s, c in zip(group, copies)
                    }
                    ys += run(moved).view(-1, n, self.weights.size)
            yield (*rule.contracted(*ys), gap[first - start : first - start + n])

    def _forward(self, way: str) -> Callable[[dict[str, Tensor]], Tensor]:
        """A function from copies of some primals to flat outputs, shape (count, K)."""
        torch = import_torch()
        engine, options, leaves = self.engine, dict(self.options), self._leaves
        rank = max(t.ndim for t in leaves.values())

        def call(moved: dict[str, Tensor]) -> tuple[Tensor, ...]:
            return tensors_in(engine.call({**leaves, **moved}, options))

        def run(copies: dict[str, Tensor]) -> Tensor:
            count = next(iter(copies.values())).shape[0]
            if way == "broadcast":
                raw = call({n: c.view(count, *(1,) * (rank + 1 - c.ndim), *c.shape[1:]) for n, c in copies.items()})
            elif way == "batched":
                from_the_start(engine.device)
                raw = torch.func.vmap(call, randomness="same")(copies)
            else:
                raw = one_by_one(lambda k: call({n: c[k] for n, c in copies.items()}), count, engine.device)
            if len(raw) != len(self.shapes):
                raise ValueError("other outputs than one forward has")
            flat = [_leading(y, count, s) for y, s in zip(raw, self.shapes)]
            return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

        return run


def _launches_cost(device: Any) -> bool:
    return bool(device.type != "cpu")


class _Rule:
    """How differences of outputs become numbers: as `Point` does it on the host."""

    def __init__(self, weights_and_sigma: Tensor, how: Contraction) -> None:
        self.how = how
        self.weights, self.sigma = weights_and_sigma

    @cached_property
    def sizes(self) -> Tensor:
        return self.weights.abs()

    @cached_property
    def noises(self) -> Tensor:
        return self.sizes * self.sigma

    @cached_property
    def ones(self) -> Tensor:
        return self.sizes.new_ones(self.sizes.shape)

    def contracted(self, ya: Tensor, yb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Change, noise and number of outputs that moved, for each row."""
        torch = import_torch()
        delta = (ya - yb).to(self.weights.dtype)
        changed = delta.sgn().abs_()  # 0, 1, or NaN where there is no difference to speak of
        if self.how.coarse:  # away from the point outputs round more coarsely
            level = self.how.relative * torch.maximum(ya.abs(), yb.abs()).to(self.weights.dtype)
            noise = (changed * torch.maximum(self.sigma, level)) @ self.sizes
        else:
            noise = changed @ self.noises
        return delta @ self.weights, noise, changed @ self.ones


class _Copies:
    """Copies of one primal, made once; each chunk moves some of their entries and takes them back.

    Parameters
    ----------
    leaf : the primal
    count : of the copies
    at, steps : flat indices of all entries that are going to move, shape (n,), and their two offsets, shape (2, n)
    """

    def __init__(self, leaf: Tensor, count: int, at: Tensor, steps: Tensor) -> None:
        self.shape, self.at = leaf.shape, at
        self.base = leaf.detach().contiguous().reshape(-1)
        self.kept = self.base[at]
        self.ends = self.kept + steps.to(self.base.dtype)
        self.rows = self.base.expand(count, -1).clone()
        self.row = import_torch().arange(count, device=at.device)

    @contextmanager
    def moved(self, side: slice, first: int, n: int) -> Iterator[Tensor]:
        """Inside, n copies for each step in `side`, of which the k-th has entry number `first` + k moved, if any."""
        low, high = max(0, first), max(0, min(first + n, self.at.numel()))
        sides = side.stop - side.start
        held = self.rows[: sides * n].view(sides, n, -1)
        where = slice(None), self.row[low - first : max(low, high) - first], self.at[low:high]
        held[where] = self.ends[side, low:high]
        version = self.rows._version
        yield held.view(-1, *self.shape)
        if self.rows._version == version:
            held[where] = self.kept[low:high]
        else:  # the code overwrites what it is given
            self.rows.copy_(self.base.expand_as(self.rows))


def _leading(y: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """An output with a leading axis as rows; one that did not depend on the copies is repeated."""
    if tuple(y.shape) == shape:
        return y.expand(count, *shape).reshape(count, -1)
    extra = y.ndim - len(shape) - 1
    if extra < 0 or y.shape[0] not in (1, count) or tuple(y.shape[1:]) != ((1,) * extra + shape):
        raise ValueError("the stack was not carried through")
    return y.expand(count, *y.shape[1:]).reshape(count, -1)
