"""Arrays that functions take from outside: whether the outputs depend on one is tried, by changing it.

They are no primals, so no gradient of them is asked for, and a check that says nothing of them would pass a weight
whose gradient is wrong, dropped or never computed. An array is changed in place, where others may share its memory;
what cannot be changed, such as an array of JAX, gets another in its place. All is put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from gradverify.core.declare.held import Path, arrays_of, fetch, store, values
from gradverify.core.declare.layer import Layer
from gradverify.core.declare.outside import names_of, reachable, shown
from gradverify.core.evaluate import LayerFailure, run
from gradverify.core.evaluate.foreign import same
from gradverify.core.evaluate.limits import time_limit
from gradverify.core.nouns import Array, Case
from gradverify.core.nouns.ledger import NotVerified

_SHARES = (1.0, -1.0, 1e-3)  # of an array, in units of its largest entry: beyond most thresholds, and small
_LOOKS = 3  # cases that are tried with options that were tried before
_MOST = 12  # cases in all
_LARGE = 1 << 24  # elements of an array that is not tried
_SECONDS = 5.0  # for one look
PLAIN = "forward takes this from outside, so that no gradient of it is asked for: make it an argument of forward"
MODULE = "neither parameter nor buffer of the module, so that no gradient of it is asked for: make it one of them"
LEFT = "forward takes this from outside, and backward leaves what may be its gradient in {place}: return it instead"
FIXED = "forward takes this from outside, and it cannot be changed to try what it does: make it an argument of forward"
DATA = "data that the function takes from outside"
STATE = "state outside that forward changes from call to call"
CONSTANT = "declared constant"


class Outside:
    """What the outputs of one layer were seen to depend on besides its primals."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._any = bool(reachable(layer.forward, layer.backward))
        self._told = {item.name for item in layer.unverified}
        self._reached: dict[Path, tuple[int, ...]] = {}
        self._state: set[Path] = set()
        self._fixed: set[Path] = set()
        self._modules: set[str] = set()
        self._left: list[dict[Path, Array]] = []
        self._options: list[str] = []
        self._looks = 0

    def due(self, case: Case) -> bool:
        """Whether a case has something to tell: there is anything outside, and its options were not tried enough."""
        return self._any and self._looks < _MOST and self._options.count(repr(case.options)) < _LOOKS

    def look(self, case: Case) -> None:
        """Try at one case what was not seen to matter at an earlier one."""
        self._options.append(repr(case.options))
        try:
            with time_limit(_SECONDS), np.errstate(all="ignore"), (self._layer.hooks.uncompiled or nullcontext)():
                trial = _Trial(self._layer, case)
                new = {p: a for p, a in trial.arrays.items() if p not in self._reached and shown(p) not in self._told}
                self._looks += bool(new)
                self._state |= trial.moving
                self._reached |= {p: np.shape(new[p]) for p in trial.reaching(list(new))}
                self._fixed |= trial.fixed
                self._modules |= {name for name, held in trial.held.items() if hasattr(held, "named_parameters")}
                if self._reached and len(self._left) < _LOOKS:
                    self._left.append(trial.left())
        except LayerFailure:  # the properties tell it
            return

    def missing(self) -> tuple[NotVerified, ...]:
        """What is not verified for that."""
        return tuple(self._missing(path) for path in sorted(self._reached.keys() | self._fixed, key=shown))

    def _missing(self, path: Path) -> NotVerified:
        name = shown(path)
        if not set(names_of(path)).isdisjoint(self._layer.declared.constants):
            return NotVerified(name, CONSTANT)
        if self._layer.declared.data_outside:
            return NotVerified(name, DATA)
        if path in self._state:
            return NotVerified(name, STATE)
        if path in self._fixed:
            return NotVerified(name, FIXED, blocks=True, constant=name)
        shape = self._reached[path]
        first, *others = self._left or [{}]
        # that of a weight at every size, and so none of the inputs'
        places = [p for p, a in first.items() if p != path and a.shape == shape and all(p in o for o in others)]
        places = [p for p in places if all(o[p].shape == shape for o in others)]
        plain = MODULE if path[0][1] in self._modules else PLAIN
        reason = LEFT.format(place=shown(places[0])) if places else plain
        return NotVerified(name, reason, blocks=True, constant=name)


def _arrays(held: Mapping[str, Any]) -> dict[Path, Any]:
    """Arrays, and numbers in lists: single numbers with a name, as ``np.sqrt(2)``, are settings."""

    def counts(path: Path, value: Any) -> bool:
        if hasattr(value, "shape") and not isinstance(value, np.generic):
            return bool(math.prod(value.shape) <= _LARGE)
        return len(path) > 1 and isinstance(path[-1][1], int)

    return {path: a for path, a in arrays_of(held, tensors=True).items() if counts(path, a)}


