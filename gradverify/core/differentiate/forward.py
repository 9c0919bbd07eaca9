"""The forward of a layer at one point and at stacked, perturbed copies of it.

A stack of copies goes through one forward when the layer's code broadcasts over leading axes and
gives the same as a loop does; that is tried, never assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from gradverify.core.declare.functions import accepted, own
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate.side_by_side import SideBySide
from gradverify.core.evaluate import LayerFailure, cast, edge, forwarded, guarded, outputs_of, run
from gradverify.core.evaluate.foreign import same
from gradverify.core.evaluate.limits import TRIAL, time_limit
from gradverify.core.nouns import Array, Case

_TRIAL = 3  # rows on which stacking is tried, or more: as many as no axis has
_APART = 0.1  # how far they differ, of an entry or of 1: a mean over the stack moves each by as much, and is seen
_REORDERED = 64  # roundings by which sums in another order, as of a stack, may differ
_CANCELLED = 0.1  # share of the largest output that counts for an output that is smaller, as where terms cancel
_TOGETHER = 0.01  # seconds of forwards in one guarded call: one that hangs is told by how long the call has run
_NEXT = 1024  # roundings from the point, within which a row is next to it: the steps that measure the noise

# The C library gives freed memory back to the system, and stacks pay for every page anew, until a block this large
# was freed once (glibc raises its thresholds then); the block is never touched, so it costs nothing.
np.empty(31 << 20, np.uint8)

_refused: WeakKeyDictionary[Callable[..., Any], set[int]] = WeakKeyDictionary()
_carried: WeakKeyDictionary[Callable[..., Any], set[int]] = WeakKeyDictionary()
_KEPT = 200  # keys of one forward that are remembered, as hashes: a campaign meets thousands; then it starts anew


class Forward:
    """Outputs of a layer at the primals of a Case, and at perturbed ones.

    Parameters
    ----------
    layer, case : where the forward is evaluated
    dtype : floating type in which it is run; None takes the case's own
    outputs : of the layer's forward at the case, where they are known already
    """

    def __init__(self, layer: Layer, case: Case, dtype: Any = None, outputs: tuple[Array, ...] | None = None) -> None:
        self.layer, self.case = layer, case
        self.options = case.options
        self.primals = cast(case.primals, dtype) if dtype is not None else dict(case.primals)
        self.forwards = 1  # evaluations, however many of them go through one call
        self._probed: set[tuple[int, int]] = set()  # stacks that gave the same as a loop did, and their rows
        self._writes: bool | None = None  # whether forward writes into its inputs, as far as one call has told
        self._swift = True  # whether no copy has failed yet
        self._through = False  # whether any perturbed copy has come through one by one
        self.one_by_one = not _carried.get(layer.forward) and bool(
            _refused.get(layer.forward)
        )  # the last stack, if known
        self._at = {name: np.array(a) for name, a in self.primals.items()} if layer.declared.surrogate else {}
        known = outputs if dtype is None and layer.declared.surrogate is None else None
        self.at_point = self.call(self.primals) if known is None else known
        self.shapes = [y.shape for y in self.at_point]
        self.base = self.flattened([y[None] for y in self.at_point])[0]
        self.dtype = np.result_type(*[y.real.dtype for y in self.at_point if y.dtype.kind in "fc"] or [np.float64])
        self.eps = float(np.finfo(self.dtype).eps)

    def outputs(self, stack: Mapping[str, Array], count: int) -> Array:
        """Flat outputs, shape (count, K), at stacked primals (count, *shape); others stay at the point.

        The whole stack goes through one forward when the layer's code broadcasts over leading axes, or
        its adapter vectorises it, and that gives the same as a loop does, which is tried on one row of each number
        of rows, and once for each shape on rows that differ much; else row by row.
        """
        names = tuple(stack)
        for way in self.ways() if count > 2 else ():
            if not self.carries(way, names):
                continue
            key, flat = self._key(way, names), self._stacked(stack, count, way)
            if flat is not None and ((key, count) in self._probed or self._same(flat, stack, count // 2)):
                self._probed.add((key, count))
                self.one_by_one = False
                return flat
            _remember(_refused[self.layer.forward], key)
        self.one_by_one = count > 2
        return self._each(stack, count) if count else np.zeros((0, self.base.size))

    def _each(self, stack: Mapping[str, Array], count: int) -> Array:
        """Flat outputs where no leading axis is carried: side by side what may be, the others one by one."""
        joined, found = self._beside.outputs(stack, count)
        if not joined.any():
            return self._rows(stack, count)
        rows = np.empty((count, self.base.size), found.dtype)
        rows[joined], rest = found, np.flatnonzero(~joined)
        self._through, self.one_by_one = True, rest.size > 2
        if rest.size:
            rows[rest] = self._rows({n: a[rest] for n, a in stack.items()}, rest.size)
        return rows

    @cached_property
    def _beside(self) -> SideBySide:
        return SideBySide(self)

    def _key(self, way: str, names: tuple[str, ...]) -> int:
        return hash((way, names, str(self.options), tuple(self.primals[n].shape for n in names)))

    def ways(self) -> tuple[str, ...]:
        """How a stack may be evaluated together, cheapest first."""
        hooks = self.layer.hooks
        own = tuple(way for way in ("broadcast", "batched", "looped") if getattr(hooks, way) is not None)
        return own if hooks.batched is not None else ("broadcast", *own)

    def _stacked(self, stack: Mapping[str, Array], count: int, way: str) -> Array | None:
        hooks = self.layer.hooks
        try:
            if way != "broadcast":
                full = {n: stack[n] if n in stack else np.array(a[None]) for n, a in self.primals.items()}
                raw = outputs_of(self.layer, getattr(hooks, way)(full, self.options))
            else:
                rank = max(np.ndim(a) for a in self.primals.values())
                padded = {n: a.reshape((count,) + (1,) * (rank - a.ndim + 1) + a.shape[1:]) for n, a in stack.items()}
                every = {n: padded[n] if n in padded else np.array(a) for n, a in self.primals.items()}
                raw = (
                    outputs_of(self.layer, hooks.broadcast(every, self.options))
                    if hooks.broadcast
                    else self.call(every)
                )
            self.forwards += count
            return self.stacked(raw, count)
        except (LayerFailure, ValueError):
            return None

    def stacked(self, raw: tuple[Array, ...], count: int) -> Array:
        """Outputs with a leading axis as rows, shape (count, K).

        Raises ValueError if these are not the outputs of one forward, `count` times.
        """
        if len(raw) != len(self.shapes):
            raise ValueError("other outputs than one forward has")
        return self.flattened([_leading(y, count, shape) for y, shape in zip(raw, self.shapes)])

    def carries(self, way: str, names: tuple[str, ...]) -> bool:
        """Whether rows that differ much come out as in a loop, where these primals are stacked: a mean over the whole
        stack differs little from each row where the steps are tiny. Tried once for each shape.
        """
        known, refused = (found.setdefault(self.layer.forward, set()) for found in (_carried, _refused))
        key = self._key(way, names)
        if key not in known and key not in refused:
            trial, count = self.differing(names)
            flat = None
            with suppress(LayerFailure), time_limit(TRIAL, inner=True):  # one that takes longer gains nothing by it
                flat = self._stacked(trial, count, way)
            fits = flat is not None and self._same(flat, trial, 0, count - 1)
            _remember(known if fits else refused, key)
        return key not in refused

    def differing(self, names: tuple[str, ...]) -> tuple[dict[str, Array], int]:
        """A stack of copies that differ much in some primals, and how many they are.

        `len(W)` of a stack is the number of its rows, and right by accident where W has as many: no axis is as long.
        """
        sizes = {size for a in self.primals.values() for size in a.shape}
        count = next(count for count in range(_TRIAL, _TRIAL + len(sizes) + 1) if count not in sizes)
        rng, stack = np.random.default_rng(7), {}
        for name in names:
            array = self.primals[name]
            offset = _APART * rng.uniform(0.2, 1.0, (count, *array.shape)) * np.maximum(np.abs(array), 1.0)
            stack[name] = (array + offset).astype(array.dtype)
        return stack, count

    def _same(self, flat: Array, stack: Mapping[str, Array], *rows: int) -> bool:
        return all(self.alike(flat[k], self.row(stack, k)) for k in rows)

    def alike(self, found: Array, row: Array) -> bool:
        """Whether flat outputs are those of `row`, to rounding; shape (K,)."""
        if found.shape != row.shape:  # the trial itself may have left something behind
            return False
        with np.errstate(all="ignore"):
            slack = _REORDERED * self.eps * (np.abs(row) + _CANCELLED * np.abs(self.base).max(initial=0.0))
            close = np.abs(found - row) <= slack
        return bool(close.all() or (close | (~np.isfinite(row) & ~np.isfinite(found))).all())

    def _rows(self, stack: Mapping[str, Array], count: int) -> Array:
        """One forward for each row; NaN where it raises, as it may beyond a domain (a singular matrix, a root).

        Raises LayerFailure if none has come through yet, of these or earlier ones, but such as are next to the point.
        """
        rows = np.full((count, self.base.size), np.nan, self.base.dtype)
        failure: LayerFailure | None = None
        k = 0
        while (k := self._ordinary(stack, rows, k)) < count:
            try:
                rows[k] = self.row(stack, k)
                self._through = self._through or self._away(stack, k)
            except LayerFailure as error:
                if error.kind != "crash":
                    raise
                failure, self._swift = error, False
            k += 1
        if failure is not None and not (self._through or self._probed):
            raise failure
        return rows

    def _ordinary(self, stack: Mapping[str, Array], rows: Array, first: int) -> int:
        """Fill rows from the first on, many in one guarded call: to guard each costs twice as much as a small forward.

        Returns the first row that is left: time is up, or it is out of the ordinary.
        """
        swift = self._swift and self._through and not edge.hangs(self.layer)
        if not (swift and self._writes is False and self.layer.declared.surrogate is None):
            return first
        layer, names, options, done = self.layer, self.layer.primal_names, self.options, first
        fresh = own(options) is not options
        until = time.perf_counter() + _TOGETHER

        def fill() -> None:
            nonlocal done
            while done < len(rows) and time.perf_counter() < until:
                given = [stack[n][done] if n in stack else self.primals[n] for n in names]
                edge.entered(layer, dict(zip(names, given)), options)
                outputs, _ = forwarded(layer, layer.forward(*given, **(own(options) if fresh else options)))
                alone = len(outputs) == 1 and outputs[0].dtype.kind == "f"
                rows[done] = outputs[0].reshape(-1) if alone else self.flattened([y[None] for y in outputs])[0]
                self.forwards += 1
                done += 1

        try:
            guarded("forward", fill)
        except LayerFailure:
            self._swift = False
        return done

    def _away(self, stack: Mapping[str, Array], k: int) -> bool:
        """Whether a copy is further from the point than those that the noise is measured at."""
        near = _NEXT * self.eps
        return any(not np.allclose(a[k], self.primals[n], rtol=near, atol=0) for n, a in stack.items())

    def row(self, stack: Mapping[str, Array], k: int) -> Array:
        return self.flat({n: a[k] for n, a in stack.items()})

    def flat(self, moved: Mapping[str, Array]) -> Array:
        """Flat outputs, shape (K,), where some primals are others than at the point."""
        self.forwards += 1
        return self.flattened([y[None] for y in self.call({**self.primals, **moved})])[0]

    def call(self, primals: Mapping[str, Array]) -> tuple[Array, ...]:
        """Outputs at given primals, of the surrogate where one is declared."""
        surrogate = self.layer.declared.surrogate
        if surrogate is None:
            return self._run(primals)
        arguments = [primals[p.name] for p in self.layer.primals]
        extra = {"at": self._at} if accepted(surrogate, ("at",)) else {}
        return outputs_of(self.layer, guarded("forward", surrogate, *arguments, **self.options, **extra))

    def _run(self, primals: Mapping[str, Array]) -> tuple[Array, ...]:
        """Outputs of the layer's forward, which gets copies once it was seen to write into what it is given."""
        if self._writes is False:
            return run(self.layer, primals, self.options).outputs
        given = {name: np.array(a) for name, a in primals.items()}
        outputs = run(self.layer, given, self.options).outputs
        if self._writes is None:
            self._writes = not all(same(given[n], a) for n, a in primals.items())
        return outputs

    def flattened(self, parts: list[Array]) -> Array:
        flat = [np.stack([y.real, y.imag], -1) if y.dtype.kind == "c" else y for y in parts]
        columns = [y.reshape(y.shape[0], -1) for y in flat]
        return (
            columns[0]
            if len(columns) == 1 and columns[0].dtype.kind == "f"
            else np.concatenate([c if c.dtype.kind == "f" else c.astype(float) for c in columns], axis=1)
        )


def _remember(known: set[int], key: int) -> None:
    if len(known) >= _KEPT:
        known.clear()
    known.add(key)


def _leading(y: Array, count: int, shape: tuple[int, ...]) -> Array:
    """Bring a stacked output to (count, *shape); outputs that did not depend on the stack are repeated."""
    if y.shape == shape:
        return np.broadcast_to(y, (count, *shape))
    extra = y.ndim - len(shape) - 1
    if extra < 0 or y.shape[0] not in (1, count) or y.shape[1 : 1 + extra] != (1,) * extra:
        raise ValueError("the stack was not carried through")
    y = y.reshape(y.shape[0], *y.shape[1 + extra :])
    return y if len(y) == count and y.shape[1:] == shape else np.broadcast_to(y, (count, *shape))