class _Trial:
    """Forward at one case, with some arrays from outside changed."""

    def __init__(self, layer: Layer, case: Case) -> None:
        self._layer, self._case = layer, case
        before = {p: values(a) for p, a in _arrays(reachable(layer.forward, layer.backward)).items()}
        self._plain = self._outputs()
        self.held = reachable(layer.forward, layer.backward)  # again: weights may come into being with a forward
        self.arrays = _arrays(self.held)
        self.moving = {p for p, a in self.arrays.items() if p in before and not _same([before[p]], [values(a)])}
        self.fixed: set[Path] = set()

    def reaching(self, paths: Sequence[Path]) -> list[Path]:
        """Those on which the outputs depend: all at once, and halves of those where that changes anything.

        Where random numbers are drawn anew at each forward, nothing can be told.
        """
        if not paths or not _same(self._plain, self._outputs()):
            return []
        return self._among(paths) if self._moves(paths) else []

    def _among(self, paths: Sequence[Path]) -> list[Path]:
        if len(paths) == 1:
            return list(paths)
        halves = (paths[: len(paths) // 2], paths[len(paths) // 2 :])
        return [path for half in halves if self._moves(half) for path in self._among(half)]

    def _moves(self, paths: Sequence[Path]) -> bool:
        for share in _SHARES:
            with self._changed(paths, share):
                try:
                    out = self._outputs()
                except LayerFailure as failure:
                    if failure.kind in ("timeout", "slow"):
                        raise
                    return True
            if not _same(self._plain, out):
                return True
        return False

    def _outputs(self) -> list[Array]:
        given = {n: np.array(a) for n, a in self._case.primals.items()}
        return [np.array(y) for y in run(self._layer, given, self._case.options).outputs]

    @contextmanager
    def _changed(self, paths: Sequence[Path], share: float) -> Iterator[None]:
        """Other values in some arrays, for as long as the body runs."""
        rng = np.random.default_rng(0)
        undo: list[Callable[[], None]] = []
        try:
            for path, value in ((path, fetch(self.held, path)) for path in paths):
                back = _replaced(self.held, path, value, _other(value, share, rng))
                if back is not None:
                    undo.append(back)
                elif hasattr(value, "shape"):
                    self.fixed.add(path)
            yield
        finally:
            for back in undo:
                back()

    def left(self) -> dict[Path, Array]:
        """Arrays from outside that backward writes, other than the gradients that it returns."""
        given = {n: np.array(a) for n, a in self._case.primals.items()}
        evaluation = run(self._layer, given, self._case.options)
        before = {p: values(a) for p, a in arrays_of(self.held, tensors=True).items()}
        rng = np.random.default_rng(1)
        cotangents = tuple(np.asarray(rng.normal(size=y.shape)).astype(y.dtype) for y in evaluation.outputs)
        returned = [g for g in evaluation.pull(cotangents).values() if isinstance(g, np.ndarray)]
        after = {p: values(a) for p, a in arrays_of(self.held, tensors=True).items()}
        changed = {p: a for p, a in after.items() if p not in before or not _same([before[p]], [a])}
        return {p: a for p, a in changed.items() if not any(_same([a], [g]) for g in returned)}


def _replaced(held: Mapping[str, Any], path: Path, value: Any, other: Any) -> Callable[[], None] | None:
    """Put another value in the place of one; gives what puts it back, or None where it cannot be replaced."""
    if isinstance(value, np.ndarray) and value.flags.writeable:
        before = value.copy()
        value[...] = other
        return partial(value.__setitem__, ..., before)
    if hasattr(value, "detach"):
        before, value.data = value.data, other
        return partial(setattr, value, "data", before)
    try:
        store(held, path, other)
    except (AttributeError, TypeError):
        return None
    return partial(store, held, path, value)


def _other(value: Any, share: float, rng: np.random.Generator) -> Any:
    array = values(value)
    size = float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array))) or 1.0
    changed = array + share * size * (0.5 + rng.random(array.shape))
    if hasattr(value, "new_tensor"):
        return value.new_tensor(changed)
    if hasattr(value, "at"):
        return value.at[...].set(changed.astype(value.dtype))
    return changed.astype(value.dtype) if isinstance(value, np.ndarray) else type(value)(changed)


def _same(one: Sequence[Array], other: Sequence[Array]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))
